"""One measure against another: what the metrics explorer draws for the axes that its user picks.

Batches are condensed to medians and quartiles before anything is drawn, so a million rows make as light a figure as a
hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from toolkit.notebook import escape, theme
from toolkit.notebook import format as fmt
from toolkit.notebook.measured import epoch_s, groups_of, measured_runs, spent_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MAX_PLACES: Final = 24
"""Places along the horizontal axis; more values are put together."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that can be on the vertical axis.

    Attributes
    ----------
    words : str
        What it is.
    values : callable
        From a metrics frame to a Series of floats, one a batch.
    text : callable
        From a value to text with its unit.
    """

    words: str
    values: Callable[[pd.DataFrame], pd.Series]
    text: Callable[[float | None], str]


def _per_item(frame: pd.DataFrame) -> pd.Series:
    return spent_s(frame) / frame["items"].where(frame["items"] > 0)


def _overhead(frame: pd.DataFrame) -> pd.Series:
    rest = frame[["decode_s", "store_s", "idle_s"]].fillna(0.0).clip(lower=0.0).sum(axis=1)
    whole = rest + frame["service_s"].fillna(0.0)
    return rest / whole.where(whole > 0)


def _processor(frame: pd.DataFrame) -> pd.Series:
    return (frame["cpu_user_s"] + frame["cpu_system_s"]) / frame["service_s"].where(frame["service_s"] > 0)


def _failed(frame: pd.DataFrame) -> pd.Series:
    return frame["failed"] / frame["items"].where(frame["items"] > 0)


def _rate(frame: pd.DataFrame) -> pd.Series:
    """Items per second of the run that a batch belongs to."""
    rates = {run.run_id: run.rate for run in measured_runs(frame)}
    codes, ids = pd.factorize(frame["run_id"])
    return pd.Series(np.array([rates.get(str(i), np.nan) for i in ids])[codes], index=frame.index)


MEASURES: Final = {
    "rate": Measure("throughput of the run", _rate, fmt.rate),
    "item_s": Measure("worker time per item", _per_item, fmt.duration),
    "service_s": Measure("service time of a batch", lambda f: f["service_s"], fmt.duration),
    "idle_s": Measure("wait between batches", lambda f: f["idle_s"], fmt.duration),
    "overhead": Measure("time not in your code", _overhead, fmt.percent),
    "processor": Measure("processor use in your code", _processor, fmt.percent),
    "peak_rss_bytes": Measure("peak memory of the worker", lambda f: f["peak_rss_bytes"].astype(float), fmt.size),
    "failed": Measure("items that failed", _failed, fmt.percent),
}
"""What can be on the vertical axis."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Something that can be on the horizontal axis.

    Attributes
    ----------
    words : str
        What it is.
    at : str
        A place on it in a sentence, with ``{}`` for the value.
    names : bool
        Its values are names, not numbers.
    """

    words: str
    at: str
    names: bool = False


AXES: Final = {
    "batch_size": Axis("batch size (items)", "batch size {}"),
    "items": Axis("items executed in the batch", "{} items"),
    "active_claims": Axis("batches at the same time", "{} batches at a time"),
    "batch": Axis("batch number in its run", "batch number {}"),
    "elapsed_s": Axis("seconds since the run began", "{} s into the run"),
    "run_id": Axis("run", "run {}", names=True),
    "name": Axis("name of the run", "run {}", names=True),
    "host": Axis("host", "host {}", names=True),
    "worker": Axis("worker", "{}", names=True),
    "code_version": Axis("version of the code", "version {}", names=True),
}
"""What can be on the horizontal axis."""

GROUPS: Final = {
    "": "all together", "workers": "workers", "task": "task", "host": "host", "code_version": "version",
    "name": "run",
}  # fmt: skip
"""What can make the groups that are told apart by colour and mark."""


@dataclass(eq=False, repr=False)
class Relation(theme.Display):
    """Medians and quartiles of a measure along an axis, one series a group.

    Attributes
    ----------
    measure, axis, by : str
        Keys of `MEASURES`, `AXES` and `GROUPS`.
    places : tuple of str
        Names of the places where the axis holds names; empty where it holds numbers.
    labels : tuple of str
        The groups that are drawn.
    group : ndarray of int of shape (n_points,)
        Group of each point.
    x : ndarray of shape (n_points,)
        Where a point is; an index into `places`, if there are any.
    middle, low, high : ndarray of shape (n_points,)
        Median and quartiles of the measure.
    batches : ndarray of int of shape (n_points,)
        Batches behind each point.
    left_out : int
        Batches that are not drawn: of smaller groups or places, or without a value.
    """

    measure: str
    axis: str
    by: str
    places: tuple[str, ...]
    labels: tuple[str, ...]
    group: NDArray[np.int64]
    x: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    batches: NDArray[np.int64]
    left_out: int
    height: ClassVar[float] = 3.6

    @classmethod
    def from_metrics(
        cls, frame: pd.DataFrame, *, measure: str = "rate", axis: str = "batch_size", by: str = "workers"
    ) -> Relation:
        """Condense a metrics frame.

        Parameters
        ----------
        frame : DataFrame
            Metric rows. Batches cut off by a death or a limit are left out.
        measure, axis, by : str
            Keys of `MEASURES`, `AXES` and `GROUPS`.

        Raises
        ------
        KeyError
            A key is none of those.
        """
        for key, known in ((measure, MEASURES), (axis, AXES), (by, GROUPS)):
            if key not in known:
                raise KeyError(f"{key!r}: expected one of {', '.join(known)}")
        part = frame[~frame["cut_off"].astype(bool)]
        value = MEASURES[measure].values(part).to_numpy(dtype=float)
        where, places = _place(part, axis)
        codes, names = groups_of(part.assign(workers=_workers(part)) if by == "workers" else part, by)
        sizes = np.bincount(codes, minlength=len(names))
        drawn = np.sort(np.argsort(-sizes, kind="stable")[: len(theme.SERIES)])
        slot = np.full(len(names) + 1, -1)
        slot[drawn] = np.arange(len(drawn))
        group = slot[codes]
        use = np.isfinite(value) & (group >= 0) & (where[0] >= 0)
        table = pd.DataFrame({"group": group[use], "bin": where[0][use], "x": where[1][use], "y": value[use]})
        cells = table.groupby(["group", "bin"])
        low, middle, high = (cells["y"].quantile(share).to_numpy(dtype=float) for share in (0.25, 0.5, 0.75))
        centre, counts = cells["x"].median(), cells.size()
        keys = counts.index.to_frame(index=False).to_numpy(dtype=np.int64)
        return cls(
            measure=measure,
            axis=axis,
            by=by,
            places=places,
            labels=tuple(names[i] for i in drawn),
            group=keys[:, 0],
            x=keys[:, 1].astype(float) if places else centre.to_numpy(dtype=float),
            middle=middle,
            low=low,
            high=high,
            batches=counts.to_numpy().astype(np.int64),
            left_out=int(len(frame) - use.sum()),
        )

    def _where(self, point: int) -> str:
        x = self.x[point]
        place = AXES[self.axis].at.format(
            escape.plain(self.places[int(x)], 40) if self.places else fmt.number(float(x))
        )
        return f"{place} ({self._group(int(self.group[point]))})" if len(self.labels) > 1 else place

    def _group(self, group: int) -> str:
        label = self.labels[group]
        if self.by == "workers" and label.isdecimal():
            return fmt.quantity(int(label), "worker")
        return f"{GROUPS[self.by]} {escape.plain(label or 'without a name', 40)}"

    def finding(self) -> str:
        """Return where the measure is highest and where lowest."""
        what = MEASURES[self.measure]
        if not self.x.size:
            return f"Nothing recorded of the {what.words}"
        first = what.words[0].upper() + what.words[1:]
        best, worst = int(np.argmax(self.middle)), int(np.argmin(self.middle))
        if self.middle[best] == self.middle[worst]:
            return f"{first}: {what.text(float(self.middle[best]))}"
        ends = [f"{what.text(float(self.middle[i]))} at {self._where(i)}" for i in (best, worst)]
        return f"{first} goes from {ends[1]} to {ends[0]}"

    def caption(self) -> str:
        """Return the finding, what a point is, and the groups."""
        if not self.x.size:
            return f"{self.finding()}."
        groups = f": {', '.join(self._group(i) for i in range(len(self.labels)))}" if self.by else ""
        count = fmt.quantity(int(self.batches.sum()), "batch", "batches")
        rest = fmt.quantity(self.left_out, "batch", "batches")
        more = f" {rest} cut off, without a value, or of smaller groups not drawn." if self.left_out else ""
        return f"{self.finding()}. Points are medians with quartiles of {count}{groups}.{more}"

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        what = MEASURES[self.measure]
        theme.dress(axes, self.finding(), AXES[self.axis].words, what.words, grid="both")
        if not self.x.size:
            theme.empty(axes, "nothing to show")
            return
        for group, (paint, dash, mark) in zip(range(len(self.labels)), theme.SERIES, strict=False):
            mine = np.flatnonzero(self.group == group)
            mine = mine[np.argsort(self.x[mine], kind="stable")]
            shift = 0.0 if not self.places else 0.12 * (group - (len(self.labels) - 1) / 2)
            spread = np.vstack([self.middle[mine] - self.low[mine], self.high[mine] - self.middle[mine]])
            words = escape.figure(self._group(group) if self.by else "median, quartiles", 30)
            axes.errorbar(
                self.x[mine] + shift, self.middle[mine], yerr=spread, fmt=mark, capsize=2.5, markersize=5.5,
                color=paint, elinewidth=1, linestyle="none" if self.places else dash, linewidth=1.3, label=words,
            )  # fmt: skip
        axes.set_ylim(0, 1.08 * float(self.high.max()) or 1.0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: what.text(value)))
        self._mark_places(axes)
        theme.legend(axes, columns=3)

    def _mark_places(self, axes: Axes) -> None:
        if self.places:
            axes.set_xticks(
                range(len(self.places)), [escape.figure(place, 18) for place in self.places],
                rotation=0 if len(self.places) < 7 else 35, ha="center" if len(self.places) < 7 else "right",
            )  # fmt: skip
            axes.set_xlim(-0.6, len(self.places) - 0.4)
            return
        low, high = float(self.x.min()), float(self.x.max())
        if low > 0 and high / low >= 8:
            axes.set_xscale("log")
            theme.log_ticks(axes, low, high)
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.number(value)))


def _workers(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Most batches at a time of each row's run."""
    codes, ids = pd.factorize(frame["run_id"])
    most = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(most, codes, frame["active_claims"].to_numpy(dtype=np.int64))
    return most[codes]


