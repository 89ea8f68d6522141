"""Structure: sums of non-negative terms. It is what predictions fall back to far from data, beside `powers`.

The sums are those of Ernest (Venkataraman et al., NSDI 2016) with terms for contention as in the universal scalability
law (Gunther, *Guerrilla Capacity Planning*, 2007) and steps for what starts with the second of something, such as
communication. Parts that run at the same time are added as a norm, which lies between their sum and the longest of them
(Qiao et al., *Pollux*, OSDI 2021). Both are fitted to relative errors: with rows divided by their target, a short
measurement counts as much as a long one. Absolute errors in place of squares keep a few wrong rows from deciding.

Each structure also gives a basis: by how much its logarithm moves with its coefficients, times how uncertain those are.
A Gaussian process with the inner products of the basis in its covariance knows that the structure is itself estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from toolkit.tuning.nonneg import weighted_nonneg
from toolkit.tuning.regress.rows import Array, Cells

_RIDGE = 1e-6
_ROUNDS = 5  # of reweighting toward absolute errors
_POWER_RIDGE = 0.05
_OTHER_SD = 0.3  # of exponents that were fitted already
_OVERLAP = 2.0  # of work that hides other work, in part
ONE = 1e-9  # logarithm of 1, and its rounding
_MOST_REPEATS = 20.0  # repeats beyond these say nothing more about the curve


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns mean what.

    Attributes
    ----------
    names : tuple of str
        Columns, in order.
    scale : int
        The column that counts who shares the work.
    sizes : tuple of int
        Columns that say how much work there is.
    """

    names: tuple[str, ...]
    scale: int
    sizes: tuple[int, ...]

    @property
    def others(self) -> tuple[int, ...]:
        """Columns of which nothing is known but that they are positive."""
        return tuple(i for i in range(len(self.names)) if i != self.scale and i not in self.sizes)


class Structure(Protocol):
    """What extrapolates."""

    def log_mean(self, x: Array) -> Array:
        """Logarithm of the expected target, for logarithms of features."""

    def basis(self, x: Array) -> Array:
        """Directions in which the logarithm is uncertain, shape (n_rows, n_directions)."""

    @property
    def used(self) -> int:
        """Coefficients that were fitted without a prior."""


@dataclass(frozen=True, slots=True)
class Sum:
    """``(sum_k (c_k term_k(x)) ** p) ** (1/p) * prod_j x_j ** g_j``, every ``c_k >= 0``.

    The features of the product are in no term. With an overlap `p` of 1 the terms follow each other; with a greater one
    they run at the same time to some degree, and at infinity the longest alone would count.
    """

    roles: Roles
    factors: tuple[int, ...]
    coefficients: Array
    centre: Array
    exponents: Array
    floor: float
    overlap: float

    def parts(self, x: Array) -> Array:
        """What is added up: terms times their coefficients to the power of the overlap, shape (n_rows, n_terms)."""
        return np.asarray((terms(x, self.roles, self.factors) * self.coefficients) ** self.overlap)

    def log_mean(self, x: Array) -> Array:
        """Logarithm of the expected target, for logarithms of features."""
        flat = np.log(np.maximum(self.parts(x).sum(axis=1), self.floor)) / self.overlap
        return np.asarray(flat + (x - self.centre)[:, self.factors] @ self.exponents)

    def basis(self, x: Array) -> Array:
        """Shares of the terms in use: each coefficient is known up to a factor."""
        parts = self.parts(x)[:, self.coefficients > 0]
        shares = parts / np.maximum(parts.sum(axis=1, keepdims=True), self.floor)
        return np.column_stack([shares, _OTHER_SD * (x - self.centre)[:, self.factors]])

    @property
    def used(self) -> int:
        """Coefficients above zero, and exponents."""
        return int((self.coefficients > 0).sum()) + len(self.exponents)


