"""Structures and processes together: one prediction in logarithms, its spread, and how left-out cells fared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.tuning.regress.process import (
    AMPLITUDES,
    NOISES,
    PATTERNS,
    Family,
    Spectra,
    doubt,
    kernel,
    prior,
    reaches,
    thin,
)
from toolkit.tuning.regress.rows import Array, Cells
from toolkit.tuning.regress.structure import Powers, Roles, Sum, fit_powers, fit_sum

_SEARCHED = 120  # cells on which members are weighted; with more cells, the best of them are fitted again to all
_KEPT = 3  # members that are then fitted again
_SPREAD = 12  # members whose spread is computed


@dataclass(frozen=True, slots=True)
class Member:
    """One member as it predicts: which structure it corrects, its kernel, its weight and its fit."""

    structure: int
    pattern: int
    amplitude: float
    weight: float
    alpha: Array
    inverse: Array


@dataclass(frozen=True, slots=True)
class Mixture:
    """What was learnt.

    Attributes
    ----------
    structures : tuple of Sum or Powers
        What extrapolates.
    shares : ndarray of shape (n_structures,)
        Weight of each.
    stretch : ndarray of shape (n_features,)
        Scaling of the features before kernels.
    x : ndarray of shape (n_cells, n_features)
        Stretched cells.
    duals : dict of int to ndarray of shape (n_cells,)
        Dual coefficients of all members of a kernel, summed.
    members : tuple of Member
        The heaviest, for the spread.
    noise : float
        Standard deviation of a single row around its expectation, in logarithms.
    left_out : ndarray of shape (n_cells,)
        Measured minus predicted logarithm, of each cell from the others.
    left_out_sd : ndarray of shape (n_cells,)
        What the model expected of these.
    """

    structures: tuple[Sum | Powers, ...]
    shares: Array
    stretch: Array
    x: Array
    duals: dict[int, Array]
    members: tuple[Member, ...]
    noise: float
    left_out: Array
    left_out_sd: Array

    def log_mean(self, x: Array) -> Array:
        """Expected logarithm for logarithms of features, shape (n_rows,)."""
        out = np.zeros(len(x))
        for share, structure in zip(self.shares, self.structures, strict=True):
            if share > 1e-9:
                out += share * structure.log_mean(x)
        near = x * self.stretch
        for start in range(0, len(x), 4096):
            part = slice(start, start + 4096)
            for pattern, dual in self.duals.items():
                out[part] += kernel(near[part], self.x, *PATTERNS[pattern]) @ dual
        return out

    def structure_mean(self, x: Array) -> Array:
        """The same by structure alone."""
        return np.asarray(
            sum(share * s.log_mean(x) for share, s in zip(self.shares, self.structures, strict=True) if share > 1e-9)
        )

    def spread(self, x: Array) -> Array:
        """Standard deviation of the logarithm of a new row, shape (n_rows,)."""
        means, variances = [], []
        near = x * self.stretch
        weights = np.array([m.weight for m in self.members])
        weights = weights / weights.sum()
        for member in self.members:
            cross = kernel(near, self.x, *PATTERNS[member.pattern]) * member.amplitude**2
            means.append(self.structures[member.structure].log_mean(x) + cross @ member.alpha)
            explained = np.einsum("ij,jk,ik->i", cross, member.inverse, cross, optimize=True)
            variances.append(np.maximum(member.amplitude**2 - explained, 0.0))
        stacked = np.stack(means)
        middle = weights @ stacked
        return np.asarray(np.sqrt(weights @ (np.stack(variances) + (stacked - middle) ** 2) + self.noise**2))


def fit_mixture(cells: Cells, roles: Roles, rng: np.random.Generator) -> Mixture:
    """Fit structures to cells, and processes to what they leave."""
    fitted = [fit(cells.x, cells.t, cells.n, roles) for fit in (fit_sum, fit_powers)]
    structures = tuple(structure for structure, _ in fitted)
    residuals = [cells.t - s.log_mean(cells.x) for s in structures]
    shifts = [s.log_mean(cells.x) - left_out for s, left_out in fitted]
    errors = [float(np.abs(cells.t - left_out).mean()) for _, left_out in fitted]
    stretch = reaches(cells.x, residuals[int(np.argmin(errors))], cells.n, rng)
    x = cells.x * stretch
    noise = 1 / np.minimum(cells.n, 20.0)
    some = thin(x, _SEARCHED, rng)
    families = _families(x[some], noise[some], [r[some] for r in residuals], [s[some] for s in shifts])
    scores = np.stack([f.score + prior() for _, _, f in families])
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    if len(some) < len(x):
        return _refit(cells, structures, (stretch, x, noise), (residuals, shifts), (families, weights))
    return _collect(structures, stretch, x, families, weights)


_Labelled = tuple[int, Spectra, Family]


def _families(x: Array, noise: Array, residuals: list[Array], shifts: list[Array]) -> list[_Labelled]:
    """For each structure the members that trust every cell and those that doubt some."""
    plain = Spectra.of(x, noise)
    out = []
    for i, (t, shift) in enumerate(zip(residuals, shifts, strict=True)):
        trusting = plain.family(t, shift)
        out.append((i, plain, trusting))
        careful = Spectra.of(x, doubt(trusting, noise))
        out.append((i, careful, careful.family(t, shift)))
    return out


def _collect(
    structures: tuple[Sum | Powers, ...], stretch: Array, x: Array, families: list[_Labelled], weights: Array
) -> Mixture:
    shares = np.zeros(len(structures))
    duals: dict[int, Array] = {}
    left_out, second, noise = np.zeros(len(x)), np.zeros(len(x)), 0.0
    for (i, _, family), weight in zip(families, weights, strict=True):
        shares[i] += weight.sum()
        part = np.einsum("pm,m,pmi->pi", weight, AMPLITUDES**2, family.alpha)
        for p, dual in enumerate(part):
            duals[p] = duals[p] + dual if p in duals else dual
        left_out += np.einsum("pm,pmi->i", weight, family.left_out)
        second += np.einsum("pm,pmi->i", weight, family.variance)
        noise += float(weight.sum(axis=0) @ NOISES**2)
    heaviest = np.argsort(weights.ravel())[::-1][:_SPREAD]
    members = []
    for f, p, m in zip(*np.unravel_index(heaviest, weights.shape), strict=True):
        i, spectra, family = families[f]
        root = 1 / np.sqrt(spectra.noise)
        vectors = spectra.vectors[p] * root[:, None]
        inverse = (vectors * spectra.inverse_spectrum()[p, m]) @ vectors.T
        members.append(Member(i, int(p), float(AMPLITUDES[m]), float(weights[f, p, m]), family.alpha[p, m], inverse))
    return Mixture(
        structures, shares, stretch, x, duals, tuple(members), float(np.sqrt(noise)), left_out, np.sqrt(second)
    )


def _refit(
    cells: Cells,
    structures: tuple[Sum | Powers, ...],
    place: tuple[Array, Array, Array],
    parts: tuple[list[Array], list[Array]],
    found: tuple[list[_Labelled], Array],
) -> Mixture:
    """Fit the best members to all cells; the search used some of them."""
    stretch, x, noise = place
    families, weights = found
    best = np.argsort(weights.ravel())[::-1][:_KEPT]
    kept = weights.ravel()[best] / weights.ravel()[best].sum()
    shares, members = np.zeros(len(structures)), []
    duals: dict[int, Array] = {}
    left_out, second, noisy = np.zeros(len(x)), np.zeros(len(x)), 0.0
    for weight, (f, p, m) in zip(kept, zip(*np.unravel_index(best, weights.shape), strict=True), strict=True):
        i = families[f][0]
        amplitude, sd = float(AMPLITUDES[m]), float(NOISES[m])
        gram = kernel(x, x, *PATTERNS[p]) * amplitude**2
        inverse: Array = np.asarray(np.linalg.inv(gram + np.diag(sd**2 * noise)), dtype=np.float64)
        alpha, diagonal = inverse @ parts[0][i], np.diagonal(inverse)
        shares[i] += weight
        dual = weight * amplitude**2 * alpha
        duals[int(p)] = duals[int(p)] + dual if int(p) in duals else dual
        left_out += weight * (alpha + inverse.sum(axis=1) * parts[1][i]) / diagonal
        second += weight / diagonal
        noisy += weight * sd**2
        members.append(Member(i, int(p), amplitude, float(weight), alpha, inverse))
    noisy = max(noisy, cells.within**2) if np.isfinite(cells.within) else noisy
    return Mixture(
        structures, shares, stretch, x, duals, tuple(members), float(np.sqrt(noisy)), left_out, np.sqrt(second)
    )
