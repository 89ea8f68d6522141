"""How much batches of one size vary: what a whole batch shares, and what its items add up to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array, Cells
from toolkit.tuning.nonneg import weighted_nonneg
from toolkit.tuning.structure import N_BASE, Costs

_WILD = 5.0  # a cell whose variance is more than this many times the fitted one is trusted less
_ENOUGH = 30  # degrees of freedom within cells that suffice to know how batches vary
_LEAST, _MOST = 1e-6, 25.0  # relative variances that are believed


@dataclass(frozen=True, slots=True)
class Variation:
    """Relative variance of a batch.

    Items vary independently of each other and the fixed cost of a batch not at all, so for a batch of `b` items, of
    which ``p = max(b - free, 0)`` cost anything::

        variance(b) = batch + item * p / (p + fixed) ** 2

    Attributes
    ----------
    batch : float
        Of what a whole batch shares: it does not average out.
    item : float
        Of an item.
    fixed : float
        How many items the fixed cost of a batch is worth.
    free : float
        Items of a batch that cost nothing.
    """

    batch: float
    item: float
    fixed: float = 0.0
    free: float = 0.0

    def of(self, items: Array | NDArray[np.int64]) -> Array:
        """Relative variance of batches of `items`, of the same shape."""
        return np.asarray(self.batch + self.item * _averaged(items, self.fixed, self.free))

    def means(self, cells: Cells) -> Array:
        """Relative variance of the cells' means within their runs."""
        return np.asarray(self.of(cells.items) / cells.n)


def _averaged(items: Array | NDArray[np.int64], fixed: float, free: float) -> Array:
    paid = np.maximum(np.asarray(items, dtype=np.float64) - free, 0.0)
    return np.asarray(paid / np.square(np.maximum(paid + fixed, 1.0)))


def fit_variation(cells: Cells, costs: Costs | None = None) -> Variation:
    """Fit to the variance within cells, and, where they hold too few batches, to how far means are from `costs`.

    Of what `costs` say of a batch's fixed part use is made where the variances agree with it: a wrong split of the
    costs would be a wrong law of the variances.
    """
    known = np.isfinite(cells.variance) & (cells.first == 0)
    target, weight, items = cells.variance[known], cells.n[known] - 1.0, cells.items[known]
    if weight.sum() < _ENOUGH and costs is not None:
        apart = cells.n * (cells.mean_s / costs.cell_s(cells)[0] - 1.0) ** 2
        used = (N_BASE - 1) / max(len(cells), N_BASE)  # what the fit itself took away
        target = np.r_[target, apart / (1.0 - used)]
        weight, items = np.r_[weight, np.ones(len(cells))], np.r_[items, cells.items]
    if weight.sum() < 2:
        return Variation(0.1**2, 0.3**2)
    target = np.clip(target, _LEAST, _MOST)
    shapes = [(0.0, 0.0)]
    if costs is not None and costs.base[0, 1] > 0:
        shapes.append((float(costs.base[0, 0] / costs.base[0, 1]), float(np.max(costs.free))))
    tried = [_fitted(items, target, weight, *shape) for shape in shapes]
    return min(tried, key=lambda one: one[0])[1]


def _fitted(items: Array, target: Array, weight: Array, fixed: float, free: float) -> tuple[float, Variation]:
    """Deviance, as of a variance that is known up to a factor, and the fit, by relative non-negative least squares."""
    design = np.stack([np.ones(len(items)), _averaged(items, fixed, free)], axis=1)
    fitted = np.full(len(items), float(np.median(np.repeat(target, np.minimum(weight, 50).astype(np.int64) + 1))))
    found, trust = np.zeros((1, 2)), np.ones(len(items))
    for _ in range(4):  # one wild cell is no variance
        trust = np.minimum(1.0, _WILD * (fitted + 1e-4) / target)
        weights = weight * trust / (fitted + 1e-4) ** 2
        found = weighted_nonneg(design[None], target[None], weights[None], np.full((1, 2), 1e-9))
        fitted = design @ found[0]
    usual = np.maximum(fitted, _LEAST)
    deviance = float((weight * trust * (np.log(usual) + target / usual)).sum())
    return deviance, Variation(float(found[0, 0]), float(found[0, 1]), fixed, free)
