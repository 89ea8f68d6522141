"""The model of one task: costs, dispatch gap, warm-up, variation, and how far its predictions were off.

Fitted from a `TaskHistory` only, and deterministic, so that a saved history gives back the same model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.baseline import baseline_errors, mean_absolute
from toolkit.tuning.checks import Checks, check
from toolkit.tuning.history import Array, Cells, TaskHistory
from toolkit.tuning.nonneg import weighted_nonneg
from toolkit.tuning.schedule import EqualTiming, Plans, Timing, analytic_s, simulate
from toolkit.tuning.structure import (
    Costs,
    cell_spread,
    choose_contention,
    fit_costs,
    fit_shared_sd,
    fit_variance,
    folds,
)

BACKTESTED = 60  # latest runs that are predicted from the others
_PRIOR_SD = 0.04  # how much the same run differs from one day to the next, before anything was seen
_PRIOR_RUNS = 2.0  # how many runs that belief is worth
_GAP_PRIOR_S = 1e-3


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
    """

    run_ids: tuple[str, ...]
    predicted_s: Array
    measured_s: Array
    model: Array
    baseline: Array

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
        Coefficients from reweighted data: their spread is their uncertainty.
    contention_errors : dict of str to float
        Cross-validated relative error of each candidate for contention.
    gap : ndarray of shape (3,)
        Dispatch gap of a batch in seconds: constant, per further worker, per item; see `gap_s`.
    variance : (batch, item)
        Relative variance of a batch of `b` items: ``batch + item / b``.
    stagger_s : float
        Delay from one worker's first claim to the next one's.
    cold : float
        Share of workers that are expected never to have run the task.
    calibration : float
        Factor by which runs took longer than simulated.
    run_sd, run_dof : float
        Standard deviation of log makespan between equal runs, and its degrees of freedom.
    backtest : Backtest
        Predictions of left-out runs.
    checks : Checks
        What the data can tell apart.
    """

    history: TaskHistory
    options: Options
    costs: Costs
    draws: Costs
    contention_errors: dict[str, float]
    gap: Array
    variance: tuple[float, float]
    stagger_s: float
    cold: float
    calibration: float
    run_sd: float
    run_dof: float
    backtest: Backtest
    checks: Checks

    def makespans(self, n_items: NDArray[np.int64], batch_size: NDArray[np.int64], workers: NDArray[np.int64]) -> Array:
        """Simulated makespans of settings, arrays of one length.

        Returns
        -------
        ndarray of shape (n_settings, replicates)
            Seconds.
        """
        plans = Plans.equal(n_items, batch_size, workers)
        timing = timing_of(plans, self.costs, self)
        return self.calibration * simulate(plans, timing, self.options.replicates, self.options.seed)

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

        def seconds(items: Array, busy: Array) -> Array:
            return np.asarray(costs.service_s(items, busy) + gap_s(self.gap, items, busy, costs.contention(busy)))

        warm = costs.base[:, 2] + self.cold * costs.base[:, 3]
        begin = warm[:, None] * costs.contention(all_busy) + self.stagger_s * (used - 1) / 2
        timing = EqualTiming(
            batch_s=seconds(size, all_busy),
            final_s=seconds(size, final),
            last_s=seconds(last, final),
            variance=(self.variance[0] + self.variance[1] / size)[None, :],
            begin_s=begin,
        )
        return self.calibration * analytic_s(n_items, batch_size, workers, timing)


def gap_s(gap: Array, items: Array, busy: Array, contention: Array) -> Array:
    """Dispatch gap before a batch in seconds: fetching and storing compete for the same processors as the work."""
    return np.asarray((gap[0] + gap[2] * items) * contention + gap[1] * np.maximum(busy - 1.0, 0.0))


@dataclass(frozen=True, slots=True)
class _Rest:
    """What `timing_of` needs beside the costs."""

    gap: Array
    variance: tuple[float, float]
    stagger_s: float
    cold: float


def timing_of(plans: Plans, costs: Costs, rest: TaskModel | _Rest, index: int = 0) -> Timing:
    """Mean seconds of the batches of `plans` under one set of coefficients."""
    one = costs.pick(index)
    busy = plans.workers.astype(np.float64)
    counts = np.arange(int(plans.workers.max(initial=1)) + 1, dtype=np.float64)
    contention = one.contention(counts)[0]
    full = contention[plans.workers][:, None]

    def work_s(items: Array) -> Array:
        # The gap is measured as it is with all workers busy; only their work speeds up when some are done.
        alone = one.service_s(items, np.ones_like(items))[0]
        return np.asarray(alone + gap_s(rest.gap, items, busy[:, None], full) / full)

    some = np.maximum(plans.tail, 1.0)
    batch_var, item_var = rest.variance
    return Timing(
        body_s=work_s(plans.body_items),
        tail_s=np.where(plans.tail > 0, work_s(some), 0.0),
        tail_var=batch_var + item_var / some,
        contention=np.broadcast_to(contention, (len(plans), len(contention))),
        stagger_s=np.full(len(plans), rest.stagger_s),
        start_s=np.full(len(plans), one.base[0, 2] + rest.cold * one.base[0, 3]),
    )


# --------------------------------------------------------------------------- fitting


def fit_task(history: TaskHistory, options: Options) -> TaskModel:
    """Learn a task's costs from its history.

    Parameters
    ----------
    history : TaskHistory
        With at least one cell and one run.
    options : Options
        How precisely.

    Raises
    ------
    ValueError
        The history has no cell.
    """
    cells, runs = history.cells, history.runs
    if not len(cells) or not runs:
        raise ValueError(f"task {history.task!r} has no usable batch")
    variance = fit_variance(cells)
    spread = cell_spread(cells, variance)
    kind, _ = choose_contention(cells, len(runs), spread)
    everything = np.ones((1, len(cells)))
    fitted = fit_costs(cells, everything, kind, spread).cell_s(cells)[0]
    # Once more, now that it is known how much batches and runs vary.
    variance = fit_variance(cells, fitted)
    spread = cell_spread(cells, variance, fit_shared_sd(cells, fitted))
    kind, errors = choose_contention(cells, len(runs), spread)
    costs = fit_costs(cells, everything, kind, spread)
    draws = fit_costs(cells, _bootstrap(cells, len(runs), options), kind, spread)
    known = np.array([run.gaps > 0 for run in runs])
    rest = _Rest(_fit_gap(history, known, costs), variance, _stagger(history), _cold(history))
    judged = [i for i, run in enumerate(runs) if run.judged][-BACKTESTED:]
    within = _replay(history, [costs] * len(judged), [rest] * len(judged), judged, options)
    errors_within = np.log([runs[i].makespan_s for i in judged]) - np.log(within)
    calibration, run_sd, dof = _run_effect(
        errors_within, costs, variance[1] / float(np.median([r.items for r in runs]))
    )
    backtest = _backtest(history, kind, spread, rest, judged, options)
    checks = check(history, draws)
    return TaskModel(
        history, options, costs, draws, errors, rest.gap, variance, rest.stagger_s, rest.cold,
        calibration, run_sd, dof, backtest, checks,
    )  # fmt: skip


def _bootstrap(cells: Cells, n_runs: int, options: Options) -> Array:
    """Random weights of the cells: the Bayesian bootstrap (Rubin, Ann. Statist. 9, 1981), by run if there are three.

    Unlike resampling it never loses the only run of a worker count altogether.
    """
    rng = np.random.default_rng(options.seed + 3)
    if n_runs >= 3:
        return np.asarray(n_runs * rng.dirichlet(np.ones(n_runs), size=options.draws)[:, cells.run])
    return np.asarray(len(cells) * rng.dirichlet(np.ones(len(cells)), size=options.draws))


def _fit_gap(history: TaskHistory, use: NDArray[np.bool_], costs: Costs) -> Array:
    """Fit the coefficients of `gap_s` to the mean gaps of the runs, by relative non-negative least squares."""
    runs = [run for run, used in zip(history.runs, use, strict=True) if used]
    if not runs:
        return np.array([_GAP_PRIOR_S, 0.0, 0.0])
    observed = np.array([max(run.gap_s, 1e-5) for run in runs])
    counts = np.array([run.gaps for run in runs], dtype=np.float64)
    busy = np.array([run.workers for run in runs], dtype=np.float64)
    factor = costs.contention(busy)[0]
    sizes = np.array([run.items / run.batches for run in runs])
    design = np.stack([factor, busy - 1.0, sizes * factor], axis=1)
    typical = float(np.median(observed))
    scale = np.array([10 * typical, 3 * typical, 3 * typical / max(1.0, float(design[:, 2].max()))])
    predicted = observed
    found = np.zeros((1, 3))
    for _ in range(4):
        weights = 1.0 / (0.1**2 + 1.0 / counts) / np.maximum(predicted, 0.1 * typical) ** 2
        found = weighted_nonneg(design[None], observed[None], weights[None], 1.0 / scale[None] ** 2)
        predicted = design @ found[0]
    return np.asarray(found[0])


def _stagger(history: TaskHistory) -> float:
    known = [run.stagger_s for run in history.runs if run.workers > 1]
    return float(np.median(known)) if known else 0.0


def _cold(history: TaskHistory) -> float:
    """Share of workers new to the task, of all runs but the first, in which every worker is new to us."""
    shares = [run.cold for run in sorted(history.runs, key=lambda run: run.started_at)]
    return float(np.mean(shares[1:] or shares))


def _replay(history: TaskHistory, costs: list[Costs], rests: list[_Rest], which: list[int], options: Options) -> Array:
    """Mean simulated makespan of recorded runs, each under its own coefficients."""
    runs = [history.runs[i] for i in which]
    plans = Plans.recorded([run.body for run in runs], [run.tail for run in runs], [run.workers for run in runs])
    parts = []
    for i, (cost, rest) in enumerate(zip(costs, rests, strict=True)):
        one = plans.take(np.array([i]))
        # A recorded run says how many of its workers were new; a future one does not.
        known = _Rest(rest.gap, rest.variance, rest.stagger_s, runs[i].cold)
        parts.append(timing_of(one, cost, known))
    means = [
        simulate(plans.take(np.array([i])), timing, options.replicates // 2, options.seed).mean()
        for i, timing in enumerate(parts)
    ]
    return np.array(means, dtype=np.float64)


def _run_effect(errors: Array, costs: Costs, sampling: float) -> tuple[float, float, float]:
    """Calibration factor, standard deviation between equal runs, degrees of freedom.

    The mean error is shrunk toward none; the variance has a scaled inverse chi-squared prior (Gelman et al., *Bayesian
    Data Analysis*, ch. 2) and pays for the coefficients that were fitted. `sampling` is the relative variance that the
    sum of a run's items has where they are drawn anew for each run.
    """
    prior = _PRIOR_SD**2 + sampling
    if not len(errors):
        return 1.0, 2 * math.sqrt(prior), _PRIOR_RUNS
    shift = float(np.median(errors)) * len(errors) / (len(errors) + 2.0)
    used = int((costs.base[0] > 0).sum() + (costs.theta[0] > 0).sum())
    dof = _PRIOR_RUNS + max(0.0, len(errors) - used)
    square = float(np.square(errors - shift).sum())
    return math.exp(shift), math.sqrt((_PRIOR_RUNS * prior + square) / dof), dof


def _backtest(
    history: TaskHistory, kind: str, spread: Array, rest: _Rest, judged: list[int], options: Options
) -> Backtest:
    """Predict each judged run from the others, with the model and with the baseline."""
    runs = history.runs
    measured = np.array([runs[i].makespan_s for i in judged])
    ids = tuple(runs[i].run_id for i in judged)
    if len(runs) < 3 or len(judged) < 3:
        nothing = np.full(len(judged), np.nan)
        return Backtest(ids, nothing, measured, nothing, nothing)
    fold = folds(len(runs))
    held = fold[None, :] == np.arange(fold.max() + 1)[:, None]
    weights = np.where(held[:, history.cells.run], 0.0, 1.0)
    costs = fit_costs(history.cells, weights, kind, spread)
    has_gap = np.array([run.gaps > 0 for run in runs])
    rests = [
        _Rest(_fit_gap(history, has_gap & ~held[f], costs.pick(f)), rest.variance, rest.stagger_s, rest.cold)
        for f in range(len(held))
    ]
    of = [int(fold[i]) for i in judged]
    predicted = _replay(history, [costs.pick(f) for f in of], [rests[f] for f in of], judged, options)
    # What a new process costs is known from no other run where only the left-out one had new processes.
    cold_cells = (weights * history.cells.cold[None, :]).sum(axis=1) > 0
    unknown = np.array([runs[i].cold > 0 and not cold_cells[f] for i, f in zip(judged, of, strict=True)])
    raw = np.where(unknown, np.nan, np.log(measured / predicted))
    # Each run is calibrated with the errors of the others.
    shifts = np.zeros(len(raw))
    for i in range(len(raw)):
        others = np.delete(raw, i)
        others = others[np.isfinite(others)]
        shifts[i] = np.median(others) * len(others) / (len(others) + 2.0) if len(others) else 0.0
    baseline = np.array(baseline_errors([runs[i] for i in judged]))
    return Backtest(ids, predicted * np.exp(shifts), measured, raw - shifts, baseline)
