"""The server of a LocalCluster: one for all, private, back with its data after a death, gone when nobody is there."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from pathlib import Path

import psutil
import pytest
import redis

from tests.integration.clusters import (
    alive,
    connect,
    guard_looked,
    home,
    processes_of,
    run_python,
    server_only,
    true_in_fork,
    until,
)
from toolkit.cluster import LocalCluster, files
from toolkit.errors import ClusterError

__all__ = ["home"]  # a fixture

# --------------------------------------------------------------------------- one server


def test_cold_and_warm(home: Path) -> None:
    with server_only(home) as first:
        status = first.status()
        assert status.running
        assert status.engine == "valkey"
        connection = connect(first.address)
        assert connection.set("k", "v")
        with server_only(home) as second:
            assert second.status().server_pid == status.server_pid
            assert connect(second.address).get("k") == "v"
            assert second.status().leases == 2
        assert first.status().leases == 1
        assert first.start().status().leases == 1
        connection.close()


def test_what_is_promised_about_the_server(home: Path) -> None:
    with server_only(home) as cluster, connect(cluster.address) as connection:
        wanted = {
            "port": "0",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        assert {name: connection.config_get(name)[name] for name in wanted} == wanted
        inet = psutil.Process(cluster.status().server_pid).net_connections("inet")
        assert inet == []


def test_racing_processes_get_one_server(home: Path) -> None:
    clients = [run_python("sys.stdin.read()", home) for _ in range(9)]
    try:
        pids = {client.stdout.readline().strip() for client in clients if client.stdout}
        assert len(pids) == 1
        assert pids != {""}
        assert len([p for p in processes_of(str(home)) if any("guard.py" in word for word in p.cmdline())]) == 1
        assert server_only(home).status().leases == 9
    finally:
        for client in clients:
            client.communicate()
    assert [client.returncode for client in clients] == [0] * 9


def test_threads_of_one_process_get_one_server(home: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    cluster = server_only(home)
    others = [server_only(home) for _ in range(4)]
    with ThreadPoolExecutor(12) as pool:
        pids = set(pool.map(lambda c: c.start().status().server_pid, [cluster] * 8 + others))
    assert len(pids) == 1
    assert cluster.status().leases == 5
    for each in [cluster, *others]:
        each.close()
    assert cluster.status().leases == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # of the server's log
def test_a_forked_child_uses_the_cluster_with_a_lease_of_its_own(home: Path) -> None:
    with server_only(home) as cluster:
        assert true_in_fork(lambda: cluster.start().status().leases == 2)
        assert cluster.status().leases == 1


# --------------------------------------------------------------------------- secrets


def test_the_password_is_nowhere_to_be_seen(home: Path) -> None:
    with server_only(home) as cluster, connect(cluster.address) as connection:
        connection.set("k", "v")
        password = cluster.address.read_password()
        assert password
        shown = [repr(cluster), str(cluster), repr(cluster.address), cluster.broker_url, repr(cluster.status())]
        assert not [text for text in shown if password in text]
        lines = [Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in psutil.process_iter() if p.is_running()]
        assert not [line for line in lines if password.encode() in line]
        holders = {path.name for path in home.rglob("*") if path.is_file() and password.encode() in path.read_bytes()}
        assert holders == {"password"}
        environ = psutil.Process(cluster.status().server_pid).environ()
        assert set(environ) <= {"LC_ALL", "PATH", "GLIBC_TUNABLES"}


def test_everything_is_private(home: Path) -> None:
    home.mkdir(mode=0o755)
    old = os.umask(0)
    try:
        with server_only(home) as cluster:
            socket = Path(cluster._where())
            for path in [home, *home.rglob("*"), socket.parent, *socket.parent.iterdir()]:
                open_to = stat.S_IMODE(path.lstat().st_mode)
                assert open_to & 0o077 == 0, f"{path} is {open_to:o}"
                assert path.lstat().st_uid == os.geteuid()
    finally:
        os.umask(old)


def test_without_the_password_nobody_gets_in(home: Path) -> None:
    with server_only(home) as cluster:
        assert files.call(cluster._where(), "wrong", "PING").startswith("-WRONGPASS")
        stranger = redis.Redis(unix_socket_path=cluster._where(), retry=None)
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.execute_command("GET", "k")


def test_a_changed_password_file_is_explained(home: Path) -> None:
    with server_only(home) as cluster:
        files.write_private(home / "password", "0" * 64)
        with pytest.raises(ClusterError, match=r"refuses the password.*stop\(\)"):
            server_only(home).start()
        cluster.stop()
        assert cluster.start().status().running


def test_kombu_shows_no_password(home: Path) -> None:
    from kombu import Connection

    with server_only(home) as cluster, Connection(cluster.broker_url) as connection:
        queue = connection.SimpleQueue("q")
        queue.put({"a": 1})
        message = queue.get(timeout=10)
        assert message.payload == {"a": 1}
        message.ack()
        queue.close()
        password = str(cluster.address.read_password())
        shown = [
            connection.as_uri(),
            connection.as_uri(include_password=True),
            repr(connection),
            str(connection.info()),
        ]
        assert not [text for text in shown if password in text]
        with connect(cluster.address) as ledger:
            assert ledger.dbsize() == 0  # the broker's keys are in database 1


# --------------------------------------------------------------------------- what dies comes back


def test_a_killed_server_returns_with_its_data(home: Path) -> None:
    with server_only(home) as cluster, connect(cluster.address) as connection:
        connection.set("k", "v")
        old = cluster.status()
        os.kill(old.server_pid, signal.SIGKILL)
        until(lambda: cluster.status().running and cluster.status().server_pid != old.server_pid, "a new server")
        assert connect(cluster.address).get("k") == "v"
        assert cluster.status().guard_pid == old.guard_pid
        assert cluster.status().server_restarts == 1


def test_a_killed_guard_takes_its_server_along_and_the_next_start_has_the_data(home: Path) -> None:
    with server_only(home) as cluster, connect(cluster.address) as connection:
        connection.set("k", "v")
        old = cluster.status()
        os.kill(old.guard_pid, signal.SIGKILL)
        until(lambda: not alive(old.server_pid), "no orphan")
        assert not cluster.status().running
        cluster.start()
        assert cluster.status().guard_pid != old.guard_pid
        assert connect(cluster.address).get("k") == "v"


def test_racing_starts_after_a_killed_guard_do_not_fight(home: Path) -> None:
    with server_only(home) as cluster:
        with connect(cluster.address) as connection:
            connection.set("k", "v")
        os.kill(cluster.status().guard_pid, signal.SIGKILL)
        clients = [run_python("sys.stdin.read()", home) for _ in range(5)]
        pids = {client.stdout.readline().strip() for client in clients if client.stdout}
        assert len(pids) == 1
        for client in clients:
            client.communicate()
        assert connect(cluster.start().address).get("k") == "v"


def test_an_orphaned_server_keeps_the_data_locked_until_it_has_ended(home: Path) -> None:
    """Where the kernel does not end the server with its guard, as on macOS; a stopped server cannot react either."""
    with server_only(home) as cluster:
        with connect(cluster.address) as connection:
            connection.set("k", "v")
        old = cluster.status()
        os.kill(old.server_pid, signal.SIGSTOP)
        os.kill(old.guard_pid, signal.SIGKILL)
        until(lambda: not alive(old.guard_pid), "the guard is dead")
        assert files.is_locked(home / "data.lock")
        try:
            cluster.start()
        finally:
            os.kill(old.server_pid, signal.SIGCONT) if alive(old.server_pid) else None
        assert not alive(old.server_pid)
        assert connect(cluster.address).get("k") == "v"


def test_a_socket_taken_by_a_cleaner_comes_back(home: Path) -> None:
    with server_only(home) as cluster:
        with connect(cluster.address) as connection:
            connection.set("k", "v")
        shutil.rmtree(Path(cluster._where()).parent)
        until(lambda: cluster.status().running, "a new socket")
        assert connect(cluster.start().address).get("k") == "v"


# --------------------------------------------------------------------------- when it ends


def test_idle_stop_after_the_last_lease(home: Path) -> None:
    cluster = server_only(home, idle_s=0.3).start()
    status = cluster.status()
    runtime = Path(cluster._where()).parent
    cluster.close()
    until(lambda: not alive(status.guard_pid), "the guard has ended")
    assert not alive(status.server_pid)
    assert not runtime.exists()
    assert not (home / "server.json").exists()
    with cluster.start():
        assert cluster.status().running


def test_a_lease_keeps_the_cluster_alive_and_its_door_open(home: Path) -> None:
    with server_only(home, idle_s=0.2) as cluster:
        status, written = cluster.status(), (home / "server.json").stat()
        with server_only(home, idle_s=0.2):
            pass
        guard_looked(home)
        assert cluster.status() == status
        assert (home / "server.json").stat().st_ino == written.st_ino  # not even closed for a moment


def test_a_killed_lease_holder_leaves_no_orphan(home: Path) -> None:
    client = run_python("time.sleep(1000)", home, idle_s=0.3)
    assert client.stdout
    server = int(client.stdout.readline())
    client.kill()
    client.communicate()
    until(lambda: not alive(server), "the server has ended")
    until(lambda: not files.is_locked(home / "guard.lock"), "the guard has ended")


def test_an_interrupt_of_the_callers_group_does_not_stop_it(home: Path) -> None:
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignore"
try:
    print("waits", flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.read()
"""
    client = run_python(code, home, start_new_session=True)
    assert client.stdout
    server = int(client.stdout.readline())
    assert client.stdout.readline().strip() == "waits"
    os.killpg(client.pid, signal.SIGINT)
    assert client.stdout.readline().strip() == "interrupted"
    status = server_only(home).status()
    assert status.running
    assert status.server_pid == server
    assert status.server_restarts == 0
    client.communicate()


