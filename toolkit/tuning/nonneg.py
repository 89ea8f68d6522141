"""Small non-negative least squares, many problems at a time.

The cost model has a handful of coefficients, and needs to be solved once per left-out run and once per bootstrap
replicate. Trying every set of coefficients that may be positive (at most ``2**p - 1`` of them) finds the exact solution
of the convex problem (Lawson and Hanson, *Solving Least Squares Problems*, 1974, ch. 23) with a few batched solves.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_COEFFICIENTS = 6


def solve_nonneg(gram: Array, moment: Array) -> Array:
    """Minimise ``x' gram x - 2 moment' x`` over ``x >= 0`` for each problem.

    Parameters
    ----------
    gram : ndarray of shape (n_problems, p, p)
        Symmetric positive definite matrices; add a ridge first, so that they are.
    moment : ndarray of shape (n_problems, p)
        Right-hand sides.

    Returns
    -------
    ndarray of shape (n_problems, p)
        The minimisers, each entry >= 0.

    Raises
    ------
    ValueError
        There are more than `MOST_COEFFICIENTS` coefficients.
    """
    problems, p = moment.shape
    if p > MOST_COEFFICIENTS:
        raise ValueError(f"{p} coefficients: solve_nonneg tries every subset and takes at most {MOST_COEFFICIENTS}")
    best = np.zeros((problems, p))
    value = np.zeros(problems)
    for count in range(1, p + 1):
        for subset in combinations(range(p), count):
            columns = np.array(subset)
            part = np.linalg.solve(gram[:, columns[:, None], columns], moment[:, columns, None])[..., 0]
            # At the solution of a subset the objective is -moment'x, which spares evaluating the quadratic form.
            found = -np.einsum("ri,ri->r", moment[:, columns], part)
            better = (part >= 0).all(axis=1) & (found < value)
            if better.any():
                best[better] = 0.0
                best[np.ix_(better, columns)] = part[better]
                value[better] = found[better]
    return best


def weighted_nonneg(design: Array, target: Array, weights: Array, ridge: Array) -> Array:
    """Non-negative weighted least squares with a ridge, for many weightings or designs of one data set.

    Parameters
    ----------
    design : ndarray of shape (n_problems or 1, n_rows, p)
        Regressors.
    target : ndarray of shape (n_problems or 1, n_rows)
        What they explain.
    weights : ndarray of shape (n_problems, n_rows)
        Weight of each row in each problem, >= 0.
    ridge : ndarray of shape (n_problems or 1, p)
        Weak priors toward 0: added to the diagonal, > 0.

    Returns
    -------
    ndarray of shape (n_problems, p)
    """
    weighted = design * weights[..., None]
    gram = np.swapaxes(weighted, 1, 2) @ design
    moment = (np.swapaxes(weighted, 1, 2) @ target[..., None])[..., 0]
    p = design.shape[2]
    gram = gram + ridge[:, :, None] * np.eye(p)
    return solve_nonneg(gram, moment)
