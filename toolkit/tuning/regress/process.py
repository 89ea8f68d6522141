"""Gaussian processes on what the structure leaves: many of them, weighted by how they predict.

With a handful of cells no hyper-parameter can be told to be right, so they are averaged, not chosen: a first sample is
drawn from their prior, later ones around the best so far, all weighted by importance (Cappé et al., *Population Monte
Carlo*, J. Comput. Graph. Stat. 13, 2004) against the mixture of what they were drawn from (Veach and Guibas, SIGGRAPH
1995; Owen and Zhou, J. Am. Stat. Assoc. 95, 2000). Left-out predictions follow in closed form (Rasmussen and Williams,
*Gaussian Processes for Machine Learning*, 2006, section 5.4.2).

The weight of a member is the geometric mean of two densities. The marginal likelihood says how well each cell is
predicted from any number of the others, on average (Fong and Holmes, *On the marginal likelihood and cross-validation*,
Biometrika 107, 2020); the left-out one, how well from all others, as new settings will be. With few cells the second
alone makes members heavy that happen to pass by them, and intervals too narrow; the first alone knows less of what is
asked. Groups of cells share what no member knows of: there the weight is how well each is predicted from all others.

A measurement deviates from a smooth curve for two reasons. Repeats of one setting differ from each other (`noise`), and
a setting differs from its neighbours each time it is measured (`nugget`): 41 tasks on 40 workers take two rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from toolkit.tuning.regress.rows import Array, Cells, Index, Mask
from toolkit.tuning.regress.structure import Roles, Structure

FIRST, LATER = 5, 6  # binary logarithms of how many hyper-parameters each sample has
ROUNDS = 2  # samples after the first
_CACHED = 32_768  # numbers at a time
_FEW = 24  # cells up to which one call for all members costs less than one for each
_NEGLIGIBLE = 0.02  # members this much lighter than the heaviest are dropped

# Medians and standard deviations of logarithms: all are shares of a runtime, lengths are in e-foldings of a feature.
_LENGTH = (float(np.log(2.0)), 0.9)
_AMPLITUDE = (float(np.log(0.25)), 1.0)
_NUGGET = (float(np.log(0.02)), 1.2)
_NOISE = (float(np.log(0.015)), 1.0)
_LEAST_NOISE = 1e-3


@dataclass(frozen=True, slots=True)
class Space:
    """Where the hyper-parameters of one data set live.

    Attributes
    ----------
    roles : Roles
        Meaning of the columns.
    moving : ndarray of int
        Directions in which the cells differ.
    noise : (mean, sd)
        Logarithm of the noise: what repeats say of it, drawn toward the prior.
    shared : bool
        Whether a setting's deviation is the same each time it is measured; not so between groups.
    """

    roles: Roles
    moving: Index
    noise: tuple[float, float]
    shared: bool

    @classmethod
    def of(cls, cells: Cells, roles: Roles) -> Space:
        """Space for cells."""
        lines = directions(cells.x, roles)
        (mean, sd), free = _NOISE, float((cells.n - 1).sum())
        if free > 0:
            prior, data = 1 / sd**2, 2 * free  # a logarithm of an estimate with k degrees of freedom has variance 1/2k
            measured = np.log(max(cells.within, _LEAST_NOISE))
            mean, sd = (mean * prior + measured * data) / (prior + data), (prior + data) ** -0.5
        return cls(roles, np.flatnonzero(np.ptp(lines, axis=0) > 1e-9), (float(mean), float(sd)), cells.single)

    def features(self, x: Array) -> Array:
        """Coordinates that kernels measure distances in."""
        return directions(x, self.roles)[:, self.moving]

    @property
    def dimensions(self) -> int:
        """Of the standard normal vectors that stand for hyper-parameters."""
        return 2 * len(self.moving) + 4

    def draw(self, power: int, seed: int) -> Array:
        """Standard normal vectors, evenly spread, shape (2**power, dimensions)."""
        return _evenly(self.dimensions, power, seed)


@lru_cache(maxsize=64)  # to draw takes longer than to fit a handful of cells
def _evenly(dimensions: int, power: int, seed: int) -> Array:
    uniform = qmc.Sobol(dimensions, seed=np.random.default_rng([seed, power])).random_base2(power)
    drawn: Array = ndtri(np.clip(uniform, 1e-4, 1 - 1e-4))
    drawn.flags.writeable = False
    return drawn


@dataclass(frozen=True, slots=True)
class Hyper:
    """Hyper-parameters, one member a row: kernel lengths, which of them are rough, and standard deviations."""

    length: Array
    rough: Mask
    joint: Array
    amplitude: Array
    nugget: Array
    noise: Array

    @classmethod
    def of(cls, z: Array, space: Space) -> Hyper:
        """Read standard normal vectors."""
        k = len(space.moving)

        def scaled(prior: tuple[float, float], column: Array) -> Array:
            return np.asarray(np.exp(prior[0] + prior[1] * column))

        joint = ndtr(z[:, 2 * k + 3]) if k > 1 else np.ones(len(z))
        return cls(
            scaled(_LENGTH, z[:, :k]), z[:, k : 2 * k] > 0, joint, scaled(_AMPLITUDE, z[:, 2 * k]),
            scaled(_NUGGET, z[:, 2 * k + 1]), scaled(space.noise, z[:, 2 * k + 2]),
        )  # fmt: skip

    def kernel(self, apart: Array) -> Array:
        """Correlations for distances of shape (features, a, b): shape (members, a, b).

        Exponential along rough features, Matérn 5/2 along others. A part of each is the product over the features, the
        rest the mean: effects that depend on each other and effects that do not.
        """
        out = np.ones((len(self.joint), *apart.shape[1:]))
        smooth = ~self.rough
        rate = np.where(smooth, np.sqrt(5.0), 1.0) / self.length
        # So many members at a time that what is between stays in the processor's cache.
        step = max(1, _CACHED // max(apart[:1].size, 1))
        for start in range(0, len(out) if len(apart) else 0, step):
            some = slice(start, start + step)
            product, total, joint = out[some], np.zeros_like(out[some]), self.joint[some, None, None]
            for k, distance in enumerate(apart):
                far = distance * rate[some, k, None, None]
                each = np.exp(-far)
                soft = smooth[some, k]
                if soft.any():
                    bent = far[soft]
                    each[soft] *= 1 + bent * (1 + bent / 3)
                product *= each
                total += each
            product *= joint
            total *= (1 - joint) / len(apart)
            product += total
        return out


@dataclass(frozen=True, slots=True)
class Members:
    """Members on one structure, fitted to the cells.

    Attributes
    ----------
    z : ndarray of shape (members, dimensions)
        Hyper-parameters as standard normal vectors.
    score : ndarray of shape (members,)
        Logarithm of the density by which members are weighed.
    alpha : ndarray of shape (members, cells)
        Dual coefficients.
    inverse : ndarray of shape (members, cells, cells)
        Inverse covariances.
    left_out, variance : ndarray of shape (members, cells)
        Measured minus predicted logarithm of each cell when its group is left out, and the variance of that.
    """

    z: Array
    score: Array
    alpha: Array
    inverse: Array
    left_out: Array
    variance: Array

    def taken(self, which: Index | Mask) -> Members:
        """Some of them."""
        parts = (self.z, self.score, self.alpha, self.inverse, self.left_out, self.variance)
        return Members(*(part[which] for part in parts))

    def joined(self, other: Members) -> Members:
        """These and others."""
        names = ("z", "score", "alpha", "inverse", "left_out", "variance")
        return Members(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))


def directions(x: Array, roles: Roles) -> Array:
    """Logarithms of the features, and of each size per unit of scale: limits of memory are met along these."""
    return np.column_stack([x, *(x[:, i] - x[:, roles.scale] for i in roles.sizes)])


def distances(a: Array, b: Array) -> Array:
    """Along each feature between rows of `a` and of `b`, shape (features, a, b)."""
    return np.abs(a.T[:, :, None] - b.T[:, None, :])


def fit_members(z: Array, cells: Cells, structure: Structure, space: Space) -> Members:
    """Fit members to what the structure leaves of the cells; its own uncertainty is a part of their covariance."""
    hyper = Hyper.of(z, space)
    residual = cells.t - structure.log_mean(cells.x)
    features, basis = space.features(cells.x), structure.basis(cells.x)
    covariance = _between(hyper, features) * hyper.amplitude[:, None, None] ** 2
    covariance += basis @ basis.T
    own = np.arange(len(residual))
    covariance[:, own, own] += hyper.nugget[:, None] ** 2 + hyper.noise[:, None] ** 2 * cells.doubt / cells.n + 1e-10
    inverse, volume = _inverse(covariance)
    alpha = inverse @ residual
    score, left_out, variance = _left_out(inverse, alpha, cells)
    if cells.single:
        score = 0.5 * score - 0.25 * (alpha @ residual + volume)
    return Members(z, score, alpha, inverse, left_out, variance)


def _between(hyper: Hyper, features: Array) -> Array:
    """Correlations of cells with each other, shape (members, cells, cells): each pair of them is asked once."""
    count = len(features)
    if count <= _FEW:
        return hyper.kernel(distances(features, features))
    first, second = np.triu_indices(count)
    pairs = hyper.kernel(np.abs(features[first] - features[second]).T[:, None, :])[:, 0]
    out = np.empty((len(pairs), count, count))
    out[:, first, second] = pairs
    out[:, second, first] = pairs
    return out


def _inverse(covariance: Array) -> tuple[Array, Array]:
    """Inverses of positive definite matrices and logarithms of their determinants.

    By Cholesky's factors one by one, where that is faster than all at once.
    """
    count = covariance.shape[1]
    if count <= _FEW:
        return np.asarray(np.linalg.inv(covariance)), np.asarray(np.linalg.slogdet(covariance)[1])
    out, volume = np.empty_like(covariance), np.empty(len(covariance))
    for member, (matrix, result) in enumerate(zip(covariance, out, strict=True)):
        factor, failed = dpotrf(matrix, lower=0, clean=1)
        if failed:  # by rounding alone: the diagonal was raised
            result[:], volume[member] = np.linalg.inv(matrix), np.linalg.slogdet(matrix)[1]
            continue
        upper = dpotri(factor, lower=0)[0]
        np.add(upper, upper.T, out=result)
        np.fill_diagonal(result, upper.diagonal())
        volume[member] = 2 * np.log(factor.diagonal()).sum()
    return out, volume


def _left_out(inverse: Array, alpha: Array, cells: Cells) -> tuple[Array, Array, Array]:
    """Logarithm of the density of the groups left out, and of each cell what is then missed and its variance."""
    if cells.single:
        diagonal = np.einsum("mii->mi", inverse)
        left_out, variance = alpha / diagonal, 1 / diagonal
        return 0.5 * (np.log(diagonal) - left_out * alpha).sum(axis=1), left_out, variance
    left_out, variance, score = np.empty_like(alpha), np.empty_like(alpha), np.zeros(len(alpha))
    for group in np.unique(cells.group):
        own = np.flatnonzero(cells.group == group)
        block = inverse[:, own[:, None], own[None, :]]
        spread = np.linalg.inv(block)
        left_out[:, own] = np.einsum("mij,mj->mi", spread, alpha[:, own])
        variance[:, own] = np.einsum("mii->mi", spread)
        score += 0.5 * (np.linalg.slogdet(block)[1] - (left_out[:, own] * alpha[:, own]).sum(axis=1))
    return score, left_out, variance


def sample(
    first: Members, cells: Cells, structure: Structure, space: Space, seed: int, rounds: int = ROUNDS
) -> tuple[Members, Array]:
    """Add members near the best so far; returns the ones that matter and logarithms of their weights."""
    members = first
    drawn_from = [(np.zeros(space.dimensions), np.ones(space.dimensions), len(first.z))]
    for more in range(rounds):
        mean, sd = _toward(members, importance(members, drawn_from))
        z = mean + sd * space.draw(LATER, seed + more)
        members = members.joined(fit_members(z, cells, structure, space))
        drawn_from.append((mean, sd, len(z)))
    weights = importance(members, drawn_from)
    kept = weights > weights.max() + np.log(_NEGLIGIBLE)
    return members.taken(kept), weights[kept] - np.log(len(members.z))


def importance(members: Members, drawn_from: list[tuple[Array, Array, int]]) -> Array:
    """Logarithms of weights: density over that of the mixture of normal distributions that members were drawn from."""
    z = members.z
    shares = [np.log(n / len(z)) - np.log(s).sum() - 0.5 * (((z - m) / s) ** 2).sum(axis=1) for m, s, n in drawn_from]
    return np.asarray(members.score - 0.5 * (z**2).sum(axis=1) - np.logaddexp.reduce(shares))


def _toward(members: Members, weights: Array) -> tuple[Array, Array]:
    """Centre and standard deviations to draw from next."""
    weight = np.exp(weights - weights.max())
    weight /= weight.sum()
    effective = 1 / (weight**2).sum()
    mean = weight @ members.z
    sd = np.maximum(1.2 * np.sqrt(weight @ (members.z - mean) ** 2), 0.5)
    # Of a few effective members the mean is uncertain: it is drawn back toward the prior's.
    return np.asarray(mean * (1 - 0.3 * (3 / (effective + 3)))), np.asarray(sd)
