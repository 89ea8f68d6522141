"""The nodes of a LocalCluster, with a stand-in for Celery: started, brought back, scaled, drained, never orphaned."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.integration.clusters import StandIn, alive, guard_looked, home, server_only, until
from toolkit.cluster import files
from toolkit.cluster.leases import NodeKeepAlive
from toolkit.errors import ClusterError

__all__ = ["home"]  # a fixture

PATIENCE_S = 30.0


def group_of(pid: int) -> list[int]:
    """Return the live members of the process group that `pid` leads."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


# --------------------------------------------------------------------------- start


def test_a_node_starts_beside_the_server(home: Path) -> None:
    with StandIn(home, 3) as cluster:
        cluster.wait_ready(PATIENCE_S)
        status = cluster.status()
        assert cluster.lives() == [(status.node_pid, 3)]
        assert (status.node_state, status.workers, cluster.workers) == ("ready", 3, 3)
        assert os.getsid(status.node_pid) == status.node_pid
        assert psutil.Process(status.node_pid).ppid() == status.guard_pid


def test_a_node_has_the_clients_directory_mask_and_environment(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_TOKEN", "geheim")
    monkeypatch.setenv("SOME_SETTING", "7")
    old = os.umask(0o027)
    try:
        with StandIn(home, 1) as cluster:
            cluster.wait_ready(PATIENCE_S)
            node = psutil.Process(cluster.status().node_pid)
            assert node.cwd() == str(tmp_path)
            assert node.environ()["SOME_TOKEN"] == "geheim"
            assert node.environ()["SOME_SETTING"] == "7"
            assert node.environ()["TOOLKIT_STATE_DIR"] == str(home)
            status = Path(f"/proc/{node.pid}/status").read_text()
            assert "Umask:\t0027" in status
            on_disk = [path.name for path in home.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]
            assert on_disk == []
    finally:
        os.umask(old)


def test_a_deleted_directory_does_not_keep_the_node_from_starting(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with StandIn(home, 1) as cluster:
        cluster.wait_ready(PATIENCE_S)
        assert psutil.Process(cluster.status().node_pid).cwd() == "/"


# --------------------------------------------------------------------------- death


def test_a_killed_node_returns_and_its_children_are_gone(home: Path) -> None:
    with StandIn(home, 2) as cluster:
        cluster.wait_ready(PATIENCE_S)
        old = cluster.status().node_pid
        until(lambda: len(group_of(old)) == 2, "the node has a child")
        os.kill(old, signal.SIGKILL)
        until(lambda: len(cluster.lives()) == 2, "another life")
        assert group_of(old) == []
        cluster.wait_ready(PATIENCE_S)
        assert cluster.status().node_restarts == 1
        assert cluster.status().server_restarts == 0


def test_a_node_that_keeps_dying_is_reported_with_its_log_and_recovers(home: Path) -> None:
    cluster = StandIn(home, 1)
    cluster.flag("broken")
    with cluster:
        with pytest.raises(ClusterError, match=r"(?s)times in a row.*no module named broken"):
            cluster.wait_ready(PATIENCE_S)
        assert cluster.status().node_state == "failing"
        assert cluster.status().running
        cluster.flag("broken", on=False)
        cluster.restart_workers()
        cluster.wait_ready(PATIENCE_S)


def test_a_command_that_cannot_be_run_is_reported(home: Path) -> None:
    class Missing(StandIn):
        def _node_argv(self, workers: int) -> list[str]:
            return ["/nowhere/python"]

    with Missing(home, 1) as cluster, pytest.raises(ClusterError, match=r"(?s)cannot start /nowhere/python"):
        cluster.wait_ready(PATIENCE_S)


def test_a_node_that_never_serves_is_reported_after_the_time_given(home: Path) -> None:
    cluster = StandIn(home, 1)
    cluster.flag("mute")
    with cluster, pytest.raises(ClusterError, match=r"not ready within 0\.1 s"):
        cluster.wait_ready(0.1)


# --------------------------------------------------------------------------- change


def test_scaling_drains_the_node_and_starts_another(home: Path) -> None:
    with StandIn(home, 1) as cluster:
        cluster.wait_ready(PATIENCE_S)
        cluster.scale(4)
        assert cluster.workers == 4
        cluster.wait_ready(PATIENCE_S)
        (first, _), (second, _) = cluster.lives()
        assert [workers for _, workers in cluster.lives()] == [1, 4]
        assert group_of(first) == []
        assert alive(second)
        cluster.scale(4)
        cluster.wait_ready(PATIENCE_S)
        assert len(cluster.lives()) == 2
        assert cluster.status().node_restarts == 0


def test_joining_leaves_the_size_alone_unless_a_number_is_given(home: Path) -> None:
    with StandIn(home, 3) as cluster:
        cluster.wait_ready(PATIENCE_S)
        with StandIn(home) as joined:
            joined.wait_ready(PATIENCE_S)
            assert joined.workers == 3
            assert len(cluster.lives()) == 1
        with StandIn(home, 2) as resized:
            resized.wait_ready(PATIENCE_S)
            assert [workers for _, workers in cluster.lives()] == [3, 2]
        cluster.scale(5)
        resized.start()
        assert cluster.start().workers == 2  # taking a lease anew asks anew
        resized.close()


def test_growing_never_shrinks_what_another_client_wants(home: Path) -> None:
    with StandIn(home, 2) as cluster, StandIn(home) as other:
        cluster.wait_ready(PATIENCE_S)
        assert cluster.grow(3)
        other.scale(5)
        assert not cluster.grow(4)
        assert not cluster.grow(5)
        cluster.wait_ready(PATIENCE_S)
        assert cluster.workers == other.workers == 5
        assert cluster.lives()[-1][1] == 5


def test_starting_again_does_not_undo_a_scaling_by_another(home: Path) -> None:
    with StandIn(home, 1) as cluster, StandIn(home) as other:
        other.scale(2)
        assert cluster.start().workers == 2


def test_a_size_is_forgotten_when_the_cluster_ends(home: Path) -> None:
    with StandIn(home, 7) as cluster:
        cluster.wait_ready(PATIENCE_S)
        wish = (home / "nodes" / f"{cluster._key}.json").read_text()
        cluster.stop()
    (home / "nodes" / f"{cluster._key}.json").write_text(wish)  # as after a power loss
    with StandIn(home) as cluster:
        assert cluster.workers != 7


def test_restarting_workers_renews_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn(home, 2) as cluster:
        cluster.wait_ready(PATIENCE_S)
        monkeypatch.setenv("SOME_SETTING", "new")
        cluster.restart_workers()
        cluster.wait_ready(PATIENCE_S)
        assert [workers for _, workers in cluster.lives()] == [2, 2]
        assert psutil.Process(cluster.status().node_pid).environ()["SOME_SETTING"] == "new"


def test_each_environment_has_a_node_of_its_own(home: Path) -> None:
    with StandIn(home, 1, key="py311-a") as first, StandIn(home, 2, key="py312-b") as second:
        first.wait_ready(PATIENCE_S)
        second.wait_ready(PATIENCE_S)
        assert first.status().server_pid == second.status().server_pid
        assert first.status().node_pid != second.status().node_pid
        second.scale(3)
        second.wait_ready(PATIENCE_S)
        assert len(first.lives()) == 1


# --------------------------------------------------------------------------- the end


def test_a_stubborn_node_is_killed_after_the_grace(home: Path) -> None:
    cluster = StandIn(home, 1)
    cluster.flag("stubborn")
    with cluster:
        cluster.wait_ready(PATIENCE_S)
        pid = cluster.status().node_pid
        cluster.stop(grace_s=0.1)
        assert group_of(pid) == []
        assert f"{pid} was killed by signal 9" in (home / "guard.log").read_text()


def test_a_node_that_nobody_leases_ends_while_others_keep_the_server(home: Path) -> None:
    with server_only(home, idle_s=0.3) as keeper:
        with StandIn(home, 1, idle_s=0.3) as cluster:
            cluster.wait_ready(PATIENCE_S)
            pid = cluster.status().node_pid
        until(lambda: not group_of(pid), "the node has ended")
        assert keeper.status().running
        assert not (home / "nodes" / f"{cluster._key}.json").exists()
        with StandIn(home, 2) as again:
            again.wait_ready(PATIENCE_S)


def test_a_node_that_works_keeps_the_cluster_alive_without_any_client(home: Path) -> None:
    cluster = StandIn(home, 1, idle_s=0.3).start()
    cluster.wait_ready(PATIENCE_S)
    status = cluster.status()
    keep_alive = NodeKeepAlive(home / "leases")
    keep_alive(True)
    cluster.close()
    guard_looked(home)
    assert alive(status.node_pid)
    assert alive(status.server_pid)
    keep_alive(False)
    until(lambda: not alive(status.guard_pid), "the guard has ended")
    assert group_of(status.node_pid) == []
    assert not alive(status.server_pid)


def test_a_killed_guard_takes_its_nodes_along_and_the_next_start_has_one(home: Path) -> None:
    with StandIn(home, 3) as cluster:
        cluster.wait_ready(PATIENCE_S)
        old = cluster.status()
        os.kill(old.guard_pid, signal.SIGKILL)
        until(lambda: not alive(old.node_pid), "the node's main process has ended")
        cluster.wait_ready(PATIENCE_S)
        assert cluster.workers == 3
        assert group_of(old.node_pid) == []
        assert cluster.status().guard_pid != old.guard_pid
        assert len(cluster.lives()) == 2


def test_a_new_guard_waits_until_the_old_guards_node_has_ended(home: Path) -> None:
    cluster = StandIn(home, 1)
    cluster.flag("stubborn")
    with cluster:
        cluster.wait_ready(PATIENCE_S)
        old = cluster.status()
        os.kill(old.guard_pid, signal.SIGKILL)
        until(lambda: not alive(old.guard_pid), "the guard is dead")
        cluster.start()
        until(lambda: f"{old.node_pid} of an earlier guard drains" in (home / "guard.log").read_text(), "it is asked")
        assert cluster.status().running
        assert cluster.status().node_state != "ready"
        assert len(cluster.lives()) == 1
        for pid in group_of(old.node_pid):
            os.kill(pid, signal.SIGKILL)
        cluster.wait_ready(PATIENCE_S)
        assert len(cluster.lives()) == 2


def test_stop_after_a_killed_guard_leaves_nothing(home: Path) -> None:
    cluster = StandIn(home, 1)
    cluster.flag("stubborn")
    with cluster:
        cluster.wait_ready(PATIENCE_S)
        old = cluster.status()
        os.kill(old.guard_pid, signal.SIGKILL)
        until(lambda: not alive(old.guard_pid), "the guard is dead")
        runtime = Path(cluster._where()).parent
        cluster.stop()
        until(lambda: not group_of(old.node_pid), "the node has ended")
        assert not files.is_locked(home / "data.lock")
        assert not runtime.exists()


def test_when_the_login_ends_and_takes_the_socket_along_everything_moves(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="tk-login-", ignore_cleanup_errors=True) as login:
        monkeypatch.setenv("XDG_RUNTIME_DIR", login)
        with StandIn(home, 1) as cluster:
            cluster.wait_ready(PATIENCE_S)
            assert cluster._where().startswith(login)
            first = cluster.status().node_pid
            shutil.rmtree(login)
            until(lambda: cluster.status().running, "the server is back")
            assert not cluster._where().startswith(login)
            until(lambda: len(cluster.lives()) == 2, "a node that knows the new socket")
            cluster.wait_ready(PATIENCE_S)
            assert group_of(first) == []


def test_what_the_guard_tells_is_about_this_guards_node(home: Path) -> None:
    with StandIn(home, 1) as cluster:
        cluster.wait_ready(PATIENCE_S)
        path = home / "nodes" / f"{cluster._key}.state.json"
        told = json.loads(path.read_text())
        files.write_json(path, told | {"guard_pid": 1})
        assert cluster.status().node_state == "starting"
        files.write_json(path, told)
        assert cluster.status().node_state == "ready"
