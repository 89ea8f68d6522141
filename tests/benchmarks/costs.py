"""What the metric row costs a batch, and what a slow network costs a run."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.acceptance.nodes import celery_node
from tests.benchmarks import work
from tests.benchmarks.table import Line, spread
from tests.chaos.nodes import Server
from tests.chaos.proxy import Proxy
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.execution import Task

BATCH_S = 0.1
ROUND_TRIP_S = 0.005
NODES = 2
QUEUE = "network"


@contextmanager
def _cluster(task: Task, workers: int) -> Iterator[Client]:
    """A warm cluster of its own whose processes have seen only `task`."""
    state = Path(tempfile.mkdtemp(prefix="tk-bench-"))
    cluster = LocalCluster(workers, state_dir=state)
    try:
        with Client(cluster=cluster) as client:
            cluster.wait_ready(60)
            client.map(task, [0.01] * 4 * workers, batch_size=1).results(60)
            yield client
    finally:
        cluster.stop()
        shutil.rmtree(state, ignore_errors=True)


def rows(rounds: int, batches: int = 100) -> Iterator[Line]:
    """Batches of 100 ms with the full metric row, and on workers that know no metrics."""
    from tests.benchmarks import bare

    with _cluster(work.nap_item, 2) as full, _cluster(bare.nap_item, 2) as without:
        ratios = []
        for nth in range(rounds):
            taken = {}
            both = [(full, work.nap_item), (without, bare.nap_item)]
            for client, task in both[:: 1 - 2 * (nth % 2)]:
                run = client.map(task, [BATCH_S] * batches, batch_size=1)
                status = run.wait(600)
                taken[client is full] = status.finished_at - status.started_at
                assert len(run.metrics()) == (batches if client is full else 0)
            ratios.append(taken[True] / taken[False])
    longer = [100 * (ratio - 1) for ratio in ratios]
    yield Line(
        "100 ms batches with the metric row, against none", "% longer", statistics.median(longer), 1.0,
        others=f"rounds {spread(longer)}",
    )  # fmt: skip


def network(rounds: int, items: int = 60_000) -> Iterator[Line]:
    """Two nodes that reach the server through a proxy which holds everything back, and through one that does not."""
    folder = Path(tempfile.mkdtemp(prefix="tk-bench-"))
    server = Server(folder / "server", "everysec")
    proxy = Proxy(server.port)
    through = {
        "RECOVERY_BROKER": server.url(1, proxy.port),
        "RECOVERY_LEDGER": server.url(0, proxy.port),
        "SPIN_ROUNDS": os.environ["SPIN_ROUNDS"],
    }
    options = ("-c", "1", "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
    try:
        with ExitStack() as stack:
            os.environ.update(RECOVERY_BROKER=server.url(1), RECOVERY_LEDGER=server.url(0))
            from tests.benchmarks import recovery_app

            for n in range(NODES):
                module = "tests.benchmarks.recovery_app"
                stack.enter_context(celery_node(module, f"net{n}", through, folder / f"{n}.log", *options))
            client = stack.enter_context(Client(app=recovery_app.app, ledger_url=server.url(0)))
            client.map(work.spin_item, range(4000), batch_size=100, queue=recovery_app.QUEUE).results(120)
            ratios = []
            for nth in range(rounds):
                rate = {}
                for delay_s in [0.0, ROUND_TRIP_S / 2][:: 1 - 2 * (nth % 2)]:
                    proxy.latency(delay_s)
                    run = client.map(work.spin_item, range(items), queue=recovery_app.QUEUE, keep_results=False)
                    status = run.wait(600)
                    rate[delay_s] = items / (status.finished_at - status.started_at)
                proxy.restore()
                ratios.append(100 * rate[ROUND_TRIP_S / 2] / rate[0.0])
    finally:
        proxy.close()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    yield Line(
        "two nodes, 5 ms more of round trip", "% of the throughput without", statistics.median(ratios), 95.0,
        at_least=True, others=f"rounds {spread(ratios)}",
    )  # fmt: skip
