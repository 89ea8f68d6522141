"""How runs differ from what the structure says, and how sure a prediction therefore is.

The logarithm of a run's makespan is what the structure says, plus what its coefficients are wrong by, plus a smooth
deviation over settings (what no structure has), plus a drift of the machine from run to run, plus what equal runs
differ by, plus the luck of its items and of how it ends::

    log measured - log predicted = J d + f(setting) + g(order) + e + s l

How large `l` is, the variation of batches within runs tells, if each draws anew. Runs of the same items, which take the
same time again, have less of it (``s < 1``), and heavy tails more.

All are normal, so this is a Gaussian process with a linear part (universal kriging; Rasmussen and Williams, *Gaussian
Processes for Machine Learning*, 2006, ch. 2.7). How large each part is follows from the runs: sizes are averaged over a
grid, weighted by how well they explain what was seen, so that with few runs the interval is as wide as the ignorance.
So it is with structures: where others are about as probable as the one that was chosen, what they say beside it is a
part of the answer, which is then a mixture (Bayesian model averaging; Hoeting et al., Statistical Science 14, 1999).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array

_NOISE = np.array([0.008, 0.014, 0.022, 0.033, 0.05, 0.075, 0.12, 0.2, 0.35])
_NOISE_USUAL, _NOISE_SPREAD = (0.005, 0.08), 1.0  # lognormal belief of what equal runs differ by, its median from, to
_NOISE_SHARE = 0.5  # median, of what batches differ by: what shakes batches shakes runs
_SMOOTH = {0.0: 0.75, 0.03: 0.15, 0.07: 0.07, 0.15: 0.03}  # sizes of the deviation over settings, and beliefs in them
_DRIFT = {0.0: 0.85, 0.04: 0.09, 0.1: 0.04, 0.25: 0.02}
_LUCK = {0.1: 0.35, 0.3: 0.25, 1.0: 0.35, 3.0: 0.05}  # factors of the variance by luck, and beliefs in them
_LENGTH = np.array([1.5, 0.7])  # of the deviation, in log batch size and log workers
_MEMORY = 5.0  # runs after which a drift is mostly forgotten
_FAR = 3.0  # standard deviations from which a run counts as disturbed
_KEPT = 64  # sizes that stand for all, in proportion to how likely they are; with half of them widths moved by 3 %
_MOST_SHIFT = 0.7
_HALVINGS = 16  # of where a quantile may be: to a thousandth of a percent of a makespan


@dataclass(frozen=True, slots=True)
class Points:
    """Runs or settings whose makespans are asked for, arrays of one length.

    Attributes
    ----------
    jacobian : ndarray of shape (n, n_coefficients)
        How the logarithm of the makespan answers to each coefficient.
    setting : ndarray of shape (n, 2)
        Log batch size and log workers.
    order : ndarray of shape (n,)
        Position in time, in runs.
    extra : ndarray of shape (n,)
        Variance that is known beforehand, such as from what disturbed the run.
    luck : ndarray of shape (n,)
        Variance by items that are drawn anew and by how a run ends, if batches are independent of each other.
    apart : ndarray of shape (n_structures, n), optional
        Logarithm of what other structures say over what the chosen one says, which is the first; None for no others.
    anew : ndarray of shape (n,), optional
        Share of the items that no run had, which are drawn anew whatever the runs say, see `TaskModel.points`; None for
        none.
    """

    jacobian: Array
    setting: Array
    order: Array
    extra: Array
    luck: Array
    apart: Array | None = None
    anew: Array | None = None

    def take(self, index: NDArray[np.int64]) -> Points:
        """The points at `index`."""
        apart = None if self.apart is None else self.apart[:, index]
        anew = None if self.anew is None else self.anew[index]
        return Points(
            self.jacobian[index], self.setting[index], self.order[index], self.extra[index], self.luck[index],
            apart, anew,
        )  # fmt: skip


@dataclass(frozen=True)
class RunEffects:
    """What is known after the runs.

    Attributes
    ----------
    runs : Points
        The runs that were judged.
    residual : ndarray of shape (n_runs,)
        Logarithm of measured over predicted makespan.
    prior : ndarray of shape (n_coefficients, n_coefficients)
        Covariance of the coefficients' errors, from within runs.
    sizes : ndarray of shape (n_sizes, 4)
        Standard deviations over settings, of the drift, of equal runs; and the factor of the variance by luck.
    weights : ndarray of shape (n_sizes,)
        How likely each is.
    belief : ndarray of shape (n_structures,)
        How probable each structure is, the chosen one first.
    """

    runs: Points
    residual: Array
    prior: Array
    sizes: Array
    weights: Array
    belief: Array = field(default_factory=lambda: np.ones(1))

    @property
    def mix(self) -> Array:
        """How probable each pair of sizes and structure is, of shape (n_sizes * n_structures,)."""
        return np.outer(self.weights, self.belief).ravel()

    @property
    def noise_sd(self) -> float:
        """Standard deviation between equal runs."""
        return float(np.sqrt(self.weights @ np.square(self.sizes[:, 2])))

    @property
    def drift_sd(self) -> float:
        """Standard deviation of the drift from run to run."""
        return float(np.sqrt(self.weights @ np.square(self.sizes[:, 1])))

    def shift(self, points: Points) -> Array:
        """Median of the logarithm of measured over predicted makespan, of shape (n_points,).

        Not the mean: beyond the data a rival that is hardly probable may say several times as much as all others.
        """
        if len(self.belief) == 1:
            middle = self.mix @ self._mean(points, self._cross(points))
        else:
            parts = [part.reshape((len(self.weights), len(self.belief), -1)) for part in self._given(points)]
            mean = np.tensordot(self.weights, parts[0], axes=1)
            variance = np.tensordot(self.weights, parts[1] + np.square(parts[0] - mean), axes=1)
            middle = _quantile(self.belief, mean, np.sqrt(variance), 0.5)
        return np.clip(middle, -_MOST_SHIFT, _MOST_SHIFT)

    def _cross(self, points: Points) -> Array:
        """Covariance of the runs and new ones, of shape (n_sizes, n_runs, n_points)."""
        return _covariance(self.runs, points, self.prior, self.sizes)

    def _mean(self, points: Points, cross: Array) -> Array:
        """Means of new runs, of shape (n_sizes * n_structures, n_points): the cheap half of `_given`."""
        structures, count = len(self.belief), len(points.order)
        apart = np.zeros((structures, count)) if points.apart is None else points.apart
        mean = np.repeat(apart[None], len(self.sizes), axis=0)
        if len(self.residual):
            # Each structure has residuals of its own, which the runs correct in the same way.
            residual = self.residual - (0.0 if self.runs.apart is None else self.runs.apart)
            mean = mean + np.broadcast_to(residual, (structures, len(self.residual))) @ self._precision @ cross
        return np.asarray(mean.reshape((len(self.mix), count)))

    def _given(self, points: Points) -> tuple[Array, Array]:
        """Means and variances of new runs, each of shape (n_sizes * n_structures, n_points)."""
        own = np.einsum("ij,jk,ik->i", points.jacobian, self.prior, points.jacobian)
        smooth, drift, _, _ = np.square(self.sizes).T
        variance = own[None, :] + (smooth + drift)[:, None] + _single(points, self.sizes)
        cross = self._cross(points)
        if len(self.residual):
            variance = np.maximum(variance - (self._precision @ cross * cross).sum(axis=1), 1e-8)
        return self._mean(points, cross), np.repeat(variance, len(self.belief), axis=0)

    def expected(self, points: Points) -> tuple[Array, Array]:
        """Mean and variance of log measured over predicted makespan, each of shape (n_points,)."""
        mean, variance = self._given(points)
        middle = self.mix @ mean
        return middle, self.mix @ (variance + np.square(mean - middle))

    @cached_property
    def _precision(self) -> Array:
        """Inverse covariance of the runs, of shape (n_sizes, n_runs, n_runs): a slider asks again and again."""
        system = _covariance(self.runs, self.runs, self.prior, self.sizes)
        at = np.arange(len(self.residual))
        system[:, at, at] += _single(self.runs, self.sizes)
        return np.asarray(np.linalg.inv(system))

    def contrast(self, points: Points) -> tuple[Array, Array]:
        """Of settings under the same circumstances: mean and variance of the log ratio of each to the first one.

        Of shape (n_sizes * n_structures, n_points) as `mix`, beside what the structure predicts; what equal runs differ
        by is not in it.
        """
        mean = self._mean(points, self._cross(points))
        own = self._uncertain(points)
        each = np.einsum("kii->ki", own)
        variance = np.repeat(each + each[:, :1] - 2.0 * own[:, 0, :], len(self.belief), axis=0)
        return mean - mean[:, :1], np.maximum(variance, 1e-12)

    def uncertain(self, points: Points) -> Array:
        """Covariance of what is not known of settings, circumstances of a run left out, (n_points, n_points)."""
        return np.asarray(np.einsum("k,kij->ij", self.weights, self._uncertain(points)))

    def _uncertain(self, points: Points) -> Array:
        """The same for each of the sizes, of shape (n_sizes, n_points, n_points)."""
        lasting = np.column_stack([self.sizes[:, 0], 0.0 * self.sizes[:, 1:]])
        own = _covariance(points, points, self.prior, lasting)
        if not len(self.residual):
            return own
        cross = _covariance(self.runs, points, self.prior, lasting)
        return np.asarray(own - np.swapaxes(cross, 1, 2) @ self._precision @ cross)

    def quantiles(self, points: Points, further: Array, levels: tuple[float, ...]) -> list[Array]:
        """Quantiles of log measured over predicted makespan; `further` is the variance by the luck of one run."""
        mean, variance = self._given(points)
        by_luck = np.repeat(_lucky(points, self.sizes), len(self.belief), axis=0) * further
        sd = np.sqrt(variance + by_luck)
        return [_quantile(self.mix, mean, sd, level) for level in levels]

    def draws(self, count: int, seed: int) -> Array:
        """Errors of the coefficients drawn at random, of shape (count, n_coefficients)."""
        p = len(self.prior)
        if not p:
            return np.zeros((count, 0))
        rng = np.random.default_rng(seed)
        pick = rng.choice(len(self.weights), size=count, p=self.weights)
        normal = rng.standard_normal((count, p))
        out = np.zeros((count, p))
        for k in np.unique(pick):
            mean, covariance = self._coefficients(int(k))
            root = np.linalg.cholesky(covariance + 1e-12 * np.eye(p))
            out[pick == k] = mean + normal[pick == k] @ root.T
        return out

    def _coefficients(self, k: int) -> tuple[Array, Array]:
        n = len(self.residual)
        if not n:
            return np.zeros(len(self.prior)), self.prior
        system = _covariance(self.runs, self.runs, self.prior, self.sizes[k : k + 1])[0]
        system[np.arange(n), np.arange(n)] += _single(self.runs, self.sizes[k : k + 1])[0]
        cross = self.runs.jacobian @ self.prior
        solved = np.linalg.solve(system, cross)
        return solved.T @ self.residual, self.prior - solved.T @ cross


def _quantile(weights: Array, mean: Array, sd: Array, level: float) -> Array:
    """Quantile of mixtures of normals, `weights` of shape (n,) and the others (n, n_points): of shape (n_points,)."""
    from scipy.special import ndtr, ndtri

    parts = mean + ndtri(level) * sd  # the quantile of a mixture lies between those of its parts
    low, high = parts.min(axis=0), parts.max(axis=0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        below = weights @ ndtr((middle - mean) / sd) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2.0)


def fit_effects(
    runs: Points, residual: Array, prior: Array, belief: Array | None = None, batch_sd: float = 0.1
) -> RunEffects:
    """Weigh the sizes of the effects by how well they explain `residual`, twice: disturbed runs count less then.

    Parameters
    ----------
    runs : Points
        Judged runs.
    residual : ndarray of shape (n_runs,)
        Logarithm of measured over predicted makespan.
    prior : ndarray of shape (n_coefficients, n_coefficients)
        Covariance of the coefficients' errors.
    belief : ndarray of shape (n_structures,), optional
        How probable each structure of ``runs.apart`` is.
    batch_sd : float, optional
        Relative standard deviation of what a whole batch varies by.
    """
    structures = np.ones(1) if belief is None else belief
    usual = float(np.clip(_NOISE_SHARE * batch_sd, *_NOISE_USUAL))
    sizes = np.array([(a, t, s, v) for a in _SMOOTH for t in _DRIFT for s in _NOISE for v in _LUCK])
    likely = np.array([_SMOOTH[a] * _DRIFT[t] * _LUCK[v] for a, t, _, v in sizes.tolist()])
    likely *= np.exp(-0.5 * np.square(np.log(sizes[:, 2] / usual) / _NOISE_SPREAD))
    weights = likely / likely.sum()
    n = len(residual)
    if not n:
        return RunEffects(runs, residual, prior, sizes, weights, structures)
    common = _covariance(runs, runs, prior, sizes)
    for attempt in range(2):
        system = common.copy()
        system[:, np.arange(n), np.arange(n)] += _single(runs, sizes)
        inverse = np.linalg.inv(system)
        solved = inverse @ residual
        log = np.log(likely) - 0.5 * np.linalg.slogdet(system)[1] - 0.5 * solved @ residual
        weights = np.exp(log - log.max())
        weights /= weights.sum()
        if attempt or n < 4:
            break
        # How far each run is from what the others say, in standard deviations.
        off = weights @ (np.abs(solved) / np.sqrt(inverse[:, np.arange(n), np.arange(n)]))
        noise = float(np.sqrt(weights @ np.square(sizes[:, 2])))
        disturbed = np.where(off > _FAR, np.square(noise * (off / _FAR) * 2.0), 0.0)
        runs = replace(runs, extra=runs.extra + disturbed)
    # Evenly spaced in what is believed, so that what is less likely, and wider, is kept in its share.
    order = np.argsort(np.square(sizes[:, :3]).sum(axis=1) + sizes[:, 3] * np.median(runs.luck), kind="stable")
    spaced = (np.arange(_KEPT) + 0.5) / _KEPT
    place = np.minimum(np.searchsorted(np.cumsum(weights[order]), spaced), len(order) - 1)
    kept, times = np.unique(order[place], return_counts=True)
    return RunEffects(runs, residual, prior, sizes[kept], times / _KEPT, structures)


def leave_out(effects: RunEffects, index: int, residual: Array) -> tuple[float, float]:
    """Expected log error and standard deviation of run `index` given the others.

    `residual` are the errors of all runs under the structure that was fitted without this one.
    """
    others = np.flatnonzero(np.arange(len(residual)) != index)
    without = replace(effects, runs=effects.runs.take(others), residual=residual[others])
    mean, variance = without.expected(effects.runs.take(np.array([index])))
    return float(np.clip(mean[0], -_MOST_SHIFT, _MOST_SHIFT)), float(np.sqrt(variance[0]))


def _single(points: Points, sizes: Array) -> Array:
    """Variance of runs that they share with no other, of shape (n_sizes, n_points)."""
    return np.asarray(np.square(sizes[:, 2])[:, None] + points.extra + _lucky(points, sizes) * points.luck)


def _lucky(points: Points, sizes: Array) -> Array:
    """Factor of the variance by luck, of shape (n_sizes, n_points): items that no run had are drawn anew at least."""
    factor = sizes[:, 3, None]
    anew = np.zeros((1, len(points.order))) if points.anew is None else points.anew[None, :]
    return np.asarray(factor + np.maximum(1.0 - factor, 0.0) * anew)


def _covariance(a: Points, b: Points, prior: Array, sizes: Array) -> Array:
    """Covariance of two sets of runs without what equal runs differ by, of shape (n_sizes, n_a, n_b)."""
    apart = (a.setting[:, None, :] - b.setting[None, :, :]) / _LENGTH
    smooth = np.exp(-0.5 * np.square(apart).sum(axis=2))
    with np.errstate(invalid="ignore"):
        away = np.abs(a.order[:, None] - b.order[None, :])
    drift = np.exp(-away / _MEMORY)
    linear = a.jacobian @ prior @ b.jacobian.T
    first, second, _, _ = np.square(sizes).T
    return np.asarray(linear[None] + first[:, None, None] * smooth + second[:, None, None] * drift)
