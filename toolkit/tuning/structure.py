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
    is ``max(1, w / c)``; four workers on two cores are then no faster than two;
``serial``
    a resource that only one worker at a time may have, such as a lock or a rate limit. Each batch needs it for
    ``per_batch_held + per_item_held * b``, so `w` workers, however fast they are, cannot have their batches in less
    than `w` times that: the asymptotic bounds of a closed queueing network (Denning and Buzen, Computing Surveys 10,
    1978), joined smoothly.

With a threshold (``free``) only items of a batch beyond it cost anything, as on a device that is not yet full.
`selection` chooses among these. All fits minimise relative errors (rows divided by what is predicted), with Huber
weights (Ann. Math. Statist. 35, 1964) and weak normal priors toward 0.
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
_LEAST_S = 1e-12
_COMPANY = 0.85  # share of the most busy workers of a run from which a batch had the usual company
_STEPS = 8  # iterations of a fit
_ALTERNATING = 2  # of which these find a start
_SHARP = 8.0  # exponent with which the two bounds of a shared resource are joined


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
    held : ndarray of shape (n_sets, 2)
        Seconds per batch and per item for which it holds what only one worker at a time may have; 0 for none.
    free : float or ndarray of shape (n_sets,)
        Items of a batch that cost nothing.
    """

    kind: str
    base: Array
    theta: Array
    held: Array
    free: float | Array = 0.0

    def contention(self, busy: Array) -> Array:
        """Return ``C(w)`` of shape (n_sets, *busy.shape)."""
        basis = contention_basis(self.kind, busy)
        return np.asarray(1.0 + np.tensordot(self.theta, basis, axes=(1, basis.ndim - 1)))

    def service_s(self, items: Array, busy: Array) -> Array:
        """Return seconds of a batch without warm-up, of shape (n_sets, *items.shape)."""
        return self._joined(items, busy, 0.0, 0.0)

    def slowdown(self, items: Array, busy: Array) -> Array:
        """Return how much longer a batch of `items` takes among `busy` workers than alone, (n_sets, *items.shape)."""
        if self.kind != "serial":
            return self.contention(busy)
        return np.asarray(self.service_s(items, busy) / self.service_s(items, np.ones_like(busy)))

    def cell_s(self, cells: Cells) -> Array:
        """Return mean seconds of the batches of `cells`, warm-up included, of shape (n_sets, n_cells)."""
        return self._joined(cells.items, cells.busy, cells.first, cells.cold)

    def _joined(self, items: Array, busy: Array, first: Array | float, cold: Array | float) -> Array:
        shape = (-1,) + (1,) * np.ndim(items)
        base, held = (part.T.reshape((part.shape[1], *shape)) for part in (self.base, self.held))
        free = np.reshape(self.free, (-1, *shape[1:]))
        own = base[0] + base[1] * np.maximum(items - free, 0.0) + base[2] * first + base[3] * cold
        own = np.maximum(own * self.contention(busy), _LEAST_S)
        if self.kind != "serial":
            return np.asarray(own)
        return joined(own, busy * (held[0] + held[1] * items))

    def pick(self, index: int | slice) -> Costs:
        """Return the coefficient sets at `index`."""
        index = slice(index, index + 1) if isinstance(index, int) else index
        free = self.free[index] if isinstance(self.free, np.ndarray) else self.free
        return Costs(self.kind, self.base[index], self.theta[index], self.held[index], free)


def joined(own: Array, shared: Array) -> Array:
    """The larger of two bounds, a little more where they are close."""
    most = np.maximum(own, shared)
    return np.asarray(most * ((own / most) ** _SHARP + (shared / most) ** _SHARP) ** (1.0 / _SHARP))


def contention_basis(kind: str, busy: Array) -> Array:
    """Return the terms ``phi_j(w)`` along a new last axis.

    Raises
    ------
    ValueError
        `kind` is none of those described above.
    """
    over = np.maximum(np.asarray(busy, dtype=np.float64) - 1.0, 0.0)
    name, _, point = kind.partition(":")
    if name in ("none", "serial"):
        return np.zeros((*np.shape(busy), 0))
    if name == "usl":
        return np.stack([over, over * (over + 1.0)], axis=-1)
    if name == "saturation":
        c = float(point)
        return np.stack([np.maximum(over + 1.0 - c, 0.0) / c, over], axis=-1)
    raise ValueError(f"contention kind {kind!r}")


def fit_costs(cells: Cells, weights: Array, kind: str, spread: Array, free: float = 0.0) -> Costs:
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
    free : float
        Items of a batch that cost nothing.
    """
    columns = [np.ones(len(cells)), np.maximum(cells.items - free, 0.0), cells.first, cells.cold]
    present = [i for i, column in enumerate(columns) if column.any()]
    design = np.stack([columns[i] for i in present], axis=1)
    basis = contention_basis(kind, cells.busy)
    typical = float(np.median(cells.mean_s))
    # Priors: a fixed cost of a few typical batches, warm-up of many; an item may cost anything that explains a batch.
    scale = np.array([3.0 * typical, 1e3 * float((cells.mean_s / cells.items).max()), 300.0 * typical, 300.0 * typical])
    ridge = (1.0 / scale[present] ** 2)[None, :]
    theta_ridge = (basis.max(axis=0, initial=0.0) ** 2 + 1e-6)[None, :]  # each term at most about doubles a batch
    precision = weights / spread
    if kind == "serial":
        return _fit_serial(cells, precision, design, present, ridge)
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
    return Costs(kind, base, theta, np.zeros((len(weights), 2)), free)


