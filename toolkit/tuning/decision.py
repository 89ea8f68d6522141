"""From a fitted model to a recommendation: which settings are considered, which are allowed, which is best.

Pure: a model and a request in, a `Recommendation` out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import InvalidInput
from toolkit.tuning import explain
from toolkit.tuning.baseline import best_measured, common_heuristic, throughput
from toolkit.tuning.history import Array
from toolkit.tuning.intervals import bounds
from toolkit.tuning.memory import MemoryModel, fit_memory
from toolkit.tuning.model import TaskModel
from toolkit.tuning.recommendation import Recommendation, grid_frame
from toolkit.tuning.schedule import equal_splits

SAME = 0.01  # settings whose makespans differ by less are equally fast
_LATTICE = 12  # sizes of the grid beside the measured and the most promising ones
_PROMISING = 10
_MOST_COUNTS = 16  # worker counts of the grid
OBJECTIVES = ("makespan", "cost")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    n_items : int
        Items of the next run.
    objective : str
        ``makespan`` or ``cost`` (worker seconds).
    max_workers : int or None
        Most workers to consider; None for as many as were measured.
    deadline_s : float or None
        The run is to end within this time, with the upper end of its interval.
    max_worker_memory_bytes : int or None
        No worker is to grow beyond this.
    current : mapping or None
        The setting in use, keys ``batch_size`` and ``workers`` (or ``max_workers``): what a saving is measured against.
    """

    n_items: int
    objective: str = "makespan"
    max_workers: int | None = None
    deadline_s: float | None = None
    max_worker_memory_bytes: int | None = None
    current: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.n_items, int | np.integer) or self.n_items < 1:
            raise InvalidInput(f"n_items={self.n_items!r}: how many items the next run has, 1 or more")
        if self.objective not in OBJECTIVES:
            raise InvalidInput(f"objective={self.objective!r}: expected one of {', '.join(OBJECTIVES)}")
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


@dataclass(frozen=True, slots=True)
class Grid:
    """Considered settings with what is predicted for them, arrays of one length.

    Attributes
    ----------
    batch_size, workers : ndarray of int64
        Settings.
    makespan_s, low_s, high_s : ndarray
        Expected makespan and 90 % interval.
    draws_s : ndarray of shape (n_draws, n_settings)
        Makespans in closed form under each set of coefficients.
    measured, extrapolated : ndarray of bool
        Whether runs had the setting, and whether it is outside of what they had.
    method : str
        Where the intervals come from.
    """

    batch_size: NDArray[np.int64]
    workers: NDArray[np.int64]
    makespan_s: Array
    low_s: Array
    high_s: Array
    draws_s: Array = field(repr=False)
    measured: NDArray[np.bool_]
    extrapolated: NDArray[np.bool_]
    method: str

    @property
    def cost_worker_s(self) -> Array:
        """Worker seconds reserved."""
        return np.asarray(self.workers * self.makespan_s)

    def columns(self) -> dict[str, Any]:
        """Columns of ``Recommendation.grid``."""
        names = ("batch_size", "workers", "makespan_s", "low_s", "high_s", "cost_worker_s", "measured", "extrapolated")
        return {name: getattr(self, name) for name in names}


def recommend(model: TaskModel, request: Request) -> Recommendation:
    """Return the best setting for `request`, or say why there is none."""
    limit = request.max_workers or max(model.checks.workers)
    reason = explain.refusal(model)
    if reason:
        return _refused(model, request, limit, reason)
    grid = predict_grid(model, request.n_items, limit)
    memory = fit_memory(model.history.memory) if request.max_worker_memory_bytes else None
    allowed, binding = _allowed(model, request, grid, memory)
    if not allowed.any():
        return _refused(model, request, limit, binding[-1])
    chosen, preferred = _choose(grid, allowed, request)
    return _answer(model, request, grid, chosen, [*binding, *preferred])


def worker_counts(most: int, measured: tuple[int, ...]) -> list[int]:
    """Worker counts to consider: all of few, else a geometric selection and the measured ones."""
    if most <= _MOST_COUNTS:
        return list(range(1, most + 1))
    some = {round(w) for w in np.geomspace(1, most, _MOST_COUNTS)}
    return sorted(some | {w for w in measured if w <= most})


