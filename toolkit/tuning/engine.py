"""The event loop behind `simulate`: many runs at once, one row of an array each.

At each step every run goes to its next event: a worker ends a batch, or asks for one. Busy workers slow each other down
at every moment. What a batch needs is drawn before and belongs to the items it holds and to its place in the order of
claims, so that two settings with one seed see the same luck (common random numbers; Law, *Simulation Modeling and
Analysis*, ch. 11).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array


@dataclass(frozen=True, slots=True)
class Rules:
    """How workers share what there is; arrays over workers have one length.

    Attributes
    ----------
    slowdown : ndarray of shape (workers + 1,)
        How much longer work takes while so many are busy.
    speed : ndarray of shape (workers,)
        Of each worker's host, 1 for usual.
    joins_s, leaves_s : ndarray of shape (workers,)
        When a worker asks for its first batch, and from when on it asks for none.
    warm_s : float
        Work of a worker's first batch beside its items.
    gap_s : float
        Seconds between two batches of a worker.
    rate : float
        Items per second that all workers together may begin; infinite for no limit.
    """

    slowdown: Array
    speed: Array
    joins_s: Array
    leaves_s: Array
    warm_s: float
    gap_s: float
    rate: float


@dataclass(frozen=True, slots=True)
class Batches:
    """What is to be done, one row per run, one column per batch in the order of claims.

    Attributes
    ----------
    items : ndarray of shape (n_runs, n_batches)
        0 pads at the end.
    work_s : ndarray of shape (n_runs, n_batches)
        Seconds of a usual worker that is alone.
    held_s : ndarray of shape (n_runs, n_batches)
        Seconds at the end for which a batch holds the resource that only one worker at a time may have.
    """

    items: Array
    work_s: Array
    held_s: Array


@dataclass(frozen=True, slots=True)
class Played:
    """What happened to each batch; arrays of shape (n_runs, n_batches), NaN for batches that nobody took.

    `active` counts the workers busy at the claim, the claimer included; `idle_s` is since the worker's previous batch.
    """

    worker: Array
    start_s: Array
    end_s: Array
    active: Array
    idle_s: Array

    def makespan_s(self, batches: Batches) -> Array:
        """Seconds until the last batch ended, infinite where workers left before all was done."""
        missing = (np.isnan(self.end_s) & (batches.items > 0)).any(axis=1)
        return np.where(missing, np.inf, np.nanmax(np.where(batches.items > 0, self.end_s, 0.0), axis=1))


@dataclass(slots=True)
class _State:
    """Where the runs stand; shapes (n_runs, n_workers) and (n_runs,)."""

    left: Array  # work of the batch at hand, infinite for the idle
    wake: Array  # when a worker asks for a batch, infinite for the busy and those that are done
    due: Array  # before when the rate limit lets the batch at hand not end
    hand: NDArray[np.int64]  # which batch it is
    ended: Array
    fresh: NDArray[np.bool_]
    now: Array
    busy: NDArray[np.int64]
    taken: NDArray[np.int64]
    lock: Array
    token: Array


Cut = Callable[[int, float, Played], int]
"""Called with a worker that asks for a batch, when, and what happened so far; returns how many batches there are."""


def play(batches: Batches, rules: Rules, cut: Cut | None = None) -> Played:
    """Run all rows to their end.

    With `cut` there is one run, whose batches are made as they are asked for: it writes the next one into `batches`.
    """
    n_runs, n_batches = batches.items.shape
    width = len(rules.speed)
    count = (batches.items > 0).sum(axis=1)
    out = Played(*(np.full((n_runs, n_batches), np.nan) for _ in range(5)))
    state = _State(
        left=np.full((n_runs, width), np.inf),
        wake=np.repeat(rules.joins_s[None, :], n_runs, axis=0),
        due=np.zeros((n_runs, width)),
        hand=np.zeros((n_runs, width), dtype=np.int64),
        ended=np.full((n_runs, width), np.nan),
        fresh=np.ones((n_runs, width), dtype=bool),
        now=np.zeros(n_runs),
        busy=np.zeros(n_runs, dtype=np.int64),
        taken=np.zeros(n_runs, dtype=np.int64),
        lock=np.zeros(n_runs),
        token=np.zeros(n_runs),
    )
    rows = np.arange(n_runs)
    while True:
        worker, asking = state.left.argmin(axis=1), state.wake.argmin(axis=1)
        slow = rules.slowdown[state.busy]
        to_end, to_wake = state.left[rows, worker] * slow, state.wake[rows, asking] - state.now
        ends = to_end <= to_wake
        step = np.where(ends, to_end, to_wake)
        going = np.isfinite(step)
        if not going.any():
            return out
        step = np.where(going, np.maximum(step, 0.0), 0.0)
        state.now += step
        state.left -= (step / slow)[:, None]
        done = np.flatnonzero(ends & going)
        if done.size:
            _end(state, out, batches, rules, done, worker[done])
        come = np.flatnonzero(~ends & going)
        if come.size:
            if cut is not None:
                count[0] = cut(int(asking[0]), float(state.now[0]), out)
            _claim(state, out, batches, rules, come, asking[come], count)


def _end(
    state: _State, out: Played, batches: Batches, rules: Rules, rows: NDArray[np.int64], worker: NDArray[np.int64]
) -> None:
    """The work of these workers is done; what is shared may keep their batches from ending."""
    at = state.hand[rows, worker]
    held = batches.held_s[rows, at]
    ended = np.where(held > 0, np.maximum(state.lock[rows], state.now[rows]) + held, state.now[rows])
    state.lock[rows] = np.where(held > 0, ended, state.lock[rows])
    ended = np.maximum(ended, state.due[rows, worker])
    out.end_s[rows, at] = ended
    state.left[rows, worker] = np.inf
    state.busy[rows] -= 1
    state.ended[rows, worker] = ended
    state.wake[rows, worker] = ended + rules.gap_s


def _claim(  # noqa: PLR0913, PLR0917 - one step of the loop, with what the loop has at hand
    state: _State,
    out: Played,
    batches: Batches,
    rules: Rules,
    rows: NDArray[np.int64],
    worker: NDArray[np.int64],
    count: NDArray[np.int64],
) -> None:
    """These workers ask for a batch; who finds none, or is to leave, does not ask again."""
    state.wake[rows, worker] = np.inf
    gets = (state.taken[rows] < count[rows]) & (state.now[rows] < rules.leaves_s[worker])
    rows, worker = rows[gets], worker[gets]
    at = state.taken[rows]
    state.taken[rows] += 1
    state.busy[rows] += 1
    warm = np.where(state.fresh[rows, worker], rules.warm_s, 0.0)
    state.fresh[rows, worker] = False
    state.left[rows, worker] = (batches.work_s[rows, at] + warm) / rules.speed[worker]
    state.hand[rows, worker] = at
    if np.isfinite(rules.rate):
        state.token[rows] = np.maximum(state.token[rows], state.now[rows]) + batches.items[rows, at] / rules.rate
        state.due[rows, worker] = state.token[rows]
    out.worker[rows, at], out.start_s[rows, at] = worker, state.now[rows]
    out.active[rows, at] = state.busy[rows]
    out.idle_s[rows, at] = state.now[rows] - state.ended[rows, worker]
