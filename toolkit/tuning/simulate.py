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

from toolkit.records import CATEGORIES, OUTCOMES

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
    import pandas as pd

    frames = [
        simulate_run(workload, n_items, size, workers, seed=seed, ordinal=i, warm=warm or i > 0)
        for i, (size, workers) in enumerate(settings)
    ]
    joined = pd.concat(frames, ignore_index=True)
    for name in _CATEGORICAL:
        joined[name] = joined[name].astype("category")
    return joined


_CATEGORICAL = ("run_id", "task", "name", "code_version", "host", "node", "worker", "outcome", "error_category")


def _frame(workload: Workload, done: _Batches, run_id: str, asked: int, workers: int, at: float) -> pd.DataFrame:
    import pandas as pd

    n = len(done.items)
    items, worker = done.items.astype(np.int64), done.worker.astype(np.int64)
    service = done.end - done.start
    first = np.zeros(n, dtype=bool)
    first[np.unique(worker, return_index=True)[1]] = True
    largest = np.zeros(n)
    for code in np.unique(worker):
        largest[worker == code] = np.maximum.accumulate(items[worker == code])
    text: dict[str, Any] = {
        "run_id": run_id, "task": workload.name, "name": "", "code_version": "v1", "host": "host", "node": "node@host",
        "worker": np.char.add("node@host/", (1000 + worker).astype(str)),
        "outcome": pd.Categorical(["ok"] * n, categories=list(OUTCOMES)),
        "error_category": pd.Categorical([""] * n, categories=list(CATEGORIES)),
    }  # fmt: skip
    columns: dict[str, Any] = {
        "batch": np.arange(n), "first_index": np.r_[0, np.cumsum(items)[:-1]], "attempt": 1,
        "batch_size": asked, "items": items, "ok": items, "failed": 0, "retried": 0, "dead": 0,
        "weight_asked": 0.0, "weight": 0.0,
        "claimed_at": pd.to_datetime(np.round((at + done.start) * 1e6).astype(np.int64), unit="us", utc=True),
        "service_s": service, "decode_s": 0.0, "store_s": 0.0, "idle_s": done.idle,
        "cpu_user_s": service, "cpu_system_s": 0.0,
        "peak_rss_bytes": (workload.base_bytes + workload.item_bytes * largest).astype(np.int64),
        "input_bytes": 100 * items, "output_bytes": 100 * items,
        "item_sum_s": service, "item_sumsq_s2": service**2 / items, "item_max_s": service / items,
        "active_claims": done.active.astype(np.int64), "known_workers": workers, "max_workers": workers,
        "first_in_process": first, "tail": items < asked, "cut_off": False, "batched": False,
    }  # fmt: skip
    frame = pd.DataFrame({name: {**text, **columns}[name] for name in METRIC_COLUMNS})
    for name in _CATEGORICAL:
        frame[name] = frame[name].astype("category")
    return frame


METRIC_COLUMNS = (
    "run_id", "task", "name", "code_version", "host", "node", "worker", "batch", "first_index", "attempt", "batch_size",
    "items", "ok", "failed", "retried", "dead", "weight_asked", "weight", "outcome", "error_category", "claimed_at",
    "service_s", "decode_s", "store_s", "idle_s", "cpu_user_s", "cpu_system_s", "peak_rss_bytes", "input_bytes",
    "output_bytes", "item_sum_s", "item_sumsq_s2", "item_max_s", "active_claims", "known_workers", "max_workers",
    "first_in_process", "tail", "cut_off", "batched",
)  # fmt: skip
"""Columns of a simulated metric frame, those of ``run.metrics()``."""
