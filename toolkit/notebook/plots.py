"""Display objects of a recommendation: where the fast settings are, and how far predictions can be believed.

Each is made by a ``from_…`` constructor, holds plain values, and draws itself with ``plot(ax=None)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from toolkit.notebook import format as fmt
from toolkit.notebook import theme
from toolkit.notebook.heat import HeatGrid, colour, hexa, ink, setting
from toolkit.notebook.measured import measured_runs, measured_settings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from toolkit.tuning import Recommendation, Recommender


@dataclass(eq=False, repr=False)
class MakespanMap(theme.Display):
    """Heat map of the predicted makespan over batch size and workers.

    The recommended cell is framed, measured settings carry a dot, extrapolated ones are hatched.

    Attributes
    ----------
    grid : HeatGrid
        The cells.
    """

    grid: HeatGrid
    height: ClassVar[float] = 3.9

    @classmethod
    def from_recommendation(cls, recommendation: Recommendation) -> MakespanMap:
        """Take the cells of a recommendation's grid."""
        return cls(HeatGrid.from_recommendation(recommendation))

    @classmethod
    def from_model(cls, model: Recommender, task: str | None = None, **question: Any) -> MakespanMap:
        """Ask a fitted model; `question` as for `Recommender.recommend`, with at least ``n_items``."""
        return cls.from_recommendation(model.recommend(task, **question))

    def finding(self) -> str:
        """Return the recommended setting and what it takes."""
        return self.grid.finding()

    def caption(self) -> str:
        """Return the range of the map and how much of it was measured."""
        return self.grid.describe()

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "batch size (items)", "workers", grid="")
        if not self.grid:
            theme.empty(axes, "no prediction")
            return
        shares = self.grid.shares()
        for i, j in np.ndindex(shares.shape):
            if np.isfinite(shares[i, j]):
                self._cell(axes, i, j, colour(float(shares[i, j])))
        self._marks(axes)
        axes.set_xlim(-0.5, len(self.grid.batch_sizes) - 0.5)
        axes.set_ylim(-0.5, len(self.grid.workers) - 0.5)
        axes.set_xticks(range(len(self.grid.batch_sizes)), [fmt.batch_size(b) for b in self.grid.batch_sizes])
        axes.set_yticks(range(len(self.grid.workers)), [fmt.count(w) for w in self.grid.workers])
        theme.legend(axes)

    def _cell(self, axes: Axes, i: int, j: int, ground: tuple[int, int, int]) -> None:
        beyond = bool(self.grid.extrapolated[i, j])
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=hexa(ground), edgecolor="#ffffff", linewidth=0.6))
        if beyond:
            # Hatched in the ink of the cell.
            hatch = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="///", linewidth=0, alpha=0.45)
            hatch.set_edgecolor(ink(ground))
            axes.add_patch(hatch)
        best = self.grid.is_recommended(i, j)
        weight = "bold" if best else "normal"
        words = self.grid.cell_text(i, j)
        text = axes.text(j, i, words, ha="center", va="center", fontsize=8, color=ink(ground), fontweight=weight)
        text.set_in_layout(False)  # within the axes: to measure each of them twice would take longer than to draw it
        if beyond:  # no hatch runs through the number
            text.set_bbox({"facecolor": hexa(ground), "edgecolor": "none", "pad": 1.5})

    def _marks(self, axes: Axes) -> None:
        rows, columns = np.nonzero(self.grid.measured)
        if rows.size:
            axes.scatter(
                columns + 0.36, rows + 0.26, s=15, color="#ffffff", edgecolor="#000000", linewidth=0.8, label="measured"
            )
        size, workers = self.grid.recommended or (0, 0)
        if size in self.grid.batch_sizes and workers in self.grid.workers:
            corner = self.grid.batch_sizes.index(size) - 0.5, self.grid.workers.index(workers) - 0.5
            frame = Rectangle(corner, 1, 1, fill=False, edgecolor=theme.VERMILLION, linewidth=3, label="recommended")
            frame.set_zorder(3)
            axes.add_patch(frame)
        if self.grid.extrapolated.any():
            # Without size: it is there for the legend.
            axes.add_patch(Rectangle((0, 0), 0, 0, fill=False, edgecolor=theme.INK, hatch="///", label="extrapolated"))


