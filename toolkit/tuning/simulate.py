"""Runs with known costs: what a run would take under a service model, and the metric frame that it would leave.

For what-if questions ("what if the interface allowed 50 items a second, and half of the workers left after a minute?"),
and for tests with known truth. A `Workload` is the service model: it says exactly what items and batches cost and what
workers share. `simulate_makespans` answers for many settings at once; `simulate_run` and `simulate_runs` give metric
frames that `Recommender.fit` takes. Workers that wait for the lock or the rate limit do not slow others down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import InvalidInput
from toolkit.records import FLAG_FIRST, FLAG_TAIL, WorkerIdentity
from toolkit.tuning.engine import Batches, Played, play
from toolkit.tuning.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from toolkit.tuning.history import Array

START_AT = 1_750_000_000.0  # seconds since the epoch of the first simulated run
_BLOCK = 3_000_000  # numbers in the largest array of a block of runs


class Luck:
    """What chance decides, once for each seed: the items, their bytes, and the noise of batches and runs.

    Parameters
    ----------
    workload : Workload
        What items cost.
    n_items : int
        How many there are.
    seeds : sequence of int or sequence of int
        One run each.
    """

    def __init__(self, workload: Workload, n_items: int, seeds: Sequence[Any]) -> None:
        self.workload, self.n_items = workload, n_items
        rngs = [np.random.default_rng([*np.atleast_1d(seed), 11]) for seed in seeds]
        self.level = np.exp([workload.run_sigma * rng.standard_normal() - workload.run_sigma**2 / 2 for rng in rngs])
        items = np.stack([workload.items_s(n_items, rng) for rng in rngs])
        payload = np.stack([workload.bytes_of(n_items, rng) for rng in rngs])
        zero = np.zeros((len(rngs), 1))
        self.items_s = np.concatenate([zero, items.cumsum(axis=1)], axis=1)
        self.bytes = np.concatenate([zero, payload.cumsum(axis=1)], axis=1)
        self._noise = [np.random.default_rng([*np.atleast_1d(seed), 12]) for seed in seeds]
        self._drawn = np.zeros((len(rngs), 0))

    def noise(self, count: int) -> Array:
        """Standard normal numbers of the first `count` batches, the same whenever they are asked for."""
        lacking = count - self._drawn.shape[1]
        if lacking > 0:
            more = np.stack([rng.standard_normal(lacking) for rng in self._noise])
            self._drawn = np.concatenate([self._drawn, more], axis=1)
        return self._drawn[:, :count]

    def batches(self, sizes: NDArray[np.int64]) -> Batches:
        """The batches of runs that are cut into `sizes`, one row per seed."""
        work = self.workload
        at = np.concatenate([[0], np.cumsum(sizes)])
        own = (self.items_s[:, at[1:]] - self.items_s[:, at[:-1]]) * np.maximum(0.0, 1.0 - work.free_items / sizes)
        own = own + work.per_byte_s * (self.bytes[:, at[1:]] - self.bytes[:, at[:-1]])
        shared = np.exp(work.batch_sigma * self.noise(len(sizes)) - work.batch_sigma**2 / 2)
        held = np.where(sizes > 0, work.lock_batch_s + work.lock_item_s * sizes, 0.0)
        shape = own.shape
        return Batches(
            items=np.broadcast_to(sizes.astype(np.float64), shape),
            work_s=self.level[:, None] * shared * (work.per_batch_s + own),
            held_s=np.broadcast_to(held, shape),
        )


def equal_sizes(n_items: int, batch_size: int) -> NDArray[np.int64]:
    """Sizes of equal batches, the last one smaller."""
    full, rest = divmod(n_items, batch_size)
    return np.array([batch_size] * full + ([rest] if rest else []), dtype=np.int64)


def simulate_makespans(
    workload: Workload, n_items: int, settings: Sequence[tuple[int | Sequence[int], int]], *, seeds: Sequence[Any]
) -> Array:
    """Makespans of settings, each under the same luck, for questions of what if.

    Parameters
    ----------
    workload : Workload
        What the task costs. Workers are warm only if its `warm_s` is 0.
    n_items : int
        Items of the run.
    settings : sequence of (batch size, workers)
        A batch size, or the sizes of all batches in the order of their claims, which sum to `n_items`.
    seeds : sequence of int
        One simulated run of each setting for each.

    Returns
    -------
    ndarray of shape (n_settings, n_seeds)
        Seconds from the first claim to the last commit; infinite where all workers leave before the end.

    Raises
    ------
    InvalidInput
        A setting is below 1, or its sizes are not those of all items.
    """
    luck = Luck(workload, n_items, seeds)
    cut = [_sizes(n_items, size, workers) for size, workers in settings]
    width = [min(workers, len(sizes)) for sizes, (_, workers) in zip(cut, settings, strict=True)]
    out = np.zeros((len(settings), len(seeds)))
    # Settings of one width and like length are played together, so that little is padded.
    order = sorted(range(len(settings)), key=lambda i: (width[i], len(cut[i])))
    block: list[int] = []
    for i in order:
        longest = len(cut[i])
        full = len(seeds) * (len(block) + 1) * max(longest, width[i]) > _BLOCK
        if block and (full or width[i] != width[block[0]] or longest > 2 * len(cut[block[0]]) + 32):
            out[block] = _play_block(luck, [cut[j] for j in block], width[block[0]])
            block = []
        block.append(i)
    if block:
        out[block] = _play_block(luck, [cut[j] for j in block], width[block[0]])
    return out


def _sizes(n_items: int, size: int | Sequence[int], workers: int) -> NDArray[np.int64]:
    one = isinstance(size, int | np.integer)
    if workers < 1 or (one and size < 1):  # type: ignore[operator]
        raise InvalidInput(f"setting {(size, workers)!r}: batch size and workers must be 1 or more")
    sizes = equal_sizes(n_items, int(size)) if one else np.asarray(size, dtype=np.int64)  # type: ignore[arg-type]
    if sizes.sum() != n_items or sizes.min(initial=1) < 1:
        raise InvalidInput(f"these sizes sum to {sizes.sum():,}, and there are {n_items:,} items")
    return sizes


def _play_block(luck: Luck, cut: list[NDArray[np.int64]], workers: int) -> Array:
    """Makespans of shape (n_settings, n_seeds)."""
    longest = max(len(sizes) for sizes in cut)
    parts = [luck.batches(sizes) for sizes in cut]

    def pad(name: str) -> Array:
        arrays = [getattr(part, name) for part in parts]
        return np.concatenate([np.pad(array, ((0, 0), (0, longest - array.shape[1]))) for array in arrays])

    batches = Batches(pad("items"), pad("work_s"), pad("held_s"))
    done = play(batches, luck.workload.rules(workers))
    return (done.makespan_s(batches) + luck.workload.gap_s).reshape(len(cut), -1)


def simulate_makespan(workload: Workload, n_items: int, batch_size: int, workers: int, seed: int = 0) -> float:
    """Seconds from the first claim to the end of one simulated run with warm workers."""
    warm = replace(workload, warm_s=0.0)
    return float(simulate_makespans(warm, n_items, [(batch_size, workers)], seeds=[seed])[0, 0])


def simulate_run(  # noqa: PLR0913 - all but the run itself by keyword
    workload: Workload,
    n_items: int,
    batch_size: int | Sequence[int],
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
        The run; `batch_size` may be the sizes of all batches.
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
    actual = replace(workload, warm_s=0.0) if warm else workload
    luck = Luck(actual, n_items, [(seed, ordinal)])
    one = isinstance(batch_size, int | np.integer)
    sizes = equal_sizes(n_items, int(batch_size)) if one else np.asarray(batch_size)  # type: ignore[arg-type]
    done = play(luck.batches(sizes), actual.rules(workers))
    asked = int(batch_size) if one else int(np.max(sizes))  # type: ignore[arg-type]
    return _frame(luck, done, sizes, asked, workers, ordinal, seed)


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


def _frame(  # noqa: PLR0913, PLR0917 - the run, as it was asked for
    luck: Luck, done: Played, sizes: NDArray[np.int64], asked: int, workers: int, ordinal: int, seed: int
) -> pd.DataFrame:
    """Pack the batches as workers do, and read them as the client does."""
    from toolkit.frames import RunInfo, metrics_frame, row_dtype

    workload, run_id, at = luck.workload, f"simulated-{ordinal:04d}", START_AT + 3600.0 * ordinal
    start, end = done.start_s[0], done.end_s[0]
    order = np.argsort(end, kind="stable")[: int(np.isfinite(end).sum())]  # rows are in the order of commits
    items, worker, service = sizes[order], done.worker[0, order].astype(np.int64), (end - start)[order]
    cut = np.concatenate([[0], np.cumsum(sizes)])
    input_bytes = (luck.bytes[0, cut[1:]] - luck.bytes[0, cut[:-1]])[order]
    first = np.zeros(len(items), dtype=np.int64)
    first[np.unique(worker, return_index=True)[1]] = FLAG_FIRST
    largest = np.zeros(len(items))
    for code in np.unique(worker):
        largest[worker == code] = np.maximum.accumulate(items[worker == code])
    peak = np.exp(workload.memory_sigma * np.random.default_rng([seed, ordinal, 13]).standard_normal(workers))
    rows = np.zeros(len(items), dtype=row_dtype())
    columns: dict[str, Any] = {
        "worker": worker,
        "flags": first | np.where(items < asked, FLAG_TAIL, 0),
        "attempt": 1,
        "active_claims": done.active[0, order],
        "known_workers": workers,
        "asked": asked,
        "items": items,
        "ok": items,
        "first_index": cut[:-1][order],
        "claimed_at": at + start[order],
        "service_s": service,
        "idle_s": done.idle_s[0, order],
        "cpu_user_s": service,
        "peak_rss_kib": (workload.base_bytes + workload.item_bytes * largest) * peak[worker] // 1024,
        "input_bytes": input_bytes,
        "output_bytes": 100 * items,
        "item_sum_s": service,
        "item_sumsq_s2": service**2 / items,
        "item_max_s": service / items,
    }
    for name, column in columns.items():
        rows[name] = column
    speed = workload.rules(workers).speed
    names = {
        code: WorkerIdentity(_host(speed[code]), f"node@{_host(speed[code])}", 1000 + code, "v1", "").encode()
        for code in range(workers)
    }
    return metrics_frame(RunInfo(run_id, workload.name, "", workers), rows.tobytes(), names)


def _host(speed: float) -> str:
    return "host" if speed == 1.0 else f"host-{speed:g}"
