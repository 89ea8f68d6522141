"""Display object of what failed: executions by category of their error, tried again or dead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from toolkit.notebook import escape, theme
from toolkit.notebook import format as fmt

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MAX_KINDS: Final = 10
"""Kinds of error drawn; the others are added up."""


@dataclass(eq=False, repr=False)
class ErrorCounts(theme.Display):
    """How many executions of items failed, by kind of error.

    Attributes
    ----------
    labels : tuple of str
        Kinds of error, the most frequent first.
    retried, dead : ndarray of int of shape (n_kinds,)
        Executions after which the item was tried again, and after which it became a dead letter.
    executed : int
        All executions, 0 where unknown.
    """

    labels: tuple[str, ...]
    retried: NDArray[np.int64]
    dead: NDArray[np.int64]
    executed: int
    height: ClassVar[float] = 2.9

    @classmethod
    def from_metrics(cls, frame: pd.DataFrame) -> ErrorCounts:
        """Take a metrics frame: failed items by the category of their batch's first error."""
        failed = frame[(frame["retried"] > 0) | (frame["dead"] > 0)]
        grouped = failed.groupby("error_category", observed=True)[["retried", "dead"]].sum()
        names = [str(name) or "category unknown" for name in grouped.index]
        retried, dead = (grouped[name].to_numpy(dtype=np.int64) for name in ("retried", "dead"))
        return cls._of(names, retried, dead, int(frame["items"].sum()))

    @classmethod
    def from_dead_letters(cls, frame: pd.DataFrame) -> ErrorCounts:
        """Take a frame of dead letters: by class of the error."""
        kinds = frame["error_type"].value_counts()  # as categories: see `groups_of`
        kinds = kinds[kinds > 0]
        dead = np.asarray(kinds.to_numpy(), dtype=np.int64)
        return cls._of([str(name) or "unknown" for name in kinds.index], np.zeros_like(dead), dead, 0)

    @classmethod
    def _of(cls, names: list[str], retried: NDArray[np.int64], dead: NDArray[np.int64], executed: int) -> ErrorCounts:
        order = np.argsort(-(retried + dead), kind="stable")
        first, rest = order[: MAX_KINDS - 1], order[MAX_KINDS - 1 :]
        if rest.size <= 1:
            first, rest = order, order[:0]
        labels = [names[i] for i in first]
        values = [column[first].astype(np.int64) for column in (retried, dead)]
        if rest.size:
            labels.append(f"{fmt.count(rest.size)} other kinds")
            values = [
                np.append(value, column[rest].sum()) for value, column in zip(values, (retried, dead), strict=True)
            ]
        return cls(tuple(labels), values[0], values[1], executed)

    def finding(self) -> str:
        """Return how many executions failed, and the most frequent kind."""
        total, dead = int((self.retried + self.dead).sum()), int(self.dead.sum())
        if not total:
            return "No item failed"
        first = escape.plain(self.labels[0], 40)
        most = f"all {first}" if len(self.labels) == 1 else f"most often {first}"
        if not self.executed:
            return f"{fmt.quantity(dead, 'dead letter')}: {most}"
        share = f"{fmt.count(total)} of {fmt.quantity(self.executed, 'execution')}"
        return f"{share} failed ({fmt.percent(total / self.executed)}), {fmt.count(dead)} for good: {most}"

    def caption(self) -> str:
        """Return the finding and the counts of each kind."""
        if not self.labels:
            return f"{self.finding()}."
        each = "; ".join(
            f"{escape.plain(label, 60)}: {fmt.count(int(again))} tried again, {fmt.count(int(dead))} dead"
            for label, again, dead in zip(self.labels, self.retried, self.dead, strict=True)
        )
        return f"{self.finding()}. By kind of error: {each}."

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "items", "", grid="x")
        if not self.labels:
            theme.empty(axes, "no item failed")
            return
        places = np.arange(max(len(self.labels), 3))[::-1][: len(self.labels)]
        for left, width, paint, hatch, words in (
            (np.zeros_like(self.dead), self.retried, theme.SKY, "", "tried again"),
            (self.retried, self.dead, theme.VERMILLION, "////", "dead"),
        ):
            if width.any():
                axes.barh(
                    places, width, 0.62, left=left, color=paint, hatch=hatch, edgecolor=theme.PAPER, linewidth=0.5,
                    label=words,
                )  # fmt: skip
        most = int((self.retried + self.dead).max())
        for place, total in zip(places, self.retried + self.dead, strict=True):
            axes.text(
                float(total) + 0.01 * most,
                float(place),
                fmt.count(int(total)),
                va="center",
                fontsize=8.5,
                color=theme.INK,
            )
        axes.set_yticks(places, [escape.figure(label, 32) for label in self.labels])
        axes.set_ylim(-0.6, max(len(self.labels), 3) - 0.4)
        axes.set_xlim(0, 1.1 * most)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.count(value)))
        theme.legend(axes)