def test_stop_ends_it_for_everybody_and_the_next_start_has_the_data(home: Path) -> None:
    with server_only(home) as cluster, server_only(home) as other:
        with connect(cluster.address) as connection:
            connection.set("k", "v")
        old = cluster.status()
        cluster.stop()
        assert not alive(old.server_pid)
        assert not alive(old.guard_pid)
        assert not other.status().running
        assert connect(other.start().address).get("k") == "v"


def test_a_guard_told_to_terminate_ends_in_order(home: Path) -> None:
    with server_only(home) as cluster:
        old = cluster.status()
        os.kill(old.guard_pid, signal.SIGTERM)
        until(lambda: not alive(old.guard_pid), "the guard has ended")
        assert not alive(old.server_pid)
        assert "the guard ends" in (home / "guard.log").read_text()
        assert cluster.start().status().running


# --------------------------------------------------------------------------- which program, and where


def test_redis_is_used_when_it_is_all_there_is(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on PATH")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("toolkit.cluster.binary._bundled", lambda: None)
    with server_only(home) as cluster, connect(cluster.address) as connection:
        assert cluster.status().engine == "redis"
        assert connection.info("server")["redis_version"] == cluster.status().version
        major, minor, _ = cluster.status().version.split(".")
        assert (home / "data" / f"redis-{major}.{minor}" / "appendonlydir").is_dir()


def test_the_setting_wins_and_a_running_server_is_not_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on PATH")
    monkeypatch.setenv("TOOLKIT_SERVER_BINARY", "redis-server")
    with server_only(home) as cluster:
        assert cluster.status().engine == "redis"
        monkeypatch.delenv("TOOLKIT_SERVER_BINARY")
        with server_only(home) as joined:
            assert joined.status().engine == "redis"
        other = LocalCluster(state_dir=home, node=False, server_binary=_bundled())
        with pytest.raises(ClusterError, match=r"was asked for, but .*redis-server"):
            other.start()
        assert cluster.status().leases == 1


def _bundled() -> Path:
    from toolkit.cluster.binary import find_binary

    return find_binary().path


def test_a_program_that_dies_at_once_is_reported_with_its_log(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "broken-server"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'Valkey server v=9.1.0' && exit\necho no such luck; exit 3\n"
    )
    program.chmod(0o755)
    cluster = server_only(home, server_binary=program)
    with pytest.raises(ClusterError, match=r"(?s)exited with code 3, 3 times.*no such luck"):
        cluster.start()
    assert not cluster.status().running
    assert cluster.status().leases == 0


def test_long_and_odd_state_paths(home: Path) -> None:
    deep = home.joinpath(*[f"{'x' * 60} é\"'\\ {i}" for i in range(5)])
    with server_only(deep) as cluster, connect(cluster.address) as connection:
        connection.set("k", "v")
        assert len(os.fsencode(cluster._where())) <= files.SOCKET_PATH_BYTES
        assert list((deep / "data").rglob("*.aof"))
        cluster.stop()
        assert connect(cluster.start().address).get("k") == "v"
        cluster.stop()


def test_a_newer_version_starts_with_a_copy_of_the_older_ones_data(home: Path) -> None:
    with server_only(home) as cluster:
        with connect(cluster.address) as connection:
            connection.set("k", "v")
        cluster.stop()
        (now,) = (home / "data").iterdir()
        older = now.with_name("valkey-7.2")
        now.rename(older)
        assert connect(cluster.start().address).get("k") == "v"
        assert sorted(path.name for path in (home / "data").iterdir()) == sorted([older.name, now.name])


def test_the_guard_is_small_and_alone(home: Path) -> None:
    with server_only(home) as cluster:
        guard = psutil.Process(cluster.status().guard_pid)
        assert guard.memory_info().rss < 25e6
        assert guard.num_threads() == 1
        assert os.getsid(guard.pid) == guard.pid
        server = psutil.Process(cluster.status().server_pid)
        assert server.ppid() == guard.pid
        assert os.getsid(server.pid) == server.pid
