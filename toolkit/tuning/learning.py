"""From a history to a `TaskModel`: the structure chosen and fitted, whole runs replayed, left-out runs predicted.

Fitted from a `TaskHistory` only, and deterministic, so that a saved history gives back the same model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.baseline import baseline_errors
from toolkit.tuning.beyond import beyond_size
from toolkit.tuning.checks import check
from toolkit.tuning.effects import Points, RunEffects, fit_effects, leave_out
from toolkit.tuning.history import Array, Cells, RunSummary, TaskHistory
from toolkit.tuning.hosts import fit_hosts
from toolkit.tuning.model import Backtest, Options, Rest, TaskModel, luck, timing_of
from toolkit.tuning.nonneg import weighted_nonneg
from toolkit.tuning.rivals import Rivals
from toolkit.tuning.schedule import Plans, simulate
from toolkit.tuning.selection import Structure, choose, folds, log_evidence
from toolkit.tuning.sensitivity import Sensitivity
from toolkit.tuning.structure import Costs, cell_spread, fit_shared_sd, loads
from toolkit.tuning.variation import fit_variation
from toolkit.tuning.wildness import wildness

BACKTESTED = 60  # latest runs that are predicted from the others
_GAP_PRIOR_S = 1e-3
_AT_WORK = 0.5  # share of a processor from which work is thought to compute, not to wait
_DISTURBED = 0.05
_END_SD = 0.01  # what the ends of runs differ by beside luck
_STUCK, _STUCK_SDS = 0.1, 2.0  # log makespan beyond what its batches explain, from which a run ended with a stuck one


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
    everything = np.ones((1, len(cells)))
    variance = fit_variation(cells)
    spread = cell_spread(cells, variance.means(cells))
    structure = choose(cells, spread, variance.means(cells))
    first = structure

    def predict(like: Cells) -> Array:
        return np.asarray(first.fit(like, everything, spread).cell_s(like)[0])

    hosts, cells = fit_hosts(cells, runs, history.hosts, predict, spread)
    costs = first.fit(cells, everything, spread)
    fitted = costs.cell_s(cells)[0]
    # Once more, now that it is known how much batches and runs vary.
    variance = fit_variation(cells, costs)
    within = variance.means(cells)
    spread = cell_spread(cells, within, fit_shared_sd(cells, fitted))
    structure = choose(cells, spread, within)
    rest = Rest(np.zeros(3), variance, _stagger(history), _cold(history), hosts, wildness(cells, fitted, variance))
    trials = [
        _try(history, cells, one, spread, rest, options) for one in (structure, structure.rival) if one is not None
    ]
    best, *lost = sorted(trials, key=lambda trial: -trial.evidence)
    structure, costs, rest, sensitivity = best.structure, best.costs, best.rest, best.sensitivity
    rivals = Rivals.of(structure, costs, rest.gap)
    for other in lost:
        rivals = rivals.beside(other.costs, math.exp(other.evidence - best.evidence))
    points = replace(best.points, apart=rivals.of_runs(cells, len(runs))[:, best.judged])
    effects = fit_effects(points, best.residual, best.prior, rivals.belief, math.sqrt(variance.batch))
    doubtful = replace(
        effects,
        # How runs ended may have been more than luck.
        runs=replace(effects.runs, luck=effects.runs.luck + best.ending),
        residual=best.makespans,
        prior=sensitivity.prior(cells, variance.means(cells), doubting=True),
    )
    draws = sensitivity.moved(effects.draws(options.draws, options.seed + 3))
    return TaskModel(
        history, options, costs, draws, structure, hosts, rest.gap, variance, rest.stagger_s, rest.cold, rest.wild,
        sensitivity, rivals, effects, doubtful, _backtest(best, history, cells, spread, effects), check(history, draws),
        beyond_size(structure, costs, cells, spread, variance.means(cells), effects),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Trial:
    """One structure, fitted and compared with whole runs.

    `residual` is what makespans tell of costs, without how runs `ended` by luck, whose variance is `ending`; of that
    `stuck` is what no luck of usual batches explains.
    """

    structure: Structure
    costs: Costs
    rest: Rest
    judged: list[int]
    sensitivity: Sensitivity
    points: Points
    residual: Array
    ended: Array
    stuck: Array
    ending: Array
    prior: Array

    @property
    def makespans(self) -> Array:
        """What whole makespans are off by, without what runs were stuck for."""
        return self.residual + self.ended - self.stuck

    @property
    def evidence(self) -> float:
        """Log evidence of the makespans and of the batches, whose sums are much the same: each counts for half."""
        makespans = log_evidence(self.makespans, self.points.jacobian, self.prior)
        before = self.structure.before
        return (makespans + self.structure.value - before) / 2.0 + before


def _try(
    history: TaskHistory, cells: Cells, structure: Structure, spread: Array, rest: Rest, options: Options
) -> _Trial:
    runs = history.runs
    costs = structure.fit(cells, np.ones((1, len(cells))), spread)
    known = np.array([run.gaps > 0 for run in runs])
    rest = replace(rest, gap=_fit_gap(history, known, costs))
    judged = [i for i, run in enumerate(runs) if run.judged][-BACKTESTED:]
    replayed = _replay(history, [costs] * len(judged), [rest] * len(judged), judged, options)
    expected = replayed.mean(axis=1, keepdims=True)
    residual = np.log([runs[i].makespan_s for i in judged]) - np.log(expected[:, 0])
    sensitivity = Sensitivity.of(costs, cells)
    points = _run_points(history, sensitivity.of_runs(cells, len(runs)), rest, judged)
    ending = np.log(replayed / expected).var(axis=1)
    spent = np.bincount(cells.run, weights=cells.n * cells.mean_s, minlength=len(runs))
    longer = residual - np.log(np.maximum(spent / loads(costs, cells, len(runs))[0], 1e-12))[judged]
    ended, stuck, left = _ended(longer, ending)
    points = replace(points, luck=points.luck + left)
    prior = sensitivity.prior(cells, rest.variance.means(cells))
    return _Trial(structure, costs, rest, judged, sensitivity, points, residual - ended, ended, stuck, ending, prior)


def _ended(longer: Array, ending: Array) -> tuple[Array, Array, Array]:
    """What runs took longer than others by luck, what they were stuck for, and the variance of luck that may be left.

    How a run ends is in part luck, not how long the batches of a setting take: their sum tells of that. One item of a
    heavy tail even keeps one worker at work when all others are done. What all runs took longer than their batches
    explain is no luck, nor are differences beyond it: of what a run is off by luck has its share of the variance
    (shrinkage; Efron and Morris, J. Amer. Statist. Assoc. 70, 1975).

    Parameters
    ----------
    longer : ndarray of shape (n_runs,)
        Log makespan beyond what the batches explain.
    ending : ndarray of shape (n_runs,)
        Its variance by luck.
    """
    stuck = longer > np.maximum(_STUCK, _STUCK_SDS * np.sqrt(ending))
    weight = np.where(stuck, 0.0, 1.0 / (ending + _END_SD**2))
    common = float(weight @ longer / weight.sum()) if weight.any() else 0.0
    off = longer - common
    beside = max(_END_SD**2, float(weight @ (np.square(off) - ending) / max(weight.sum(), 1e-12)))
    share = np.where(stuck, 1.0, ending / (ending + beside))
    return off * share, np.where(stuck, longer, 0.0), beside * np.where(stuck, 0.0, share)


def _run_points(history: TaskHistory, jacobian: Array, rest: Rest, judged: list[int]) -> Points:
    runs = [history.runs[i] for i in judged]
    items = np.array([r.items for r in runs], dtype=np.float64)
    drawn = luck(rest, items, items / np.array([r.batches for r in runs]))
    return Points(
        jacobian=jacobian[judged],
        setting=np.log(np.array([(r.items / r.batches, r.workers) for r in runs], dtype=np.float64).reshape(-1, 2)),
        order=np.array(judged, dtype=np.float64),
        extra=np.square(disturbance(runs)),
        luck=drawn,
    )


def disturbance(runs: Sequence[RunSummary]) -> Array:
    """How much less of a processor each run had than others of as many workers, or more: log share, 0 for none.

    Other work on the same processors takes time from a run without costing it processor time. Work that mostly waits
    shows nothing.
    """
    share = np.array([run.cpu_s / run.spent_s if run.spent_s > 0 else 0.0 for run in runs], dtype=np.float64)
    workers = np.array([run.workers for run in runs], dtype=np.int64)
    counts, place = np.unique(-workers, return_inverse=True)
    usual = np.zeros(len(counts))
    np.maximum.at(usual, place, share)
    usual = np.maximum.accumulate(usual)[place]  # of as many workers, or more
    out, known = np.zeros(len(runs)), (usual > _AT_WORK) & (share > 0)
    out[known] = np.log(np.minimum(usual[known], 1.0) / np.minimum(share[known], 1.0))
    return np.where(out > _DISTURBED, out, 0.0)


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


def _replay(history: TaskHistory, costs: list[Costs], rests: list[Rest], which: list[int], options: Options) -> Array:
    """Simulated makespans of recorded runs, each under its own coefficients, of shape (n_runs, replicates)."""
    runs = [history.runs[i] for i in which]
    plans = Plans.recorded([run.body for run in runs], [run.tail for run in runs], [run.workers for run in runs])
    parts = []
    for i, (cost, rest) in enumerate(zip(costs, rests, strict=True)):
        one = plans.take(np.array([i]))
        # A recorded run says how many of its workers were new; a future one does not.
        known = Rest(rest.gap, rest.variance, rest.stagger_s, runs[i].cold, rest.hosts)
        parts.append(timing_of(one, cost, known))
    played = [
        simulate(plans.take(np.array([i])), timing, options.replicates // 2, options.seed)[0]
        for i, timing in enumerate(parts)
    ]
    return np.array(played, dtype=np.float64).reshape(len(which), options.replicates // 2)


def _backtest(trial: _Trial, history: TaskHistory, cells: Cells, spread: Array, effects: RunEffects) -> Backtest:
    """Predict each judged run from the others, with the model and with the baseline."""
    runs, judged = history.runs, trial.judged
    measured = np.array([runs[i].makespan_s for i in judged])
    ids = tuple(runs[i].run_id for i in judged)
    if len(runs) < 3 or len(judged) < 3:
        nothing = np.full(len(judged), np.nan)
        return Backtest(ids, nothing, measured, nothing, nothing, nothing)
    fold = folds(len(runs))
    held = fold[None, :] == np.arange(fold.max() + 1)[:, None]
    weights = np.where(held[:, cells.run], 0.0, 1.0)
    costs = trial.structure.fit(cells, weights, spread)
    # How much longer each run would take under the coefficients of each fold: all its batches together.
    longer = np.log(loads(costs, cells, len(runs)) / loads(trial.costs, cells, len(runs)))[:, judged]
    of = fold[judged]
    # What a new process costs is known from no other run where only the left-out one had new processes.
    cold_cells = (weights * cells.cold[None, :]).sum(axis=1) > 0
    error, expected = np.full(len(judged), np.nan), np.full(len(judged), np.nan)
    for k, (i, f) in enumerate(zip(judged, of.tolist(), strict=True)):
        if runs[i].cold > 0 and not cold_cells[f]:
            continue
        residual = trial.residual - longer[f]
        shift, expected[k] = leave_out(effects, k, residual)
        error[k] = residual[k] - shift + trial.ended[k]
        expected[k] = math.hypot(expected[k], max(math.sqrt(trial.ending[k]), trial.stuck[k]))
    predicted = measured * np.exp(-np.where(np.isfinite(error), error, trial.residual + trial.ended))
    baseline = np.array(baseline_errors([runs[i] for i in judged]))
    return Backtest(ids, predicted, measured, error, baseline, expected)
