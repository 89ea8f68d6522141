"""What the metric row costs a batch, and what a slow network costs a run."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path
from time import monotonic, process_time, sleep

from tests.acceptance.nodes import celery_node
from tests.benchmarks import work
from tests.benchmarks.table import Line, spread
from tests.chaos.nodes import Server
from tests.chaos.proxy import Proxy
from tests.integration.ledgers import Run
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.execution import Runner, Slot, Task
from toolkit.guards import Resources
from toolkit.ledger import Ledger
from toolkit.transport.batch import Tally
from toolkit.transport.loop import make_context

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
            # Side by side, since they sleep and one core would do for both: what slows one down slows the other.
            both = [(full, work.nap_item), (without, bare.nap_item)][:: 1 - 2 * (nth % 2)]
            runs = {client: client.map(task, [BATCH_S] * batches, batch_size=1) for client, task in both}
            taken = {}
            for client, run in runs.items():
                status = run.wait(600)
                taken[client is full] = status.finished_at - status.started_at
                assert len(run.metrics()) == (batches if client is full else 0)
            ratios.append(taken[True] / taken[False])
    longer = [100 * (ratio - 1) for ratio in ratios]
    yield Line(
        "100 ms batches with the metric row, against none", "% longer", statistics.median(longer), 1.0,
        others=f"rounds {spread(longer)}",
    )  # fmt: skip


def one_row(ledger: Ledger, rounds: int, times: int = 1000) -> Iterator[Line]:
    """A metric row by itself: measuring and packing it in the worker, storing it in the server."""
    run = Run(ledger, 2 * rounds * times, page=1024, batch_size=1)
    claim = run.claim()
    guard, slot = Resources(reset_peak=True), Slot(run.run_id, range(1), 1, None, False)
    [part] = Runner(work.no_item, run.spec, {}).run([0], [0], 1, on_item=lambda _: False)
    context = make_context(run.spec, work.no_item, b"", host="host", node="node")
    worker, server = [], []
    for _ in range(rounds):
        began = process_time()
        for _ in range(times):
            guard.enter(slot := copy(slot))  # another batch: the peak is reset
            part.stats.__class__(**guard.leave())
            tally = Tally(claim, context, 0.0, 0.0, 0)
            tally.count(part)
            row = tally.row(part)
        worker.append((process_time() - began) / times)
        spent = {}
        for stored in (row, b""):
            before = _function_s(ledger)
            for _ in range(times):
                progress = run.progress(claim, row=stored)
                claim = run.ledger.commit(run.run_id, progress, run.ask(have=claim.pages[-1][0])).claim or claim
            spent[bool(stored)] = _function_s(ledger) - before
        server.append((spent[True] - spent[False]) / times)
    run.reader.delete()
    both = [1e6 * (a + b) for a, b in zip(worker, server, strict=True)]
    parts = f"worker {1e6 * statistics.median(worker):.0f} µs of CPU, server {1e6 * statistics.median(server):.0f} µs"
    yield Line("a metric row by itself", "µs a batch", statistics.median(both), 1e6 * BATCH_S / 100, others=parts)


def _function_s(ledger: Ledger) -> float:
    """Seconds that the server's functions have taken so far."""
    return float(ledger.connection.command("INFO", "COMMANDSTATS")["cmdstat_fcall"]["usec"]) / 1e6


def network(rounds: int, items: int = 120_000) -> Iterator[Line]:
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
            deadline = monotonic() + 60
            while len(client.nodes()) < NODES:
                assert monotonic() < deadline, "the nodes do not start"
                sleep(0.1)
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
