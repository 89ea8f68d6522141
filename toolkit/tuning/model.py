"""The model of one task: costs, dispatch gap, warm-up, variation, and how far its predictions were off.

`learning` fits it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.baseline import mean_absolute
from toolkit.tuning.checks import Checks
from toolkit.tuning.effects import Points, RunEffects
from toolkit.tuning.history import Array, TaskHistory
from toolkit.tuning.hosts import Hosts
from toolkit.tuning.rivals import Rivals, gap_s
from toolkit.tuning.schedule import EqualTiming, Plans, Timing, analytic_s, simulate
from toolkit.tuning.selection import Structure
from toolkit.tuning.sensitivity import Sensitivity
from toolkit.tuning.structure import Costs
from toolkit.tuning.variation import Variation

_SESSION_SD, _SESSION_S = 0.025, 3_600.0
_BEYOND_WORKERS = 0.15  # standard deviation for each e-fold beyond the workers that were measured


@dataclass(frozen=True, slots=True)
class Options:
    """How precisely to work.

    Attributes
    ----------
    draws : int
        Sets of coefficients that say how uncertain they are.
    replicates : int
        Simulated runs of each setting.
    seed : int
        Of all random numbers.
    """

    draws: int = 200
    replicates: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Backtest:
    """Each run predicted from the other runs.

    Attributes
    ----------
    run_ids : tuple of str
        Runs that were predicted.
    predicted_s, measured_s : ndarray
        Makespans.
    model, baseline : ndarray
        Logarithm of measured over predicted makespan, of the model and of the dumb baseline; NaN where impossible.
    spread : ndarray
        Standard deviation that the model had expected of the former.
    """

    run_ids: tuple[str, ...]
    predicted_s: Array
    measured_s: Array
    model: Array
    baseline: Array
    spread: Array

    @property
    def model_error(self) -> float:
        """Mean absolute relative error of the model; NaN when nothing could be left out."""
        return mean_absolute(self.model)

    @property
    def baseline_error(self) -> float:
        """The same of the baseline."""
        return mean_absolute(self.baseline)


@dataclass(frozen=True, slots=True)
class TaskModel:
    """What was learned about one task.

    Attributes
    ----------
    history : TaskHistory
        What it was learned from.
    options : Options
        How precisely.
    costs : Costs
        The best coefficients, one set.
    draws : Costs
        Coefficients as they may also be: their spread is their uncertainty.
    structure : Structure
        Which terms, and how probable each candidate for contention is.
    hosts : Hosts
        How fast hosts are.
    gap : ndarray of shape (3,)
        Dispatch gap of a batch in seconds: constant, per further worker, per item; see `gap_s`.
    variance : Variation
        How much batches vary.
    stagger_s : float
        Delay from one worker's first claim to the next one's.
    cold : float
        Share of workers that are expected never to have run the task.
    wild : float
        How much more sums of items vary than `variance` says, see `wildness`.
    sensitivity : Sensitivity
        How makespans answer to errors of the coefficients.
    rivals : Rivals
        Other structures that are about as probable.
    effects : RunEffects
        How runs differ from the structure.
    doubtful : RunEffects
        The same for who doubts that costs are near what was fitted to a few items.
    backtest : Backtest
        Predictions of left-out runs.
    checks : Checks
        What the data can tell apart.
    beyond_size : (below, above)
        Standard deviation for each e-fold beyond the sizes that were measured.
    """

    history: TaskHistory
    options: Options
    costs: Costs
    draws: Costs
    structure: Structure
    hosts: Hosts
    gap: Array
    variance: Variation
    stagger_s: float
    cold: float
    wild: float
    sensitivity: Sensitivity
    rivals: Rivals
    effects: RunEffects
    doubtful: RunEffects
    backtest: Backtest
    checks: Checks
    beyond_size: tuple[float, float]

    def makespans(self, n_items: NDArray[np.int64], batch_size: NDArray[np.int64], workers: NDArray[np.int64]) -> Array:
        """Simulated makespans of settings, arrays of one length.

        Returns
        -------
        ndarray of shape (n_settings, replicates)
            Seconds.
        """
        plans = Plans.equal(n_items, batch_size, workers)
        timing = timing_of(plans, self.costs, self)
        simulated = simulate(plans, timing, self.options.replicates, self.options.seed)
        shift = self.effects.shift(self.points(n_items, batch_size, workers))
        return np.asarray(np.exp(shift)[:, None] * simulated)

    def points(self, n_items: NDArray[np.int64], batch_size: NDArray[np.int64], workers: NDArray[np.int64]) -> Points:
        """The next runs with these settings, for `effects`."""
        return Points(
            jacobian=self.sensitivity.of_settings(n_items, batch_size, workers, self.cold),
            setting=np.log(np.stack([batch_size, workers], axis=1).astype(np.float64)),
            order=np.full(len(n_items), float(len(self.history.runs))),
            extra=self.session_sd**2 + np.square(self.beyond(batch_size, workers)),
            luck=luck(self, n_items, batch_size),
            apart=self.rivals.of_settings(n_items, batch_size, workers, self.cold),
            anew=self._anew(n_items),
        )

    def _anew(self, n_items: NDArray[np.int64]) -> Array:
        """Share of the items that no run had; the mean of those that runs had is as little known as they are few.

        Of the difference between the mean of `n` new items and that of `m` earlier ones the variance is one item's,
        times ``1 / n + 1 / m``: ``1 + n / m`` times as much as of new items around a mean that is known.
        """
        counts = [run.items for run in self.history.runs]
        return np.asarray(np.maximum(0.0, 1.0 - max(counts) / n_items) * (1.0 + n_items / sum(counts)))

    def beyond(self, batch_size: NDArray[np.int64], workers: NDArray[np.int64]) -> Array:
        """What no structure knows of settings beyond the measured ones, growing with their distance."""
        low, high = self.checks.sizes
        size = np.maximum(np.log(batch_size / high), np.log(low / batch_size))
        return np.asarray(
            np.where(batch_size < low, *self.beyond_size) * np.maximum(size, 0.0)
            + _BEYOND_WORKERS * np.maximum(np.log(workers / max(self.checks.workers)), 0.0)
        )

    @property
    def session_sd(self) -> float:
        """What another day may change: runs that were all made within an hour do not show it."""
        starts = [run.started_at for run in self.history.runs]
        return _SESSION_SD if max(starts) - min(starts) < _SESSION_S else 0.0

    def screen(
        self, n_items: NDArray[np.int64], batch_size: NDArray[np.int64], workers: NDArray[np.int64], draws: bool = False
    ) -> Array:
        """Makespans in closed form, of shape (n_sets, n_settings): the best set, or all of `draws`."""
        costs = self.draws if draws else self.costs
        count = -(-n_items // batch_size)
        used = np.minimum(workers, count)
        final = np.where(count <= 6 * used, (count - 1) % used + 1, used).astype(np.float64)
        size, last = batch_size.astype(np.float64), (n_items - (count - 1) * batch_size).astype(np.float64)
        all_busy = used.astype(np.float64)
        uneven, slowest = self._unevenness(used)

        def seconds(items: Array, busy: Array) -> Array:
            return np.asarray(costs.service_s(items, busy) + gap_s(self.gap, items, busy, costs.contention(busy)))

        warm = costs.base[:, 2] + self.cold * costs.base[:, 3]
        begin = warm[:, None] * costs.contention(all_busy) + self.stagger_s * (used - 1) / 2
        timing = EqualTiming(
            batch_s=seconds(size, all_busy) * uneven,
            final_s=seconds(size, final) * slowest,
            last_s=seconds(last, final) * slowest,
            variance=self.variance.of(size)[None, :],
            begin_s=begin,
        )
        return analytic_s(n_items, batch_size, workers, timing)

    def _unevenness(self, used: NDArray[np.int64]) -> tuple[Array, Array]:
        """How much longer a batch takes on average, and at the end, because hosts differ."""
        uneven, slowest = np.ones(len(used)), np.ones(len(used))
        if self.hosts.differ:
            for count in np.unique(used):
                factors = self.hosts.factors(int(count))
                uneven[used == count] = count / (1.0 / factors).sum()
                slowest[used == count] = 1.0 + (factors.max() - 1.0) * 0.5
        return uneven, slowest


@dataclass(frozen=True, slots=True)
class Rest:
    """What `timing_of` needs beside the costs, see `TaskModel`."""

    gap: Array
    variance: Variation
    stagger_s: float
    cold: float
    hosts: Hosts
    wild: float = 1.0


def luck(rest: TaskModel | Rest, n_items: Array | NDArray[np.int64], size: Array | NDArray[np.int64]) -> Array:
    """Relative variance of what all batches of a run take together: its items and batches are drawn anew."""
    return np.asarray(rest.wild * rest.variance.of(size) * size / n_items)


def timing_of(plans: Plans, costs: Costs, rest: TaskModel | Rest, index: int = 0) -> Timing:
    """Mean seconds of the batches of `plans` under one set of coefficients."""
    one = costs.pick(index)
    busy = plans.workers.astype(np.float64)
    counts = np.arange(int(plans.workers.max(initial=1)) + 1, dtype=np.float64)
    if one.kind == "serial":  # how long workers wait for each other depends on what batches there are
        batches = plans.body_count.sum(axis=1) + plans.steps
        typical = ((plans.body_items * plans.body_count).sum(axis=1) + plans.tail.sum(axis=1)) / batches
        shape = (len(plans), len(counts))
        size = np.broadcast_to(typical[:, None], shape)
        contention = one.slowdown(size, np.broadcast_to(counts[None, :], shape))[0]
    else:
        contention = np.broadcast_to(one.contention(counts)[0], (len(plans), len(counts)))
    full = contention[np.arange(len(plans)), plans.workers][:, None]

    def work_s(items: Array) -> Array:
        # The gap is measured as it is with all workers busy; only their work speeds up when some are done.
        alone = one.service_s(items, np.ones_like(items))[0]
        return np.asarray(alone + gap_s(rest.gap, items, busy[:, None], full) / full)

    some = np.maximum(plans.tail, 1.0)
    return Timing(
        body_s=work_s(plans.body_items),
        tail_s=np.where(plans.tail > 0, work_s(some), 0.0),
        tail_var=rest.variance.of(some),
        contention=contention,
        stagger_s=np.full(len(plans), rest.stagger_s),
        start_s=np.full(len(plans), one.base[0, 2] + rest.cold * one.base[0, 3]),
        slow=_slow(plans, rest.hosts),
    )


def _slow(plans: Plans, hosts: Hosts) -> Array:
    out = np.ones((len(plans), int(plans.workers.max(initial=1))))
    if hosts.differ:
        for count in np.unique(plans.workers):
            out[plans.workers == count, :count] = hosts.factors(int(count))
    return out
