"""How many items the next batch should hold: a small pure controller, asked at claim time.

Each worker process keeps one `Controller` per run. It learns what a batch costs, ``service_s = alpha + beta * items``,
and proposes a size whose fixed cost and dispatch gap are a small share of the batch. No clock, no I/O, no dependencies:
a few microseconds a call.

The two costs are tracked by recursive least squares with forgetting, in the random-walk form (a Kalman filter with a
constant state; Ljung and Söderström, *Theory and Practice of Recursive Identification*, 1983, ch. 2). Exponential
forgetting of sums would lose the split of alpha and beta as soon as the size settles; the random walk forgets only
what new batches can teach. Residuals are relative and clipped as in an M-estimator (Huber, Ann. Math. Statist. 35,
1964), so one slow batch moves little.

Where items are called one by one, their own durations are known, and what a batch costs besides is measured and not
inferred: heavy-tailed items, some of which happen to come in a small batch, look just like a fixed cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from toolkit.execution.beginning import ruling_cost
from toolkit.execution.tapering import Limits, Proposal, tapering_floor
from toolkit.execution.trials import Trials

_MIN_ITEM_S: Final = 1e-9  # keeps divisions finite for items that cost nothing measurable
_WALK: Final = 0.03  # relative change of a cost between two batches that counts as drift, not as noise
_CLIP: Final = 3.0  # residuals beyond this many standard deviations are clipped
_ODD: Final = 4.0  # times what later batches explain, from which the first of a process is asked after
_FAR_LESS: Final = 1.5  # times what a batch took, from which the noise of a longer prediction is not believed
_BOUND: Final = 2.0  # times what the shortest batch took that a fixed cost is at most, since workers differ in speed
_YOUNG: Final = 32  # batches that costs were learned from, up to which that bound holds
_RATE: Final = 0.1  # how fast the noise level and the gap are re-learned


class Controller:
    """Learns the cost of a batch in one process of one run, and proposes the size of the next.

    Parameters
    ----------
    limits : Limits
        What a good batch is.
    whole : bool
        Batches are counted in items. Else in weight: wherever items are spoken of, read weight, in any unit.
    """

    __slots__ = (
        "_a",
        "_ab",
        "_alpha",
        "_b",
        "_beta",
        "_early",
        "_first",
        "_fixed",
        "_gap",
        "_growth",
        "_joined",
        "_largest",
        "_last",
        "_least",
        "_least_s",
        "_limits",
        "_noise",
        "_shortest",
        "_smallest",
        "_surprises",
        "_trials",
        "_updates",
    )

    def __init__(self, limits: Limits | None = None, *, whole: bool = True) -> None:
        self._limits = limits or Limits()
        self._least = 1 if whole else 0  # smallest batch
        self._least_s = _MIN_ITEM_S  # of an item; of weight, as if the first batch were one
        # first batch of the process: an upper bound, it may carry imports
        self._first: tuple[float, float] | None = None
        self._alpha = 0.0  # seconds a batch
        self._beta = 0.0  # seconds an item; 0 until two batches were seen
        self._fixed: float | None = None  # measured seconds a batch beside its items; then alpha stays 0
        self._a = self._ab = self._b = 0.0  # covariance of alpha and beta
        self._noise = 0.09  # relative variance of a batch
        self._updates = 0
        self._gap = 0.0
        self._growth = self._limits.growth
        self._largest = 0.0
        self._last = 0.0  # batch
        self._smallest = 0.0
        self._early: list[tuple[float, float]] = []  # its first two batches
        self._shortest = math.inf  # seconds of these, and of batches that it was compared with
        self._joined = False  # the first batch counts like every other
        self._trials = Trials(whole=whole)
        self._surprises = 0  # batches in a row far from what was predicted: a change, not an outlier

    @property
    def per_batch_s(self) -> float:
        """Fixed cost of a batch in seconds: measured where items are called one by one, else estimated."""
        return self._alpha if self._fixed is None else self._fixed

    @property
    def per_item_s(self) -> float:
        """Estimated cost of an item in seconds; 0 until two batches were seen."""
        return self._beta

    def compare(self, others: Sequence[tuple[float, float]], share: float, *, settled: bool) -> None:
        """Learn from what the first batches of others took, before its own second and third one.

        Parameters
        ----------
        others : sequence of (float, float)
            Items and seconds of batches of other workers.
        share : float
            Items that remain for each worker.
        settled : bool
            The first batch of a process carries no imports, as far as can be seen.
        """
        self._shortest = min([self._shortest, *(seconds for _, seconds in others)])
        if not settled or self._fixed is not None:
            return
        for batches in ([*self._early, *others], self._early):  # by itself, where it is faster or slower than they are
            costs = ruling_cost(batches, share)
            if costs is not None and costs.explain(self._early):
                break
        else:
            return
        self._alpha, self._beta, self._noise = costs.alpha, costs.beta, costs.noise
        self._a, self._ab, self._b = costs.var_alpha, costs.covariance, costs.var_beta
        self._updates, self._joined = len(batches), True
        self._smallest = min(batches)[0]
        self._largest = max([self._largest, *(items for items, _ in others)])
        self._growth = self._limits.far

    def observe(self, items: float, service_s: float, gap_s: float, item_sum_s: float | None = None) -> None:
        """Learn from a batch that ended.

        Parameters
        ----------
        items : int or float
            Items executed.
        service_s : float
            Seconds spent on them.
        gap_s : float
            Seconds between the previous batch and this one, while work was available; NaN when not known.
        item_sum_s : float, optional
            The part of `service_s` that the items took by themselves, where they were called one by one.
        """
        if items < self._least or not items > 0 or not math.isfinite(service_s) or service_s < 0:
            return
        self._last = items
        if len(self._early) < 2:
            self._shortest = min(self._shortest, service_s)
            self._early.append((items, max(service_s, self._least_s * items)))
        if item_sum_s is not None:
            if self._first is not None:  # the first batch of a process may carry its setup
                self._learn_fixed(max(0.0, service_s - item_sum_s))
            service_s = item_sum_s
        if not self._least and self._first is None:
            self._least_s = _MIN_ITEM_S / items
        service_s = max(service_s, self._least_s * items)
        if math.isfinite(gap_s) and gap_s >= 0:
            bounded = min(gap_s, 10 * self._gap) if self._gap else gap_s
            self._gap += (_RATE if self._gap else 1.0) * (bounded - self._gap)
        if self._first is None:
            self._first = (items, service_s)
            self._largest = items
            self._trials.start(items, service_s)
            return
        self._trials.observe(items, service_s)
        self._largest = max(self._largest, items)
        self._smallest = min(self._smallest or items, items)
        if not self._beta:
            self._start(items, service_s)
        else:
            self._update(items, service_s)
            self._join()

    def _learn_fixed(self, fixed_s: float) -> None:
        if self._fixed is None:
            self._fixed = fixed_s
        else:
            self._fixed += _RATE * (min(fixed_s, 10 * self._fixed + 1e-4) - self._fixed)

    def _start(self, items: float, service_s: float) -> None:
        """First trusted batch: all of it per item, with a wide prior.

        The process's first batch joins where it was no slower than that, so carried no warm-up.
        """
        self._beta = service_s / items
        self._a = service_s * service_s
        self._b = self._beta * self._beta
        self._ab = 0.0
        self._update(items, service_s)
        self._join()

    def _join(self) -> None:
        """Learn from the process's first batch too, once what is known explains it, so that it carried no warm-up."""
        assert self._first is not None
        items, service_s = self._first
        if self._joined or items == self._largest or service_s > 1.5 * (self._alpha + self._beta * items):
            return
        self._joined = True
        self._smallest = min(self._smallest, items)
        self._update(items, service_s)

    def _update(self, items: float, service_s: float) -> None:
        predicted = self._alpha + self._beta * items
        self._walk(items, predicted)
        if self._fixed is not None:
            self._a = self._ab = 0.0
        to_alpha = self._a + self._ab * items
        to_beta = self._ab + self._b * items
        # Noise is in proportion to what a batch takes; far below what was predicted, the prediction does not say so.
        scale = min(predicted, max(_FAR_LESS * service_s, predicted / 4))
        chance = self._noise * scale * scale
        variance = to_alpha + to_beta * items + chance
        error = service_s - predicted
        bound = _CLIP * math.sqrt(variance)
        if abs(error) > bound:
            self._surprises += 1
            if self._surprises > 1:  # twice in a row: the costs changed, so what was known is worth little
                self._a += service_s * service_s / 4 if self._fixed is None else 0.0
                self._b += (service_s / items) ** 2
                to_alpha = self._a + self._ab * items
                to_beta = self._ab + self._b * items
                variance = to_alpha + to_beta * items + chance
            else:
                error = math.copysign(bound, error)
        else:
            self._surprises = 0
        # Of the error, the part that noise explains: the rest is what was not known yet about the costs.
        relative = max(-1.0, min(2.0, error / predicted))
        explained = relative * relative * chance / variance
        self._updates += 1
        self._noise += max(_RATE, 1 / (self._updates + 1)) * (explained - self._noise)
        self._noise = max(self._noise, 1e-4)
        self._alpha += error * to_alpha / variance
        self._beta += error * to_beta / variance
        self._a = max(0.0, self._a - to_alpha * to_alpha / variance)
        self._ab -= to_alpha * to_beta / variance
        self._b = max(0.0, self._b - to_beta * to_beta / variance)
        self._clamp(items)

    def _walk(self, items: float, predicted: float) -> None:
        """Let what is known age by one batch, within bounds so that it never winds up."""
        self._a += (_WALK * self._alpha) ** 2 + (0.1 * _WALK * predicted) ** 2
        self._b += (_WALK * self._beta) ** 2
        for bound, value, squared in (
            ("_a", self._a, predicted * predicted),
            ("_b", self._b, (predicted / items) ** 2),
        ):
            if value > squared:
                setattr(self, bound, squared)
                self._ab *= math.sqrt(squared / value)

    def _clamp(self, items: float) -> None:
        """Keep both costs non-negative without changing what is predicted for `items`."""
        predicted = self._alpha + self._beta * items
        if self._alpha < 0:
            self._alpha = 0.0
            self._beta = predicted / items
        least = max(self._least_s, 1e-4 * abs(predicted) / items)
        if self._beta < least:
            self._beta = least
            self._alpha = max(0.0, predicted - least * items) if self._fixed is None else 0.0

    def propose(self, hint_item_s: float, last_batch: float, remaining: float, workers: int) -> Proposal:
        """Return how many items the next batch should hold.

        Parameters
        ----------
        hint_item_s : float
            Seconds an item in the run so far, by whichever worker; 0 when unknown.
        last_batch : int or float
            Items of the run's latest batch; 0 when unknown.
        remaining : int or float
            Items that nobody had taken when this worker last claimed.
        workers : int
            Workers that share them.
        """
        workers = max(1, workers)
        remaining, last_batch = max(self._least, remaining), max(self._least, last_batch)
        if self._beta:
            return self._from_costs(last_batch, remaining, workers)
        known = hint_item_s > 0 and math.isfinite(hint_item_s) and last_batch > 0
        if known:
            self._trials.hear(last_batch, hint_item_s)
        hinted = self._from_hint(hint_item_s, last_batch, remaining, workers) if known else None
        if self._first is None:
            return hinted or Proposal(self._least, self._least)
        items, service_s = self._first
        # It may have carried imports, or a fixed cost: a larger one tells, as long as it is a small part of the run.
        other = min(self._limits.growth * items, self._limits.other_size * remaining / workers)
        if service_s < self._limits.max_s:  # another size tells more than the same once more
            other = max(other, 2.0 * items)
        if hinted is not None and hinted.want >= other:
            return hinted
        want = max(items if hinted else items * self._factor(service_s), other)
        return self._bounded(want, 1.0, remaining, workers)

    def _factor(self, service_s: float) -> float:
        """By how much to grow after a batch of `service_s`: 4 to `growth` times, and not at all near the target."""
        ratio = self._limits.target_s / service_s
        return min(float(self._limits.growth), ratio) if ratio >= 4 else 1.0

    def _from_hint(self, item_s: float, last_batch: float, remaining: float, workers: int) -> Proposal:
        """Nothing learned here yet: follow the other workers, and correct only what is far off."""
        duration_s = item_s * last_batch
        want = float(last_batch)
        if duration_s > self._limits.max_s:
            want = max(float(self._least), self._limits.target_s / item_s)
        elif duration_s < self._limits.target_s:
            want = last_batch * min(4.0, self._limits.target_s / duration_s)
        return self._bounded(want, self._limits.floor_s / item_s, remaining, workers)

    def _from_costs(self, last_batch: float, remaining: float, workers: int) -> Proposal:
        limits = self._limits
        # A fixed cost lengthens batches only as far as it is certain: believing in one that is not there costs balance.
        alpha = max(0.0, self._alpha - 0.5 * math.sqrt(self._a)) if self._fixed is None else self._fixed
        beta = self._beta
        young = self._fixed is None and self._updates <= _YOUNG
        if young and alpha > _BOUND * self._shortest:  # what is no fixed cost, items cost
            beta += (alpha - _BOUND * self._shortest) / self._last
            alpha = _BOUND * self._shortest
        by_duration = (limits.target_s - alpha) / beta
        multiple = 1 / limits.overhead - 1
        longest = max(limits.max_s, multiple * alpha)
        by_overhead = min(multiple * (alpha + self._gap), longest) / beta
        # Tapering evens the end of a run, so long batches cost little, and each gap is paid by every worker.
        by_gap = min(self._gap / limits.gap_share, limits.patient_s) / beta
        want = max(float(self._least), by_duration, by_overhead, by_gap)
        # Where a fixed cost asks for long batches, the end is left to tapering: half as many batches, half the cost.
        share = remaining / ((limits.shares if by_overhead <= by_duration else limits.shares / 2) * workers)
        one_size = self._fixed is None and self._largest < 1.5 * self._smallest
        if one_size:  # one size only cannot tell fixed cost from item cost: try another, however long a batch takes
            if self._alpha + beta * 2 * self._largest < 2 * limits.max_s:
                want = max(want, 2.0 * self._largest)
            want = max(want, min(limits.growth * self._largest, self._apart() * remaining / workers))
        want = min(want, max(float(self._growth * self._largest), float(last_batch)))
        want = max(float(self._least), self._trials.bounded(want, self.per_batch_s, beta, remaining / workers))
        if workers == 1:  # nobody waits for the last batch
            return self._bounded(want, want, remaining, workers, remaining)
        # `remaining` is of this worker's last claim: each other one has claimed since, and is half through with that.
        mine = max(0.0, remaining - (workers - 1) * self._last / 2) / workers
        floor = tapering_floor(alpha, beta, self._gap, mine, limits, math.sqrt(self._b))
        return self._bounded(want, floor, remaining, workers, share)

    def _apart(self) -> float:
        """Share of a worker's part of the run that a batch may hold to tell costs apart."""
        assert self._first is not None
        items, service_s = self._first
        # Imports, or a fixed cost that each batch will pay? That is worth a larger trial.
        odd = service_s > _ODD * (self._alpha + self._beta * items)
        return self._limits.apart_size if odd else self._limits.other_size

    def _bounded(self, want: float, floor: float, remaining: float, workers: int, share: float = 0.0) -> Proposal:
        share = share or remaining / (self._limits.shares * workers)
        if not self._least:
            floor = min(floor, want, remaining)
            return Proposal(min(max(min(want, share), floor), remaining), floor)
        whole_floor = max(1, min(math.ceil(floor), math.floor(max(1.0, want)), remaining))
        whole_want = max(1, min(math.floor(want), math.ceil(share)), whole_floor)
        return Proposal(min(whole_want, remaining), whole_floor)
