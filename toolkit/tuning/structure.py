"""What a batch costs: a structural model with non-negative coefficients, so that it extrapolates.

For a batch of ``b`` items executed while ``w`` workers are busy::

    service_s(b, w) = (per_batch + per_item * b + first * [first] + cold * [cold]) * C(w)
    C(w) = 1 + sum_j theta_j phi_j(w),   theta_j >= 0

`C` is contention. Candidates for the terms ``phi_j``:

``none``
    no contention;
``usl``
    ``w - 1`` (waiting for each other) and ``w (w - 1)`` (agreeing with each other), the universal scalability law
    (Gunther, *Guerrilla Capacity Planning*, 2007, ch. 4), written for the time of one batch;
``saturation:c``
    ``max(0, w - c) / c`` and ``w - 1``: `c` processors, beyond which batches share them. With a coefficient of 1 this
    is ``max(1, w / c)``; four workers on two cores are then no faster than two.

Which one is chosen by cross-validation grouped by run: rows of one run share its circumstances, so leaving out single
rows would flatter every model (Roberts et al., Ecography 40, 2017). All fits minimise relative errors (rows divided by
what is predicted), with Huber weights (Ann. Math. Statist. 35, 1964) and weak normal priors toward 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array, Cells
from toolkit.tuning.nonneg import weighted_nonneg

N_BASE = 4  # per_batch, per_item, first, cold
SHARED_SD = 0.03  # relative error that the batches of a run share, before anything was seen
_HUBER = 2.5
_WILD = 5.0  # a cell whose variance is more than this many times the fitted one is trusted less
_ENOUGH = 30  # degrees of freedom within cells that suffice to know how batches vary
_STEPS = 8  # iterations of a fit
_ALTERNATING = 2  # of which these find a start
_FOLDS = 20
_KINDS = 6  # saturation points tried
_GAIN = 0.95  # a richer contention must have less than this share of the simpler one's error


@dataclass(frozen=True, slots=True)
class Costs:
    """Fitted coefficients, one set per row.

    Attributes
    ----------
    kind : str
        Which contention terms.
    base : ndarray of shape (n_sets, 4)
        Seconds per batch, per item, for the first batch of a run in a process, and for a process new to the task.
    theta : ndarray of shape (n_sets, n_terms)
        Contention coefficients.
    """

    kind: str
    base: Array
    theta: Array

    def contention(self, busy: Array) -> Array:
        """Return ``C(w)`` of shape (n_sets, *busy.shape)."""
        basis = contention_basis(self.kind, busy)
        return np.asarray(1.0 + np.tensordot(self.theta, basis, axes=(1, basis.ndim - 1)))

    def service_s(self, items: Array, busy: Array) -> Array:
        """Return seconds of a batch without warm-up, of shape (n_sets, *items.shape)."""
        shape = (-1,) + (1,) * np.ndim(items)
        plain = self.base[:, 0].reshape(shape) + self.base[:, 1].reshape(shape) * items
        return np.asarray(plain * self.contention(busy))

    def cell_s(self, cells: Cells) -> Array:
        """Return mean seconds of the batches of `cells`, warm-up included, of shape (n_sets, n_cells)."""
        warm = self.base[:, 2:3] * cells.first + self.base[:, 3:4] * cells.cold
        return np.asarray(self.service_s(cells.items, cells.busy) + warm * self.contention(cells.busy))

    def pick(self, index: int | slice) -> Costs:
        """Return the coefficient sets at `index`."""
        index = slice(index, index + 1) if isinstance(index, int) else index
        return Costs(self.kind, self.base[index], self.theta[index])


def contention_basis(kind: str, busy: Array) -> Array:
    """Return the terms ``phi_j(w)`` along a new last axis.

    Raises
    ------
    ValueError
        `kind` is none of those described above.
    """
    over = np.maximum(np.asarray(busy, dtype=np.float64) - 1.0, 0.0)
    name, _, point = kind.partition(":")
    if name == "none":
        return np.zeros((*np.shape(busy), 0))
    if name == "usl":
        return np.stack([over, over * (over + 1.0)], axis=-1)
    if name == "saturation":
        c = float(point)
        return np.stack([np.maximum(over + 1.0 - c, 0.0) / c, over], axis=-1)
    raise ValueError(f"contention kind {kind!r}")


def fit_costs(cells: Cells, weights: Array, kind: str, spread: Array) -> Costs:
    """Fit the coefficients once per row of `weights`.

    Parameters
    ----------
    cells : Cells
        At least one.
    weights : ndarray of shape (n_sets, n_cells)
        Importance of each cell in each fit, 1 for as it is; 0 leaves it out.
    kind : str
        Contention terms.
    spread : ndarray of shape (n_cells,)
        Relative variance of a cell's mean.
    """
    columns = [np.ones(len(cells)), cells.items, cells.first, cells.cold]
    present = [i for i, column in enumerate(columns) if column.any()]
    design = np.stack([columns[i] for i in present], axis=1)
    basis = contention_basis(kind, cells.busy)
    typical = float(np.median(cells.mean_s))
    # Priors: a fixed cost of a few typical batches, warm-up of many; an item may cost anything that explains a batch.
    scale = np.array([3.0 * typical, 1e3 * float((cells.mean_s / cells.items).max()), 300.0 * typical, 300.0 * typical])
    ridge = (1.0 / scale[present] ** 2)[None, :]
    theta_ridge = (basis.max(axis=0, initial=0.0) ** 2 + 1e-6)[None, :]  # each term at most about doubles a batch
    precision = weights / spread
    observed = cells.mean_s[None, :]
    predicted = np.broadcast_to(observed, weights.shape)
    trust = np.ones_like(weights)
    theta = np.zeros((len(weights), basis.shape[1]))
    found = np.zeros((len(weights), len(present)))
    for step in range(_STEPS):
        factor = 1.0 + theta @ basis.T
        if step < _ALTERNATING or not basis.shape[1]:  # a start: costs under the contention so far
            rows = design * (factor / predicted)[..., None]
            found = weighted_nonneg(rows, observed / predicted, precision * trust, ridge)
            plain = np.maximum(found @ design.T, 1e-12)
            if basis.shape[1]:
                rows = (plain / predicted)[..., None] * basis
                theta = weighted_nonneg(rows, (observed - plain) / predicted, precision * trust, theta_ridge)
        else:  # Gauss-Newton in both together: alternating would creep along the valley between them
            plain = found @ design.T
            rows = np.concatenate([design * factor[..., None], plain[..., None] * basis], axis=2) / predicted[..., None]
            both = np.concatenate([found, theta], axis=1)
            # The tangent plane at the present coefficients, which `rows @ both` overshoots by the product term.
            target = observed / predicted - plain * factor / predicted + (rows @ both[..., None])[..., 0]
            prior = np.concatenate([ridge, theta_ridge], axis=1)
            both = weighted_nonneg(rows, target, precision * trust, prior)
            found, theta = both[:, : len(present)], both[:, len(present) :]
            plain = np.maximum(found @ design.T, 1e-12)
        predicted = plain * (1.0 + theta @ basis.T)
        error = np.abs(observed / predicted - 1.0) / np.sqrt(spread)
        trust = np.minimum(1.0, _HUBER / np.maximum(error, 1e-12))
    base = np.zeros((len(weights), N_BASE))
    base[:, present] = found
    return Costs(kind, base, theta)


def cell_spread(cells: Cells, variance: tuple[float, float], shared_sd: float = SHARED_SD) -> Array:
    """Relative variance of the cells' means: what more batches average out, and what a run shares.

    A run counts about once, however many batches and cells it has: a cell has the share of its time, and at least an
    equal share, so that a few small batches that probe are not lost.
    """
    spent = cells.n * cells.mean_s
    per_run = np.bincount(cells.run, weights=spent)[cells.run]
    share = np.maximum(spent / per_run, 1.0 / np.bincount(cells.run)[cells.run])
    return np.asarray(shared_sd**2 / share + (variance[0] + variance[1] / cells.items) / cells.n)


def fit_shared_sd(cells: Cells, predicted: Array) -> float:
    """Standard deviation of the factor that the batches of a run share, from how far runs are from `predicted`."""
    spent = np.bincount(cells.run, weights=cells.n * cells.mean_s)
    expected = np.bincount(cells.run, weights=cells.n * predicted)
    errors = np.log(spent[spent > 0] / expected[spent > 0])
    # From the median, because one run with a stuck batch is an outlier, and the others are as good as before.
    sd = 1.4826 * float(np.median(np.abs(errors)))
    return math.sqrt((2 * SHARED_SD**2 + len(errors) * sd**2) / (2 + len(errors)))


def fit_variance(cells: Cells, predicted: Array | None = None) -> tuple[float, float]:
    """Return the relative variance of a batch as ``batch + item / b``.

    Items that vary independently contribute ``1 / b``; what a whole batch shares does not average out. Known from the
    variance within cells, and, where cells hold too few batches, from how far their means are from `predicted`.
    """
    known = np.isfinite(cells.variance) & (cells.first == 0)
    target, weight, items = cells.variance[known], cells.n[known] - 1.0, cells.items[known]
    if weight.sum() < _ENOUGH and predicted is not None:
        apart = cells.n * (cells.mean_s / predicted - 1.0) ** 2
        used = (N_BASE - 1) / max(len(cells), N_BASE)  # what the fit itself took away
        target = np.r_[target, apart / (1.0 - used)]
        weight, items = np.r_[weight, np.ones(len(cells))], np.r_[items, cells.items]
    if weight.sum() < 2:
        return 0.1**2, 0.3**2
    target = np.clip(target, 1e-6, 25.0)
    design = np.stack([np.ones(len(items)), 1.0 / items], axis=1)
    fitted = np.full(len(items), float(np.median(np.repeat(target, np.minimum(weight, 50).astype(np.int64) + 1))))
    found = np.zeros((1, 2))
    for _ in range(4):  # relative errors: a variance is known up to a factor; one wild cell is no variance
        weights = weight * np.minimum(1.0, _WILD * (fitted + 1e-4) / target) / (fitted + 1e-4) ** 2
        found = weighted_nonneg(design[None], target[None], weights[None], np.full((1, 2), 1e-9))
        fitted = design @ found[0]
    return float(found[0, 0]), float(found[0, 1])


def contention_kinds(cells: Cells) -> list[str]:
    """Contention terms that the data can tell apart, the simplest first."""
    most = float(cells.busy.max())
    if most < 1.3 or most < 1.2 * float(cells.busy.min()):
        return ["none"]
    points = list(range(2, math.ceil(most)))
    if len(points) > _KINDS:
        points = sorted({round(c) for c in np.geomspace(2, points[-1], _KINDS)})
    return ["none", "usl", *(f"saturation:{c}" for c in points)]


def folds(n_runs: int) -> NDArray[np.int64]:
    """Fold of each run: each its own, or `_FOLDS` of them."""
    return np.arange(n_runs, dtype=np.int64) % min(max(1, n_runs), _FOLDS)


def choose_contention(cells: Cells, n_runs: int, spread: Array) -> tuple[str, dict[str, float]]:
    """Return the best contention terms, and the cross-validated relative error of each candidate.

    With fewer than three runs nothing can be left out, and the error is the one within the data.
    """
    kinds = contention_kinds(cells)
    if len(kinds) == 1:
        return kinds[0], {}
    fold = folds(n_runs)
    held = fold[cells.run][None, :] == np.arange(fold.max() + 1)[:, None]
    if n_runs < 3:
        held = np.ones((1, len(cells)), dtype=bool)
    weights = np.where(held, 0.0, 1.0) if n_runs >= 3 else np.ones((1, len(cells)))
    judged = held & (cells.first == 0)[None, :]
    judged = np.where(judged.any(axis=1, keepdims=True), judged, held)
    errors = {}
    for kind in kinds:
        costs = fit_costs(cells, weights, kind, spread)
        predicted = costs.cell_s(cells)
        # Of each left-out run, what decides its makespan: all its seconds together.
        spent = (judged * cells.n * cells.mean_s).sum(axis=1)
        expected = (judged * cells.n * predicted).sum(axis=1)
        told = spent > 0  # a fold whose run has no usable batch, such as one that was killed, says nothing
        errors[kind] = float(np.abs(np.log(expected[told] / spent[told])).mean())
    best = kinds[0]
    for kind in kinds[1:]:
        if errors[kind] < (_GAIN * errors[best] if best == "none" else errors[best]):
            best = kind
    return best, errors
