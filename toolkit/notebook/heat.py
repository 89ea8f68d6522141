"""Predicted makespans over batch size and workers: the plain values behind the plot and behind the HTML table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from toolkit.notebook import format as fmt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.tuning import Recommendation

MAX_COLUMNS: Final = 12
MAX_ROWS: Final = 12
_HEAD_PX, _CELL_PX = 62, 56  # about as wide as the table's columns are
_ONE_LINE: Final = "display:inline-block;vertical-align:bottom;overflow:hidden;white-space:nowrap"
_LEAST: Final = 1e-9  # keeps the logarithm of a size finite

# matplotlib's "cividis" at eleven even steps (Nunez, Anderton and Renslow, PLOS ONE 13(7), 2018): even in
# lightness, and the same to eyes with and without colour-vision deficiency.
_CIVIDIS: Final = (
    (0, 34, 78), (8, 51, 112), (53, 69, 108), (79, 87, 108), (102, 105, 112), (125, 124, 120),
    (148, 142, 119), (174, 163, 113), (200, 184, 102), (229, 207, 82), (254, 232, 56),
)  # fmt: skip


def colour(share: float) -> tuple[int, int, int]:
    """Return the colour at `share`, 0 (dark) to 1 (bright), as red, green and blue from 0 to 255."""
    place = min(max(share, 0.0), 1.0) * (len(_CIVIDIS) - 1)
    step = min(int(place), len(_CIVIDIS) - 2)
    first, second = _CIVIDIS[step], _CIVIDIS[step + 1]
    red, green, blue = (round(a + (b - a) * (place - step)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def hexa(rgb: tuple[int, int, int]) -> str:
    """Return a colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def ink(rgb: tuple[int, int, int]) -> str:
    """Return black or white, whichever is easier to read on `rgb` (relative luminance of WCAG 2.2)."""

    def linear(channel: int) -> float:
        value = channel / 255
        return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)

    luminance = 0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def setting(batch_size: float, workers: int) -> str:
    """Return a setting in words."""
    return f"batch size {fmt.batch_size(batch_size)} with {fmt.quantity(workers, 'worker')}"


def thin(values: Sequence[float], limit: int, keep: Iterable[float] = ()) -> list[float]:
    """Return at most `limit` of the `values`, sorted: both ends, those of `keep` that fit, and an even spread between.

    Spread is by ratio, because sizes from 1 to 10,000 are.
    """
    values = sorted(set(values))
    if len(values) <= limit:
        return values
    chosen = [values[0], values[-1]]
    for wanted in ([v for v in dict.fromkeys(keep) if v in values], values):
        rest = [v for v in wanted if v not in chosen]
        while rest and len(chosen) < limit:
            logs = np.log(np.maximum(rest, _LEAST))
            distance = np.abs(logs[:, None] - np.log(np.maximum(chosen, _LEAST))[None, :]).min(axis=1)
            chosen.append(rest.pop(int(distance.argmax())))
    return sorted(chosen)


