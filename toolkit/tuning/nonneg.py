"""Small non-negative least squares, many problems at a time.

The cost model has a handful of coefficients, and needs to be solved once per left-out run and once per bootstrap
replicate. Block principal pivoting does all of them with a few batched solves (Portugal, Júdice and Vicente, Math.
Comp. 63, 1994; Kim and Park, SIAM J. Sci. Comput. 33, 2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FULL_EXCHANGES = 10  # usually 2 or 3 suffice; later only one coefficient is exchanged at a time, which cannot cycle
_NUDGE = 1e-11
_TOLERANCE = 1e-10


def solve_nonneg(gram: Array, moment: Array) -> Array:
    """Minimise ``x' gram x - 2 moment' x`` over ``x >= 0`` for each problem.

    At the minimum each coefficient is either 0 with a gradient that points outwards, or positive with none.
    Coefficients that violate this change sides until none does.

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
    """
    p = moment.shape[1]
    # Unit diagonals: the coefficients differ by orders of magnitude, the tolerance should not.
    scale = 1.0 / np.sqrt(np.einsum("rii->ri", gram))
    # The nudge keeps columns that are the same up to rounding (as for batches of one size) from being singular.
    scaled = gram * scale[:, :, None] * scale[:, None, :] + _NUDGE * np.eye(p)
    right = moment * scale
    level = np.maximum(np.abs(right).max(axis=1, keepdims=True), 1e-300)
    right = right / level
    positive = np.ones(moment.shape, dtype=bool)
    solution = np.zeros_like(right)
    open_ = np.arange(len(moment))
    for attempt in range(_FULL_EXCHANGES + 2**p):
        inside = positive[open_].astype(np.float64)
        system = scaled[open_] * inside[:, :, None] * inside[:, None, :] + (1.0 - inside)[:, :, None] * np.eye(p)
        found = np.linalg.solve(system, (right[open_] * inside)[..., None])[..., 0]
        gradient = (scaled[open_] @ found[..., None])[..., 0] - right[open_]
        wrong = np.where(positive[open_], found < -_TOLERANCE, gradient < -_TOLERANCE)
        solution[open_] = found
        unsettled = wrong.any(axis=1)
        if not unsettled.any():
            break
        open_, wrong = open_[unsettled], wrong[unsettled]
        if attempt >= _FULL_EXCHANGES:
            last = p - 1 - wrong[:, ::-1].argmax(axis=1)
            wrong = np.arange(p) == last[:, None]
        positive[open_] ^= wrong
    return np.asarray(np.maximum(solution, 0.0) * level * scale)


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
    weighted = np.swapaxes(design * weights[..., None], 1, 2)
    gram = weighted @ design + ridge[:, :, None] * np.eye(design.shape[2])
    return solve_nonneg(gram, (weighted @ target[..., None])[..., 0])
