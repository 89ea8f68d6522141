"""How fast hosts are beside each other, and which hosts the workers of the next run will be on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array, Cells, RunSummary

_PRIOR_SD = 0.7  # how much hosts differ, before anything was seen
_CELL_SD = 0.05  # what is between two cells of one run beside the variation of batches
_SAME = 0.04  # hosts whose speeds differ by less are equally fast
_PASSES = 3


@dataclass(frozen=True, slots=True)
class Hosts:
    """Speeds of hosts.

    Attributes
    ----------
    names : tuple of str
        Hosts.
    slowdown : ndarray of shape (n_hosts,)
        How much longer a batch takes there than on the usual host; 1 for the usual one.
    places : mapping of int to tuple of int
        For each worker count that was run: how many workers were on each host, in the order of `names`.
    """

    names: tuple[str, ...]
    slowdown: Array
    places: dict[int, tuple[int, ...]]

    @property
    def differ(self) -> bool:
        """Whether some are slower than others."""
        return bool(np.ptp(self.slowdown) > 0)

    def factors(self, workers: int) -> Array:
        """Slowdown of each of so many workers, the slowest first, as hosts were shared by a like number before."""
        if not self.differ or not self.places:
            return np.ones(workers)
        near = min(self.places, key=lambda count: (abs(np.log(count / workers)), -count))
        share = np.array(self.places[near], dtype=np.float64) / sum(self.places[near])
        exact = share * workers
        count = np.floor(exact).astype(np.int64)
        # The largest remainders; of equal ones the slower host, to promise nothing.
        for at in np.lexsort((-self.slowdown, count - exact))[: workers - int(count.sum())]:
            count[at] += 1
        return np.sort(np.repeat(self.slowdown, count))[::-1]


def fit_hosts(
    cells: Cells, runs: Sequence[RunSummary], names: tuple[str, ...], predict: Callable[[Cells], Array], spread: Array
) -> tuple[Hosts, Cells]:
    """Fit what hosts are slower by, and return it with the cells as they would be on the usual host.

    Hosts are compared within runs only, whose circumstances they share.

    Parameters
    ----------
    cells : Cells
        As measured.
    runs : sequence of RunSummary
        Say how many workers were where.
    names : tuple of str
        Hosts.
    predict : callable
        Fits the given cells and returns their predicted seconds.
    spread : ndarray of shape (n_cells,)
        Relative variance of a cell's mean.
    """
    places = {}
    for run in runs:
        found = dict(run.hosts)
        if found:
            places[sum(found.values())] = tuple(found.get(name, 0) for name in names)
    log = np.zeros(len(names))
    adjusted = cells
    if len(np.unique(cells.host)) > 1:
        weight = 1.0 / (spread + _CELL_SD**2)
        for _ in range(_PASSES):
            adjusted = _adjusted(cells, np.exp(log))
            error = np.log(cells.mean_s / predict(adjusted))
            log = _contrasts(error, weight, cells.run, cells.host, len(names))
        # A difference that a handful of batches explains is none.
        known = np.bincount(cells.host, weights=weight, minlength=len(names))
        log = np.where(np.abs(log) > np.maximum(_SAME, 3.0 / np.sqrt(np.maximum(known, 1e-12))), log, 0.0)
        adjusted = _adjusted(cells, np.exp(log))
    return Hosts(names, np.exp(log), places), adjusted


def _adjusted(cells: Cells, slowdown: Array) -> Cells:
    out = cells.take(np.arange(len(cells)))
    return Cells(
        run=out.run, items=out.items, busy=out.busy, first=out.first, cold=out.cold, host=out.host, n=out.n,
        mean_s=out.mean_s / slowdown[cells.host], variance=out.variance,
    )  # fmt: skip


def _contrasts(error: Array, weight: Array, run: NDArray[np.int64], host: NDArray[np.int64], n_hosts: int) -> Array:
    """Effects of hosts beside effects of runs, by least squares; 0 is the usual host, that of most batches' weight."""
    n_runs = int(run.max()) + 1
    design = np.zeros((len(error), n_runs + n_hosts))
    design[np.arange(len(error)), run] = 1.0
    design[np.arange(len(error)), n_runs + host] = 1.0
    ridge = np.r_[np.full(n_runs, 1e-6), np.full(n_hosts, 1.0 / _PRIOR_SD**2)]
    trust = np.ones(len(error))
    found = np.zeros(n_runs + n_hosts)
    for _ in range(3):
        weighted = design * (weight * trust)[:, None]
        found = np.linalg.solve(weighted.T @ design + np.diag(ridge), weighted.T @ error)
        off = np.abs(error - design @ found) * np.sqrt(weight)
        trust = np.minimum(1.0, 5.0 / np.maximum(off, 1e-12))
    effect = found[n_runs:]
    usual = effect[np.argmax(np.bincount(host, weights=weight, minlength=n_hosts))]
    return np.asarray(effect - usual)
