"""How a run begins of which nothing is known: what its workers take first, and what they learn from each other.

The first claimer takes one item, the others a few, so that their first batches differ in size: where each of them takes
about as long as that of one item, a fixed cost rules, and a worker that believes in it at once saves a round of small
batches, of seconds each. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FIRST_MOST: Final = 16
"""Items of a first batch at most: nobody knows yet what they take, in seconds or memory."""
COMPARED: Final = 2
"""Batches of a worker after which it compares, where none had ended when it began."""
WORTH_S: Final = 0.02
"""Seconds of a batch from which comparing is worth a call."""
_FIRST_SHARE: Final = 16  # a worker's part of the run holds so many first batches at least
_RULES: Final = 0.1  # share of a worker's part that one fixed cost takes, from which a round of small batches matters
_DOUBT: Final = 0.5  # standard errors by which a fixed cost is believed to be less
_SIZES_APART: Final = 2.0  # times the smallest batch that the largest one is at least
_SHORTEST: Final = 1.05  # times what the shortest batch took that the smallest may have taken
_ALIKE: Final = 1.25  # times what others' batches say that its own may take, of a worker that is as fast as they are
_NOISE: Final = 0.09  # relative variance of a batch that is expected before any was seen
_ROUNDS: Final = 3  # of re-weighted least squares


def first_size(taken: int, remaining: int, workers: int) -> int:
    """Items of a worker's first batch.

    Parameters
    ----------
    taken : int
        Items that were taken already, by anybody.
    remaining : int
        Items that nobody has taken.
    workers : int
        Workers that share them.
    """
    return max(1, min(FIRST_MOST, remaining // (_FIRST_SHARE * max(1, workers)))) if taken else 1


@dataclass(frozen=True, slots=True)
class Costs:
    """What a batch costs, as ``alpha + beta * items`` seconds.

    Attributes
    ----------
    alpha, beta : float
        Seconds a batch, and an item.
    var_alpha, covariance, var_beta : float
        How uncertain both are.
    noise : float
        Relative variance of a batch.
    """

    alpha: float
    beta: float
    var_alpha: float
    covariance: float
    var_beta: float
    noise: float

    def explain(self, batches: Sequence[tuple[float, float]]) -> bool:
        """Whether each of these batches took about what they say."""
        return all(1.0 / _ALIKE < seconds / (self.alpha + self.beta * items) < _ALIKE for items, seconds in batches)


def ruling_cost(batches: Sequence[tuple[float, float]], share: float) -> Costs | None:
    """Return what batches cost if a fixed cost surely rules, so that a further small one would be a waste; else None.

    Parameters
    ----------
    batches : sequence of (float, float)
        Items and seconds of batches that ended, none of which carried imports.
    share : float
        Items that remain for each worker.
    """
    if len(batches) < 2 or max(batches)[0] < _SIZES_APART * min(batches)[0]:
        return None
    # Where the smallest is not the shortest, it held a long item, or its worker is slow.
    if min(batches)[1] > _SHORTEST * min(seconds for _, seconds in batches):
        return None
    costs = _fit(batches)
    return costs if costs.alpha - _DOUBT * costs.var_alpha**0.5 >= _RULES * costs.beta * share else None


def _fit(batches: Sequence[tuple[float, float]]) -> Costs:
    """Least squares of relative errors, in closed form; the noise expected beforehand counts as one batch."""
    predicted = [seconds for _, seconds in batches]
    alpha = beta = aa = ab = bb = det = 0.0
    for _ in range(_ROUNDS):
        trust = [1.0 / (p * p) for p in predicted]
        aa = sum(trust)
        ab = sum(t * items for t, (items, _) in zip(trust, batches, strict=True))
        bb = sum(t * items * items for t, (items, _) in zip(trust, batches, strict=True))
        ya = sum(t * seconds for t, (_, seconds) in zip(trust, batches, strict=True))
        yb = sum(t * items * seconds for t, (items, seconds) in zip(trust, batches, strict=True))
        det = aa * bb - ab * ab  # more than 0, since sizes differ
        alpha, beta = (ya * bb - yb * ab) / det, (yb * aa - ya * ab) / det
        if alpha < 0:
            alpha, beta = 0.0, yb / bb
        elif beta <= 0:
            alpha = ya / aa
            beta = 1e-4 * alpha / max(batches)[0]  # what later batches teach is relative to it
        predicted = [alpha + beta * items for items, _ in batches]
    errors = sum((seconds / p - 1.0) ** 2 for p, (_, seconds) in zip(predicted, batches, strict=True))
    noise = (_NOISE + errors) / (len(batches) - 1.0)
    return Costs(alpha, beta, noise * bb / det, -noise * ab / det, noise * aa / det, noise)
