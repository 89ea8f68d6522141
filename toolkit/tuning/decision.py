"""From a fitted model to a recommendation: which settings are considered, which are allowed, which is best.

Pure: a model and a request in, a `Recommendation` out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import InvalidInput
from toolkit.records import percent
from toolkit.tuning import explain
from toolkit.tuning.baseline import best_measured, common_heuristic, throughput
from toolkit.tuning.grids import Grid, by_throughput, compared, paired, predict_grid
from toolkit.tuning.history import Array, RunSummary
from toolkit.tuning.intervals import bounds
from toolkit.tuning.meanwhile import least_regret
from toolkit.tuning.memory import MemoryModel, fit_memory
from toolkit.tuning.model import TaskModel
from toolkit.tuning.recommendation import Recommendation, grid_frame
from toolkit.tuning.tapering import find_tapering

SAME = 0.01  # settings whose makespans differ by less are equally fast
_MORE_MEMORY = 1.5
_FEW_TIMES = 8
_DEARER = 5.0  # times as much as a gain does a loss against the rule of thumb count
_GAMBLE = 0.05  # expected loss against it that no gain makes up for
_TRIED = 24  # settings that are compared with it
OBJECTIVES = ("makespan", "cost")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    n_items : int
        Items of the next run.
    objective : str or float
        ``makespan``, ``cost`` (worker seconds), or a weight between: 0 is makespan, 1 is cost.
    max_workers : int or None
        Most workers to consider; None for as many as were measured.
    deadline_s : float or None
        The run is to end within this time.
    deadline_risk : float
        Probability with which it may end later.
    max_worker_memory_bytes : int or None
        No worker is to grow beyond this.
    current : mapping or None
        The setting in use, keys ``batch_size`` and ``workers`` (or ``max_workers``): what a saving is measured against.
    """

    n_items: int
    objective: str | float = "makespan"
    max_workers: int | None = None
    deadline_s: float | None = None
    max_worker_memory_bytes: int | None = None
    current: Mapping[str, Any] | None = None
    deadline_risk: float = 0.05

    @property
    def weight(self) -> float:
        """How much cost counts beside makespan, from 0 to 1."""
        return float(OBJECTIVES.index(self.objective)) if isinstance(self.objective, str) else float(self.objective)

    @property
    def goal(self) -> str:
        """The objective as text."""
        return self.objective if isinstance(self.objective, str) else f"{self.weight:g}"

    def __post_init__(self) -> None:
        if not isinstance(self.n_items, int | np.integer) or self.n_items < 1:
            raise InvalidInput(f"n_items={self.n_items!r}: how many items the next run has, 1 or more")
        if not (self.objective in OBJECTIVES if isinstance(self.objective, str) else 0 <= self.objective <= 1):
            expected = f"one of {', '.join(OBJECTIVES)}, or a weight from 0 (makespan) to 1 (cost)"
            raise InvalidInput(f"objective={self.objective!r}: expected {expected}")
        if not 0 < self.deadline_risk < 1:
            raise InvalidInput(f"deadline_risk={self.deadline_risk!r}: expected a probability between 0 and 1")
        for name in ("max_workers", "deadline_s", "max_worker_memory_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"{name}={value!r}: expected more than 0, or None for no limit")
        if self.current is not None and not all(_current(self.current)):
            raise InvalidInput(f"current={self.current!r}: expected {{'batch_size': ..., 'workers': ...}}, 1 or more")


def _current(current: Mapping[str, Any]) -> tuple[int, int]:
    workers = current.get("workers", current.get("max_workers"))
    try:
        return max(0, int(current.get("batch_size") or 0)), max(0, int(workers or 0))
    except (TypeError, ValueError):
        return 0, 0


def recommend(model: TaskModel, request: Request) -> Recommendation:
    """Return the best setting for `request`, or say why there is none."""
    limit = request.max_workers or max(model.checks.workers)
    reason = explain.refusal(model)
    if reason:
        return _refused(model, request, limit, reason)
    grid = by_throughput(model, request.n_items, limit) if explain.loses(model) else None
    grid = grid or predict_grid(model, request.n_items, limit)
    memory = fit_memory(model.history.memory) if request.max_worker_memory_bytes else None
    allowed, binding = _allowed(model, request, grid, memory)
    if not allowed.any():
        return _refused(model, request, limit, binding[-1])
    chosen, preferred = _choose(model, grid, (allowed, _surely(model, request, grid, allowed)), request)
    promised = 1.0 - float(_value(grid, request)[allowed].min() / _predicted(grid, request)[chosen])
    if promised > SAME:
        preferred.append(f"what promises {percent(promised)} less may well be slower than the rule of thumb N / (4 w)")
    answer = _answer(model, request, grid, chosen, [*binding, *preferred])
    return answer if grid.method == "throughput" else _tapered(model, answer, grid, allowed)


def _tapered(model: TaskModel, answer: Recommendation, grid: Grid, allowed: NDArray[np.bool_]) -> Recommendation:
    """The answer, with what tapering gains where it gains anything; only sizes that may be chosen are tapered."""
    sizes = np.unique(grid.batch_size[allowed & ~grid.extrapolated & (grid.workers == answer.workers)])
    setting = (int(answer.batch_size), answer.workers)
    found = find_tapering(model, answer.n_items, setting, answer.makespan_s, sizes)
    if found is None:
        return answer
    gain = 1.0 - found.makespan_s / answer.makespan_s
    why = f"batches of {found.batch_size:,} that get smaller toward the end take {percent(gain)} less than equal ones"
    return replace(answer, taper=found.batch_size, taper_s=found.makespan_s, reasons=(*answer.reasons, why))


def _late_s(model: TaskModel, request: Request, grid: Grid) -> Array:
    """What each setting takes longer than with the probability `deadline_risk` only."""
    upper = 1.0 - request.deadline_risk
    if grid.method == "throughput":
        sd = np.log(grid.high_s / grid.makespan_s) / 1.645
        return np.asarray(grid.makespan_s * np.exp(sd * NormalDist().inv_cdf(upper)))
    setting = (np.full_like(grid.batch_size, request.n_items), grid.batch_size, grid.workers)
    return np.asarray(grid.makespan_s * np.exp(bounds(model, setting, grid.luck, upper)[1]))


def _allowed(
    model: TaskModel, request: Request, grid: Grid, memory: MemoryModel | None
) -> tuple[NDArray[np.bool_], list[str]]:
    """Which settings may be chosen, and which limits bind."""
    binding = []
    allowed = ~grid.extrapolated
    counted = np.array([model.checks.between(w) for w in grid.workers.tolist()], dtype=bool)
    if not counted.any():
        measured = ", ".join(f"{count:,}" for count in model.checks.workers)
        return counted, [f"no worker count within the limit was measured, only {measured}."]
    if allowed.any():
        # Sizes beyond the data count as slower than predicted, see `_value`, and their memory must be like before.
        allowed = allowed | (counted & _like_before(model, grid))
    else:
        allowed = counted
        binding.append("so few items allow only batches smaller than those measured")
    if request.max_worker_memory_bytes and memory is None:
        binding.append("the memory limit was not applied: no batch recorded its peak memory")
    if request.max_worker_memory_bytes and memory is not None:
        fits = memory.upper_bytes(grid.batch_size.astype(np.float64)) <= request.max_worker_memory_bytes
        text = f"a worker may use {request.max_worker_memory_bytes / 2**20:,.0f} MiB"
        if not (allowed & fits).any():
            return allowed & fits, [f"{text}, and no measured batch size stays below that."]
        if grid.makespan_s[allowed & fits].min() > (1 + SAME) * grid.makespan_s[allowed].min():
            largest = int(grid.batch_size[allowed & fits].max())
            binding.append(f"memory binds: {text}, which allows batches up to {largest:,} items")
        allowed &= fits
    if request.deadline_s:
        late_s = _late_s(model, request, grid)
        in_time = late_s <= request.deadline_s
        if (allowed & in_time).any():
            if _value(grid, request)[allowed & in_time].min() > (1 + SAME) * _value(grid, request)[allowed].min():
                sure = percent(1 - request.deadline_risk)
                binding.append(f"the deadline binds: with {sure} probability it ends within {request.deadline_s:g} s")
            allowed &= in_time
        else:
            binding.append(f"no setting is sure to end within {request.deadline_s:g} s; this one is the most likely to")
            allowed &= late_s <= late_s[allowed].min()
    return allowed, binding


def _like_before(model: TaskModel, grid: Grid) -> NDArray[np.bool_]:
    """Sizes that need hardly more memory than was seen; where memory is unknown, sizes up to a few times as large."""
    memory = fit_memory(model.history.memory)
    if memory is None:
        return np.asarray(grid.batch_size <= _FEW_TIMES * model.checks.sizes[1])
    seen = max(peak for _, peak in model.history.memory)
    return np.asarray(memory.upper_bytes(grid.batch_size.astype(np.float64)) <= _MORE_MEMORY * seen)


def _predicted(grid: Grid, request: Request) -> Array:
    """Makespan, cost, or what is between."""
    return np.asarray(grid.makespan_s * grid.workers.astype(np.float64) ** request.weight)


def _value(grid: Grid, request: Request) -> Array:
    """What is minimised: beyond the data the middle between what is predicted and the slow end of the interval."""
    value = _predicted(grid, request)
    return np.where(grid.extrapolated, value * np.sqrt(grid.high_s / grid.makespan_s), value)


def _surely(model: TaskModel, request: Request, grid: Grid, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the allowed settings are no gamble beside the rule of thumb, which everybody has without a model.

    Both are thought of under the same circumstances. What may lose is worth it where it gains far more: a loss against
    what costs nothing to know counts several times as much as a gain, up to what is never risked, and not at all below
    half of what counts as equal. A few items look like proof of whatever was fitted to them: so each comparison is made
    once more with costs that may be far from it, and the larger loss and the smaller gain count. Where the rule leads
    beyond what was measured, what is not known there is a doubt about what stands beside it. Where it leads far beyond,
    or may not be chosen, all others may.
    """
    workers = int(grid.workers.max())
    rule = (grid.batch_size == common_heuristic(request.n_items, workers)) & (grid.workers == workers)
    rule &= allowed & (grid.batch_size <= _FEW_TIMES * model.checks.sizes[1])
    if grid.method == "throughput" or not rule.any():
        return allowed
    at, value = int(np.flatnonzero(rule)[0]), _value(grid, request)
    better = np.flatnonzero(allowed & (value < value[at]))
    better = better[np.argsort(value[better], kind="stable")][:_TRIED]
    believed, doubted = (
        paired(model, request.n_items, request.weight, grid, np.append(at, better), doubting=doubting)
        for doubting in (False, True)
    )
    loss, gain = np.maximum(believed.loss, doubted.loss), np.minimum(believed.gain, doubted.gain)
    worth = (_DEARER * loss <= gain) & (loss <= _GAMBLE)
    sure: NDArray[np.bool_] = rule.copy()
    sure[better[worth | (loss <= SAME / 2)]] = True
    return sure


def _choose(
    model: TaskModel, grid: Grid, allowed: tuple[NDArray[np.bool_], NDArray[np.bool_]], request: Request
) -> tuple[int, list[str]]:
    """The best setting that is no gamble; one with fewer workers that loses less than 1 % by that, doubt included.

    Few runs leave open what a worker more brings. That two settings are predicted alike is no reason to do without it:
    the expected loss counts, in which a doubt is a loss. `allowed` are those that may be chosen, and those that are no
    gamble beside the rule of thumb.
    """
    may, sure = allowed
    value = _value(grid, request)
    best = int(np.argmin(np.where(sure, value, np.inf)))
    near = np.flatnonzero(may & (grid.workers < grid.workers[best]) & (value <= (1 + SAME) * value[best]))
    near = near[np.lexsort((value[near], grid.workers[near]))][:_TRIED]
    if len(near) and grid.method != "throughput":
        near = near[paired(model, request.n_items, request.weight, grid, np.append(best, near)).loss <= SAME]
    if not len(near):
        return best, []
    return int(near[0]), [f"{int(grid.workers[best])} workers would gain less than {percent(SAME)}"]


def _answer(model: TaskModel, request: Request, grid: Grid, chosen: int, remarks: list[str]) -> Recommendation:
    batch_size, workers = int(grid.batch_size[chosen]), int(grid.workers[chosen])
    makespan_s, cost = float(grid.makespan_s[chosen]), float(grid.cost_worker_s[chosen])
    low, high = float(grid.low_s[chosen]), float(grid.high_s[chosen])
    baseline = _baseline(model, request, grid)
    saving, intervals, better = compared(model, request.n_items, request.weight, grid, chosen, baseline)
    return Recommendation(
        task=model.history.task,
        n_items=int(request.n_items),
        batch_size=batch_size,
        workers=workers,
        makespan_s=makespan_s,
        cost_worker_s=cost,
        intervals={"makespan_s": (low, high), "cost_worker_s": (workers * low, workers * high), **intervals},
        coverage_method=grid.method,
        saving=saving,
        better=better,
        binds=explain.binds(model, request.n_items, (batch_size, workers), makespan_s, remarks),
        evidence=explain.evidence(model),
        reasons=(*explain.why(model, request.n_items, batch_size, workers), *remarks, *explain.how_sure(model)),
        baseline=baseline,
        grid=grid_frame(grid.columns()),
        objective=request.goal,
        experiment=explain.experiment(model, grid, chosen),
    )


def _baseline(model: TaskModel, request: Request, grid: Grid) -> dict[str, Any]:
    """The setting in use, else the rule of thumb, under the same model; and how well runs were predicted."""
    if request.current is not None:
        name, (size, workers) = "the current setting", _current(request.current)
    else:
        workers = int(grid.workers.max())
        name, size = "the rule of thumb N / (4 w)", common_heuristic(request.n_items, workers)
    one = np.array([min(size, request.n_items)], dtype=np.int64)
    count = np.array([workers], dtype=np.int64)
    makespan_s = float(model.makespans(np.array([request.n_items], dtype=np.int64), one, count).mean())
    return {
        "setting": name,
        "batch_size": int(one[0]),
        "workers": workers,
        "makespan_s": makespan_s,
        "cost_worker_s": workers * makespan_s,
        **explain.errors(model),
    }


def _meanwhile(model: TaskModel, request: Request, limit: int) -> tuple[int, int]:
    """What to run where nothing can be advised; (0, 0) where nothing within the limit was measured.

    The best one measured, unless the runs say little of each other. Batches of one size, as often of a single item, are
    a poor guide; and where runs are so unlike each other that their throughput predicts nothing, it does not tell
    either which of them was the best.
    """
    counts = [count for count in model.checks.workers if count <= limit]
    if model.checks.tied or request.max_worker_memory_bytes or not counts:
        best = best_measured(_judged(model), limit, cost=request.weight > 0.5)
        return (best.batch_size, best.workers) if best else (0, 0)
    workers = min(counts) if request.weight > 0.5 else max(counts)
    if not model.checks.size_known:
        return least_regret(model, request.n_items, workers), workers
    return common_heuristic(request.n_items, workers), workers


def _judged(model: TaskModel) -> list[RunSummary]:
    """Runs whose throughput says something; all of them where none does."""
    return [run for run in model.history.runs if run.judged] or list(model.history.runs)


def _refused(model: TaskModel, request: Request, limit: int, reason: str) -> Recommendation:
    """Only what was measured: no prediction is shown that the data do not support."""
    runs = _judged(model)
    settings = sorted({(run.batch_size, run.workers) for run in runs if run.workers <= limit})
    expected = np.array([request.n_items / throughput(runs, pair) for pair in settings], dtype=np.float64)
    columns = {
        "batch_size": [b for b, _ in settings],
        "workers": [w for _, w in settings],
        "makespan_s": expected,
        "low_s": np.full(len(settings), np.nan),
        "high_s": np.full(len(settings), np.nan),
        "cost_worker_s": expected * np.array([w for _, w in settings], dtype=np.float64),
        "measured": np.ones(len(settings), dtype=bool),
        "extrapolated": np.zeros(len(settings), dtype=bool),
    }
    batch_size, workers = _meanwhile(model, request, limit)
    experiment = explain.experiment_for_refusal(model, request.n_items, limit)
    return Recommendation(
        task=model.history.task,
        n_items=int(request.n_items),
        batch_size=batch_size,
        workers=workers,
        makespan_s=math.nan,
        cost_worker_s=math.nan,
        intervals={},
        coverage_method="model",
        saving=None,
        evidence=explain.evidence(model),
        reasons=tuple(explain.how_sure(model)),
        baseline=explain.errors(model),
        grid=grid_frame(columns),
        refused=reason[0].upper() + reason[1:] + (f" To change that: {experiment}" if experiment else ""),
        objective=request.goal,
        experiment=experiment,
    )


def no_history(task: str, request: Request) -> Recommendation:
    """The answer for a task of which nothing was recorded."""
    experiment = "run the task once with batch_size='auto', which tries several sizes at the head of the run"
    return Recommendation(
        task=task,
        n_items=int(request.n_items),
        batch_size=0,
        workers=0,
        makespan_s=math.nan,
        cost_worker_s=math.nan,
        intervals={},
        coverage_method="model",
        saving=None,
        evidence={"runs": 0, "batches": 0},
        reasons=(),
        baseline={},
        grid=grid_frame(),
        refused=f"No finished batch of this task is recorded: {experiment}.",
        objective=request.goal,
        experiment=experiment,
    )
