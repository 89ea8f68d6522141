"""Which runs would teach most for what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.grids import predict_grid
from toolkit.tuning.history import Array
from toolkit.tuning.model import TaskModel

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "batch_size": "int64",
    "workers": "int64",
    "n_items": "int64",
    "cost_worker_s": "float64",
    "gain": "float64",
}
"""Columns of what is suggested: the run, what it costs, and by which share it narrows what is not known."""

_CONTENDERS = 0.15  # settings within this of the best may be the best
_WORTH = 0.02  # share of what is not known below which no further run is worth its cost
_MOST = 8


def suggest(model: TaskModel, n_items: int, limit: int, budget_worker_s: float) -> pd.DataFrame:
    """Return the runs that together teach most about the best setting of a run of `n_items`, within a budget.

    What is not known is how settings that may be the best compare with the best; the run that narrows this most per
    worker second comes first, then the next given the first (greedy, as what runs teach overlaps; Krause and Guestrin,
    UAI 2005).

    Parameters
    ----------
    model : TaskModel
        What is known.
    n_items : int
        Items of the run that is planned.
    limit : int
        Most workers.
    budget_worker_s : float
        Worker seconds that all experiments together may cost.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`, in the order in which to run them; empty where nothing affordable teaches anything.
    """
    grid = predict_grid(model, n_items, limit)
    value = np.where(grid.extrapolated, grid.low_s, grid.makespan_s)
    near = np.flatnonzero(value <= (1.0 + _CONTENDERS) * grid.makespan_s[~grid.extrapolated].min(initial=np.inf))
    best = int(np.argmin(grid.makespan_s))
    # A trial need not be the whole run: a few batches for each worker show what a setting costs.
    trial = np.minimum(n_items, np.maximum(4 * grid.batch_size * grid.workers, n_items // 16))
    cost = grid.cost_worker_s * trial / n_items
    affordable = (cost <= budget_worker_s) & (trial >= 2 * grid.batch_size)
    points = model.points(trial.astype(np.int64), grid.batch_size, grid.workers)
    covariance = model.effects.uncertain(points)
    noise = float(model.effects.noise_sd**2)
    contrast = np.unique(np.r_[near, best])
    first = _unknown(covariance, contrast, best)
    rows: list[dict[str, Any]] = []
    left = budget_worker_s
    while first > 0 and len(rows) < _MOST:
        gain = _gains(covariance, contrast, best, noise) / first
        gain = np.where(affordable & (cost <= left), gain, 0.0)
        pick = int(np.argmax(gain / np.sqrt(cost)))
        if gain[pick] < _WORTH:
            break
        rows.append(
            {
                "batch_size": grid.batch_size[pick],
                "workers": grid.workers[pick],
                "n_items": trial[pick],
                "cost_worker_s": cost[pick],
                "gain": gain[pick],
            }
        )
        left -= float(cost[pick])
        column = covariance[:, pick]
        covariance = covariance - np.outer(column, column) / (column[pick] + noise)
    return frame(rows)


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Suggestions with their declared columns, also when there are none."""
    import pandas as pd

    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in COLUMNS.items()})


def _unknown(covariance: Array, contrast: NDArray[np.int64], best: int) -> float:
    """Variance of the contenders beside the best, summed."""
    own = covariance[contrast, contrast] + covariance[best, best] - 2.0 * covariance[contrast, best]
    return float(np.maximum(own, 0.0).sum())


def _gains(covariance: Array, contrast: NDArray[np.int64], best: int, noise: float) -> Array:
    """What each setting, once run, takes away from that."""
    seen = covariance[contrast] - covariance[best]
    own = covariance.diagonal() + noise
    return np.asarray((np.square(seen) / own[None, :]).sum(axis=0))
