"""Runs with known costs: a discrete-event simulation that gives metric frames.

For tests with known truth, and for trying out what a setting would do. Busy workers slow each other down at every
moment, not on average: a batch that runs alone at the end of a run is as fast as one worker is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.records import FLAG_FIRST, FLAG_TAIL, WorkerIdentity

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.tuning.history import Array

START_AT = 1_750_000_000.0  # seconds since the epoch of the first simulated run


@dataclass(frozen=True, slots=True)
class Workload:
    """What a task costs, exactly.

    Attributes
    ----------
    name : str
        Name of the task.
    per_item_s : float
        Mean seconds of an item.
    per_batch_s : float
        Seconds of a batch, whatever its size.
    item_sigma : float
        Standard deviation of the logarithm of an item's seconds; 0 for equal items.
    batch_sigma : float
        The same of a factor that a whole batch shares.
    run_sigma : float
        The same of a factor that a whole run shares.
    cores : float
        Processors: more busy workers than this share them. Infinite for work that waits.
    sigma, kappa : float
        Contention and coherence of the universal scalability law.
    warm_s : float
        Seconds of the first batch in a process that has never run the task.
    gap_s : float
        Seconds between two batches of a worker.
    stagger_s : float
        Delay from one worker's first claim to the next one's.
    base_bytes, item_bytes : int
        Peak memory of a process: base, and for each item of its largest batch.
    """

    name: str = "demo.task"
    per_item_s: float = 1e-3
    per_batch_s: float = 0.0
    item_sigma: float = 0.0
    batch_sigma: float = 0.02
    run_sigma: float = 0.01
    cores: float = math.inf
    sigma: float = 0.0
    kappa: float = 0.0
    warm_s: float = 0.0
    gap_s: float = 5e-4
    stagger_s: float = 2e-3
    base_bytes: int = 60 << 20
    item_bytes: int = 1 << 10

    def slowdown(self, busy: int) -> float:
        """How much slower a batch is while `busy` workers are at work."""
        usl = 1.0 + self.sigma * (busy - 1) + self.kappa * busy * (busy - 1)
        return usl * max(1.0, busy / self.cores)

    def work_s(self, items: int, rng: np.random.Generator) -> float:
        """Seconds of a batch of `items` items on an idle machine, drawn at random."""
        if self.item_sigma:
            drawn = rng.lognormal(-(self.item_sigma**2) / 2, self.item_sigma, items).sum()
        else:
            drawn = float(items)
        shared = rng.lognormal(-(self.batch_sigma**2) / 2, self.batch_sigma) if self.batch_sigma else 1.0
        return float(shared * (self.per_batch_s + self.per_item_s * drawn))


@dataclass(frozen=True, slots=True)
class _Batches:
    """What a simulated run did: arrays of one length, in the order of claims."""

    worker: Array
    start: Array
    end: Array
    items: Array
    active: Array
    idle: Array


def _simulate(workload: Workload, n_items: int, batch_size: int, workers: int, rng: np.random.Generator) -> _Batches:
    """Run the event loop: at each event work advances at the speed that the busy workers allow."""
    level = float(rng.lognormal(-(workload.run_sigma**2) / 2, workload.run_sigma)) if workload.run_sigma else 1.0
    left = np.full(workers, np.inf)  # seconds of work left of each worker's batch, on an idle machine
    wake = np.arange(workers) * workload.stagger_s  # when a worker asks for its next batch
    ended = np.full(workers, np.nan)
    current = np.full(workers, -1)
    rows: list[list[float]] = []
    now, taken = 0.0, 0
    fresh = np.ones(workers, dtype=bool)
    while True:
        busy = int(np.isfinite(left).sum())
        speed = 1.0 / (workload.slowdown(busy) * level) if busy else 1.0
        to_finish = left.min() / speed if busy else np.inf
        until = min(to_finish, wake.min() - now)
        if not np.isfinite(until):
            break
        now += until
        left -= until * speed
        if until == to_finish:
            worker = int(left.argmin())
            rows[current[worker]][2] = now
            left[worker], ended[worker] = np.inf, now
            wake[worker] = now + workload.gap_s if taken < n_items else np.inf
            continue
        worker = int(wake.argmin())
        wake[worker] = np.inf
        if taken >= n_items:
            continue
        items = min(batch_size, n_items - taken)
        taken += items
        left[worker] = workload.work_s(items, rng) + (workload.warm_s if fresh[worker] else 0.0)
        fresh[worker] = False
        current[worker] = len(rows)
        rows.append([worker, now, np.nan, items, busy + 1, now - ended[worker]])
    return _Batches(*np.array(rows, dtype=np.float64).T)


def simulate_makespan(workload: Workload, n_items: int, batch_size: int, workers: int, seed: int = 0) -> float:
    """Seconds from the first claim to the end of one simulated run with warm workers."""
    from dataclasses import replace

    done = _simulate(replace(workload, warm_s=0.0), n_items, batch_size, workers, np.random.default_rng(seed))
    return float(done.end.max()) + workload.gap_s


def simulate_run(  # noqa: PLR0913 - all but the run itself by keyword
    workload: Workload,
    n_items: int,
    batch_size: int,
    workers: int,
    *,
    seed: int = 0,
    ordinal: int = 0,
    warm: bool = False,
) -> pd.DataFrame:
    """Metric frame of one simulated run.

    Parameters
    ----------
    workload : Workload
        What the task costs.
    n_items, batch_size, workers : int
        The run.
    seed : int
        Of the random numbers.
    ordinal : int
        Makes run ids and start times differ.
    warm : bool
        The workers have run the task before.

    Returns
    -------
    DataFrame
        One row per batch, with the columns of ``run.metrics()``.
    """
    from dataclasses import replace

    actual = replace(workload, warm_s=0.0) if warm else workload
    done = _simulate(actual, n_items, batch_size, workers, np.random.default_rng([seed, ordinal]))
    return _frame(workload, done, f"simulated-{ordinal:04d}", batch_size, workers, START_AT + 3600.0 * ordinal)


def simulate_runs(
    workload: Workload, n_items: int, settings: Iterable[tuple[int, int]], *, seed: int = 0, warm: bool = True
) -> pd.DataFrame:
    """Metric frame of several runs, one for each ``(batch_size, workers)``; see `simulate_run`.

    The workers are cold in the first run only, if not `warm`.
    """
    from toolkit.frames import concat_metrics

    return concat_metrics(
        [
            simulate_run(workload, n_items, size, workers, seed=seed, ordinal=i, warm=warm or i > 0)
            for i, (size, workers) in enumerate(settings)
        ]
    )


def _frame(workload: Workload, done: _Batches, run_id: str, asked: int, workers: int, at: float) -> pd.DataFrame:
    """Pack the batches as workers do, and read them as the client does."""
    from toolkit.frames import RunInfo, metrics_frame, row_dtype

    order = np.argsort(done.end, kind="stable")  # rows are in the order of commits
    items, worker, service = done.items[order], done.worker[order].astype(np.int64), (done.end - done.start)[order]
    first = np.zeros(len(items), dtype=np.int64)
    first[np.unique(worker, return_index=True)[1]] = FLAG_FIRST
    largest = np.zeros(len(items))
    for code in np.unique(worker):
        largest[worker == code] = np.maximum.accumulate(items[worker == code])
    rows = np.zeros(len(items), dtype=row_dtype())
    columns: dict[str, Any] = {
        "worker": worker,
        "flags": first | np.where(items < asked, FLAG_TAIL, 0),
        "attempt": 1,
        "active_claims": done.active[order],
        "known_workers": workers,
        "asked": asked,
        "items": items,
        "ok": items,
        "first_index": np.r_[0, np.cumsum(done.items)[:-1]][order],
        "claimed_at": at + done.start[order],
        "service_s": service,
        "idle_s": done.idle[order],
        "cpu_user_s": service,
        "peak_rss_kib": (workload.base_bytes + workload.item_bytes * largest) // 1024,
        "input_bytes": 100 * items,
        "output_bytes": 100 * items,
        "item_sum_s": service,
        "item_sumsq_s2": service**2 / items,
        "item_max_s": service / items,
    }
    for name, column in columns.items():
        rows[name] = column
    names = {code: WorkerIdentity("host", "node@host", 1000 + code, "v1", "").encode() for code in range(workers)}
    return metrics_frame(RunInfo(run_id, workload.name, "", workers), rows.tobytes(), names)
