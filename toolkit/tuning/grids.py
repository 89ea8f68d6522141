"""What is predicted for many settings: the grid that is considered, and how two of its settings compare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.baseline import common_heuristic, throughput
from toolkit.tuning.history import Array
from toolkit.tuning.intervals import bounds
from toolkit.tuning.model import TaskModel
from toolkit.tuning.schedule import equal_splits

_LATTICE = 12  # sizes of the grid beside the measured and the most promising ones
_PROMISING = 10
_MOST_COUNTS = 16  # worker counts of the grid


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
    luck : ndarray
        Variance of log makespan by the luck of the schedule.
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
    luck: Array = field(repr=False)
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


def worker_counts(most: int, measured: tuple[int, ...]) -> list[int]:
    """Worker counts to consider: all of few, else a geometric selection and the measured ones."""
    if most <= _MOST_COUNTS:
        return list(range(1, most + 1))
    some = {round(w) for w in np.geomspace(1, most, _MOST_COUNTS)}
    return sorted(some | {w for w in measured if w <= most})


def predict_grid(model: TaskModel, n_items: int, limit: int) -> Grid:
    """Predict a grid: a lattice, measured sizes, that of the rule of thumb, and those that a screening promises."""
    counts = worker_counts(limit, model.checks.workers)
    fine = {round(b) for b in np.geomspace(1, n_items, 6 * max(1, math.ceil(math.log2(n_items + 1))))}
    fine |= {b for w in counts for b in equal_splits(n_items, w)}
    measured = {b for b, _ in model.checks.settings if b <= n_items} | {common_heuristic(n_items, counts[-1])}
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
    draws = model.screen(n_items, size, workers, draws=True)
    pairs = list(zip(size.tolist(), workers.tolist(), strict=True))
    beyond = np.array([model.checks.extrapolated(b, w) for b, w in pairs], dtype=bool)
    mean = simulated.mean(axis=1)
    luck = np.log(simulated / mean[:, None]).var(axis=1)
    low, high, method = bounds(model, (n_items, size, workers), luck)
    return Grid(
        batch_size=size,
        workers=workers,
        makespan_s=mean,
        low_s=mean * np.exp(low),
        high_s=mean * np.exp(high),
        draws_s=draws,
        luck=luck,
        measured=np.array([pair in model.checks.settings for pair in pairs]),
        extrapolated=beyond,
        method=method,
    )


def by_throughput(model: TaskModel, n_items: int, limit: int) -> Grid | None:
    """Measured settings with what their throughput promises; None where none is within the limit."""
    runs = [run for run in model.history.runs if run.judged]
    settings = sorted(
        {(run.batch_size, run.workers) for run in runs if run.workers <= limit and run.batch_size <= n_items}
    )
    if not settings:
        return None
    expected = np.array([n_items / throughput(runs, pair) for pair in settings], dtype=np.float64)
    errors = model.backtest.baseline[np.isfinite(model.backtest.baseline)]
    # As wide as runs differed, and as unsure of that as few runs are (Student's t, about 1.645 + 3 / n).
    wide = (1.645 + 3.0 / len(errors)) * math.sqrt(float(np.square(errors).mean()) + model.session_sd**2)
    size, workers = np.array(settings, dtype=np.int64).T
    return Grid(
        batch_size=size,
        workers=workers,
        makespan_s=expected,
        low_s=expected * math.exp(-wide),
        high_s=expected * math.exp(wide),
        draws_s=expected[None, :],
        luck=np.zeros(len(size)),
        measured=np.ones(len(size), dtype=bool),
        extrapolated=np.zeros(len(size), dtype=bool),
        method="throughput",
    )


@dataclass(frozen=True, slots=True)
class Paired:
    """Settings beside a reference, both thought of under the same circumstances: a mixture of normal log ratios.

    Attributes
    ----------
    mix : ndarray of shape (n_parts,)
        How probable each part is.
    mean, sd : ndarray of shape (n_parts, n_settings)
        Of the logarithm of the setting's makespan over the reference's.
    """

    mix: Array
    mean: Array
    sd: Array

    @property
    def loss(self) -> Array:
        """How much slower than the reference a setting is to be expected, where it is slower, of shape (n_settings,).

        The expectation of the log ratio's positive part, which is 0 for what cannot lose.
        """
        from scipy.special import ndtr

        z = self.mean / self.sd
        density = np.exp(-0.5 * np.square(z)) / math.sqrt(2.0 * math.pi)
        return np.asarray(self.mix @ (self.sd * density + self.mean * ndtr(z)))

    @property
    def gain(self) -> Array:
        """The same of how much faster it is where it is faster."""
        return self.loss - self.mix @ self.mean


def paired(
    model: TaskModel,
    n_items: int,
    weight: float,
    grid: Grid,
    at: NDArray[np.int64],
    *,
    doubting: bool = False,
) -> Paired:
    """Compare settings with the first of them; `at` says where in `grid` they are, `weight` how much cost counts.

    With `doubting` the costs may be farther from what was fitted than the model itself takes for likely.
    """
    effects = model.doubtful if doubting else model.effects
    points = model.points(np.full(len(at), n_items), grid.batch_size[at], grid.workers[at])
    mean, variance = effects.contrast(points)
    value = grid.makespan_s[at] * grid.workers[at].astype(np.float64) ** weight
    predicted = np.log(value / value[0])
    middle = model.effects.shift(points)  # which the makespans have in them
    further = np.square(model.beyond(grid.batch_size[at], grid.workers[at]))
    variance = variance + np.abs(further - further[0])
    mean = mean + predicted - (middle - middle[0])
    return Paired(effects.mix, mean[:, 1:], np.sqrt(variance[:, 1:]))


def compared(
    model: TaskModel, n_items: int, weight: float, grid: Grid, chosen: int, baseline: Mapping[str, Any]
) -> tuple[float, dict[str, tuple[float, float]], float | None]:
    """What is saved against the baseline, its 90 % interval, and the probability that anything is.

    Both settings are thought of under the same circumstances, so that what equal runs differ by does not count.
    """
    more_workers = float(grid.workers[chosen] / baseline["workers"]) ** weight
    ratio = float(grid.makespan_s[chosen]) / baseline["makespan_s"] * more_workers
    if grid.method == "throughput":
        return 1.0 - ratio, {}, None
    pair = [
        np.array([n_items, n_items], dtype=np.int64),
        np.array([baseline["batch_size"], int(grid.batch_size[chosen])], dtype=np.int64),
        np.array([baseline["workers"], int(grid.workers[chosen])], dtype=np.int64),
    ]
    points = model.points(*pair)
    mean, variance = (part[:, 1] for part in model.effects.contrast(points))
    rng = np.random.default_rng(model.options.seed + 5)
    pick = rng.choice(len(mean), size=4_000, p=model.effects.mix)
    middle = float(np.diff(model.effects.shift(points))[0])  # which `ratio` has in it
    drawn = ratio * np.exp(mean[pick] - middle + np.sqrt(variance[pick]) * rng.standard_normal(len(pick)))
    low, high = np.quantile(1.0 - drawn, [0.05, 0.95])
    same = (pair[1] == pair[1][0]).all() and (pair[2] == pair[2][0]).all()
    return 1.0 - ratio, {"saving": (float(low), float(high))}, None if same else float((drawn < 1.0).mean())