def _place(frame: pd.DataFrame, axis: str) -> tuple[tuple[NDArray[np.int64], NDArray[Any]], tuple[str, ...]]:
    """Return the place of each row and its own value there, and the places' names where they have names."""
    if AXES[axis].names:
        codes, names = groups_of(frame, axis)
        most = np.sort(np.argsort(-np.bincount(codes, minlength=len(names)), kind="stable")[:MAX_PLACES])
        slot = np.full(len(names) + 1, -1)
        slot[most] = np.arange(len(most))
        return (slot[codes], codes.astype(float)), tuple(names[i] for i in most)
    if axis == "elapsed_s":
        start = pd.Series(epoch_s(frame["claimed_at"]), index=frame.index)
        value = (start - start.groupby(pd.factorize(frame["run_id"])[0]).transform("min")).to_numpy(dtype=float)
    else:
        value = frame[axis].to_numpy(dtype=float)
    known = np.unique(value)
    if len(known) <= MAX_PLACES:
        return (np.searchsorted(known, value), value), ()
    low, high = float(known[0]), float(known[-1])
    apart = np.geomspace(low, high, MAX_PLACES + 1) if low > 0 else np.linspace(low, high, MAX_PLACES + 1)
    return (np.clip(np.searchsorted(apart, value, side="right") - 1, 0, MAX_PLACES - 1), value), ()
