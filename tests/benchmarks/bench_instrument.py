"""What ``toolkit.instrument`` costs: microseconds a task, in the worker's own process.

    python -m tests.benchmarks.bench_instrument [--tasks 4000] [--rounds 9]

An empty task goes through Celery's own tracer, as in a worker, without a result backend: bare, then instrumented, in
turn. The thread that packs and sends the rows to a real server is in the same process, and each round waits until it
is done: its time is part of the figure "with delivery".
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from celery import Celery
from celery.app.trace import build_tracer

from toolkit.cluster import LocalCluster
from toolkit.instruments import instrumented
from toolkit.instruments.signals import Instrumentation

PATIENCE_S = 60.0


def tracer_of(app: Celery) -> Callable[[int], None]:
    """Execute an empty task so often, as a worker does."""

    @app.task(name=f"bench.{app.main}", ignore_result=True, shared=False)
    def nothing(_: int) -> None:
        """Do nothing."""

    trace = build_tracer(nothing.name, nothing, app=app)
    request: dict[str, Any] = {"hostname": "bench@here", "delivery_info": {}, "retries": 0, "toolkit_sent_at": 1e9}

    def run(n: int) -> None:
        for i in range(n):
            name = str(i)
            trace(name, (i,), {}, {**request, "id": name})

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    n = arguments.tasks
    state = Path(tempfile.mkdtemp(prefix="tk-bench-"))
    cluster = LocalCluster(state_dir=state, node=False)
    try:
        cluster.start()
        # Before anything is connected: Celery's tracer of an application without signals does not send any.
        bare = tracer_of(Celery("bare", set_as_current=False))
        bare(n)
        measured = Celery("measured", set_as_current=False)
        made = Instrumentation(measured, cluster.address, None, None, (100_000, 100_000))
        other, run = tracer_of(Celery("other", set_as_current=False)), tracer_of(measured)
        columns: dict[str, list[float]] = {"bare": [], "signals": [], "instrumented": [], "with delivery": []}
        for _ in range(arguments.rounds):
            columns["bare"].append(timed(bare, n))
            made.connect()
            columns["signals"].append(timed(other, n))
            began = perf_counter()
            run(n)
            columns["instrumented"].append((perf_counter() - began) / n)
            assert made.outbox.flush(PATIENCE_S)
            columns["with delivery"].append((perf_counter() - began) / n)
            made.disconnect()
        stored = int(instrumented(cluster.address)["rows"].sum())
        report(columns, stored, n * arguments.rounds)
    finally:
        cluster.stop(grace_s=0.0)
        shutil.rmtree(state, ignore_errors=True)


def timed(run: Callable[[int], None], n: int) -> float:
    """Seconds a task."""
    began = perf_counter()
    run(n)
    return (perf_counter() - began) / n


def report(columns: dict[str, list[float]], stored: int, sent: int) -> None:
    """Print medians, and differences of the same round."""
    print(f"{'an empty task':34}  {'µs a task':>10}  {'more than bare, median of rounds':>33}")
    for name, title in (
        ("bare", "not instrumented"),
        ("signals", "only another app is instrumented"),
        ("instrumented", "instrumented"),
        ("with delivery", "instrumented, until all is stored"),
    ):
        more = statistics.median(b - a for a, b in zip(columns["bare"], columns[name], strict=True))
        print(f"{title:34}  {statistics.median(columns[name]) * 1e6:10.1f}  {more * 1e6:33.1f}")
    print(f"{stored:,} of {sent:,} rows stored")


if __name__ == "__main__":
    main()
