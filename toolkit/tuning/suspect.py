"""Rows that look sound one by one and cannot be true beside the others: doubled, from a wrong clock, far out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array

_NEIGHBOURS = 9.0  # sizes within this factor are compared
_FAR = 30.0  # times (or a fraction of) the usual seconds of batches of like size
_MOST = 0.2  # share of far rows beyond which they are no accident but the work itself
_FEWEST, _FEW = 20, 60  # rows without which nothing is told, and below which the first ones of processes help
_TELLING = 1.0  # log odds that say something
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


def far_out(items: Array, spent: Array, first: NDArray[np.bool_], run: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows that took a usual batch of like size 30 times over, as wrong units and stuck clocks do, if they are few.

    Heavy-tailed work has such rows too, and there they are the truth. A long item is lost among others, but a wrong
    unit is as frequent in batches of many items as in those of few: this decides where it can be told. Elsewhere rows
    are far out where hardly any lie between them and the usual ones. The `first` rows of processes are not far out
    where no others are: imports explain them. Of short runs most rows are first ones; there those of a `run` count as
    any others unless most of them took long, as imports do.
    """
    out = np.zeros(len(items), dtype=bool)
    between = _FAR / 6.0
    if (~first).sum() < _FEW:
        first = first & _importing(run, first, _ratios(items, spent, first, first & False) > between)
    usual = ~first
    if usual.sum() < _FEWEST:
        return out
    ratio = _ratios(items, spent, first, first)
    bound = np.where(first, between, _FAR)  # a single first row among a few spoils its run
    wild = (ratio > bound) | (ratio < 1.0 / bound)
    if not 0 < wild[usual].sum() <= _MOST * usual.sum():
        return out
    odds = _by_rows(items[usual], wild[usual])
    if abs(odds) < _TELLING:
        odds = 0.25 * wild[usual].sum() - ((ratio > between) & ~wild)[usual].sum()
    return wild if odds >= 0 else out


def _importing(run: NDArray[np.int64], first: NDArray[np.bool_], long: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows of the runs most of whose `first` rows are `long`."""
    firsts, longs = np.bincount(run, weights=first), np.bincount(run, weights=first & long)
    return np.asarray(2.0 * longs > firsts)[run]


def _by_rows(items: Array, wild: NDArray[np.bool_]) -> float:
    """Log odds of rows being wild whatever their items, over being so by single long items.

    Of batches of ``b`` items with a Pareto tail of index 1.5, as heavy as work has, a share in proportion to
    ``1 / sqrt(b)`` lies beyond a multiple of the mean (the largest of them decides; Embrechts et al., *Modelling
    Extremal Events*, 1997, ch. 1.3); of lighter tails less.
    """

    def fitted(like: Array) -> float:
        share = np.clip(wild.sum() / like.sum() * like, 1e-9, 0.99)
        return float(np.log(np.where(wild, share, 1.0 - share)).sum())

    return fitted(np.ones(len(items))) - fitted(np.sqrt(items.min() / items))


def _ratios(items: Array, spent: Array, first: NDArray[np.bool_], importing: NDArray[np.bool_]) -> Array:
    """Seconds of rows over the usual ones, none of which is `first`: 1 within the range of what may be usual.

    Rows that are `importing` may take what most of them take longer.
    """
    place = np.floor(np.log(items) / np.log(_NEIGHBOURS) * 2.0).astype(np.int64)
    codes, place = np.unique(place, return_inverse=True)
    known = []
    for code in range(len(codes)):
        here = (place == code) & ~first
        if here.sum() >= 5 and (rate := float(np.median(spent[here] / items[here]))) > 0:
            known.append((code, rate, float(np.median(items[here]))))
    if not known:
        return np.ones(len(items))
    low, high = np.empty(len(items)), np.empty(len(items))
    for code in range(len(codes)):
        here = place == code
        near, rate, size = min(known, key=lambda one: abs(int(codes[one[0]]) - int(codes[code])))
        low[here] = high[here] = rate * items[here]
        if near != code:  # costs are of batches, or of items, or both
            low[here], high[here] = (part(rate * items[here], rate * size) for part in (np.minimum, np.maximum))
    if importing.any():
        high[importing] += max(0.0, float(np.quantile((spent - high)[importing], 0.75)))
    return np.asarray(np.where(spent > high, spent / high, np.where(spent < low, spent / low, 1.0)))