@dataclass(eq=False, repr=False)
class ThroughputPlot(theme.Display):
    """Throughput over batch size: what was measured, and the model's line with its interval.

    Attributes
    ----------
    workers : int
        Worker count of the line and of the filled points.
    batch_size, rate, low, high : ndarray of shape (n_sizes,)
        The model's line: items per second and the ends of the 90 % interval.
    measured_batch_size, measured_workers : ndarray of int of shape (n_settings,)
        Settings measured.
    measured_rate, measured_low, measured_high : ndarray of shape (n_settings,)
        Median and quartiles over their runs of items per second.
    recommended : float or None
        The recommended batch size, where `workers` is the recommended count.
    """

    workers: int
    batch_size: NDArray[np.float64]
    rate: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    measured_batch_size: NDArray[np.int64]
    measured_workers: NDArray[np.int64]
    measured_rate: NDArray[np.float64]
    measured_low: NDArray[np.float64]
    measured_high: NDArray[np.float64]
    recommended: float | None = None

    @classmethod
    def from_recommendation(
        cls, recommendation: Recommendation, frame: pd.DataFrame, *, workers: int | None = None
    ) -> ThroughputPlot:
        """Set a recommendation's grid beside the runs of a metrics frame.

        Parameters
        ----------
        recommendation : Recommendation
            Its grid gives the line.
        frame : DataFrame
            Metric rows of the same task.
        workers : int, optional
            Worker count of the line; by default the recommended one.
        """
        grid = recommendation.grid
        count = recommendation.workers if workers is None else workers
        # A refused recommendation predicts nothing: its grid repeats what was measured.
        line = grid[(grid["workers"] == count) & ~bool(recommendation.refused)].sort_values("batch_size")
        seen = measured_settings(measured_runs(frame))
        values = {name: line[name].to_numpy(dtype=float) for name in ("batch_size", "makespan_s", "low_s", "high_s")}
        n_items = recommendation.n_items
        chosen = not recommendation.refused and count == recommendation.workers
        return cls(
            workers=count,
            batch_size=values["batch_size"],
            rate=n_items / values["makespan_s"],
            low=n_items / values["high_s"],
            high=n_items / values["low_s"],
            measured_batch_size=np.array([s.batch_size for s in seen], dtype=np.int64),
            measured_workers=np.array([s.workers for s in seen], dtype=np.int64),
            measured_rate=np.array([s.rate for s in seen], dtype=float),
            measured_low=np.array([s.rate_low for s in seen], dtype=float),
            measured_high=np.array([s.rate_high for s in seen], dtype=float),
            recommended=recommendation.batch_size if chosen else None,
        )

    def finding(self) -> str:
        """Return where throughput is highest, in the model, or else among what was measured."""
        if self.rate.size:
            best = int(np.nanargmax(self.rate))
            size, rate = float(self.batch_size[best]), float(self.rate[best])
            what = f"With {fmt.quantity(self.workers, 'worker')}, throughput peaks at batch size {fmt.count(size)}"
            return f"{what}: {fmt.rate(rate)} predicted"
        if self.measured_rate.size:
            best = int(np.nanargmax(self.measured_rate))
            where = setting(int(self.measured_batch_size[best]), int(self.measured_workers[best]))
            return f"Highest throughput measured: {fmt.rate(float(self.measured_rate[best]))}, {where}"
        return "No throughput to show"

    def caption(self) -> str:
        """Return the finding with the range of the line and the number of settings measured."""
        here = int((self.measured_workers == self.workers).sum())
        other = int(self.measured_workers.size) - here
        parts = [f"{self.finding()}."]
        if self.rate.size:
            low, high = float(np.nanmin(self.rate)), float(np.nanmax(self.rate))
            parts.append(
                f"The line is the model with its 90 % interval, from {fmt.rate(low)} to {fmt.rate(high)} over "
                f"batch sizes {fmt.count(self.batch_size.min())} to {fmt.count(self.batch_size.max())}."
            )
        parts.append(
            f"Points are medians of measured runs with quartiles: {fmt.quantity(here, 'setting')} with this worker"
            f" count{f', {fmt.count(other)} with others (hollow)' if other else ''}."
        )
        return " ".join(parts)

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "batch size (items, logarithmic)", "items per second", grid="both")
        if not self.rate.size and not self.measured_rate.size:
            theme.empty(axes, "nothing measured, nothing predicted")
            return
        if self.rate.size:
            axes.fill_between(
                self.batch_size, self.low, self.high, color=theme.SKY, alpha=0.3, linewidth=0, label="90 % interval"
            )
            axes.plot(self.batch_size, self.rate, color=theme.BLUE, linewidth=2, label=f"model, {self.workers} workers")
        same = self.measured_workers == self.workers
        for chosen, fill, words in ((same, True, f"measured, {self.workers} workers"), (~same, False, "other counts")):
            if chosen.any():
                self._points(axes, chosen, fill, words)
        if self.recommended is not None:
            axes.axvline(
                self.recommended, color=theme.VERMILLION, linewidth=1.4, linestyle=(0, (4, 3)), label="recommended"
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 1.08 * float(np.nanmax(np.concatenate([self.high, self.rate, self.measured_high]))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.number(value)))
        sizes = np.concatenate([self.batch_size, self.measured_batch_size])
        theme.log_ticks(axes, float(sizes.min()), float(sizes.max()))
        theme.legend(axes, columns=5)

    def _points(self, axes: Axes, chosen: NDArray[np.bool_], fill: bool, words: str) -> None:
        rate = self.measured_rate[chosen]
        spread = np.vstack([rate - self.measured_low[chosen], self.measured_high[chosen] - rate])
        axes.errorbar(
            self.measured_batch_size[chosen], rate, yerr=spread, fmt="o" if fill else "D", capsize=3, markersize=6,
            color=theme.INK, markerfacecolor=theme.ORANGE if fill else theme.PAPER, elinewidth=1,
            markeredgewidth=1, zorder=4 if fill else 3, label=words,
        )  # fmt: skip


