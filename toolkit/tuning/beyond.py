"""What no structure knows of sizes beyond the measured ones: how far off the outermost runs were, unseen.

As if the runs with the smallest, or largest, sizes were still to come, the structure is fitted to the others and
predicts them. What it is off by beyond what it expected grows with the distance, and so it will from the outermost
sizes on. A rate is believed in proportion to how well it explains this (as in `effects`); beforehand those from half a
percent to a third are as likely in any order, so that only a trial that would have shown much denies much.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from toolkit.tuning.effects import RunEffects
from toolkit.tuning.history import Array, Cells
from toolkit.tuning.selection import Structure
from toolkit.tuning.sensitivity import Sensitivity
from toolkit.tuning.structure import Costs, loads

# Of log makespan, for each e-fold of the size.
_RATES = np.array([0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32])
_UNTRIED = 0.29  # where the sizes are too like to try it: a power of the size, uniformly from -1, all fixed, to 0
_NEAR = 0.5  # log size within which runs are of the same size


def beyond_size(
    structure: Structure, costs: Costs, cells: Cells, spread: Array, within: Array, effects: RunEffects
) -> tuple[float, float]:
    """Standard deviation of log makespan for each e-fold below and above the measured sizes.

    Parameters
    ----------
    structure, costs : Structure, Costs
        Fitted to all cells.
    cells : Cells
        What was measured.
    spread, within : ndarray of shape (n_cells,)
        Relative variance of a cell's mean, with and without what its run shares.
    effects : RunEffects
        Of the judged runs, whose `order` says which.
    """
    judged = effects.runs.order.astype(np.int64)
    n_runs = int(max(cells.run.max(), *judged, 0)) + 1
    items, batches = (np.bincount(cells.run, weights=w, minlength=n_runs) for w in (cells.n * cells.items, cells.n))
    size = np.log(np.where(batches > 0, items / np.maximum(batches, 1.0), np.median(cells.items)))
    found = []
    for scale in (-size, size):
        gone = scale > scale.max() - _NEAR
        far, rest = gone[judged], scale[~gone]
        if not far.any() or far.all() or np.ptp(rest) < _NEAR:
            found.append(_UNTRIED)
            continue
        there = ~gone[cells.run]
        fitted = structure.fit(cells, there[None, :].astype(np.float64), spread)
        longer = np.log(loads(fitted, cells, n_runs) / loads(costs, cells, n_runs))[0, judged]
        kept = cells.take(there)
        sensitivity = Sensitivity.of(fitted, kept)
        runs = replace(effects.runs, jacobian=sensitivity.of_runs(cells, n_runs)[judged], apart=None)
        known = replace(
            effects,
            runs=runs.take(np.flatnonzero(~far)),
            residual=(effects.residual - longer)[~far],
            prior=sensitivity.prior(kept, within[there]),
            belief=np.ones(1),
        )
        mean, variance = known.expected(runs.take(np.flatnonzero(far)))
        found.append(rate((effects.residual - longer)[far] - mean, variance, (scale[judged] - rest.max())[far]))
    return found[0], found[1]


def rate(off: Array, variance: Array, distance: Array) -> float:
    """Root mean square of the rates believed where runs were `off` and `variance` had been expected without any."""
    total = variance + np.square(_RATES[:, None] * distance)
    log = -0.5 * (np.log(total) + np.square(off) / total).sum(axis=1)
    belief = np.exp(log - log.max())
    return math.sqrt(float(belief @ np.square(_RATES) / belief.sum()))
