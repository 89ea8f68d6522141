"""What the data can tell apart: whether the questions asked of the model have answers at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.tuning.history import Array, TaskHistory
from toolkit.tuning.structure import Costs

_FEWEST = 3  # batches near a size before it counts as measured
_TIED = 0.95  # correlation of log size and log workers beyond which their effects cannot be told apart


@dataclass(frozen=True, slots=True)
class Checks:
    """Identifiability of a task's costs.

    Attributes
    ----------
    sizes : (smallest, largest)
        Batch sizes that were executed.
    workers : tuple of int
        Worker counts of the runs.
    settings : frozenset of (batch size, workers)
        Settings that were run.
    size_known : bool
        Sizes differ enough to tell the cost of a batch from the cost of an item.
    workers_known : bool
        Worker counts differ, so that contention can be estimated.
    tied : bool
        Size and worker count always went together.
    per_batch_s, per_item_s : (low, high)
        90 % intervals of the costs.
    """

    sizes: tuple[float, float]
    workers: tuple[int, ...]
    settings: frozenset[tuple[int, int]]
    size_known: bool
    workers_known: bool
    tied: bool
    per_batch_s: tuple[float, float]
    per_item_s: tuple[float, float]

    def extrapolated(self, batch_size: float, workers: int) -> bool:
        """Whether a setting is outside of what was measured: a size by more than a factor of 2, or its worker count."""
        low, high = self.sizes
        return not low / 2 <= batch_size <= high * 2 or not self.between(workers)

    def between(self, workers: int) -> bool:
        """Whether a worker count was measured, or lies below one that was.

        One worker alone has no contention, so fewer than measured are interpolated, if contention is known at all.
        """
        return workers in self.workers or (self.workers_known and workers <= self.workers[-1])


def check(history: TaskHistory, draws: Costs) -> Checks:
    """Look at the design behind a history; `draws` say how uncertain its coefficients are."""
    cells, runs = history.cells, history.runs
    octave = np.round(np.log2(cells.items) * 2).astype(np.int64)
    octaves, place = np.unique(octave, return_inverse=True)
    often = np.bincount(place, weights=cells.n) >= _FEWEST
    spread = octaves[often] if often.any() else octaves[:1]
    workers = tuple(sorted({run.workers for run in runs}))
    size_known = bool(spread[-1] - spread[0] >= 2)
    workers_known = len(workers) > 1
    return Checks(
        sizes=(float(cells.items.min()), float(cells.items.max())),
        workers=workers,
        settings=frozenset((run.batch_size, run.workers) for run in runs),
        size_known=size_known,
        workers_known=workers_known,
        tied=size_known and workers_known and abs(_correlation(history)) > _TIED,
        per_batch_s=_interval(draws.base[:, 0]),
        per_item_s=_interval(draws.base[:, 1]),
    )


def _correlation(history: TaskHistory) -> float:
    """Correlation over cells of log items and log busy workers; a cell of many batches counts as much as 20."""
    cells = history.cells
    weights = np.minimum(cells.n, 20.0)
    a, b = np.log(cells.items), np.log(cells.busy)
    a, b = a - np.average(a, weights=weights), b - np.average(b, weights=weights)
    scale = float(np.sqrt((weights * a * a).sum() * (weights * b * b).sum()))
    return float((weights * a * b).sum()) / scale if scale > 0 else 0.0


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)
