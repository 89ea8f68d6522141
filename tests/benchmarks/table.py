"""One table of all that is measured: the work, the figure, the goal and whether it is met, and the others."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One figure.

    Attributes
    ----------
    work, measure : str
        What was done, and what of it was measured, with its unit.
    figure : float
        The measurement.
    goal : float
        What it is to be.
    at_least : bool
        Whether more is better.
    others : str
        What others take for the same.
    """

    work: str
    measure: str
    figure: float
    goal: float
    at_least: bool = False
    others: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is as it is to be."""
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal


def number(value: float) -> str:
    """A figure with the digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 30 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest, as one text."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def show(lines: Iterable[Line]) -> str:
    """The table as text."""
    head = ("work", "measure", "figure", "goal", "", "others")
    rows = [
        (
            line.work, line.measure, number(line.figure), ("≥ " if line.at_least else "≤ ") + number(line.goal),
            "met" if line.met else "MISSED", line.others,
        )
        for line in lines
    ]  # fmt: skip
    widths = [max(len(row[j]) for row in (head, *rows)) for j in range(len(head))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, rule, *rows)
    )
