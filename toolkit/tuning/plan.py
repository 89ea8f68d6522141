"""A quick plan for the rest of a run that is under way, or for a run with a little history.

Cheaper and simpler than the full model: the worker count is given, so contention is part of what the batches took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.execution.tapering import tapering_floor
from toolkit.execution.trials import Trials
from toolkit.records import percent
from toolkit.tuning.history import Array
from toolkit.tuning.nonneg import weighted_nonneg
from toolkit.tuning.schedule import EqualTiming, analytic_s, equal_splits

Row = tuple[int, float, int, float, bool]
"""Items, service seconds, active claims, idle seconds (may be NaN), first in its process."""

_FEWEST_ROWS = 6
_APART = 4.0  # sizes must differ by this factor to tell the cost of a batch from the cost of an item
_PRECISE = 0.25  # relative standard error of a cost that still counts as known
_SAME = 0.01  # plans closer than this are equally good
_REACH = 4.0  # how far beyond the largest batch seen a plan may go, in items or, where a fixed cost rules, in seconds
_FARTHEST = 16.0  # the same in items, whatever the seconds
_HUBER = 2.5
_GAP_SHARE = 0.005  # of a batch: toward it, longer batches are chosen than would do
_ROOM = 1.25  # times an equal part that a worker may take of the last round
_PATIENT_S = 0.5  # as long as a batch may grow for that


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch size for the rest of a run.

    Attributes
    ----------
    batch_size : int
        Items of a batch.
    predicted_s : float
        Seconds that the rest takes with it.
    reasons : tuple of str
        Why.
    confident : bool
        The costs are known well enough to act on it.
    """

    batch_size: int
    predicted_s: float
    reasons: tuple[str, ...]
    confident: bool


@dataclass(frozen=True, slots=True)
class _Fit:
    per_batch_s: float
    per_item_s: float
    batch_error: float  # standard errors
    item_error: float
    variance: float  # relative, of a batch of the typical size
    gap_s: float


def replan(rows: Sequence[Row], *, remaining: int, workers: int) -> Plan | None:
    """Return the batch size with which the rest of a run ends soonest, None where the rows cannot tell.

    Parameters
    ----------
    rows : sequence of tuple
        ``(items, service_s, active_claims, idle_s, first)`` of finished batches; the first of a process is not used, it
        carries imports.
    remaining : int
        Items that nobody has taken.
    workers : int
        Workers that share them.
    """
    if remaining < 1 or workers < 1 or len(rows) < _FEWEST_ROWS:
        return None
    items, service, active, idle, first = np.array(rows, dtype=np.float64).T
    with np.errstate(invalid="ignore"):
        sound = (items >= 1) & np.isfinite(service) & (service > 0) & (first == 0)
    # Batches that ran nearly alone would promise a speed that all workers together do not have.
    together = sound & (active >= 0.5 * min(workers, float(active[sound].max(initial=0.0))))
    for use in (together, sound):
        if use.sum() >= _FEWEST_ROWS and items[use].max() >= _APART * items[use].min():
            fit = _fit(items[use], service[use], idle[use])
            return _plan(fit, float(items[use].max()), remaining, workers)
    return None


def _fit(items: Array, service: Array, idle: Array) -> _Fit:
    """Relative-error non-negative least squares of ``per_batch + per_item * items``, with Huber weights."""
    design = np.stack([np.ones_like(items), items], axis=1)
    typical = float(np.median(service))
    ridge = np.array([[1e-4 / typical**2, 1e-9 * (items.max() / service.max()) ** 2]])
    predicted, trust = service, np.ones_like(items)
    found, variance = np.zeros(2), 1.0
    for _ in range(4):
        rows = design / predicted[:, None]
        found = weighted_nonneg(rows[None], (service / predicted)[None], trust[None], ridge)[0]
        predicted = np.maximum(design @ found, 1e-9)
        error = service / predicted - 1.0
        # The bulk says what is usual; a stuck batch then counts as far out, not as far as it was.
        usual = _HUBER * max(0.01, 1.4826 * float(np.median(np.abs(error))))
        variance = max(1e-4, float(np.minimum(error**2, 4 * usual**2).sum() / max(1.0, len(items) - 2.0)))
        trust = np.minimum(1.0, usual / np.maximum(np.abs(error), 1e-12))
    rows = design / predicted[:, None]
    covariance = variance * np.linalg.inv((rows * trust[:, None]).T @ rows + np.diag(ridge[0]))
    waits = idle[np.isfinite(idle) & (idle >= 0)]
    gap = float(np.minimum(waits, 10 * max(float(np.median(waits)), 1e-4)).mean()) if waits.size else 1e-3
    errors = np.sqrt(np.diag(covariance))
    return _Fit(float(found[0]), float(found[1]), float(errors[0]), float(errors[1]), variance, gap)