def steady(cells: Cells) -> NDArray[np.bool_]:
    """Cells of batches that had the company that their run usually had: neither the first ones nor the tail."""
    most = np.zeros(int(cells.run.max()) + 1)
    np.maximum.at(most, cells.run, cells.busy)
    return np.asarray((cells.first == 0) & (cells.busy >= _COMPANY * most[cells.run]))


def _fit_serial(cells: Cells, precision: Array, design: Array, present: list[int], ridge: Array) -> Costs:
    """Fit own and shared seconds by Gauss-Newton, from a start in which the busiest batches only wait for each other.

    Batches that began or ended together waited for more, or fewer, than were busy beside them; they count little.
    """
    observed, busy = cells.mean_s[None, :], cells.busy
    shared = busy[:, None] * np.stack([np.ones(len(cells)), cells.items], axis=1)
    most, least = float(busy.max()), float(busy.min())
    usual = np.where(steady(cells), 1.0, 0.02)
    precision = precision * usual
    crowded, lonely = busy >= 0.7 * most, busy <= max(1.5, float(np.quantile(busy[usual == 1.0], 0.3)))
    width = design.shape[1]
    both = np.zeros((len(precision), width + 2))
    relative = np.ones((1, len(cells)))
    smallest = np.array([[least**2, (least * cells.items.min()) ** 2]])
    shared_ridge = 1e-2 / np.maximum(observed.max(), _LEAST_S) ** 2 * smallest
    both[:, :width] = weighted_nonneg(design / observed[..., None], relative, precision * lonely, ridge)
    both[:, width:] = weighted_nonneg(shared / observed[..., None], relative, precision * crowded, shared_ridge)
    prior = np.concatenate([np.broadcast_to(ridge, (1, width)), shared_ridge], axis=1)
    for step in range(2 * _STEPS):
        own, wait = np.maximum(both[:, :width] @ design.T, _LEAST_S), both[:, width:] @ shared.T
        predicted = joined(own, wait)
        parts = [
            ((bound / predicted) ** (_SHARP - 1.0) / predicted)[..., None] * columns
            for bound, columns in ((own, design), (wait, shared))
        ]
        # Homogeneous of degree 1 in the coefficients, so the tangent plane goes through the origin.
        error = np.abs(observed / predicted - 1.0)
        far = _HUBER * np.maximum(0.02, np.median(error, axis=1, keepdims=True))
        trust = np.minimum(1.0, far / np.maximum(error, 1e-12))
        found = weighted_nonneg(np.concatenate(parts, axis=2), observed / predicted, precision * trust, prior)
        both = found if step < 2 else 0.5 * (both + found)
    base = np.zeros((len(precision), N_BASE))
    base[:, present] = both[:, :width]
    return Costs("serial", base, np.zeros((len(precision), 0)), both[:, width:])


def cell_spread(cells: Cells, within: Array, shared_sd: float = SHARED_SD) -> Array:
    """Relative variance of the cells' means: what more batches average out (`within`), and what a run shares.

    A run counts about once, however many batches and cells it has: a cell has the share of its time, and at least an
    equal share, so that a few small batches that probe are not lost.
    """
    spent = cells.n * cells.mean_s
    per_run = np.bincount(cells.run, weights=spent)[cells.run]
    share = np.maximum(spent / per_run, 1.0 / np.bincount(cells.run)[cells.run])
    return np.asarray(shared_sd**2 / share + within)


def fit_shared_sd(cells: Cells, predicted: Array) -> float:
    """Standard deviation of the factor that the batches of a run share, from how far runs are from `predicted`."""
    spent = np.bincount(cells.run, weights=cells.n * cells.mean_s)
    expected = np.bincount(cells.run, weights=cells.n * predicted)
    errors = np.log(spent[spent > 0] / expected[spent > 0])
    # From the median, because one run with a stuck batch is an outlier, and the others are as good as before.
    sd = 1.4826 * float(np.median(np.abs(errors)))
    return math.sqrt((2 * SHARED_SD**2 + len(errors) * sd**2) / (2 + len(errors)))


def loads(costs: Costs, cells: Cells, n_runs: int) -> Array:
    """Seconds of all batches of each run, of shape (n_sets, n_runs)."""
    spent = costs.cell_s(cells) * cells.n
    out = np.zeros((len(spent), n_runs))
    np.add.at(out.T, cells.run, spent.T)
    return np.maximum(out, _LEAST_S)
