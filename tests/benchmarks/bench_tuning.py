"""Is the advice any good on this machine, and how long does it take? Real processes, a real clock, no server.

``python tests/benchmarks/bench_tuning.py [--quick]`` prints; nothing is asserted, because the machine is noisy. Workers
take batches from a shared counter, which is all that the model assumes of a ledger.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from toolkit.tuning import Recommender, RuntimeRegressor, Workload, replan, simulate_runs

WARM_ITEMS = 200


@dataclass(frozen=True, slots=True)
class Task:
    """Work to tune: `item` rounds of arithmetic an item, and a fixed cost for each batch."""

    name: str
    item_rounds: int
    batch_rounds: int
    n_items: int
    spread: float = 0.0

    def run(self, start: int, items: int) -> None:
        _spin(self.batch_rounds)
        for index in range(start, start + items):
            # Items differ, but each is the same in every run.
            factor = math.exp(self.spread * math.sin(1e3 * index)) if self.spread else 1.0
            _spin(int(self.item_rounds * factor))


TASKS = (
    Task("cheap items", item_rounds=800, batch_rounds=0, n_items=40_000),
    Task("fixed cost", item_rounds=10_000, batch_rounds=1_000_000, n_items=4_000, spread=0.6),
    Task("slow items", item_rounds=300_000, batch_rounds=20_000, n_items=150, spread=0.8),
)


def _spin(rounds: int) -> int:
    total = 0
    for value in range(rounds):
        total += value
    return total


def _work(task: Task, batch_size: int, taken: Synchronized[int], barrier: Any, rows: Any, worker: int) -> None:
    task.run(0, min(WARM_ITEMS, max(1, task.n_items // 50)))
    barrier.wait()
    found, ended = [], math.nan
    while True:
        with taken.get_lock():
            start = taken.value
            taken.value = min(task.n_items, start + batch_size)
        claimed = time.time()
        if start >= task.n_items:
            break
        items = min(batch_size, task.n_items - start)
        begun = time.perf_counter()
        task.run(start, items)
        done = time.perf_counter()
        found.append((worker, claimed, items, done - begun, begun - ended, not found))
        ended = done
    rows.put(found)


def measure(task: Task, batch_size: int, workers: int, run: int) -> pd.DataFrame:
    """One real run, as a metric frame with the columns that the model needs."""
    context = multiprocessing.get_context("fork")
    taken, barrier, rows = context.Value("q", 0), context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=_work, args=(task, batch_size, taken, barrier, rows, i)) for i in range(workers)
    ]
    for process in processes:
        process.start()
    found = [row for _ in processes for row in rows.get()]
    for process in processes:
        process.join()
    frame = pd.DataFrame(found, columns=["worker", "claimed_at", "items", "service_s", "idle_s", "first_in_process"])
    frame["claimed_at"] = pd.to_datetime((frame["claimed_at"] * 1e6).astype("int64"), unit="us", utc=True)
    return frame.assign(
        run_id=f"run-{run:03d}", task=task.name, batch_size=batch_size, max_workers=workers,
        worker=[f"{run}/{w}" for w in frame["worker"]],
    )  # fmt: skip


def makespan(frame: pd.DataFrame) -> float:
    """Seconds from the first claim to the end."""
    start = frame["claimed_at"].astype("int64") / 1e6
    return float((start + frame["service_s"]).max() - start.min())


def judge(task: Task, repeats: int) -> None:
    """Eight runs teach, a grid of twelve cells judges."""
    huge = task.n_items // 5
    tiny = max(1, huge // 64)
    small, large = (round(tiny * (huge / tiny) ** step) for step in (1 / 3, 2 / 3))
    counts = (1, 2, 3)
    design = [(small, 2), (huge, 1), (large, 2), (small, 1), (tiny, 2), (large, 3), (huge, 2), (small, 3)]
    history = pd.concat([measure(task, b, w, i) for i, (b, w) in enumerate(design)], ignore_index=True)
    model = Recommender().fit(history)
    advice = model.recommend(n_items=task.n_items, max_workers=3)
    print(f"\n{advice}\n{model.backtest().round(3).to_string()}", flush=True)
    if advice.refused:
        return
    chosen = (advice.batch_size, advice.workers)
    cells = [(b, w) for b in (tiny, small, large, huge) for w in counts]
    seen: dict[tuple[int, int], list[float]] = {cell: [] for cell in {*cells, chosen}}
    for repeat in range(repeats):
        for cell in seen if repeat % 2 == 0 else reversed(list(seen)):
            seen[cell].append(makespan(measure(task, *cell, run=repeat)))
    grid = {cell: median(values) for cell, values in seen.items()}
    best = min(cells, key=grid.__getitem__)
    low, high = advice.intervals["makespan_s"]
    predicted = model.predict(
        pd.DataFrame([(task.n_items, *c) for c in cells], columns=["n_items", "batch_size", "workers"])
    )
    off = [f"{b}x{w} {grid[b, w]:.2f}s {p / grid[b, w] - 1:+.0%}" for (b, w), p in zip(cells, predicted, strict=True)]
    print("predicted against measured:", "; ".join(off))
    print(
        f"best cell {best} {grid[best]:.3f} s, recommended {chosen} {grid[chosen]:.3f} s: "
        f"regret {grid[chosen] / grid[best] - 1:+.1%}, {'inside' if low <= grid[chosen] <= high else 'OUTSIDE'} "
        f"{low:.3f} to {high:.3f} s, width {(high - low) / advice.makespan_s:.0%}",
        flush=True,
    )


def speed() -> None:
    """Seconds of fitting, asking and re-planning."""
    work = Workload(per_item_s=1e-3, item_sigma=0.5, cores=4)
    one = simulate_runs(work, 20_000, [(1, 4), (10, 2), (100, 8), (1000, 4), (10, 1), (100, 2)])
    copies = [
        one.assign(run_id=one["run_id"].astype(str) + f"-{i}", claimed_at=one["claimed_at"] + pd.Timedelta(days=i))
        for i in range(36)
    ]
    many = pd.concat(copies, ignore_index=True)
    for name in ("run_id", "worker", "host", "task", "code_version"):
        many[name] = many[name].astype("category")
    begun = time.perf_counter()
    model = Recommender().fit(many)
    fitted = time.perf_counter()
    model.recommend(n_items=50_000, max_workers=16)
    asked = time.perf_counter()
    rows = list(
        zip(one["items"], one["service_s"], one["active_claims"], one["idle_s"], one["first_in_process"], strict=True)
    )
    rows = rows[-2000:]
    replan(rows, remaining=10_000, workers=4)
    times = []
    for _ in range(20):
        at = time.perf_counter()
        replan(rows, remaining=10_000, workers=4)
        times.append(time.perf_counter() - at)
    print(f"{len(many):,} rows of {len(copies)} copies: fit {fitted - begun:.2f} s, recommend {asked - fitted:.2f} s")
    print(f"replan over {len(rows):,} rows: {1e3 * np.median(times):.2f} ms")


def regression_speed() -> None:
    """Seconds of `RuntimeRegressor` for a few rows, many, and a million; milliseconds of a small prediction."""
    rng = np.random.default_rng(0)
    for n_rows in (15, 5_000, 1_000_000):
        x = np.column_stack([rng.integers(1, 33, n_rows), rng.integers(1, 1000, n_rows)]).astype(float)
        y = (1 + x[:, 1] / x[:, 0]) * np.exp(rng.normal(0, 0.05, n_rows))
        begun = time.perf_counter()
        model = RuntimeRegressor(size=("n_items",)).fit(x, y)
        took, asked = time.perf_counter() - begun, []
        for _ in range(20):
            at = time.perf_counter()
            model.predict(x[:12])
            asked.append(time.perf_counter() - at)
        print(f"RuntimeRegressor, {n_rows:,} rows: fit {took:.3f} s, predict 12 rows {1e3 * np.median(asked):.2f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat of the grid instead of three")
    options = parser.parse_args()
    speed()
    regression_speed()
    for one_task in TASKS:
        judge(one_task, repeats=1 if options.quick else 3)
