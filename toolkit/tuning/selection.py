"""Which structure the data support: contention and threshold.

Each candidate is judged by its evidence: how probable the seconds of whole runs are under it, with its coefficients
and what equal runs differ by averaged over (MacKay, *Information Theory, Inference, and Learning Algorithms*, 2003, ch.
28). A richer structure spreads its belief over more and pays for it, so none wins by bending; rows of one run share its
circumstances, so runs are counted and not rows. Leaving out runs would need many: where only one run tells of a worker
count, it cannot be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array, Cells
from toolkit.tuning.sensitivity import Sensitivity
from toolkit.tuning.structure import Costs, fit_costs, steady

_FOLDS = 20
_APART = 1.2  # busy workers that differ by less are about as many
_KINDS = 6  # saturation points tried
_SIMPLER = {"none": 0.0, "usl": -0.7, "saturation": -0.7, "serial": -1.8}  # log belief beforehand
_THRESHOLD = -1.5  # the same of a threshold
_RISING = -3.0  # and of one from which on items cost more than batches that end there: these could be cut in two
_ENDS = -3.0  # and of any contention where all runs had as many workers: only their first and last batches tell of it
_THRESHOLDS = 6
_FEWEST_SIZES = 3  # batch sizes: a threshold beside the costs of a batch and of an item
_USUAL = 0.1  # share of a run's batches from which a size is one of its sizes, and no remainder
_REFINED = 3
_CLOSE = 8.0  # difference of log evidence up to which a shared resource is looked at closer
_NOISE = np.array([0.01, 0.018, 0.03, 0.055, 0.1, 0.2, 0.4])
_NOISE_BELIEF = np.exp(-0.5 * np.square(np.log(_NOISE / 0.035)))


@dataclass(frozen=True, slots=True)
class Structure:
    """What was chosen.

    Attributes
    ----------
    kind : str
        Contention terms, see `structure`.
    free : float
        Items of a batch that cost nothing.
    evidence : dict of str to float
        Log evidence of each contention.
    value : float
        Log evidence of this structure.
    before : float
        Log belief in it before anything was seen, which is a part of `value`.
    rival : Structure or None
        A shared resource where it is about as probable: whole makespans tell then, see `model`.
    tried : dict of (kind, free) to (log evidence, Costs)
        Every candidate.
    """

    kind: str
    free: float = 0.0
    evidence: dict[str, float] = field(default_factory=dict)
    value: float = 0.0
    before: float = 0.0
    rival: Structure | None = None
    tried: dict[tuple[str, float], tuple[float, Costs]] = field(default_factory=dict)

    def fit(self, cells: Cells, weights: Array, spread: Array) -> Costs:
        """Fit the coefficients once per row of `weights`."""
        return fit_costs(cells, weights, self.kind, spread, self.free)


def contention_kinds(cells: Cells) -> list[str]:
    """Contention terms that the data can tell apart, the simplest first."""
    most = float(cells.busy.max())
    if most < 1.3 or most < _APART * float(cells.busy.min()):
        return ["none"]
    points = list(range(2, math.ceil(most)))
    if len(points) > _KINDS:
        points = sorted({round(c) for c in np.geomspace(2, points[-1], _KINDS)})
    return ["none", "usl", *(f"saturation:{c}" for c in points), "serial"]


def folds(n_runs: int) -> NDArray[np.int64]:
    """Fold of each run: each its own, or `_FOLDS` of them."""
    return np.arange(n_runs, dtype=np.int64) % min(max(1, n_runs), _FOLDS)


def choose(cells: Cells, spread: Array, within: Array) -> Structure:
    """Return the most probable structure.

    Parameters
    ----------
    cells : Cells
        What was measured.
    spread : ndarray of shape (n_cells,)
        Relative variance of a cell's mean, with what its run shares.
    within : ndarray of shape (n_cells,)
        The same without what its run shares.
    """
    judge = _Judge(cells, spread, within)
    found = {kind: judge.evidence(kind) for kind in contention_kinds(cells)}
    best = max((kind for kind in found if kind != "serial"), key=found.__getitem__)
    free, value = _threshold(cells, judge, best, found[best])
    if free:  # which of the contentions it stands beside is asked again: without it, they had to explain it too
        beside = {kind: judge.evidence(kind, free) for kind in found if kind not in ("serial", best)} | {best: value}
        best = max(beside, key=beside.__getitem__)
        value = beside[best]
    shared = found.get("serial", -math.inf)
    rival = None
    if shared > value - _CLOSE:
        rival = Structure("serial", 0.0, found, shared, judge.before("serial"), None, judge.tried)
    return Structure(best, free, found, value, judge.before(best, free), rival, judge.tried)


def _threshold(cells: Cells, judge: _Judge, kind: str, without: float) -> tuple[float, float]:
    """The most probable threshold and its evidence, 0 where none is as probable: a coarse search, then finer ones."""
    low, high = max(2.0, float(cells.items.min())), float(cells.items.max()) / 1.5
    if high < 3.0 * low or _sizes(cells) < _FEWEST_SIZES:
        return 0.0, without
    step = (high / low) ** (1.0 / (_THRESHOLDS - 1))
    tried = {float(t): judge.evidence(kind, float(t)) for t in np.geomspace(low, high, _THRESHOLDS)}
    best = max(tried, key=tried.__getitem__)
    if tried[best] < without - 5.0:
        return 0.0, without
    for _ in range(_REFINED):
        step = math.sqrt(step)
        tried.update({t: judge.evidence(kind, t) for t in (best / step, best * step)})
        best = max(tried, key=tried.__getitem__)
    return (best, tried[best]) if tried[best] > without else (0.0, without)


def _one_count(cells: Cells) -> bool:
    """Whether about as many workers were busy in all runs, but for the ends."""
    most = np.zeros(int(cells.run.max()) + 1)
    np.maximum.at(most, cells.run, cells.busy)
    return bool(most.max() < _APART * most[most > 0].min())


def _sizes(cells: Cells) -> int:
    """How many batch sizes runs had: what is left at their ends is few batches, and not of any items."""
    batches = np.bincount(cells.run, weights=cells.n)[cells.run]
    _, size = np.unique(np.stack([cells.run, cells.items]), axis=1, return_inverse=True)
    usual = np.bincount(size, weights=cells.n)[size] >= _USUAL * batches
    return len(np.unique(cells.items[usual]))


@dataclass(frozen=True, slots=True)
class _Judge:
    """What candidates are judged by; `within` is the relative variance of a cell's mean within its run."""

    cells: Cells
    spread: Array
    within: Array
    tried: dict[tuple[str, float], tuple[float, Costs]] = field(default_factory=dict)

    def before(self, kind: str, free: float = 0.0) -> float:
        """Log belief in a candidate that was fitted, before anything was seen."""
        return self._believed(kind, free, self.tried[kind, free][1])

    def _believed(self, kind: str, free: float, costs: Costs) -> float:
        belief = _SIMPLER[kind.partition(":")[0]] + (_THRESHOLD if free else 0.0)
        if costs.base[0, 1] * free > costs.base[0, 0]:
            belief += _RISING
        return belief + (_ENDS if kind != "none" and _one_count(self.cells) else 0.0)

    def evidence(self, kind: str, free: float = 0.0) -> float:
        """Log evidence of all runs' seconds under one candidate."""
        cells = self.cells
        costs = fit_costs(cells, np.ones((1, len(cells))), kind, self.spread, free)
        sensitivity = Sensitivity.of(costs, cells)
        fitted = costs.cell_s(cells)[0]
        n_runs = int(cells.run.max()) + 1
        # Of runs that have any, the batches that had the usual company: the ends say more of luck than of costs.
        usual = steady(cells)
        usual |= np.bincount(cells.run, weights=usual, minlength=n_runs)[cells.run] == 0
        weight = np.where(usual, cells.n, 0.0)
        there = np.bincount(cells.run, weights=weight, minlength=n_runs) > 0
        seconds = [np.bincount(cells.run, weights=weight * s, minlength=n_runs)[there] for s in (cells.mean_s, fitted)]
        residual = np.log(seconds[0] / seconds[1])
        jacobian = np.zeros((n_runs, len(sensitivity.which)))
        np.add.at(jacobian, cells.run, (weight * fitted)[:, None] * sensitivity.of_cells(cells))
        jacobian = jacobian[there] / seconds[1][:, None]
        prior = sensitivity.prior(cells, self.within)
        value = log_evidence(residual, jacobian, prior) + self._believed(kind, free, costs)
        self.tried[kind, free] = value, costs
        return value


