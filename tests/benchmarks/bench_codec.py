"""How fast items become pages and pages items, and metric rows a frame.

    python -m tests.benchmarks.bench_codec [--rounds 20] [--rows 1000000]

One page is 1024 items, as the client sends them. Figures are the best of the rounds, because everything that disturbs
makes them longer. Nothing is asserted but equality.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import numpy as np

from toolkit import codec
from toolkit.frames import RunInfo, metrics_frame, row_dtype
from toolkit.records import WorkerIdentity

PAGE = 1024
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

ITEMS: dict[str, Callable[[int], Any]] = {
    "int": lambda i: i,
    "float": lambda i: i * 0.37,
    "short text": lambda i: f"item-{i:06d}",
    "small dict": lambda i: {"id": i, "name": f"n{i}", "x": i * 0.5, "ok": True, "t": None},
    "nested dict": lambda i: {"id": i, "rows": [1, 2, i], "m": {"a": 1, "b": [1.5]}},
    "tuple": lambda i: (i, f"a{i}"),
    "dict with datetime": lambda i: {"id": i, "at": NOON},
    "numpy.float64": np.float64,
    "array of 16 floats": lambda i: np.arange(16.0) + i,
    "10 kB of text": lambda i: f"page {i} " * 1000,
}


def best(call: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(rounds):
        gc.collect()
        began = perf_counter()
        call()
        times.append(perf_counter() - began)
    return min(times)


def bench_items(rounds: int) -> None:
    """Print a line per kind of item."""
    print(f"{'1024 items a page':20} {'bytes':>9} {'encode':>10} {'items/s':>12} {'decode':>10} {'items/s':>12}")
    for name, make in ITEMS.items():
        values = [make(i) for i in range(PAGE)]
        page = codec.encode_page(values)
        assert repr(codec.decode_page(page)) == repr(values)
        write = best(lambda: codec.encode_page(values), rounds)  # noqa: B023 - called at once
        read = best(lambda: codec.decode_page(page), rounds)  # noqa: B023 - called at once
        print(
            f"{name:20} {len(page):9,} {write * 1e6:7.0f} us {PAGE / write:12,.0f} {read * 1e6:7.0f} us "
            f"{PAGE / read:12,.0f}"
        )


def bench_rows(rounds: int, n: int) -> None:
    """Print how long `n` metric rows take beside a copy of their bytes."""
    raw = np.zeros(n, row_dtype())
    raw["worker"] = np.arange(n) % 8
    raw["claimed_at"] = NOON.timestamp() + np.arange(n) * 0.01
    data = raw.tobytes()
    workers = {i: WorkerIdentity("host", "node", i, "abc", "0.1.0").encode() for i in range(8)}
    run = RunInfo("run-bench", "task", "", 8)
    assert len(metrics_frame(run, data, workers)) == n
    seconds = best(lambda: metrics_frame(run, data, workers), rounds)
    copy = best(lambda: bytearray(data), rounds)
    print(
        f"{n:,} metric rows to a frame: {seconds:.3f} s, {n / seconds:,.0f} rows/s; copying their bytes: {copy:.3f} s"
    )


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    given = arguments.parse_args()
    bench_items(given.rounds)
    bench_rows(max(1, given.rounds // 5), given.rows)


if __name__ == "__main__":
    main()