@dataclass(frozen=True)
class HeatGrid:
    """Predicted makespans by workers (rows) and batch size (columns).

    Attributes
    ----------
    batch_sizes, workers : tuple of number
        Columns and rows, ascending.
    makespan_s : ndarray of shape (n_workers, n_batch_sizes)
        Predicted makespan in seconds; NaN where nothing was predicted.
    measured, extrapolated : ndarray of bool, same shape
        Settings that were measured, and settings outside of what was measured.
    recommended : tuple of number or None
        Batch size and workers of the recommended cell.
    predicted : bool
        By a model; False where each setting is only taken at the throughput that it was measured at.
    """

    batch_sizes: tuple[float, ...]
    workers: tuple[int, ...]
    makespan_s: NDArray[np.float64]
    measured: NDArray[np.bool_]
    extrapolated: NDArray[np.bool_]
    recommended: tuple[float, int] | None
    predicted: bool = True

    @classmethod
    def from_recommendation(cls, recommendation: Recommendation) -> HeatGrid:
        """Take the cells of ``recommendation.grid``: of a wide one, what is recommended or measured, and a spread."""
        grid = recommendation.grid
        chosen = None
        if grid.empty:
            empty = np.zeros((0, 0))
            return cls((), (), empty, empty.astype(bool), empty.astype(bool), None)
        if not recommendation.refused:
            chosen = (recommendation.batch_size, int(recommendation.workers))
        seen = grid[grid["measured"]]
        first = chosen or (0, 0)
        sizes = thin(grid["batch_size"].tolist(), MAX_COLUMNS, [first[0], *seen["batch_size"].tolist()])
        rows = thin(grid["workers"].tolist(), MAX_ROWS, [first[1], *seen["workers"].tolist()])
        makespan = np.full((len(rows), len(sizes)), np.nan)
        measured = np.zeros(makespan.shape, dtype=bool)
        extrapolated = np.zeros(makespan.shape, dtype=bool)
        column = {b: j for j, b in enumerate(sizes)}
        row = {w: i for i, w in enumerate(rows)}
        names = ["batch_size", "workers", "makespan_s", "measured", "extrapolated"]
        for b, w, value, seen, beyond in grid[names].itertuples(index=False, name=None):
            if b in column and w in row:
                place = row[w], column[b]
                makespan[place], measured[place], extrapolated[place] = value, seen, beyond
        return cls(
            tuple(sizes), tuple(map(int, rows)), makespan, measured, extrapolated, chosen, not recommendation.refused
        )

    def __bool__(self) -> bool:
        return bool(np.isfinite(self.makespan_s).any())

    def shares(self) -> NDArray[np.float64]:
        """Return how good each cell is, 0 (slowest) to 1 (fastest), on a logarithmic scale; NaN where unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(self.makespan_s)
        known = logs[np.isfinite(logs)]
        if not known.size or known.max() == known.min():
            return np.where(np.isfinite(logs), 1.0, np.nan)
        shares: NDArray[np.float64] = 1.0 - (logs - known.min()) / (known.max() - known.min())
        return shares

    def is_recommended(self, row: int, column: int) -> bool:
        """Whether the cell is the recommended one."""
        return self.recommended == (self.batch_sizes[column], self.workers[row])

    def meaning(self) -> str:
        """Return what the numbers are."""
        return "Predicted makespan" if self.predicted else "Makespan at the throughput that was measured"

    def finding(self) -> str:
        """Return what the map shows, in one sentence."""
        if not self:
            return "No makespan was predicted"
        values = self.makespan_s
        size, workers = self.recommended or (0, 0)
        if size in self.batch_sizes and workers in self.workers:
            here = float(values[self.workers.index(workers), self.batch_sizes.index(size)])
            times = fmt.number(float(np.nanmax(values)) / here, 2) if here > 0 else fmt.UNKNOWN
            best = f"{setting(size, workers).capitalize()}: {fmt.duration(here)}"
            return f"{best}; the slowest setting takes {times} times as long"
        i, j = np.unravel_index(int(np.nanargmin(values)), values.shape)
        best = setting(self.batch_sizes[j], self.workers[i])
        return f"Fastest{'' if self.predicted else ' measured'}: {best}, {fmt.duration(values[i, j])}"

    def describe(self) -> str:
        """Return what a reader who does not see the map has to know."""
        if not self:
            return self.finding() + "."
        low, high = float(np.nanmin(self.makespan_s)), float(np.nanmax(self.makespan_s))
        return (
            f"{self.finding()}. {self.meaning()} for {fmt.quantity(len(self.batch_sizes), 'batch size')} from "
            f"{fmt.batch_size(self.batch_sizes[0])} to {fmt.batch_size(self.batch_sizes[-1])} and "
            f"{fmt.quantity(len(self.workers), 'worker count')} from {self.workers[0]} to {self.workers[-1]}: "
            f"{fmt.duration(low)} to {fmt.duration(high)}. "
            f"{fmt.quantity(int(self.measured.sum()), 'setting')} measured, "
            f"{fmt.count(int(self.extrapolated.sum()))} extrapolated."
        )

    def cell_text(self, row: int, column: int) -> str:
        """Return the makespan in a cell, as short as fits."""
        value = float(self.makespan_s[row, column])
        if not math.isfinite(value):
            return ""
        if value >= 5940:
            return f"{fmt.number(value / 3600, 2)}h"
        if value >= 99.5:
            return f"{fmt.number(value / 60, 2)}m"
        return f"{fmt.number(value, 2)}s"

    def html(self) -> str:
        """Return the map as an HTML table; in a kernel this is a hundred times faster than a drawn figure."""
        if not self:
            return ""
        shares = self.shares()
        edge = "padding:3px 6px;text-align:right;font-weight:600"
        head = "".join(f'<th scope="col" style="{edge}">{fmt.batch_size(b)}</th>' for b in self.batch_sizes)
        # Words of no width, but where the page is narrower than the table; the sanitiser keeps no style element.
        room = f"calc(({_HEAD_PX + _CELL_PX * len(self.batch_sizes)}px - 100%)*999)"
        scrolls = f'<span style="{_ONE_LINE};max-width:{room}">&ensp;→ scrolls sideways</span>'
        body = ""
        for i in reversed(range(len(self.workers))):
            cells = "".join(self._cell(i, j, float(shares[i, j])) for j in range(len(self.batch_sizes)))
            body += f'<tr><th scope="row" style="{edge}">{fmt.count(self.workers[i])}</th>{cells}</tr>'
        return (
            f'<div style="margin:4px 0;opacity:.8;line-height:1.45">{self.meaning()} by workers (down) and batch '
            f"size (across). ★ recommended, ● measured, <i>~ extrapolated</i>{scrolls}</div>"
            '<div class=wide><table style="border-collapse:collapse;font-size:12px;line-height:1.45">'
            f'<thead><tr><th scope="col" style="{edge}">workers</th>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def _cell(self, i: int, j: int, share: float) -> str:
        if not math.isfinite(share):
            return "<td></td>"
        ground = colour(share)
        marks = "★ " if self.is_recommended(i, j) else ""
        marks += "● " if self.measured[i, j] else ""
        text = f"~{self.cell_text(i, j)}" if self.extrapolated[i, j] else self.cell_text(i, j)
        style = (
            f"background-color:{hexa(ground)};color:{ink(ground)};padding:3px 6px;text-align:right;white-space:nowrap"
        )
        if self.extrapolated[i, j]:
            style += ";font-style:italic"
        if self.is_recommended(i, j):
            style += ";border:3px solid #d55e00;font-weight:700"
        return f'<td style="{style}">{marks}{text}</td>'