def term_names(roles: Roles, factors: tuple[int, ...] = ()) -> tuple[tuple[str, str], ...]:
    """Name of each term and the unit of its coefficient, in the order of `terms`."""
    s = roles.names[roles.scale]
    out = [
        ("1", "target"),
        (f"1/{s}", f"target * {s}"),
        (f"1/sqrt({s})", f"target * sqrt({s})"),
        (f"log(1+{s})", "target"),
        (s, f"target / {s}"),
    ]
    for name in (roles.names[i] for i in roles.sizes):
        out += [
            (f"{name}/{s}", f"target * {s} / {name}"),
            (f"{name}/sqrt({s})", f"target * sqrt({s}) / {name}"),
            (name, f"target / {name}"),
            (f"{name}*{s}", f"target / ({name} * {s})"),
        ]
    for name in (roles.names[i] for i in roles.others if i not in factors):
        out += [(name, f"target / {name}"), (f"1/{name}", f"target * {name}")]
    return tuple(out + [(f"{roles.names[i]}>1", "target") for i in stepped(roles, factors)])


def stepped(roles: Roles, factors: tuple[int, ...]) -> tuple[int, ...]:
    """Features with a step beyond 1: a second worker or machine is the first that must be talked to."""
    return (roles.scale, *(i for i in roles.others if i not in factors))


def terms(x: Array, roles: Roles, factors: tuple[int, ...] = ()) -> Array:
    """Values of the terms, shape (n_rows, n_terms), for logarithms of features; features in `factors` have none."""
    s = x[:, roles.scale]
    flat = np.exp(np.clip(x, -150, 150))
    scale, inverse, root = flat[:, roles.scale], np.exp(-s), np.exp(-s / 2)
    columns = [np.ones(len(x)), inverse, root, np.log1p(scale), scale]
    for i in roles.sizes:
        columns += [flat[:, i] * inverse, flat[:, i] * root, flat[:, i], flat[:, i] * scale]
    for i in roles.others:
        if i not in factors:
            columns += [flat[:, i], 1 / flat[:, i]]
    columns += [(x[:, i] > ONE).astype(np.float64) for i in stepped(roles, factors)]
    return np.stack(columns, axis=1)


def repeats(cells: Cells) -> Array:
    """Weight of each cell, of mean 1: how often it was measured, up to where more says nothing more."""
    weights = np.minimum(cells.n, _MOST_REPEATS)
    return np.asarray(weights / weights.mean())


def sums(cells: Cells, roles: Roles) -> list[Sum]:
    """Fit to the cells the sums that may explain them."""
    found = [fit_sum(cells, roles, ()), fit_sum(cells, roles, (), _OVERLAP)]
    return [*found, fit_sum(cells, roles, roles.others)] if roles.others else found


def fit_sum(cells: Cells, roles: Roles, factors: tuple[int, ...], overlap: float = 1.0) -> Sum:
    """Fit a sum, and in turn the exponents of what multiplies it."""
    x, t = cells.x, cells.t
    level, centre = float(np.median(t)), x.mean(axis=0)
    values, outside = terms(x, roles, factors) ** overlap, (x - centre)[:, factors]
    steps = values[:, -len(stepped(roles, factors)) :]
    steps *= np.ptp(steps, axis=0) > 0  # where all are beyond it, a step is the constant over again
    now = weights = repeats(cells)
    exponents = np.zeros(len(factors))
    for _ in range(_ROUNDS):
        design = values * np.exp(np.clip(overlap * (level - t + outside @ exponents), -50, 50))[:, None]
        size = np.sqrt((design**2).mean(axis=0)) + 1e-300
        design = design / size
        ridge = np.full((1, design.shape[1]), _RIDGE * len(t))
        found = weighted_nonneg(design[None], np.ones((1, len(t))), now[None], ridge)[0]
        above = np.log(np.maximum(design @ found, 1e-3)) / overlap
        if factors:
            exponents = _exponents(outside, outside @ exponents - above, now)
        miss = np.abs(above)
        now = weights / np.maximum(miss, max(0.02, float(np.median(miss))))
        now = now / now.mean()
    scaled = (found / size) ** (1 / overlap) * np.exp(level)
    return Sum(roles, factors, scaled, centre, exponents, float(np.exp(overlap * (level - 30))), overlap)


def _exponents(x: Array, goal: Array, weights: Array) -> Array:
    inside = np.column_stack([np.ones(len(x)), x])
    ridge = np.diag([1e-9, *np.full(x.shape[1], _POWER_RIDGE)])
    weighted = (inside * weights[:, None]).T
    return np.asarray(np.linalg.solve(weighted @ inside + ridge, weighted @ goal)[1:])