def _plan(fit: _Fit, largest: float, remaining: int, workers: int) -> Plan:
    trials = Trials()  # a larger batch than any before is tried by all workers at once: what may it cost?
    trials.hear(largest, (fit.per_batch_s + fit.gap_s) / largest + fit.per_item_s)
    longer = _REACH * largest + (_REACH - 1.0) * fit.per_batch_s / max(fit.per_item_s, 1e-12)  # as many times as long
    want = math.ceil(min(longer, _FARTHEST * largest))
    reach = trials.bounded(want, fit.per_batch_s, fit.per_item_s, remaining / workers)
    most = max(1, min(remaining, math.floor(reach)))
    # Workers are at work on other batches and not free at once: the last round is left to tapering.
    floor = tapering_floor(fit.per_batch_s, max(fit.per_item_s, 1e-9), fit.gap_s, math.inf) if workers > 1 else 1.0
    least = min(math.ceil(floor), most)
    sizes = {least} | {round(b) for b in np.geomspace(1, most, 40)}
    sizes |= {b for b in equal_splits(remaining, workers) if b <= most}
    size: NDArray[np.int64] = np.array(sorted(sizes), dtype=np.int64)
    count = -(-remaining // size)
    last = remaining - (count - 1) * size

    # As if the fixed cost were a standard error higher: too large a batch is tapered later, too small a one is not.
    fixed = fit.per_batch_s + fit.batch_error + fit.gap_s

    def seconds(items: NDArray[np.int64]) -> Array:
        return np.asarray(fixed + fit.per_item_s * items, dtype=np.float64)

    whole = seconds(size)
    timing = EqualTiming(whole, whole, seconds(last), np.full(len(size), fit.variance), np.zeros(len(size)))
    total = analytic_s(np.full_like(size, remaining), size, np.full_like(size, workers), timing)
    # Of equally good sizes the smallest: it adapts soonest when items change.
    best = int(np.flatnonzero(total <= (1 + _SAME) * total.min())[0])
    # The ledger tapers automatic batches, so long ones cost nothing at the end, and each gap is paid by every worker.
    patient = min(fit.gap_s / _GAP_SHARE, _PATIENT_S) / max(fit.per_item_s, 1e-9)
    patient = min(patient, remaining / (4 * workers), most)
    best = max(best, int(np.flatnonzero(size <= max(1.0, patient, least))[-1]))
    chosen = int(size[best])
    if workers > 1 and chosen * workers >= remaining:  # one round: a little more for the first, and nothing is left
        chosen = min(most, math.ceil(_ROOM * chosen))
    chosen_s = float(seconds(np.array([chosen]))[0])
    overhead = (fit.per_batch_s + fit.gap_s) / chosen_s
    reasons = (
        f"a batch costs {1e3 * fit.per_batch_s:.3g} ms and an item {1e3 * fit.per_item_s:.3g} ms",
        f"{percent(overhead)} of a batch of {chosen:,} is overhead",
    )
    # Each cost must be known where it matters: relative to itself, or to the batch that was chosen.
    matters = 0.05 * chosen_s
    known_item = fit.item_error <= max(_PRECISE * fit.per_item_s, matters / chosen)
    known_batch = fit.batch_error <= max(_PRECISE * fit.per_batch_s, matters)
    return Plan(chosen, float(total[best]), reasons, known_item and known_batch)
