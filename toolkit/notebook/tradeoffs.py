"""Display objects of what a choice costs: speed-up against workers, and makespan against worker time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from toolkit.notebook import format as fmt
from toolkit.notebook import theme
from toolkit.notebook.heat import setting
from toolkit.notebook.measured import measured_runs, measured_settings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from toolkit.tuning import Recommendation

ENOUGH: Final = 0.05
"""Share of the makespan that one more worker must save to be called worth it."""

MUCH_WORSE: Final = 3.0
"""Settings this many times worse than the front are outside of its figure."""

_ORDINALS: Final = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_FITS: Final = {
    "none": "no contention",
    "usl": "the universal scalability law",
}


def _fit_words(kind: str) -> str:
    name, _, point = kind.partition(":")
    if name == "saturation" and point:
        return f"{fmt.number(float(point))} processors that batches share" if point.isdigit() else "shared processors"
    return _FITS.get(name, "the model")


@dataclass(eq=False, repr=False)
class SpeedUp(theme.Display):
    """How many times as fast more workers are, at the recommended batch size: the model's line, and what was measured.

    Attributes
    ----------
    base : int
        The worker count that counts as 1.
    batch_size : float
        Batch size of the line.
    workers : ndarray of int of shape (n_counts,)
        Worker counts of the line, ascending.
    speedup, low, high : ndarray of shape (n_counts,)
        Predicted makespan with `base` workers over the one with this count, and the ends of its 90 % interval.
    extrapolated : ndarray of bool of shape (n_counts,)
        Counts outside of those measured.
    measured_workers : ndarray of int of shape (n_settings,)
        Worker counts of the settings measured.
    measured_speedup : ndarray of shape (n_settings,)
        Their throughput over the predicted one of `base` workers at the same batch size.
    recommended : int or None
        The recommended count.
    fit : str
        The law behind the line, in words.
    """

    base: int
    batch_size: float
    workers: NDArray[np.int64]
    speedup: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    extrapolated: NDArray[np.bool_]
    measured_workers: NDArray[np.int64]
    measured_speedup: NDArray[np.float64]
    recommended: int | None = None
    fit: str = "the model"

    @classmethod
    def from_recommendation(cls, recommendation: Recommendation, frame: pd.DataFrame | None = None) -> SpeedUp:
        """Take the line of the recommended batch size; of a refused recommendation nothing.

        Parameters
        ----------
        recommendation : Recommendation
            Its grid gives the line.
        frame : DataFrame, optional
            Metric rows of the same task, whose steady runs become points.
        """
        grid = recommendation.grid
        line = grid[(grid["batch_size"] == recommendation.batch_size) & ~bool(recommendation.refused)]
        line = line.sort_values("workers")
        if line.empty:
            none = np.zeros(0)
            whole = none.astype(np.int64)
            return cls(0, recommendation.batch_size, whole, none, none, none, none.astype(bool), whole, none)
        span = {name: line[name].to_numpy(dtype=float) for name in ("makespan_s", "low_s", "high_s")}
        base = int(line["workers"].iloc[0])
        one = span["makespan_s"][0]
        points = _points(grid, base, recommendation.n_items, frame)
        return cls(
            base=base,
            batch_size=recommendation.batch_size,
            workers=line["workers"].to_numpy(dtype=np.int64),
            speedup=one / span["makespan_s"],
            low=one / span["high_s"],
            high=one / span["low_s"],
            # Of the count alone: the recommended batch size may be beyond those measured, with any count.
            extrapolated=line["workers"].map(grid.groupby("workers")["extrapolated"].all()).to_numpy(dtype=bool),
            measured_workers=np.array([workers for workers, _ in points], dtype=np.int64),
            measured_speedup=np.array([value for _, value in points], dtype=float),
            recommended=int(recommendation.workers),
            fit=_fit_words(str(recommendation.evidence.get("contention", ""))),
        )

    def finding(self) -> str:
        """Return from which worker count on another one is hardly worth it."""
        inside = np.flatnonzero(~self.extrapolated)
        if not self.workers.size:
            return "No speed-up was predicted"
        if inside.size < 2:
            return "Only one worker count was measured: nothing is known about more workers"
        for here, following in pairwise(inside):
            saved = 1.0 - float(self.speedup[here] / self.speedup[following])
            if saved < ENOUGH:
                count = int(self.workers[here])
                enough = "1 worker is enough" if count == 1 else f"{fmt.count(count)} workers are enough"
                return f"{enough}: {self._one_more(int(here), int(following))} {_saving(saved)}"
        last = int(inside[-1])
        times = fmt.number(float(self.speedup[last]), 2)
        return (
            f"Every further worker pays up to {fmt.count(int(self.workers[last]))}, which are {times} times as fast as "
            f"{fmt.count(self.base)}"
        )

    def _one_more(self, here: int, following: int) -> str:
        more = int(self.workers[following])
        if more - int(self.workers[here]) > 1:
            return f"{fmt.count(more)} together"
        return f"a {_ORDINALS[more]} one" if more < len(_ORDINALS) else f"number {fmt.count(more)}"

    def caption(self) -> str:
        """Return the finding, each predicted speed-up, and how to read the figure."""
        if not self.workers.size:
            return f"{self.finding()}."
        each = ", ".join(
            f"{fmt.count(int(count))}: {fmt.number(float(value), 2)}{' (extrapolated)' if beyond else ''}"
            for count, value, beyond in zip(self.workers, self.speedup, self.extrapolated, strict=True)
        )
        points = int(self.measured_workers.size)
        seen = f" Points are {fmt.quantity(points, 'measured setting')}." if points else ""
        size, base = fmt.batch_size(self.batch_size), fmt.quantity(self.base, "worker")
        return (
            f"{self.finding()}. Predicted speed-up at batch size {size} by workers, against {base}: {each}. "
            f"The line follows {self.fit}; the band is its 90 % interval.{seen}"
        )

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "workers", f"speed-up (times {fmt.count(self.base)} worker)", grid="both")
        if not self.workers.size:
            theme.empty(axes, "no speed-up was predicted")
            return
        axes.fill_between(
            self.workers, self.low, self.high, color=theme.SKY, alpha=0.3, linewidth=0, label="90 % interval"
        )
        ends = np.array([self.workers[0], self.workers[-1]], dtype=float)
        axes.plot(ends, ends / self.base, color=theme.INK, linewidth=1, linestyle=(0, (1, 2)), label="ideal")
        if self.extrapolated.any():
            axes.plot(
                self.workers, self.speedup, color=theme.BLUE, linewidth=1.6, linestyle=(0, (4, 2)), label="extrapolated"
            )
        inside = ~self.extrapolated
        axes.plot(
            self.workers[inside], self.speedup[inside], color=theme.BLUE, linewidth=2.4, marker="o", markersize=4,
            label=f"predicted: {self.fit}",
        )  # fmt: skip
        if self.measured_workers.size:
            axes.scatter(
                self.measured_workers, self.measured_speedup, s=34, marker="D", color=theme.ORANGE,
                edgecolor=theme.INK, linewidth=0.9, zorder=4, label="measured",
            )  # fmt: skip
        if self.recommended is not None:
            axes.axvline(
                self.recommended, color=theme.VERMILLION, linewidth=1.4, linestyle=(0, (4, 3)), label="recommended"
            )
        most = np.concatenate([self.high, self.measured_speedup])
        axes.set_ylim(0, 1.12 * float(np.nanmax(most)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        theme.legend(axes, columns=3)


def _points(grid: pd.DataFrame, base: int, n_items: int, frame: pd.DataFrame | None) -> list[tuple[int, float]]:
    """Worker counts of the settings measured, and what their throughput is in workers of `base`."""
    if frame is None or frame.empty:
        return []
    alone = grid[grid["workers"] == base]
    one_s = dict(zip(alone["batch_size"].tolist(), alone["makespan_s"].tolist(), strict=True))
    seen = measured_settings(measured_runs(frame))
    return [(s.workers, s.rate * one_s[s.batch_size] / n_items) for s in seen if s.batch_size in one_s]


def _saving(share: float) -> str:
    if share < -0.005:
        return f"makes it {fmt.percent(-share)} slower"
    return f"saves {fmt.percent(max(0.0, share))}"


@dataclass(eq=False, repr=False)
class ParetoFront(theme.Display):
    """Makespan against worker time of every setting, with those that no other beats in both.

    Attributes
    ----------
    makespan_s, cost_worker_s : ndarray of shape (n_settings,)
        Predicted makespan, and workers times makespan.
    batch_size, workers : ndarray of shape (n_settings,)
        The settings.
    extrapolated : ndarray of bool of shape (n_settings,)
        Settings outside of what was measured.
    front : ndarray of int of shape (n_front,)
        Where those are that no other beats, the fastest first.
    chosen : int or None
        Where the recommended one is.
    """

    makespan_s: NDArray[np.float64]
    cost_worker_s: NDArray[np.float64]
    batch_size: NDArray[np.float64]
    workers: NDArray[np.int64]
    extrapolated: NDArray[np.bool_]
    front: NDArray[np.int64]
    chosen: int | None = None
    height: ClassVar[float] = 3.7

    @classmethod
    def from_recommendation(cls, recommendation: Recommendation) -> ParetoFront:
        """Take all cells of a recommendation's grid; of a refused one nothing."""
        grid = recommendation.grid[:0] if recommendation.refused else recommendation.grid
        places = {
            pair: place
            for place, pair in enumerate(zip(grid["batch_size"].tolist(), grid["workers"].tolist(), strict=True))
        }
        best = recommendation.pareto if len(grid) else grid
        front = [places[pair] for pair in zip(best["batch_size"].tolist(), best["workers"].tolist(), strict=True)]
        return cls(
            makespan_s=grid["makespan_s"].to_numpy(dtype=float),
            cost_worker_s=grid["cost_worker_s"].to_numpy(dtype=float),
            batch_size=grid["batch_size"].to_numpy(dtype=np.float64),
            workers=grid["workers"].to_numpy(dtype=np.int64),
            extrapolated=grid["extrapolated"].to_numpy(dtype=bool),
            front=np.array(front, dtype=np.int64),
            chosen=places.get((recommendation.batch_size, recommendation.workers)),
        )

    def _setting(self, place: int) -> str:
        return setting(float(self.batch_size[place]), int(self.workers[place]))

    def finding(self) -> str:
        """Return what the cheapest setting costs in time, and saves."""
        if not self.front.size:
            return "No setting to weigh"
        fast, cheap = int(self.front[0]), int(self.front[-1])
        if fast == cheap:
            return f"{self._setting(fast).capitalize()} is both the fastest and the cheapest"
        longer = float(self.makespan_s[cheap] / self.makespan_s[fast]) - 1
        less = 1 - float(self.cost_worker_s[cheap] / self.cost_worker_s[fast])
        return f"The cheapest setting takes {fmt.percent(longer)} longer and saves {fmt.percent(less)} of worker time"

    def caption(self) -> str:
        """Return the finding and both ends of the front."""
        if not self.front.size:
            return f"{self.finding()}."
        ends = dict.fromkeys([int(self.front[0]), int(self.front[-1])])
        each = "; ".join(
            f"{self._setting(place)}: {fmt.duration(float(self.makespan_s[place]))}, "
            f"{fmt.duration(float(self.cost_worker_s[place]))} of worker time"
            for place in ends
        )
        count = fmt.quantity(int(self.front.size), "setting")
        return (
            f"{self.finding()}. Of {fmt.quantity(int(self.makespan_s.size), 'setting')}, {count} "
            f"{'is' if self.front.size == 1 else 'are'} beaten by no other in both makespan and worker time. From the "
            f"fastest to the cheapest: {each}. Settings {fmt.number(MUCH_WORSE)} times worse are not drawn."
        )

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "predicted makespan (s)", "worker time (s)", grid="both")
        if not self.front.size:
            theme.empty(axes, "no setting was predicted")
            return
        rest = np.ones(self.makespan_s.size, dtype=bool)
        rest[self.front] = False
        for part, paint, words in (
            (rest & ~self.extrapolated, theme.SKY, "beaten by another"),
            (rest & self.extrapolated, theme.PAPER, "extrapolated"),
        ):
            if part.any():
                axes.scatter(
                    self.makespan_s[part], self.cost_worker_s[part], s=15, color=paint, edgecolor=theme.INK,
                    linewidth=0.4, label=words,
                )  # fmt: skip
        x, y = self.makespan_s[self.front], self.cost_worker_s[self.front]
        axes.plot(x, y, color=theme.BLUE, linewidth=1.8, marker="o", markersize=6, zorder=3, label="beaten by none")
        if self.chosen is not None:
            axes.scatter(
                self.makespan_s[self.chosen], self.cost_worker_s[self.chosen], s=190, marker="*",
                color=theme.VERMILLION, edgecolor=theme.PAPER, linewidth=0.8, zorder=5, label="recommended",
            )  # fmt: skip
        self._name_ends(axes)
        # What is far worse than the front would only squeeze it; the caption says how many settings there are.
        right = min(float(self.makespan_s.max()), MUCH_WORSE * float(x.max())) * 1.15
        top = min(float(self.cost_worker_s.max()), MUCH_WORSE * float(y.max())) * 1.15
        left, bottom = float(self.makespan_s.min()) / 1.15, float(self.cost_worker_s.min()) / 1.45
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        theme.log_ticks(axes, left, right)
        theme.log_ticks(axes, bottom, top, axis="y")
        theme.legend(axes, columns=5)

    def _name_ends(self, axes: Axes) -> None:
        for place in dict.fromkeys([int(self.front[0]), int(self.front[-1])]):
            workers = fmt.quantity(int(self.workers[place]), "worker")
            axes.annotate(
                f"{workers}, batches of {fmt.batch_size(float(self.batch_size[place]))}",
                (self.makespan_s[place], self.cost_worker_s[place]), xytext=(0, -15), textcoords="offset points",
                fontsize=8, color=theme.INK, zorder=4,
                bbox={"facecolor": theme.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )  # fmt: skip
