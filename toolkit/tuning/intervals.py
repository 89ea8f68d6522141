"""How wrong a prediction may be: 90 % intervals of makespans.

With enough runs the interval is conformal: the quantile of the errors that the model made on left-out runs, which
covers whatever the model's faults, as long as the next run is like the earlier ones (Vovk, Gammerman and Shafer,
*Algorithmic Learning in a Random World*, 2005; leave-one-out as in Barber et al., Ann. Statist. 49, 2021). With fewer
it comes from the model: uncertain coefficients, differences between equal runs, and variation of batches, combined by
simulation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array
from toolkit.tuning.model import TaskModel

COVERAGE = 0.9


def conformal_quantile(errors: Array, coverage: float = COVERAGE) -> float | None:
    """Half width in logarithms: the ``ceil((n + 1) * coverage)``-th smallest absolute error; None if n is too small.

    For 90 % that takes nine runs.
    """
    known = np.sort(np.abs(errors[np.isfinite(errors)]))
    rank = math.ceil((len(known) + 1) * coverage - 1e-9)
    return float(known[rank - 1]) if 1 <= rank <= len(known) else None


def model_quantiles(
    model: TaskModel, point: Array, draws: Array, simulated: Array, coverage: float = COVERAGE
) -> tuple[Array, Array]:
    """Lower and upper logarithmic bounds around the expected makespan, from the model.

    Parameters
    ----------
    model : TaskModel
        Says how much equal runs differ.
    point : ndarray of shape (n_settings,)
        Makespans in closed form under the best coefficients.
    draws : ndarray of shape (n_draws, n_settings)
        The same under each draw.
    simulated : ndarray of shape (n_settings, replicates)
        Simulated makespans under the best coefficients.
    coverage : float
        Probability that the interval is to have.

    Returns
    -------
    low, high : ndarray of shape (n_settings,)
        Add to the logarithm of the expected makespan.
    """
    rng = np.random.default_rng(model.options.seed + 4)
    run = model.run_sd * rng.standard_t(model.run_dof, size=len(draws))
    residual = np.log(simulated / simulated.mean(axis=1, keepdims=True)).T
    residual = residual[np.arange(len(draws)) % len(residual)]
    total = np.log(draws / point) + residual + run[:, None]
    low, high = np.quantile(total, [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def bounds(
    model: TaskModel, point: Array, draws: Array, simulated: Array, beyond: NDArray[np.bool_]
) -> tuple[Array, Array, str]:
    """Return lower and upper logarithmic bounds, and where they come from.

    `beyond` marks settings outside of the data: errors inside of it say nothing about them, so their interval is the
    wider of the two.
    """
    low, high = model_quantiles(model, point, draws, simulated)
    half = conformal_quantile(model.backtest.model)
    if half is None:
        return low, high, "model"
    return np.where(beyond, np.minimum(low, -half), -half), np.where(beyond, np.maximum(high, half), half), "conformal"
