"""Gaussian processes on what the structure leaves, many at a time, weighted by how they predict left-out cells.

Each member is one kernel, length, amplitude and noise. A kernel's members share one eigendecomposition, from which
their left-out residuals follow in closed form (Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006,
section 5.4.2). Members are averaged, not chosen: with a handful of cells none of them can be told to be right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.tuning.regress.rows import Array, Index

LENGTHS = (0.3, 1.0, 3.0)
PATTERNS = tuple((rough, length) for rough in (True, False) for length in LENGTHS)
_AMPLITUDES = np.array([0.01, 0.03, 0.1, 0.3, 1.0])
_NOISES = np.array([0.003, 0.01, 0.03, 0.1])
AMPLITUDES = np.repeat(_AMPLITUDES, len(_NOISES))
NOISES = np.tile(_NOISES, len(_AMPLITUDES))
_INTERPOLATING = (2, 16)  # rough, the longest length, the largest amplitude, the least noise: joins the points
_INTERPOLATING_SHARE = 0.5  # of the weight before any cell was left out
_RESOLUTION = 0.003  # differences in mean left-out error below this say nothing
_FREEDOM = 4.0  # of the t distribution that noise of robust members has
_REACHES = (0.25, 0.5, 2.0, 4.0, 16.0)  # how a feature's length may differ from the others


@dataclass(frozen=True, slots=True)
class Family:
    """Members of all kernels on one residual: arrays of shape (patterns, members of a pattern, cells).

    Attributes
    ----------
    alpha : ndarray
        Dual coefficients, without the amplitude.
    left_out : ndarray
        Measured minus predicted, in logarithms, of each cell from the others.
    variance : ndarray
        Of these.
    score : ndarray of shape (patterns, members of a pattern)
        Logarithm of the weight, up to a constant.
    """

    alpha: Array
    left_out: Array
    variance: Array
    score: Array


def kernel(a: Array, b: Array, rough: bool, length: float) -> Array:
    """Correlation of rows of `a` with rows of `b`: exponential along each feature if `rough`, else Matérn 5/2."""
    apart = np.abs(a[:, None, :] - b[None, :, :]) / length
    if rough:
        return np.asarray(np.exp(-apart.sum(axis=2)))
    far = np.sqrt(5.0 * (apart**2).sum(axis=2))
    return np.asarray((1 + far + far * far / 3) * np.exp(-far))


@dataclass(frozen=True, slots=True)
class Spectra:
    """Eigendecompositions of the kernels over one set of cells, whitened by relative noise variances."""

    values: Array
    vectors: Array
    noise: Array

    @classmethod
    def of(cls, x: Array, noise: Array) -> Spectra:
        """Decompose the kernels of all patterns over cells `x` with relative noise variances `noise`."""
        grams = np.stack([kernel(x, x, rough, length) for rough, length in PATTERNS])
        root = 1 / np.sqrt(noise)
        values, vectors = np.linalg.eigh(grams * root[:, None] * root[None, :])
        return cls(np.maximum(values, 0.0), vectors, noise)

    def inverse_spectrum(self) -> Array:
        """Eigenvalues of the inverse covariance: shape (patterns, members, cells)."""
        return np.asarray(1 / (AMPLITUDES[:, None] ** 2 * self.values[:, None, :] + NOISES[:, None] ** 2))

    def family(self, t: Array, shift: Array) -> Family:
        """Members for residuals `t`; `shift` is by how much the structure moves when a cell is left out."""
        root = 1 / np.sqrt(self.noise)
        inverse = self.inverse_spectrum()
        both = np.stack([t * root, root], axis=1)
        projected = np.swapaxes(self.vectors, 1, 2) @ both
        solved = np.einsum("pij,pmj,pjk->kpmi", self.vectors, inverse, projected, optimize=True)
        diagonal = np.einsum("pij,pmj->pmi", self.vectors**2, inverse, optimize=True)
        # The process makes good for a part of what the structure loses: what its weights do not sum to is left.
        left_out = (solved[0] + np.asarray(solved[1]) * shift) / diagonal / root
        score = _score(left_out, 1 / np.sqrt(self.noise))
        return Family(np.asarray(solved[0] * root), left_out, 1 / diagonal * self.noise, score)


def prior() -> Array:
    """Logarithms of the members' weights before any data, shape (patterns, members of a pattern)."""
    count = len(PATTERNS) * len(AMPLITUDES)
    weights = np.full((len(PATTERNS), len(AMPLITUDES)), (1 - _INTERPOLATING_SHARE) / (count - 1))
    weights[_INTERPOLATING] = _INTERPOLATING_SHARE
    return np.asarray(np.log(weights))


def doubt(family: Family, noise: Array) -> Array:
    """Relative noise variances for robust members: cells that the best member cannot predict count as noisier."""
    p, m = np.unravel_index(int(np.argmax(family.score)), family.score.shape)
    ratio = family.left_out[p, m] ** 2 / family.variance[p, m]
    typical = max(float(np.median(ratio)) / 0.455, 1e-12)  # 0.455: median of a squared standard normal
    return np.asarray(noise * np.maximum((_FREEDOM + ratio / typical) / (_FREEDOM + 1), 1.0))


def reaches(x: Array, t: Array, n: Array, rng: np.random.Generator) -> Array:
    """Factor by which to stretch each feature, so that one length serves them all: coordinate search.

    Stays at 1 for a single feature or with fewer than eight cells.
    """
    out = np.ones(x.shape[1])
    if x.shape[1] < 2 or len(t) < 8:
        return out
    some = rng.choice(len(t), 64, replace=False) if len(t) > 64 else np.arange(len(t))
    x, t, n = x[some], t[some], n[some]
    best = _best_error(x, t, n)
    margin = 1 - 1.0 / (len(t) + 10)
    for _ in range(2):
        before = out.copy()
        for j in range(x.shape[1]):
            for reach in _REACHES:
                trial = out.copy()
                trial[j] = 1 / reach
                error = _best_error(x * trial, t, n)
                if error < best * margin:
                    best, out = error, trial
        if np.array_equal(before, out):
            break
    return out


def _best_error(x: Array, t: Array, n: Array) -> float:
    family = Spectra.of(x, 1 / np.minimum(n, 20.0)).family(t, np.zeros_like(t))
    errors = np.sort(np.abs(family.left_out).mean(axis=2).ravel())
    return float(errors[:5].mean())


def _score(left_out: Array, weight: Array) -> Array:
    error = (np.abs(left_out) * weight).sum(axis=-1) / weight.sum()
    return np.asarray(-0.5 * left_out.shape[-1] * np.log(error + _RESOLUTION))


def thin(x: Array, most: int, rng: np.random.Generator) -> Index:
    """Indices of at most `most` cells, the extremes of each feature among them."""
    if len(x) <= most:
        return np.arange(len(x))
    ends = np.unique([*x.argmin(axis=0), *x.argmax(axis=0)])
    rest = np.setdiff1d(np.arange(len(x)), ends)
    return np.sort(np.concatenate([ends, rng.choice(rest, max(most - len(ends), 0), replace=False)]))