def predict_grid(model: TaskModel, n_items: int, limit: int) -> Grid:
    """Predict a grid of settings: a lattice, the measured sizes, and those that a screening found promising."""
    counts = worker_counts(limit, model.checks.workers)
    fine = {round(b) for b in np.geomspace(1, n_items, 6 * max(1, math.ceil(math.log2(n_items + 1))))}
    fine |= {b for w in counts for b in equal_splits(n_items, w)}
    measured = {b for b, _ in model.checks.settings if b <= n_items}
    every = np.array(sorted(fine | measured), dtype=np.int64)
    size, workers = (a.ravel() for a in np.meshgrid(every, np.array(counts, dtype=np.int64), indexing="ij"))
    screened = model.screen(np.full_like(size, n_items), size, workers)[0]
    inside = np.array(
        [not model.checks.extrapolated(b, w) for b, w in zip(size.tolist(), workers.tolist(), strict=True)]
    )
    order = np.argsort(np.where(inside, screened, screened + 10 * screened.max()), kind="stable")
    promising = list(dict.fromkeys(size[order].tolist()))[:_PROMISING]
    # Sizes beyond the data too: where fixed costs rule, structure says that they win, and the choice asks for proof.
    promising += list(dict.fromkeys(size[np.argsort(screened, kind="stable")].tolist()))[:_PROMISING]
    lattice = {round(b) for b in np.geomspace(1, n_items, _LATTICE)}
    sizes = np.array(sorted(lattice | measured | set(promising)), dtype=np.int64)
    size, workers = (a.ravel() for a in np.meshgrid(sizes, np.array(counts, dtype=np.int64), indexing="ij"))
    return predict_settings(model, np.full_like(size, n_items), size, workers)


def predict_settings(
    model: TaskModel, n_items: NDArray[np.int64], size: NDArray[np.int64], workers: NDArray[np.int64]
) -> Grid:
    """Predict settings with their intervals."""
    simulated = model.makespans(n_items, size, workers)
    point = model.screen(n_items, size, workers)[0]
    draws = model.screen(n_items, size, workers, draws=True)
    pairs = list(zip(size.tolist(), workers.tolist(), strict=True))
    beyond = np.array([model.checks.extrapolated(b, w) for b, w in pairs], dtype=bool)
    low, high, method = bounds(model, point, draws, simulated, beyond)
    mean = simulated.mean(axis=1)
    return Grid(
        batch_size=size,
        workers=workers,
        makespan_s=mean,
        low_s=mean * np.exp(low),
        high_s=mean * np.exp(high),
        draws_s=draws,
        measured=np.array([pair in model.checks.settings for pair in pairs]),
        extrapolated=beyond,
        method=method,
    )


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
        # A size beyond the data is trusted only where even the slow end of its interval beats the best inside.
        best = grid.makespan_s[allowed].min()
        allowed = allowed | (grid.extrapolated & counted & (grid.high_s < best))
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
        in_time = grid.high_s <= request.deadline_s
        if (allowed & in_time).any():
            allowed &= in_time
        else:
            binding.append(f"no setting is sure to end within {request.deadline_s:g} s; this one is the most likely to")
            fastest = grid.high_s[allowed].min()
            allowed &= grid.high_s <= fastest
    return allowed, binding


def _choose(grid: Grid, allowed: NDArray[np.bool_], request: Request) -> tuple[int, list[str]]:
    """The best allowed setting; within 1 % the one with fewer workers."""
    value = grid.cost_worker_s if request.objective == "cost" else grid.makespan_s
    masked = np.where(allowed, value, np.inf)
    best = int(np.argmin(masked))
    near = np.flatnonzero(masked <= (1 + SAME) * masked[best])
    fewest = near[grid.workers[near] == grid.workers[near].min()]
    chosen = int(fewest[np.argmin(grid.makespan_s[fewest])])
    if grid.workers[chosen] < grid.workers[best]:
        return chosen, [f"{int(grid.workers[best])} workers would gain less than {SAME:.0%}"]
    return chosen, []


def _answer(model: TaskModel, request: Request, grid: Grid, chosen: int, remarks: list[str]) -> Recommendation:
    batch_size, workers = int(grid.batch_size[chosen]), int(grid.workers[chosen])
    makespan_s, cost = float(grid.makespan_s[chosen]), float(grid.cost_worker_s[chosen])
    low, high = float(grid.low_s[chosen]), float(grid.high_s[chosen])
    baseline = _baseline(model, request, grid)
    value, other = (cost, "cost_worker_s") if request.objective == "cost" else (makespan_s, "makespan_s")
    method = grid.method
    if method == "conformal" and grid.extrapolated[chosen]:
        method = "model"
    return Recommendation(
        task=model.history.task,
        n_items=int(request.n_items),
        batch_size=batch_size,
        workers=workers,
        makespan_s=makespan_s,
        cost_worker_s=cost,
        intervals={"makespan_s": (low, high), "cost_worker_s": (workers * low, workers * high)},
        coverage_method=method,
        saving=1.0 - value / baseline[other],
        evidence=explain.evidence(model),
        reasons=(*explain.why(model, request.n_items, batch_size, workers), *remarks, *explain.how_sure(model)),
        baseline=baseline,
        grid=grid_frame(grid.columns()),
        objective=request.objective,
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


def _refused(model: TaskModel, request: Request, limit: int, reason: str) -> Recommendation:
    """Only what was measured: no prediction is shown that the data do not support."""
    runs = [run for run in model.history.runs if run.judged] or list(model.history.runs)
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
    best = best_measured(runs, limit, cost=request.objective == "cost")
    experiment = explain.experiment_for_refusal(model, request.n_items, limit)
    return Recommendation(
        task=model.history.task,
        n_items=int(request.n_items),
        batch_size=best.batch_size if best else 0,
        workers=best.workers if best else 0,
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
        objective=request.objective,
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
        objective=request.objective,
        experiment=experiment,
    )
