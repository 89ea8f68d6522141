"""A long stream in bounded memory, and what a ledger call costs the server.

    python -m tests.benchmarks.bench_stream [--items 300000] [--window-mib 8]

Three parts, each with its goal. First, items from a generator with ``keep_results=False`` on two workers: growth of the
client's resident memory and of the server's ``used_memory``, sampled every 20 ms. Second, one call that commits a batch
of 1,000 items and claims the next one: the server's own count (``INFO commandstats``), in runs of 10 thousand items and
in a run of all of them. Third, cancel of that run while nearly all of it is unclaimed. The long form is
``--items 10000000``. Nothing is asserted but that every item ended.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("TOOLKIT_PROGRESS", "0")

import psutil

from tests.integration.ledgers import Run, metric_row
from toolkit import codec
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.execution import task
from toolkit.ledger import Claim, Ledger, Progress, pack_output
from toolkit.settings import LedgerSettings

K = 1000
SMALL_RUN = 10_000
CALLS = 2000
MIB = 1024 * 1024


@task
def nothing(x: int) -> None:
    """Do nothing: the items are as short as items can be."""


def info(ledger: Ledger, section: str) -> dict[str, Any]:
    """One section of the server's own figures."""
    return dict(ledger.connection.command("INFO", section))


class Sampler(threading.Thread):
    """Samples the memory of this process and of the server, and keeps the highest."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._ledger = ledger
        self._over = threading.Event()
        self._process = psutil.Process()
        self.start_client, self.start_server = self._look()
        self.client = self.server = 0

    def _look(self) -> tuple[int, int]:
        return self._process.memory_info().rss, int(info(self._ledger, "memory")["used_memory"])

    def run(self) -> None:
        while not self._over.wait(0.02):
            client, server = self._look()
            self.client = max(self.client, client - self.start_client)
            self.server = max(self.server, server - self.start_server)

    def stop(self) -> None:
        self._over.set()
        self.join()


def report(what: str, figure: str, goal: str) -> None:
    """One line of the table."""
    print(f"{what:72s} {figure:>16s}   {goal}", flush=True)


def stream(client: Client, ledger: Ledger, n: int, window: int) -> None:
    """Part one."""
    client.map(nothing, (i for i in range(50_000)), keep_results=False, name="warm").wait(120)
    sampler = Sampler(ledger)
    sampler.start()
    began = perf_counter()
    run = client.map(nothing, (i for i in range(n)), keep_results=False, name="stream")
    status = run.wait(3600)
    took_s = perf_counter() - began
    sampler.stop()
    assert (status.ok, status.submitted) == (n, n)
    run.verify()
    sizes = run.metrics()["items"]
    report("submitted and done in [s]", f"{took_s:.1f}", f"({n / took_s:,.0f} items/s)")
    report("batches, median and largest batch", f"{len(sizes):,}", f"({sizes.median():,.0f}, {sizes.max():,})")
    report("client growth [MiB]", f"{sampler.client / MIB:.1f}", "goal <= 64")
    report("server growth [MiB]", f"{sampler.server / MIB:.1f}", f"goal <= {window / MIB + 2e6 / MIB:.1f}")
    left = int(info(ledger, "memory")["used_memory"]) - sampler.start_server
    report("server growth that stays after the end [MiB]", f"{left / MIB:.2f}", "")


def commit_and_claim(ledger: Ledger, run: Run, claim: Claim) -> Claim | None:
    """What a worker says after a batch of items that all went well."""
    start, stop = claim.ranges[0].start, claim.ranges[-1].stop
    output = pack_output([(start, stop)], codec.encode_page(list(range(start, stop))))
    progress = Progress(claim.claim_id, 0, len(claim), item_s=1e-6, row=metric_row(items=len(claim)), output=output)
    answer = ledger.commit(run.run_id, progress, run.ask(have=claim.pages[-1][0])).claim
    return answer if isinstance(answer, Claim) else None


@contextmanager
def counted(ledger: Ledger, what: str, goal: str) -> Iterator[None]:
    """The server's time per call of its functions, within."""
    before = info(ledger, "commandstats").get("cmdstat_fcall", {"usec": 0, "calls": 0})
    yield
    after = info(ledger, "commandstats")["cmdstat_fcall"]
    calls = after["calls"] - before["calls"]
    report(what, f"{(after['usec'] - before['usec']) / calls:.1f}", f"{goal} ({calls:,} calls)")


def calls(ledger: Ledger, n: int, *, release: bool) -> None:
    """Parts two and three."""
    kind = "inputs released" if release else "results kept"
    runs = [Run(ledger, SMALL_RUN, page=1024, batch_size=K, release=release) for _ in range(CALLS // 9)]
    firsts = [run.claim() for run in runs]
    goal = "goal <= 100"
    with counted(ledger, f"server per commit + claim of {K:,}, runs of {SMALL_RUN:,}, {kind} [us]", goal):
        for run, first in zip(runs, firsts, strict=True):
            claim: Claim | None = first
            for _ in range(SMALL_RUN // K - 1):
                assert claim is not None
                claim = commit_and_claim(ledger, run, claim)
    for run in runs:
        run.reader.delete()
    large = Run(ledger, n, page=1024, batch_size=K, release=release)
    claim = large.claim()
    with counted(ledger, f"the same, a run of {n:,} [us]", goal):
        for _ in range(min(CALLS, n // (2 * K))):
            assert claim is not None
            claim = commit_and_claim(ledger, large, claim)
    assert claim is not None
    large.commit(claim)
    before = large.status()
    what = f"cancel, {before.remaining:,} of {n:,} items unclaimed, {kind}"
    with counted(ledger, f"{what}, on the server [us]", "goal: O(1)"):
        began = perf_counter()
        state = ledger.steer(large.run_id, "cancel")
        took_s = perf_counter() - began
    report(f"{what} [ms]", f"{took_s * 1000:.2f}", "goal: p99 <= 1,000")
    assert (state, large.status().skipped) == ("cancelled", before.remaining)
    large.reader.delete()


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, default=300_000)
    arguments.add_argument("--window-mib", type=int, default=8)
    options = arguments.parse_args()
    window = options.window_mib * MIB
    state = Path(tempfile.mkdtemp(prefix="tk-bench-"))
    cluster = LocalCluster(2, state_dir=state)
    print(
        f"{options.items:,} items from a generator, keep_results=False, 2 workers, look-ahead {options.window_mib} MiB"
    )
    try:
        with Client(cluster=cluster, settings=LedgerSettings(look_ahead_bytes=window)) as client:
            cluster.wait_ready(60)
            ledger = Ledger(cluster.address)
            stream(client, ledger, options.items, window)
            for release in (True, False):
                calls(ledger, options.items, release=release)
            ledger.close()
    finally:
        cluster.stop()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
