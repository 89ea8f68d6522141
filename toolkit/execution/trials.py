"""What trying larger batches may cost: a bound before each trial, and a way back after one that went badly.

A batch larger than any before is a trial. Larger batches save fixed costs, but nobody has seen what they do to memory
or caches: a trial may turn out to take `_SLOWER` times what was predicted. What all trials of a worker may lose so is
bounded by a share of its part of the run. No clock, no I/O.
"""

from __future__ import annotations

import math
from typing import Final

SHARE: Final = 0.1
"""Share of the run's worker seconds that trials may cost, beside what the same items take in batches as before."""
_STEP: Final = 1.5  # up to so many times the largest good batch a trial is not bounded by what it may lose
_SLOWER: Final = 2.0  # times the predicted seconds that a trial may take
_WORSE: Final = 1.4  # seconds an item, relative to before, from which a trial was clearly worse
_LUCK: Final = 1.5  # the same besides, for one item against one: items differ, and few of them tell little
_NEAR: Final = 0.8  # share of a bad size from which on a good one is as large as it gets
_PAUSE: Final = 4  # batches at the earlier size after such a trial; then twice as many each time
_LONGEST_PAUSE: Final = 256
_RATE: Final = 0.3  # how fast the usual seconds of an item are re-learned


class Trials:
    """Bounds the batches of one worker of one run that are larger than any before.

    After a bad trial the next ones halve the distance to it, in logarithms. One long item makes a small batch look bad,
    so a bad trial holds the size back for some batches only, and for more of them each time.

    Parameters
    ----------
    whole : bool
        Batches are counted in items, and one item more is the smallest trial that there is. Else in weight.
    """

    __slots__ = ("_bad", "_ceiling", "_grain", "_items", "_largest", "_lost_s", "_pause", "_rate", "_spent_s", "_wait")

    def __init__(self, *, whole: bool = True) -> None:
        self._grain = 1.0 if whole else 0.0
        self._spent_s = 0.0
        self._lost_s = 0.0
        self._largest = 0.0  # good batch
        self._rate = 0.0  # usual seconds of an item, fixed costs included; 0 until a batch was judged
        self._items = 0.0  # that the usual seconds were learned from
        self._bad = 0.0  # size that was clearly worse, 0 for none
        self._ceiling = 0.0
        self._wait = 0  # batches that stay below the ceiling
        self._pause = _PAUSE

    @property
    def lost_s(self) -> float:
        """Seconds that trials took beyond what their items take in batches as before."""
        return self._lost_s

    def hear(self, items: float, item_s: float) -> None:
        """Take from other workers what batches of so many items take each, before any of its own was judged."""
        if not self._rate:
            self._largest, self._rate, self._items = self._largest or items, item_s, items

    def start(self, items: float, service_s: float) -> None:
        """Count the first batch of a process, which may carry imports and tells nothing of its size."""
        self._spent_s += service_s
        self._largest = self._largest or items

    def observe(self, items: float, service_s: float) -> None:
        """Learn from a further batch."""
        self._spent_s += service_s
        rate = service_s / items
        if self._rate and items > self._largest:
            self._lost_s += max(0.0, service_s - self._rate * items)
            luck = _LUCK * math.sqrt(1.0 / max(1.0, self._items) + 1.0 / max(1.0, items))
            if rate > (_WORSE + luck) * self._rate:
                self._bad = items
                self._hold(self._largest)
                return
            if items >= self._bad:
                self._bad, self._pause = 0.0, _PAUSE
            elif items >= _NEAR * self._bad:
                self._bad = 0.0
                self._hold(items)
        elif self._wait:
            self._wait -= 1
        self._largest = max(self._largest, items)
        self._items += items
        self._rate += (_RATE if self._rate else 1.0) * (rate - self._rate)

    def _hold(self, items: float) -> None:
        self._ceiling, self._wait = items, self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def bounded(self, want: float, fixed_s: float, item_s: float, share: float) -> float:
        """Return `want`, or the largest batch that may be tried.

        Parameters
        ----------
        want : float
            Items wanted.
        fixed_s, item_s : float
            What a batch costs, and each item.
        share : float
            Items that this worker will still have, if all share what remains.
        """
        if self._wait:
            return min(want, self._ceiling)
        if not self._rate or want <= self._largest:
            return want
        if self._bad:
            want = min(want, math.sqrt(self._largest * self._bad))
        left_s = SHARE * (self._spent_s + self._rate * share) - self._lost_s
        if left_s <= 0:
            return self._largest
        # A trial of b items loses at most SLOWER (fixed + item b) - rate b: nothing that grows, where fixed costs rule.
        grows = _SLOWER * item_s - self._rate
        step = max(_STEP * self._largest, self._largest + self._grain)
        if want <= step or grows <= 0:
            return want
        return max(step, min(want, (left_s - _SLOWER * fixed_s) / grows))
