"""Rows as they were given: the unusable ones flagged, the others condensed to cells of equal settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

MOST_CELLS = 600  # cells beyond this are merged with their neighbours: a Gaussian process costs their cube
_FARTHEST = np.log(8.0)  # a repeat this far from the others of its setting is no measurement of the same thing
_SIGMAS = 8.0
_FREEDOM = 4.0  # how many repeats the noise of other cells counts for
_MOST_DEVIATIONS = 4096
_MOST_BINS = 4_000_000
_TRIED = 4096  # rows that already show that a step merges too few
_SAME = 1e-10  # rounding of a mean of equal logarithms
_DIGITS = 5  # measurements with fewer significant digits agree by chance


@dataclass(frozen=True, slots=True)
class Cells:
    """Settings that were measured, in logarithms.

    Attributes
    ----------
    x : ndarray of shape (n_cells, n_features)
        Logarithms of the features.
    t : ndarray of shape (n_cells,)
        Mean logarithm of the target.
    n : ndarray of shape (n_cells,)
        Rows behind each cell.
    group : ndarray of shape (n_cells,)
        Cells of one group are left out together.
    squares : ndarray of shape (n_cells,)
        Sum of squared deviations of the rows' logarithms from `t`.
    deviations : ndarray
        Absolute deviations of rows from repeats of theirs, in standard deviations of their cell, sorted; a sample.
    """

    x: Array
    t: Array
    n: Array
    group: Index
    squares: Array
    deviations: Array

    @property
    def single(self) -> bool:
        """Whether each cell is a group of its own."""
        return len(np.unique(self.group)) == len(self.group)

    @property
    def within(self) -> float:
        """Standard deviation of the logarithm between rows of one cell; NaN where no cell has two."""
        free = float((self.n - 1).sum())
        return float(np.sqrt(self.squares.sum() / free)) if free > 0 else float("nan")

    @property
    def doubt(self) -> Array:
        """Variance between rows of each cell over that of all cells, drawn toward 1: shape (n_cells,)."""
        variance = self.within**2
        if not variance > 0:
            return np.ones_like(self.n)
        return np.asarray((_FREEDOM * variance + self.squares) / (_FREEDOM + self.n - 1) / variance)

    def taken(self, which: Index) -> Cells:
        """Some of the cells."""
        return Cells(
            self.x[which], self.t[which], self.n[which], self.group[which], self.squares[which], self.deviations
        )


def unusable(x: Array, y: Array) -> list[tuple[str, Mask]]:
    """Reasons why rows cannot be used, with the rows that each of them applies to."""
    with np.errstate(invalid="ignore"):
        return [
            ("missing or infinite feature", np.asarray(~np.isfinite(x).all(axis=1))),
            ("negative feature", np.asarray((x < 0).any(axis=1))),
            ("missing or infinite target", ~np.isfinite(y)),
            ("target not positive", y <= 0),
        ]


def repeated(x: Array, y: Array) -> Mask:
    """Rows that are, to the last bit, a copy of an earlier one: one measurement that was written twice.

    Only where the target has enough digits: what a coarse clock measures agrees by chance.
    """
    codes = _hashes(np.column_stack([x, y]))
    copy = np.zeros(len(y), dtype=bool)
    if _distinct(codes) == len(codes):  # sorted alone is far cheaper than sorted with positions
        return copy
    _, first = np.unique(codes, return_index=True)
    copy[:] = True
    copy[first] = False
    rows = np.flatnonzero(copy)
    digits = y[rows] / 10.0 ** (np.floor(np.log10(y[rows])) - (_DIGITS - 2))
    copy[rows] = np.abs(digits - np.round(digits)) > 1e-6
    return copy


def logarithms(x: Array, floor: Array) -> Array:
    """Logarithms of features; what is below the floor of its column counts as the floor."""
    return np.asarray(np.log(np.maximum(x, floor)))


def stray(place: Index, t: Array) -> Mask:
    """Rows far from the median of their cell, of at least three rows: another unit, a skewed clock, a typing error."""
    place = numbered(place)
    counts = np.bincount(place)
    several = counts[place] >= 3
    centre = np.bincount(place, weights=t) / counts
    if not several.any() or np.abs(t - centre[place])[several].max() <= _FARTHEST / 2:
        return np.zeros(len(t), dtype=bool)
    order = np.lexsort((t, place))
    ends = np.cumsum(counts)
    middle = t[order[ends - counts + counts // 2]]
    lower = t[order[ends - counts + (counts - 1) // 2]]
    apart = np.abs(t - ((middle + lower) / 2)[place])
    typical = 1.4826 * float(np.median(apart[several]))
    return np.asarray(several & (apart > max(_FARTHEST, _SIGMAS * typical)))


def places(x: Array, most: int = MOST_CELLS) -> Index:
    """Cell of each row: rows of equal features share one; with too many, rows whose features nearly agree."""
    if _distinct(_hashes(x)) <= most:
        return _codes(x)
    low = x.min(axis=0)
    spread = np.maximum(x.max(axis=0) - low, 1e-12)
    some, step = x[:: max(len(x) // _TRIED, 1)], 1 / 64

    def merged(rows: Array) -> Index:
        # Steps are shares of each feature's range, so that no feature is merged away before the others.
        return _ranked(np.floor((rows - low) / (spread * step) + 0.5).astype(np.int64))

    while merged(some).max() >= most or (place := merged(x)).max() >= most:
        step *= 1.4
    return place


def condense(x: Array, t: Array, place: Index, groups: Index | None = None) -> Cells:
    """Average the rows of each cell; with groups (a number for each row), those of one cell and group."""
    if groups is not None:
        _, place = np.unique(place * (int(groups.max()) + 1) + groups, return_inverse=True)
    n = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, weights=t) / n
    centres = _centres(x, place, n)
    apart = t - mean[place]
    if MOST_CELLS // 2 < len(n) < len(t):
        apart = _level(apart, x - centres[place])
    squares = np.bincount(place, weights=apart**2).astype(np.float64)
    group = np.arange(len(n), dtype=np.int64)
    if groups is not None:
        group[place] = groups
    several = np.flatnonzero(n[place] > 1)[:: max(len(t) // _MOST_DEVIATIONS, 1)]
    cells = Cells(centres, mean, n, group, squares, np.empty(0))
    if not len(several) or not cells.within > 0:
        return cells
    # A row's own part in its mean makes its deviation smaller than that of a new row.
    at = place[several]
    sd = cells.within * np.sqrt(cells.doubt[at] * (1 - 1 / n[at]))
    return replace(cells, deviations=np.sort(np.abs(apart[several]) / sd))


def _centres(x: Array, place: Index, n: Array) -> Array:
    """Mean features of the rows of each cell: exactly theirs, where they agree, so that the setting is known again."""
    centres = np.stack([np.bincount(place, weights=column) / n for column in x.T], axis=1)
    one = np.empty(len(n), dtype=np.int64)
    one[place] = np.arange(len(place))
    return np.where(np.abs(x[one] - centres) < _SAME, x[one], centres)


def _level(apart: Array, x: Array) -> Array:
    """Deviations without what features explain that differ between the rows of merged cells."""
    moments = x.T @ x
    size = np.trace(moments)
    if size <= 1e-12 * len(x):
        return apart
    slopes = np.linalg.solve(moments + 1e-9 * size * np.eye(x.shape[1]), x.T @ apart)
    return np.asarray(apart - x @ slopes)


def nearest_other(cells: Cells, neighbours: int = 1) -> Array:
    """Logarithm that the nearest cells of other groups had: their median, shape (n_cells,)."""
    spread = cells.x.std(axis=0) + 1e-12
    scaled = cells.x / spread
    apart = sum(((column[:, None] - column[None, :]) ** 2 for column in scaled.T), np.zeros((len(cells.t),) * 2))
    apart[cells.group[:, None] == cells.group[None, :]] = np.inf
    count = min(neighbours, len(cells.t) - 1)
    if count < 1:
        return cells.t.copy()
    nearest = np.argpartition(apart, count - 1, axis=1)[:, :count]
    return np.asarray(np.median(cells.t[nearest], axis=1))


def _ranked(bins: Index) -> Index:
    """Numbers from 0 for distinct rows of small integers."""
    wide = bins.max(axis=0) + 1
    if np.prod(wide.astype(np.float64)) > _MOST_BINS:
        return _codes(bins.astype(np.float64))
    code = np.ravel_multi_index(tuple(bins.T), tuple(wide))
    return numbered(code)


def numbered(place: Index) -> Index:
    """Cells numbered from 0 without gaps, for small numbers."""
    used = np.bincount(place) > 0
    return np.asarray((np.cumsum(used) - 1)[place], dtype=np.int64)


def _distinct(codes: NDArray[np.uint64]) -> int:
    ordered = np.sort(codes)
    return int((ordered[1:] != ordered[:-1]).sum()) + min(len(codes), 1)


def _codes(x: Array) -> Index:
    return np.asarray(np.unique(_hashes(x), return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _hashes(x: Array) -> NDArray[np.uint64]:
    """One 64-bit number a row, equal for equal rows; sorting them is far cheaper than sorting rows."""
    bits = np.ascontiguousarray(x + 0.0).view(np.uint64)
    out = np.zeros(len(x), dtype=np.uint64)
    for column in bits.T:
        out = (out ^ column) * np.uint64(0x9E3779B97F4A7C15)
        out ^= out >> np.uint64(29)
    return out
