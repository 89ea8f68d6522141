"""How wrong a prediction may be: intervals of makespans.

Up to some twenty runs the interval is the model's own (`effects`): what equal runs differ by, what drifts, and what is
not known of the coefficients. With more it is conformal: the quantile of how far off left-out runs were, in standard
deviations that the model had expected, which covers whatever the model's faults, as long as the next run is like the
earlier ones (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005; leave-one-out as in Barber et
al., Ann. Statist. 49, 2021). With fewer that quantile would be the largest of a handful of errors: as unsure as wide.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array
from toolkit.tuning.model import TaskModel

COVERAGE = 0.9
CONFORMAL_RUNS = 20


def conformal_quantile(errors: Array, coverage: float = COVERAGE) -> float | None:
    """The ``ceil((n + 1) * coverage)``-th smallest absolute error; None with fewer than `CONFORMAL_RUNS`."""
    known = np.sort(np.abs(errors[np.isfinite(errors)]))
    if len(known) < CONFORMAL_RUNS:
        return None
    rank = math.ceil((len(known) + 1) * coverage - 1e-9)
    return float(known[min(rank, len(known)) - 1])


def bounds(
    model: TaskModel,
    setting: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    luck: Array,
    upper: float | None = None,
) -> tuple[Array, Array, str]:
    """Return lower and upper logarithmic bounds around expected makespans, and where they come from.

    Parameters
    ----------
    model : TaskModel
        The model.
    setting : (n_items, batch_size, workers)
        Arrays of one length.
    luck : ndarray of shape (n_settings,)
        Variance of log makespan by the luck of the schedule.
    upper : float, optional
        Another level of the upper end than that of a 90 % interval.
    """
    points = model.points(*setting)
    high_level = (1.0 + COVERAGE) / 2.0 if upper is None else upper
    low, high = model.effects.quantiles(points, luck, ((1.0 - COVERAGE) / 2.0, high_level))
    middle = model.effects.shift(points)
    low, high = low - middle, high - middle
    ratio = conformal_quantile(model.backtest.model / model.backtest.spread)
    if ratio is None:
        return low, high, "model"
    # A normal error is within 1.645 of its standard deviations in 90 % of cases.
    wider = ratio / 1.645
    return low * wider, high * wider, "conformal"
