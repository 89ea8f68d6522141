"""A LocalCluster with real worker processes: it outlives kernels, shows no secret, and leaves no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.acceptance import gates, shop
from tests.integration.clusters import ROOT, alive, home, until
from toolkit.client import Client, scaling
from toolkit.client.run import Run
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput, LedgerUnavailable
from toolkit.ledger import Ledger, Range, Reader
from toolkit.settings import LedgerSettings
from toolkit.transport import make_app

__all__ = ["home"]  # a fixture

PATIENCE_S = 60.0


def workers_of(cluster: LocalCluster) -> list[int]:
    """Return the process ids of the node's workers."""
    return [child.pid for child in psutil.Process(cluster.status().node_pid).children()]


def executed(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


def test_no_view_of_a_running_cluster_shows_the_password(home: Path) -> None:
    with LocalCluster(2, state_dir=home) as cluster, Client(cluster=cluster) as client:
        cluster.wait_ready(PATIENCE_S)
        assert client.map(shop.double, range(10)).results(PATIENCE_S) == list(range(0, 20, 2))
        password = str(cluster.address.read_password())
        app = make_app(cluster.broker_url, cluster.queue)
        inspect = app.control.inspect(timeout=10.0, limit=1)
        views = [inspect.stats(), inspect.conf(), inspect.report(), inspect.active_queues()]
        assert all(views)
        assert cluster._where() in str(views[0])
        shown = [str(view) for view in views] + [repr(client), repr(app.connection()), str(app.conf)]
        status = cluster.status()
        for pid in [status.guard_pid, status.server_pid, status.node_pid, *workers_of(cluster)]:
            shown += [
                Path(f"/proc/{pid}/{name}").read_bytes().decode("utf-8", "replace") for name in ("cmdline", "environ")
            ]
        shown += [path.read_text(errors="replace") for path in home.rglob("*.log*")]
        assert not [text for text in shown if password in text]
        app.close()


def test_a_client_gets_the_workers_that_it_scales_to(home: Path) -> None:
    with LocalCluster(1, state_dir=home) as cluster, Client(cluster=cluster) as client:
        cluster.wait_ready(PATIENCE_S)
        assert len(workers_of(cluster)) == 1
        cluster.scale(3)
        cluster.wait_ready(PATIENCE_S)
        assert len(workers_of(cluster)) == 3
        assert client.map(shop.double, range(300)).results(PATIENCE_S) == list(range(0, 600, 2))


def test_a_run_goes_on_without_its_kernel_and_then_the_cluster_ends(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.acceptance import shop\n"
        "from toolkit.client import Client\nfrom toolkit.cluster import LocalCluster\n"
        "client = Client(cluster=LocalCluster(2, state_dir=Path(sys.argv[1]), idle_s=5.0))\n"
        "client.map(shop.journal, range(400), kwargs={'folder': sys.argv[2], 'pause_s': 0.02})\n"
        "print('submitted', flush=True)\nsys.stdin.read()\n"
    )
    kernel = subprocess.Popen(
        [sys.executable, "-c", code, str(home), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert kernel.stdout
    assert kernel.stdout.readline().strip() == "submitted"
    until(lambda: executed(folder), "the first item is executed")
    guard = LocalCluster(state_dir=home).status().guard_pid
    kernel.kill()
    kernel.communicate()
    assert len(executed(folder)) < 400
    until(lambda: len(executed(folder)) == 400, "every item is executed")
    until(lambda: not alive(guard), "the cluster has ended")


def test_workers_do_not_outlive_node_and_guard(home: Path) -> None:
    with LocalCluster(2, state_dir=home) as cluster:
        cluster.wait_ready(PATIENCE_S)
        status, workers = cluster.status(), workers_of(cluster)
        assert len(workers) == 2
        os.kill(status.guard_pid, signal.SIGSTOP)  # it must not be what ends the workers
        os.kill(status.node_pid, signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in workers), "the workers have ended")
        os.kill(status.guard_pid, signal.SIGKILL)


def test_a_run_survives_the_death_of_the_guard(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    with LocalCluster(2, state_dir=home) as cluster, Client(cluster=cluster) as client:
        run = client.map(shop.journal, range(200), kwargs={"folder": str(folder), "pause_s": 0.02})
        until(lambda: executed(folder), "the first item is executed")
        old = cluster.status()
        os.kill(old.guard_pid, signal.SIGKILL)
        until(lambda: not alive(old.server_pid), "the server went with its guard")
        cluster.start()
        assert run.results(PATIENCE_S) == list(range(200))
        run.verify()
        cluster.wait_ready(PATIENCE_S)
        assert not alive(old.node_pid)
        assert cluster.status().node_pid != old.node_pid


def test_a_run_survives_the_death_of_the_server(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    with LocalCluster(2, state_dir=home) as cluster, Client(cluster=cluster) as client:
        run = client.map(shop.journal, range(200), kwargs={"folder": str(folder), "pause_s": 0.02})
        until(lambda: executed(folder), "the first item is executed")
        os.kill(cluster.status().server_pid, signal.SIGKILL)
        assert run.results(PATIENCE_S) == list(range(200))
        run.verify()
        assert cluster.status().server_restarts == 1


def test_what_a_stop_cuts_off_waits_for_the_next_start_with_nothing_held_against_it(home: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with LocalCluster(1, state_dir=home) as cluster, Client(cluster=cluster) as client:
        run_id = client.map(gates.gated, [7], kwargs={"gate": str(gate)}).run_id
        until(lambda: client.get_run(run_id).status().active == 1, "the item is executed")
        cluster.stop(grace_s=0.2)
    with LocalCluster(state_dir=home, node=False) as cluster, closing(Ledger(cluster.address)) as ledger:
        held = Reader(ledger.connection, run_id).structure()
        assert (held["claims"], [Range.parse(text) for text in held["ready"]]) == ([], [Range(0, 1)])
        assert ledger.status(run_id).lost == 1


def test_restarted_workers_import_edited_modules(home: Path, tmp_path: Path) -> None:
    module = tmp_path / "edited_by_a_user.py"
    code = "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\nimport edited_by_a_user\n"
    code += "from toolkit.client import Client\nfrom toolkit.cluster import LocalCluster\n"
    code += "client = Client(cluster=LocalCluster(1, state_dir=Path(sys.argv[1])))\n"
    code += "if len(sys.argv) > 3:\n    client.restart_workers()\n    client.cluster.wait_ready(60)\n"
    code += "print(client.map(edited_by_a_user.answer, [1]).results(60))"

    def ask(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(home), str(tmp_path), *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        ).stdout.strip()

    module.write_text("from toolkit.execution import task\n@task\ndef answer(x):\n    return 1\n")
    assert ask() == "[1]"
    module.write_text("from toolkit.execution import task\n@task\ndef answer(x):\n    return 22\n")
    assert ask("restart") == "[22]"


def test_a_run_with_automatic_workers_grows_a_small_cluster_when_earlier_runs_say_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "default_workers", lambda: 2)  # whatever this machine has
    with LocalCluster(2, state_dir=home) as cluster, Client(cluster=cluster) as client:
        # Given runs that were measured with one worker and with two, and a cluster that has one
        cluster.wait_ready(PATIENCE_S)
        for workers in (1, 2):
            for size in (2, 12):
                client.map(shop.nap, range(48), batch_size=size, max_workers=workers).wait(PATIENCE_S, progress=False)
        cluster.scale(1)
        cluster.wait_ready(PATIENCE_S)
        # When a short run, a capped one and one beside another are submitted, nothing happens
        short = client.map(shop.nap, range(4))
        short.wait(PATIENCE_S, progress=False)
        capped = client.map(shop.nap, range(2000), max_workers=1)
        beside = client.map(shop.nap, range(2000))
        assert [event for run in (short, capped) for event in run.events() if event.kind == "workers"] == []
        assert _told(beside) == f"left at 1 worker of 2 that this machine has CPUs for: run {capped.run_id} uses them"
        for run in (capped, beside):
            run.cancel(terminate=True, grace_s=0)
            run.wait(PATIENCE_S, progress=False)
        assert cluster.workers == 1
        # When a long one is, the cluster grows for it, and says so
        run = client.map(shop.nap, range(2000))
        assert cluster.workers == 2
        assert _told(run).startswith("scaled from 1 worker to 2: predicted ")
        until(lambda: run.status().active == 2, "both workers work for it")
        run.cancel(terminate=True, grace_s=0)
        run.wait(PATIENCE_S, progress=False)
        run.verify()


def _told(run: Run) -> str:
    """Return what the run's event says about workers."""
    (event,) = [event for event in run.events() if event.kind == "workers"]
    return event.detail


@pytest.mark.timeout(60)
def test_a_cluster_that_was_stopped_here_is_known_to_be_gone(home: Path) -> None:
    # Given a client that would try for an hour
    cluster = LocalCluster(node=False, state_dir=home)
    client = Client(cluster=cluster, settings=LedgerSettings(retry_s=3600.0))
    run = client.map(shop.double, range(3))
    # When the cluster is stopped, then every verb says so at once
    cluster.stop()
    for verb in (run.status, run.results, run.wait, client.runs):
        with pytest.raises(LedgerUnavailable, match="was stopped by this process"):
            verb()
    # And when it is started again, the run is there
    cluster.start()
    assert run.status().submitted == 3
    client.close()
    cluster.stop()


def test_who_waits_asks_a_server_that_is_away_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster(node=False, state_dir=home)
    with Client(cluster=cluster, settings=LedgerSettings(retry_s=0.0)) as client:
        run, asked = client.map(shop.double, range(3)), []
        connection = client._ledger.connection
        command = connection.command
        monkeypatch.setattr(connection, "command", lambda *args, **how: asked.append(args[0]) or command(*args, **how))
        LocalCluster(state_dir=home).stop()
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            run.results()
        assert asked == ["FCALL_RO"]


def test_who_waits_for_a_node_that_starts_is_told_so(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a cluster whose node is not up yet, and no patience
    monkeypatch.setattr("toolkit.client.notices.IDLE_S", 0.0)
    with LocalCluster(1, state_dir=home) as cluster, Client(cluster=cluster) as client:
        run = client.map(shop.double, range(3), max_workers=64)
        # a node that starts is no problem, such as that nobody listens
        assert [f.text for f in client.doctor() if f.level == "problem"] == []
        assert run.results(PATIENCE_S) == [0, 2, 4]
        said = capsys.readouterr().err
        assert "has not started: the LocalCluster's node is starting its 1 workers" in said
        assert [event.detail for event in run.events() if event.kind == scaling.EVENT] == [
            "max_workers=64, and 1 listen: at most 1 batches run at a time; client.cluster.scale(64) has more"
        ]
        # When another queue is named, then nothing is enqueued
        with pytest.raises(InvalidInput, match="queue='nonexist'"):
            client.map(shop.double, range(3), queue="nonexist")
        assert len(client.runs()) == 1
        cluster.stop()
