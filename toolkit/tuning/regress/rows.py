"""Rows as they were given: the unusable ones flagged, the others condensed to cells of equal settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

MOST_CELLS = 900  # cells beyond this are merged with their neighbours: a Gaussian process costs their cube
_FARTHEST = np.log(8.0)  # a repeat this far from the others of its setting is no measurement of the same thing
_SIGMAS = 8.0


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
    within : float
        Standard deviation of the logarithm between rows of one cell; NaN where no cell has two.
    """

    x: Array
    t: Array
    n: Array
    within: float


def unusable(x: Array, y: Array) -> list[tuple[str, Mask]]:
    """Reasons why rows cannot be used, with the rows that each of them applies to."""
    with np.errstate(invalid="ignore"):
        return [
            ("feature missing or infinite", np.asarray(~np.isfinite(x).all(axis=1))),
            ("feature negative", np.asarray((x < 0).any(axis=1))),
            ("target missing or infinite", ~np.isfinite(y)),
            ("target not positive", y <= 0),
        ]


def repeated(x: Array, y: Array) -> Mask:
    """Rows that are, to the last bit, a copy of an earlier one: one measurement that was written twice."""
    _, first = np.unique(_hashes(np.column_stack([x, y])), return_index=True)
    copy = np.ones(len(y), dtype=bool)
    copy[first] = False
    return copy


def logarithms(x: Array, floor: Array) -> Array:
    """Logarithms of features; what is below the floor of its column counts as the floor."""
    return np.asarray(np.log(np.maximum(x, floor)))


def stray(place: Index, t: Array) -> Mask:
    """Rows far from the median of their cell, of at least three rows: another unit, a skewed clock, a typing error."""
    order = np.lexsort((t, place))
    counts = np.bincount(place)
    ends = np.cumsum(counts)
    middle = t[order[ends - counts + counts // 2]]
    lower = t[order[ends - counts + (counts - 1) // 2]]
    apart = np.abs(t - ((middle + lower) / 2)[place])
    several = counts[place] >= 3
    if not several.any():
        return np.zeros(len(t), dtype=bool)
    typical = 1.4826 * float(np.median(apart[several]))
    return np.asarray(several & (apart > max(_FARTHEST, _SIGMAS * typical)))


def places(x: Array, most: int = MOST_CELLS) -> Index:
    """Cell of each row: rows of equal features share one; with too many, rows whose features nearly agree."""
    place = _codes(x)
    step = 1 / 64
    spread = np.maximum(x.max(axis=0) - x.min(axis=0), 1e-12)
    while place.max() >= most:
        # Steps are shares of each feature's range, so that no feature is merged away before the others.
        place = _codes(np.floor((x - x.min(axis=0)) / (spread * step) + 0.5))
        step *= 1.4
    return place


def condense(x: Array, t: Array, place: Index) -> Cells:
    """Average the rows of each cell."""
    n = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, weights=t) / n
    centres = np.stack([np.bincount(place, weights=column) / n for column in x.T], axis=1)
    free = float((n - 1).sum())
    within = float(np.sqrt(((t - mean[place]) ** 2).sum() / free)) if free > 0 else float("nan")
    return Cells(centres, mean, n, within)


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
