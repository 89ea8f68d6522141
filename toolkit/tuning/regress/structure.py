"""Structure: sums of non-negative terms and products of powers. It is what predictions fall back to far from data.

The sums are those of Ernest (Venkataraman et al., NSDI 2016) with a root term, fitted to relative errors: with rows
divided by their target, a short measurement counts as much as a long one. Absolute errors in place of squares keep a
few wrong rows from deciding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.tuning.nonneg import weighted_nonneg
from toolkit.tuning.regress.rows import Array

_RIDGE = 1e-6
_ROUNDS = 4  # of reweighting toward absolute errors
_POWER_RIDGE = 0.05


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


@dataclass(frozen=True, slots=True)
class Sum:
    """``sum_k c_k term_k(x)``, every ``c_k >= 0``."""

    roles: Roles
    coefficients: Array
    floor: float

    def log_mean(self, x: Array) -> Array:
        """Logarithm of the expected target, for logarithms of features."""
        return np.asarray(np.log(np.maximum(terms(x, self.roles) @ self.coefficients, self.floor)))


@dataclass(frozen=True, slots=True)
class Powers:
    """``exp(a) * prod_j x_j ** g_j``, the exponents drawn toward their prior."""

    centre: Array
    level: float
    exponents: Array

    def log_mean(self, x: Array) -> Array:
        """Logarithm of the expected target, for logarithms of features."""
        return np.asarray(self.level + (x - self.centre) @ self.exponents)


def term_names(roles: Roles) -> tuple[tuple[str, str], ...]:
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
        ]
    for name in (roles.names[i] for i in roles.others):
        out += [(name, f"target / {name}"), (f"1/{name}", f"target * {name}")]
    return tuple(out)


def terms(x: Array, roles: Roles) -> Array:
    """Values of the terms, shape (n_rows, n_terms), for logarithms of features."""
    s = x[:, roles.scale]
    flat = np.exp(np.clip(x, -300, 300))
    scale, inverse, root = flat[:, roles.scale], np.exp(-s), np.exp(-s / 2)
    columns = [np.ones(len(x)), inverse, root, np.log1p(scale), scale]
    for i in roles.sizes:
        columns += [flat[:, i] * inverse, flat[:, i] * root, flat[:, i]]
    for i in roles.others:
        columns += [flat[:, i], 1 / flat[:, i]]
    return np.stack(columns, axis=1)


def fit_sum(x: Array, t: Array, n: Array, roles: Roles) -> tuple[Sum, Array]:
    """Fit the sum to cells, and say what it predicts for each of them when left out.

    Parameters
    ----------
    x, t, n
        As in `Cells`.
    roles : Roles
        Meaning of the columns.

    Returns
    -------
    Sum
    ndarray of shape (n_cells,)
        Logarithm of the prediction for each cell from the others; from all, where there are more than 200.
    """
    level = float(np.median(t))
    values = terms(x, roles)
    design = values * np.exp(np.clip(level - t, -50, 50))[:, None]
    size = np.sqrt((design**2).mean(axis=0)) + 1e-300
    design = design / size
    weights = np.minimum(n, 20.0) / np.minimum(n, 20.0).mean()
    ridge = np.full((1, design.shape[1]), _RIDGE * len(t))
    ones = np.ones((1, len(t)))
    now = weights
    for _ in range(_ROUNDS):
        found = weighted_nonneg(design[None], ones, now[None], ridge)[0]
        miss = np.abs(np.log(np.maximum(design @ found, 1e-3)))
        now = weights / np.maximum(miss, max(0.02, float(np.median(miss))))
        now = now / now.mean()
    # Left out one at a time, all in one solve.
    fitted = Sum(roles, found / size * np.exp(level), np.exp(level - 30))
    if len(t) > 200:
        return fitted, fitted.log_mean(x)
    without = np.broadcast_to(now, (len(t), len(t))) * (1 - np.eye(len(t)))
    each = weighted_nonneg(design[None], ones, without, ridge)
    left_out = np.log(np.maximum(np.einsum("ij,ij->i", values / size, each), np.exp(-30.0))) + level
    return fitted, np.asarray(left_out)


def fit_powers(x: Array, t: Array, n: Array, roles: Roles) -> tuple[Powers, Array]:
    """Fit a product of powers to cells by ridge regression of logarithms; returns as `fit_sum`."""
    prior = np.zeros(x.shape[1])
    prior[roles.scale] = -0.5
    prior[list(roles.sizes)] = 0.5
    centre = np.average(x, axis=0, weights=n)
    inside = np.column_stack([np.ones(len(t)), x - centre])
    ridge = np.diag([1e-9, *np.full(x.shape[1], _POWER_RIDGE)])
    weights = np.minimum(n, 20.0)
    now = weights
    goal = t - (x - centre) @ prior
    for _ in range(_ROUNDS):
        inverse = np.linalg.inv((inside * now[:, None]).T @ inside + ridge)
        found = inverse @ (inside * now[:, None]).T @ goal
        miss = np.abs(goal - inside @ found)
        typical = max(0.02, float(np.median(miss)))
        last, now = now, weights * np.minimum(1.0, 2 * typical / np.maximum(miss, 1e-12))
    leverage = np.minimum(np.einsum("ij,jk,ik->i", inside, inverse, inside) * last, 0.95)
    left_out = t - (goal - inside @ found) / (1 - leverage)
    return Powers(centre, float(found[0]), found[1:] + prior), np.asarray(left_out)