@dataclass(eq=False, repr=False)
class PredictedVsMeasured(theme.Display):
    """Predicted against measured makespan, setting by setting.

    Attributes
    ----------
    predicted_s, low_s, high_s, measured_s : ndarray of shape (n,)
        Prediction, ends of its 90 % interval, and what it took.
    """

    predicted_s: NDArray[np.float64]
    low_s: NDArray[np.float64]
    high_s: NDArray[np.float64]
    measured_s: NDArray[np.float64]
    height: ClassVar[float] = 4.2

    @classmethod
    def from_frame(cls, measured: pd.DataFrame) -> PredictedVsMeasured:
        """Take the columns ``predicted_s`` and ``measured_s``, and ``low_s`` and ``high_s`` where there are intervals.

        Rows without a prediction or a measurement are left out.
        """
        columns = ["predicted_s", "low_s", "high_s", "measured_s"]
        values = measured.reindex(columns=columns).astype(float).to_numpy()
        pairs = values[:, [0, 3]]
        values = values[np.isfinite(pairs).all(axis=1) & (pairs > 0).all(axis=1)]
        return cls(*values.T) if len(values) else cls(*np.zeros((4, 0)))

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which predictions came with an interval."""
        return np.isfinite(self.low_s) & np.isfinite(self.high_s)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which measurements lie inside their interval."""
        return (self.low_s <= self.measured_s) & (self.measured_s <= self.high_s)

    def error(self) -> float:
        """Median of the relative errors of the predictions; NaN without any."""
        if not self.measured_s.size:
            return float("nan")
        return float(np.median(np.abs(self.predicted_s / self.measured_s - 1)))

    def finding(self) -> str:
        """Return how many predictions held, and the typical error."""
        count = self.measured_s.size
        if not count:
            return "No prediction was tried yet"
        if not self.judged.any():
            return f"{fmt.quantity(count, 'run')} predicted from the others: typically {fmt.percent(self.error())} off"
        held = f"{int(self.inside.sum())} of {fmt.count(int(self.judged.sum()))} predictions held"
        return f"{held} (90 % interval); the typical error is {fmt.percent(self.error())}"

    def caption(self) -> str:
        """Return the finding, the range, and how to read the figure."""
        if not self.measured_s.size:
            return f"{self.finding()}."
        low, high = float(self.measured_s.min()), float(self.measured_s.max())
        bars = "Bars are the 90 % intervals, crosses lie outside of theirs. " if self.judged.any() else ""
        return (
            f"{self.finding()}. Measured makespans from {fmt.duration(low)} to {fmt.duration(high)} against their "
            f"predictions. {bars}On the line both agree."
        )

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "predicted makespan (s)", "measured makespan (s)", grid="both")
        if not self.measured_s.size:
            theme.empty(axes, "no prediction was tried yet")
            return
        everything = np.concatenate([self.predicted_s, self.low_s, self.high_s, self.measured_s])
        everything = everything[np.isfinite(everything) & (everything > 0)]
        low, high = float(everything.min()) / 1.15, float(everything.max()) * 1.15
        axes.plot([low, high], [low, high], color=theme.INK, linewidth=1, linestyle=(0, (4, 3)), label="equal")
        for chosen, mark, paint, words in (
            (self.inside, "o", theme.BLUE, "inside its interval"),
            (self.judged & ~self.inside, "X", theme.VERMILLION, "outside"),
            (~self.judged, "o", theme.BLUE, "prediction"),
        ):
            if chosen.any():
                x, y = self.predicted_s[chosen], self.measured_s[chosen]
                spread = np.abs(np.vstack([x - self.low_s[chosen], self.high_s[chosen] - x]))
                axes.errorbar(
                    x, y, xerr=spread, fmt=mark, color=paint, capsize=2.5, markersize=7, elinewidth=1, label=words
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        theme.log_ticks(axes, low, high)
        theme.log_ticks(axes, low, high, axis="y")
        theme.legend(axes)
