"""How batches and makespans answer to errors of the coefficients, and what within-run differences say of those errors.

Coefficients are measured in units of themselves; one that was found to be 0 in units of what would change a batch by
2 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array, Cells
from toolkit.tuning.structure import N_BASE, Costs, contention_basis

_STEP = 1e-3
_UNIT = 0.02  # effect on a batch of a unit of a coefficient that was found to be 0
_PRIOR_SD = 0.5  # in units, before anything was seen
_DOUBT_SD = 1.0  # the same for who doubts what was fitted
_DOUBT_UNIT = 0.2  # and the effect on a batch of a unit of its fixed costs, or its items', that were found to be 0
_LASTING = 2  # costs of a batch and of an item come first; those of a process's first batches follow
_MISFIT_SD = 0.04  # what no structure explains between two cells of a run


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Costs and the units of their coefficients.

    Attributes
    ----------
    costs : Costs
        One set.
    which : ndarray of int64
        Positions of the coefficients that the data can know, in ``base | theta | held | free``.
    unit : ndarray
        Their units.
    doubt : ndarray
        Standard deviations, in units, of who doubts that costs are near what was fitted to a few items.
    """

    costs: Costs
    which: NDArray[np.int64]
    unit: Array
    doubt: Array

    @classmethod
    def of(cls, costs: Costs, cells: Cells) -> Sensitivity:
        """Units from how the batches of `cells` answer."""
        flat = _flat(costs)[0]
        own = np.stack([np.ones(len(cells)), cells.items, cells.first, cells.cold])
        typical = float(np.median(costs.cell_s(cells)[0]))
        reach = [typical / max(float(column.mean()), 1e-12) if column.any() else 0.0 for column in own]
        reach += [1.0 / max(float(column.max()), 1e-12) for column in contention_basis(costs.kind, cells.busy).T]
        if costs.kind == "serial":
            reach += [typical / float(cells.busy.mean()), typical / float((cells.busy * cells.items).mean())]
        else:
            reach += [0.0, 0.0]
        reach.append(float(np.max(costs.free)))
        scale = np.array(reach)
        which = np.flatnonzero(scale > 0)
        unit = np.maximum(flat, _UNIT * scale)
        least = np.where(np.arange(len(scale)) < _LASTING, _DOUBT_UNIT, _UNIT) * scale
        doubt = _DOUBT_SD * np.maximum(flat, least)[which] / unit[which]
        return cls(costs, which, unit[which], doubt)

    def moved(self, by: Array) -> Costs:
        """Costs with the coefficients off by `by` units, of shape (n_sets, n_coefficients)."""
        flat = np.repeat(_flat(self.costs), len(by), axis=0)
        flat[:, self.which] = np.maximum(0.0, flat[:, self.which] + by * self.unit)
        terms = self.costs.theta.shape[1]
        return Costs(
            self.costs.kind, flat[:, :N_BASE], flat[:, N_BASE : N_BASE + terms], flat[:, N_BASE + terms : -1],
            flat[:, -1],
        )  # fmt: skip

    def _stepped(self) -> Costs:
        """The costs themselves, then with each coefficient moved a little."""
        return self.moved(np.concatenate([np.zeros((1, len(self.which))), _STEP * np.eye(len(self.which))]))

    def of_cells(self, cells: Cells) -> Array:
        """Derivatives of log seconds, of shape (n_cells, n_coefficients)."""
        return _derivative(self._stepped().cell_s(cells))

    def of_runs(self, cells: Cells, n_runs: int) -> Array:
        """Derivatives of the log seconds of all batches of each run, of shape (n_runs, n_coefficients)."""
        found = self._stepped().cell_s(cells)
        total = np.zeros((len(found), n_runs))
        np.add.at(total.T, cells.run, (cells.n * found).T)
        return _derivative(np.maximum(total, 1e-12))

    def of_settings(
        self, n_items: NDArray[np.int64], size: NDArray[np.int64], workers: NDArray[np.int64], cold: float
    ) -> Array:
        """The same of planned runs, of shape (n_settings, n_coefficients)."""
        costs = self._stepped()
        count = -(-n_items // size)
        busy = np.minimum(workers, count).astype(np.float64)
        warm = costs.base[:, 2:3] + cold * costs.base[:, 3:4]
        work = (n_items / size) * costs.service_s(size.astype(np.float64), busy)
        return _derivative(work + busy * warm * costs.contention(busy))

    def prior(self, cells: Cells, variance: Array, *, doubting: bool = False) -> Array:
        """Covariance of the coefficients' errors as far as differences within runs tell; runs may be off as a whole.

        Parameters
        ----------
        cells : Cells
            What was fitted.
        variance : ndarray of shape (n_cells,)
            Relative variance of a cell's mean within its run.
        doubting : bool
            Whether the costs may be far from what was fitted, for all that was believed before.
        """
        jacobian = self.of_cells(cells)
        weight = 1.0 / (variance + _MISFIT_SD**2)
        total = np.bincount(cells.run, weights=weight)
        middle = np.zeros((len(total), jacobian.shape[1]))
        np.add.at(middle, cells.run, weight[:, None] * jacobian)
        centred = jacobian - (middle / np.maximum(total, 1e-12)[:, None])[cells.run]
        information = (weight[:, None] * centred).T @ centred
        before = self.doubt if doubting else np.full(len(information), _PRIOR_SD)
        return np.asarray(np.linalg.inv(information + np.diag(1.0 / np.square(before))))


def _flat(costs: Costs) -> Array:
    free = np.broadcast_to(costs.free, (len(costs.base),))
    return np.concatenate([costs.base, costs.theta, costs.held, free[:, None]], axis=1)


def _derivative(values: Array) -> Array:
    """From values at the point and at each step, (n_coefficients + 1, n), to derivatives of their logarithms."""
    return np.asarray(np.log(values[1:] / values[:1]).T / _STEP)
