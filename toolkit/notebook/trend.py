"""What a watcher learns of a run by looking at it again and again: its pace, and how long it may still take.

Pure functions and one frozen record, which stays small however long the run is: when it is full, every second sample
is dropped, so the samples always cover all that was seen, evenly.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from toolkit.records import RunEvent, RunState, RunStatus

MOST: Final = 160
"""Samples kept."""

SLICES: Final = 8
"""Equal parts of the window in which the pace is measured; so many independent counts make the interval."""

WINDOW: Final = 0.5
"""The window: this share of the time seen so far, the latest part. Half of it is warm-up at most once."""

LEAST_S: Final = 2.0
"""No pace is told from less than this."""

WIDTH: Final = 24
"""Characters of the history line."""

SIZES: Final = 4
"""Batch sizes remembered."""

_BLOCKS: Final = "▁▂▃▄▅▆▇█"

# Student's t, 95 % one-sided (90 % between both ends), for 1 to 7 degrees of freedom.
_T: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895)


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """How long a run may still take, in seconds.

    Attributes
    ----------
    best : float
        At the pace of the window.
    low, high : float
        Ends of an interval that holds the truth in 90 % of cases, as long as the work stays as it is; NaN when too
        little was seen.
    """

    best: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Trend:
    """Samples of a run, oldest first.

    Attributes
    ----------
    samples : tuple of (float, int)
        Moments in seconds since the epoch, by the server's clock, and how many items had been executed by then.
    spacing_s : float
        Seconds between two samples that are kept; doubles when they become too many.
    sizes : tuple of int
        Batch sizes seen, the latest last; small wavering of the controller is no new one.
    """

    samples: tuple[tuple[float, int], ...] = ()
    spacing_s: float = 0.0
    sizes: tuple[int, ...] = ()

    def add(self, status: RunStatus) -> Trend:
        """Return the trend with one more look at the run."""
        sizes = _with_size(self.sizes, status.batch_size)
        if not status.started_at:
            return self if sizes == self.sizes else replace(self, sizes=sizes)
        samples = self.samples or ((status.started_at, 0),)
        done = status.ok + status.dead
        if done < samples[-1][1]:  # dead letters were sent back to work: the run begins anew
            samples = ((status.at, done),)
        at = max(samples[0][0], status.finished_at or status.at)
        # The latest sample is provisional until it is far enough from the one before.
        if len(samples) > 1 and samples[-1][0] - samples[-2][0] < self.spacing_s:
            samples = samples[:-1]
        if at > samples[-1][0]:
            samples = (*samples, (at, done))
        spacing_s = self.spacing_s
        if len(samples) > MOST:
            samples = (*samples[:-1:2], samples[-1])
            spacing_s = max(2 * spacing_s, (samples[-1][0] - samples[0][0]) / MOST)
        return Trend(samples, spacing_s, sizes)

    @classmethod
    def of_events(cls, events: Iterable[RunEvent], started_at: float) -> Trend:
        """Return what the events of a run, oldest first, tell of the time before somebody watched it."""
        known = [
            (max(started_at, e.at.timestamp()), e.counters.ok + e.counters.dead)
            for e in events
            if e.counters is not None
        ]
        # From where it began, or began anew after its dead letters were sent back to work.
        first = max((i for i, (a, b) in enumerate(pairwise(known), 1) if b[1] < a[1] or not b[1]), default=0)
        samples = known[first:]
        step = max(1, math.ceil(len(samples) / (MOST // 2)))
        return cls(tuple(samples[::step]))

    def count_at(self, moment: float) -> float:
        """Return how many items had been executed at a moment, between samples by straight lines."""
        place = bisect_left(self.samples, (moment, 0))
        if place == 0:
            return float(self.samples[0][1])
        if place == len(self.samples):
            return float(self.samples[-1][1])
        (start, before), (end, after) = self.samples[place - 1 : place + 1]
        return before + (after - before) * ((moment - start) / (end - start) if end > start else 1.0)

    def counts(self, start: float, parts: int) -> list[float]:
        """Return the items executed in each of `parts` equal parts of the time from `start` to the latest sample."""
        end = self.samples[-1][0]
        edges = [self.count_at(start + (end - start) * i / parts) for i in range(parts + 1)]
        return [max(0.0, b - a) for a, b in pairwise(edges)]

    @property
    def span_s(self) -> float:
        """Seconds from the first sample to the latest."""
        return self.samples[-1][0] - self.samples[0][0] if self.samples else 0.0

    def _window(self) -> tuple[float, float]:
        """Return start and length of the window in which the pace is measured."""
        length = max(LEAST_S, WINDOW * self.span_s)
        return self.samples[-1][0] - min(length, self.span_s), min(length, self.span_s)

    @property
    def pace(self) -> float | None:
        """Items per second in the window; None when too little was seen."""
        if self.span_s < LEAST_S:
            return None
        start, length = self._window()
        return (self.samples[-1][1] - self.count_at(start)) / length

    def time_left(self, status: RunStatus) -> TimeLeft | None:
        """Return how long the run may still take; None when nothing can be said.

        The count of items executed in a time t varies with v t, where v is estimated from the slices of the window.
        Both the pace (known from the window W) and the future T add to the variance of the time left, whose
        coefficient of variation is sqrt(v / r² (1/W + 1/T)) at pace r: the second part is that of the first passage of
        a Brownian motion with drift (Cox and Miller, The Theory of Stochastic Processes, 1965, section 5.7). Ends are
        taken in log space, so that the lower one stays positive.
        """
        if status.state.final:
            return TimeLeft(0.0, 0.0, 0.0)
        left = status.submitted - status.done
        if status.state is not RunState.RUNNING or not status.closed:
            return None
        pace = self.pace
        if pace is None:
            return None if status.eta_s is None else TimeLeft(status.eta_s)
        if pace <= 0:
            return None
        best = left / pace
        start, length = self._window()
        counts = self.counts(start, SLICES)
        if sum(1 for at, _ in self.samples if at > start) < SLICES or best <= 0:
            return TimeLeft(best)
        mean = sum(counts) / SLICES
        variance = sum((c - mean) ** 2 for c in counts) / (SLICES - 1)
        part = length / SLICES
        spread = _T[SLICES - 2] * math.sqrt(variance / mean**2 * (part / length + part / best))
        # Beyond a factor of 20 the interval says no more than that nobody knows.
        return TimeLeft(best, best / math.exp(min(spread, 3.0)), best * math.exp(min(spread, 3.0)))

    def history(self, width: int = WIDTH) -> str:
        """Return the pace over all the time seen as a line of blocks, the highest part full; empty at first."""
        if self.span_s < LEAST_S:
            return ""
        counts = self.counts(self.samples[0][0], min(width, max(2, len(self.samples) - 1)))
        most = max(counts)
        if most <= 0:
            return _BLOCKS[0] * len(counts)
        return "".join(_BLOCKS[min(7, int(8 * c / most))] for c in counts)


def _with_size(sizes: tuple[int, ...], size: int) -> tuple[int, ...]:
    if not size or (sizes and abs(size - sizes[-1]) <= 0.2 * sizes[-1]):
        return sizes
    return (*sizes, size)[-SIZES:]
