"""Processes killed mid-run: the run finishes, and each item is accounted once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.acceptance import shop
from tests.acceptance.accounts import check
from toolkit.client import Client, Run
from toolkit.cluster import LocalCluster

Eventually = Callable[..., None]


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(x) for x in found.stdout.split()]


def started(client: Client, folder: Path, n: int) -> Run:
    """A run of about four seconds on two workers."""
    return client.map(shop.journal, range(n), kwargs={"folder": str(folder), "pause_s": 0.01}, batch_size=20)


def test_worker_children_are_killed(
    client: Client, cluster: LocalCluster, tmp_path: Path, eventually: Eventually
) -> None:
    run = started(client, tmp_path, 600)
    for done in (50, 200, 350):
        eventually(lambda done=done: run.status().done >= done)
        node = cluster.status().node_pid
        os.kill(children(node)[0], signal.SIGKILL)
    check(run, tmp_path, 600)
    assert run.status().lost >= 1


def test_a_whole_node_is_killed(client: Client, cluster: LocalCluster, tmp_path: Path, eventually: Eventually) -> None:
    run = started(client, tmp_path, 400)
    eventually(lambda: run.status().done >= 50)
    before = cluster.status().node_pid
    os.kill(before, signal.SIGKILL)
    check(run, tmp_path, 400)
    assert cluster.status().node_pid != before


def test_the_server_is_killed(client: Client, cluster: LocalCluster, tmp_path: Path, eventually: Eventually) -> None:
    run = started(client, tmp_path, 400)
    eventually(lambda: run.status().done >= 50)
    os.kill(cluster.status().server_pid, signal.SIGKILL)
    check(run, tmp_path, 400)
    assert cluster.status().server_restarts >= 1


def test_the_submitting_process_is_killed(
    client: Client, cluster: LocalCluster, tmp_path: Path, eventually: Eventually
) -> None:
    code = (
        "import sys; from pathlib import Path; from toolkit import Client, LocalCluster\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from tests.acceptance import shop\n"
        "client = Client(cluster=LocalCluster(state_dir=Path(sys.argv[1])))\n"
        "run = client.map(shop.journal, range(400), kwargs={'folder': sys.argv[2], 'pause_s': 0.01}, batch_size=20)\n"
        "print(run.run_id, flush=True)\n"
        "run.wait()\n"
    )
    root = str(Path(__file__).parents[2])
    arguments = [sys.executable, "-c", code, str(cluster.status().state_dir), str(tmp_path), root]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run = client.get_run(process.stdout.readline().strip())
        eventually(lambda: run.status().done >= 20)
        process.kill()
    check(run, tmp_path, 400)


def test_a_poison_item_costs_only_itself(client: Client) -> None:
    run = client.map(shop.poison, range(100), batch_size=25)
    status = run.wait(120)
    assert (status.ok, status.dead) == (99, 1)
    letters = run.dead_letters()
    assert letters["index"].tolist() == [37]
    assert letters["category"].tolist() == ["worker_lost"]
    assert letters["item"].tolist() == [37]
    run.verify()


def test_a_poison_item_of_a_batched_task_is_found_by_halving(client: Client) -> None:
    run = client.map(shop.poison_batch, range(64), batch_size=32)
    status = run.wait(180)
    assert (status.ok, status.dead) == (63, 1)
    assert run.dead_letters()["index"].tolist() == [37]
    run.verify()