def log_evidence(residual: Array, jacobian: Array, prior: Array) -> float:
    """Log probability of runs' residuals, over what equal runs may differ by; constants left out.

    Parameters
    ----------
    residual : ndarray of shape (n_runs,)
        Logarithms of measured over predicted.
    jacobian : ndarray of shape (n_runs, n_coefficients)
        How these answer to the coefficients.
    prior : ndarray of shape (n_coefficients, n_coefficients)
        Covariance of the coefficients' errors.
    """
    # What runs share has as many directions as there are coefficients: in these, and across them, all is diagonal.
    values, vectors = np.linalg.eigh(prior)
    along, scale, _ = np.linalg.svd(jacobian @ (vectors * np.sqrt(np.maximum(values, 0.0))), full_matrices=False)
    noise = np.square(_NOISE)[:, None]
    own, inside = np.square(scale) + noise, np.square(residual @ along)
    across = max(0.0, float(residual @ residual - inside.sum()))
    free = len(residual) - len(scale)
    log_det = np.log(own).sum(axis=1) + free * np.log(noise[:, 0])
    log = -0.5 * (log_det + (inside / own).sum(axis=1) + across / noise[:, 0]) + np.log(_NOISE_BELIEF)
    most = float(log.max())
    return most + math.log(float(np.exp(log - most).sum()))
