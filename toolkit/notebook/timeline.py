"""Display objects of what was measured: which worker was busy when, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import pandas as pd

from toolkit.notebook import escape, theme
from toolkit.notebook import format as fmt
from toolkit.notebook.measured import epoch_s, size_groups, spent_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MAX_BARS: Final = 500
"""Batches drawn one by one; more are condensed to bands."""

MAX_ROWS: Final = 24
"""Workers drawn; of more, those that executed most batches."""

_BINS: Final = 120


@dataclass(eq=False, repr=False)
class Timeline(theme.Display):
    """Batches of one run by worker over time.

    Attributes
    ----------
    run_id : str
        Which run; empty when there is none.
    labels : tuple of str
        Workers, one per row, from the bottom up.
    row : ndarray of int of shape (n_batches,)
        Row of each batch that is drawn.
    start_s, length_s : ndarray of shape (n_batches,)
        When it began, in seconds since the run's first claim, and how long it took.
    bad : ndarray of bool of shape (n_batches,)
        Some of its items failed, or its process died.
    span_s : float
        Seconds from the first claim to the end of the last batch.
    busy : float
        Share of that time which the workers spent in batches.
    n_workers : int
        Workers in the run, drawn or not.
    """

    run_id: str
    labels: tuple[str, ...]
    row: NDArray[np.int64]
    start_s: NDArray[np.float64]
    length_s: NDArray[np.float64]
    bad: NDArray[np.bool_]
    span_s: float
    busy: float
    n_workers: int
    height: ClassVar[float] = 3.2

    @classmethod
    def from_metrics(cls, frame: pd.DataFrame, run_id: str | None = None) -> Timeline:
        """Take one run of a metrics frame, by default the latest."""
        if run_id is None and not frame.empty:
            run_id = str(frame["run_id"].iloc[int(frame["claimed_at"].argmax())])
        # Compared and counted as categories: as text, pandas would refuse half a surrogate pair in a name.
        part = frame[frame["run_id"] == run_id] if run_id is not None else frame
        if part.empty:
            none = np.zeros(0)
            return cls(run_id or "", (), none.astype(np.int64), none, none, none.astype(bool), 0.0, 0.0, 0)
        length = spent_s(part).to_numpy(dtype=float)
        start = np.asarray(epoch_s(part["claimed_at"]), dtype=float)
        start = start - start.min()
        codes, names = pd.factorize(part["worker"])
        most = np.argsort(-np.bincount(codes), kind="stable")[:MAX_ROWS]
        shown = sorted(most, key=lambda code: str(names[code]), reverse=True)
        row = np.full(len(names), -1)
        row[shown] = np.arange(len(shown))
        place = row[codes]
        keep = place >= 0
        span = float((start + length).max())
        bad = (part["outcome"] != "ok").to_numpy(dtype=bool)
        return cls(
            run_id=str(run_id),
            labels=tuple(str(names[code]) for code in shown),
            row=place[keep],
            start_s=start[keep],
            length_s=length[keep],
            bad=bad[keep],
            span_s=span,
            busy=min(1.0, float(length.sum()) / (len(names) * span)) if span > 0 else 0.0,
            n_workers=len(names),
        )

    @property
    def banded(self) -> bool:
        """Whether there are too many batches to draw each."""
        return self.row.size > MAX_BARS

    def bands(self) -> NDArray[np.float64]:
        """Return the share of time in batches, by row and time slice: shape (n_rows, 120)."""
        edges = np.linspace(0.0, self.span_s, _BINS + 1)
        shares = np.zeros((len(self.labels), _BINS))
        for i in range(len(self.labels)):
            mine = np.flatnonzero(self.row == i)
            mine = mine[np.argsort(self.start_s[mine], kind="stable")]
            start, length = self.start_s[mine], self.length_s[mine]
            # A worker executes one batch at a time, so what it did until an edge is a running sum plus a part of one.
            before = np.concatenate([[0.0], np.cumsum(length)])
            last = np.searchsorted(start, edges, side="right") - 1
            within = np.where(last >= 0, np.clip(edges - start[np.maximum(last, 0)], 0, length[np.maximum(last, 0)]), 0)
            done = before[np.maximum(last, 0)] * (last >= 0) + within
            shares[i] = np.diff(done) / (self.span_s / _BINS)
        return np.clip(shares, 0.0, 1.0)

    def finding(self) -> str:
        """Return how busy the workers were."""
        if not self.row.size:
            return "No batch to show"
        failed = int(self.bad.sum())
        text = f"{fmt.quantity(self.n_workers, 'worker')} spent {fmt.percent(self.busy)} of {fmt.duration(self.span_s)}"
        return f"{text} in batches" + (f"; {fmt.quantity(failed, 'batch', 'batches')} had failures" if failed else "")

    def caption(self) -> str:
        """Return the finding, what is drawn, and what is left out."""
        if not self.row.size:
            return f"{self.finding()}."
        how = (
            "The height of a band is the share of time in batches; a triangle marks failures."
            if self.banded
            else "One bar a batch; hatched bars had failures."
        )
        rest = self.n_workers - len(self.labels)
        more = f" {fmt.quantity(rest, 'worker')} with fewer batches not drawn." if rest else ""
        run = escape.plain(self.run_id, 80)
        return f"{self.finding()}. Run {run}, {fmt.quantity(self.row.size, 'batch', 'batches')}. {how}{more}"

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "seconds since the first claim", "", grid="x")
        if not self.row.size:
            theme.empty(axes, "no batch")
            return
        if self.banded:
            self._draw_bands(axes)
        else:
            self._draw_bars(axes)
        axes.set_xlim(0, self.span_s or 1)
        axes.set_ylim(-0.6, len(self.labels) - 0.4)
        axes.set_yticks(range(len(self.labels)), [escape.figure(name, 32) for name in self.labels])
        theme.legend(axes)

    def _draw_bars(self, axes: Axes) -> None:
        for chosen, paint, hatch, words in (
            (~self.bad, theme.BLUE, "", "all items ok"),
            (self.bad, theme.VERMILLION, "////", "with failures"),
        ):
            if chosen.any():
                axes.barh(
                    self.row[chosen], self.length_s[chosen], left=self.start_s[chosen], height=0.7, color=paint,
                    hatch=hatch, edgecolor=theme.PAPER, linewidth=0.5, label=words,
                )  # fmt: skip

    def _draw_bands(self, axes: Axes) -> None:
        edges = np.linspace(0.0, self.span_s, _BINS + 1)
        for i, share in enumerate(self.bands()):
            top = i - 0.38 + 0.76 * np.append(share, share[-1])
            words = "share of time in batches" if not i else None
            axes.fill_between(edges, i - 0.38, top, step="post", color=theme.BLUE, alpha=0.85, linewidth=0, label=words)
        if self.bad.any():
            # One mark a row and slice, however many batches failed there.
            slot = np.minimum((self.start_s[self.bad] / (self.span_s or 1) * _BINS).astype(int), _BINS - 1)
            marks = np.unique(np.column_stack([self.row[self.bad], slot]), axis=0)
            x = (marks[:, 1] + 0.5) * self.span_s / _BINS
            axes.scatter(x, marks[:, 0] + 0.42, marker="v", s=14, color=theme.VERMILLION, label="failures", zorder=4)


_PARTS: Final = (
    ("service_s", "your code", theme.BLUE, ""),
    ("decode_s", "reading items", theme.ORANGE, "//"),
    ("store_s", "storing results", theme.PURPLE, ".."),
    ("idle_s", "waiting for the next batch", theme.SKY, "xx"),
)


@dataclass(eq=False, repr=False)
class TimeBreakdown(theme.Display):
    """Where the workers' time goes, by batch size.

    Attributes
    ----------
    labels : tuple of str
        Batch sizes, or ranges of them when there are many.
    shares : ndarray of shape (n_labels, 4)
        Share of the time in service, decoding, storing and idling.
    item_s : ndarray of shape (n_labels,)
        Worker seconds per item, all four together.
    """

    labels: tuple[str, ...]
    shares: NDArray[np.float64]
    item_s: NDArray[np.float64]
    height: ClassVar[float] = 3.5

    @classmethod
    def from_metrics(cls, frame: pd.DataFrame) -> TimeBreakdown:
        """Take the batches of a metrics frame; batches cut off by a death or a limit are left out."""
        part = frame[~frame["cut_off"].astype(bool) & (frame["items"] > 0)]
        if part.empty:
            return cls((), np.zeros((0, 4)), np.zeros(0))
        names = [name for name, *_ in _PARTS]
        table = part[names].fillna(0.0).clip(lower=0.0).assign(items=part["items"], size=part["batch_size"])
        table["group"], labels = size_groups(table["size"])
        grouped = table.groupby("group")
        sums = grouped[[*names, "items"]].sum()
        total = sums[names].sum(axis=1).to_numpy(dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.nan_to_num(sums[names].to_numpy(dtype=float) / total[:, None])
        return cls(labels, shares, total / sums["items"].to_numpy(dtype=float))

    def finding(self) -> str:
        """Return how the overhead changes from the smallest to the largest batch size."""
        if not self.labels:
            return "No batch to show"
        over = 1.0 - self.shares[:, 0]
        if len(self.labels) == 1:
            return f"At batch size {self.labels[0]}, {fmt.percent(over[0])} of the workers' time is overhead"
        return (
            f"Overhead is {fmt.percent(over[0])} of the workers' time at batch size {self.labels[0]} "
            f"and {fmt.percent(over[-1])} at {self.labels[-1]}"
        )

    def caption(self) -> str:
        """Return the finding and, for each batch size, the share of user code and the time per item."""
        if not self.labels:
            return f"{self.finding()}."
        each = "; ".join(
            f"{label}: {fmt.percent(share)} your code, {fmt.duration(item)} per item"
            for label, share, item in zip(self.labels, self.shares[:, 0], self.item_s, strict=True)
        )
        return f"{self.finding()}. Worker time by batch size: {each}."

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "batch size (items)", "share of the workers' time")
        if not self.labels:
            theme.empty(axes, "no batch")
            return
        places = np.arange(len(self.labels))
        bottom = np.zeros(len(self.labels))
        for i, (_, words, paint, hatch) in enumerate(_PARTS):
            axes.bar(
                places, self.shares[:, i], 0.62, bottom=bottom, color=paint, hatch=hatch, edgecolor=theme.PAPER,
                linewidth=0.5, label=words,
            )  # fmt: skip
            bottom += self.shares[:, i]
        separator = "" if len(self.labels) < 7 else "\n"
        for place, item in enumerate(self.item_s):
            words = f"{fmt.duration(float(item))}{separator}/item"
            axes.text(place, 1.02, words, ha="center", va="bottom", fontsize=8, color=theme.INK)
        axes.set_xticks(places, list(self.labels))
        axes.set_xlim(-0.6, len(self.labels) - 0.4)
        axes.set_ylim(0, 1.12 if len(self.labels) < 7 else 1.2)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        theme.legend(axes)
