"""Structures that are about as probable as the chosen one, and what they say beside it.

Five runs often leave open whether workers slow each other down by waiting or by sharing processors, or whether the
first items of a batch are free. Where the data are all candidates agree, beyond they do not: the interval is to know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array, Cells
from toolkit.tuning.selection import Structure
from toolkit.tuning.structure import Costs

_LEAST = 2e-3  # belief below which a rival is left out
_MOST = 16
_MOST_ODDS = 50.0  # of logarithms, so that no exponential overflows
_MOST_APART = 1.5  # log ratio: a rival that says more is as wild as it is wrong


@dataclass(frozen=True, slots=True)
class Rivals:
    """The chosen costs first, then those of other structures.

    Attributes
    ----------
    costs : tuple of Costs
        One set each.
    belief : ndarray of shape (n_structures,)
        How probable each is.
    gap : ndarray of shape (3,)
        Dispatch gap, see `gap_s`.
    """

    costs: tuple[Costs, ...]
    belief: Array
    gap: Array

    @classmethod
    def of(cls, structure: Structure, costs: Costs, gap: Array) -> Rivals:
        """Those among the candidates of `structure` that count beside it, which has `costs`.

        Whether there is a shared resource was decided by whole makespans, see `beside`. Thresholds were tried with one
        contention, and the most probable one with every other; where none was, it is thought as probable beside each.
        """
        tried = {
            which: one
            for which, one in structure.tried.items()
            if (which[0] == "serial") == (structure.kind == "serial")
        }
        plain = {which: value for which, (value, _) in tried.items() if not which[1]}
        free = {which: value for which, (value, _) in tried.items() if which[1]}
        best = max(plain.values())
        odds = {which: math.exp(value - best) for which, value in plain.items()}
        odds |= _thresholds(free, best, sum(odds.values()))
        chosen = (structure.kind, structure.free)
        others = sorted((which for which in odds if which != chosen), key=lambda which: -odds[which])[:_MOST]
        total = sum(odds.values())
        kept = [chosen, *(which for which in others if odds[which] >= _LEAST * total)]
        belief = np.array([odds[which] for which in kept])
        return cls((costs, *(tried[which][1] for which in kept[1:])), belief / belief.sum(), gap)

    def beside(self, other: Costs, odds: float) -> Rivals:
        """With another one, which is `odds` times as probable as the chosen one."""
        belief = np.append(self.belief, odds * self.belief[0])
        if odds < _LEAST:
            return self
        return Rivals((*self.costs, other), belief / belief.sum(), self.gap)

    def of_runs(self, cells: Cells, n_runs: int) -> Array:
        """Logarithm of what each says of the batches of each run over what the first says, (n_structures, n_runs)."""
        total = np.zeros((len(self.costs), n_runs))
        for row, costs in zip(total, self.costs, strict=True):
            np.add.at(row, cells.run, costs.cell_s(cells)[0] * cells.n)
        return self._apart(total)

    def of_settings(
        self, n_items: NDArray[np.int64], size: NDArray[np.int64], workers: NDArray[np.int64], cold: float
    ) -> Array:
        """The same of planned runs, of shape (n_structures, n_settings)."""
        count = -(-n_items // size)
        busy = np.minimum(workers, count).astype(np.float64)
        items = size.astype(np.float64)
        total = np.zeros((len(self.costs), len(n_items)))
        for row, costs in zip(total, self.costs, strict=True):
            contention = costs.contention(busy)[0]
            batch_s = costs.service_s(items, busy)[0] + gap_s(self.gap, items, busy, contention)
            row[:] = n_items / size * batch_s + busy * (costs.base[0, 2] + cold * costs.base[0, 3]) * contention
        return self._apart(total)

    @staticmethod
    def _apart(total: Array) -> Array:
        apart = np.log(np.maximum(total, 1e-12) / np.maximum(total[:1], 1e-12))
        return np.clip(apart, -_MOST_APART, _MOST_APART)


def _thresholds(found: dict[tuple[str, float], float], best: float, every: float) -> dict[tuple[str, float], float]:
    """Odds of (contention, threshold) from their log evidence, against a structure without one that has `best`.

    A threshold was looked for at many points, each of which is a part of that candidate.
    """
    if not found:
        return {}
    kinds = [kind for kind, _ in found]
    searched = max(kinds, key=kinds.count)
    points = {which: value for which, value in found.items() if which[0] == searched}
    odds = {which: math.exp(min(value - best, _MOST_ODDS)) / len(points) for which, value in points.items()}
    others = {which: value for which, value in found.items() if which[0] != searched}
    if not others:
        return {which: every * value for which, value in odds.items()}
    total, at = sum(odds.values()), next(iter(others))[1]
    more = {which: min(value - points[searched, at], _MOST_ODDS) for which, value in others.items()}
    return odds | {which: total * math.exp(value) for which, value in more.items()}


def gap_s(gap: Array, items: Array, busy: Array, contention: Array) -> Array:
    """Dispatch gap before a batch in seconds: fetching and storing compete for the same processors as the work."""
    return np.asarray((gap[0] + gap[2] * items) * contention + gap[1] * np.maximum(busy - 1.0, 0.0))
