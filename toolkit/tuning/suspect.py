"""Rows that look sound one by one and cannot be true beside the others: doubled, from a wrong clock, far out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array

_NEIGHBOURS = 9.0  # sizes within this factor are compared
_FAR = 30.0  # times (or a fraction of) the usual seconds of batches of like size
_MOST = 0.2  # share of far rows beyond which they are no accident but the work itself
_FEWEST = 20
_CLOCK_S = 3_600.0  # how far a claim may lie outside of the middle of its run, beside the work in it


def duplicated(*columns: Array | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows that repeat an earlier one in all columns."""
    if not len(columns[0]):
        return np.zeros(0, dtype=bool)
    # One weighted sum finds, quickly in a million rows, what may be equal; only that is compared in full.
    out = np.zeros(len(columns[0]), dtype=bool)
    digest = np.zeros(len(out))
    for factor, column in zip((1.0, 0.7548, 0.5698, 0.4302, 0.3247, 0.2451), columns, strict=False):
        digest += factor * np.asarray(column, dtype=np.float64)
    ordered = np.sort(digest)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not twice.size:
        return out
    maybe = np.flatnonzero(np.isin(digest, twice))
    table = np.stack([np.asarray(column, dtype=np.float64)[maybe] for column in columns], axis=1)
    order = np.lexsort(table.T)
    same = np.r_[False, (table[order][1:] == table[order][:-1]).all(axis=1)]
    out[maybe[order[same]]] = True
    return out


def skewed(run: NDArray[np.int64], claimed: Array, spent: Array) -> NDArray[np.bool_]:
    """Rows whose claim lies further from the middle of their run than all work of the run, and an hour, explain."""
    out = np.zeros(len(run), dtype=bool)
    if not len(run) or np.ptp(claimed) < _CLOCK_S:
        return out
    order = np.argsort(run, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(run[order])) + 1):
        if len(here) < 3 or np.ptp(claimed[here]) <= _CLOCK_S:
            continue
        away = np.abs(claimed[here] - np.median(claimed[here]))
        out[here[away > _CLOCK_S + 2.0 * float(spent[here].sum())]] = True
    return out


def far_out(items: Array, spent: Array) -> NDArray[np.bool_]:
    """Rows that took a usual batch of like size 30 times over, as wrong units and stuck clocks do, if they are few.

    Heavy-tailed work has such rows too, and there they are the truth: rows are far out only where hardly any lie
    between them and the usual ones.
    """
    out = np.zeros(len(items), dtype=bool)
    if len(items) < _FEWEST:
        return out
    place = np.floor(np.log(items) / np.log(_NEIGHBOURS) * 2.0).astype(np.int64)
    ratio = np.ones(len(items))
    for code in np.unique(place):
        here = place == code
        usual = float(np.median(spent[here] / items[here]))
        if here.sum() >= 5 and usual > 0:
            ratio[here] = spent[here] / items[here] / usual
    wild = (ratio > _FAR) | (ratio < 1.0 / _FAR)
    between = (ratio > _FAR / 6.0) & (ratio <= _FAR)
    if 0 < wild.sum() <= _MOST * len(items) and between.sum() <= 0.25 * wild.sum():
        out[wild] = True
    return out
