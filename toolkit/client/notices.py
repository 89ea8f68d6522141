"""What somebody who waits for a run is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from toolkit.records import RunState, RunStatus, one_line

STARVED_S: Final = 10.0
"""How long a run waits for further input of another process before somebody who waits for it is told."""
IDLE_S: Final = 10.0
"""How long no worker takes a run that has work before somebody who waits for it is told."""


class Notices:
    """Tells somebody who waits why nothing moves, once each time that it is so.

    Parameters
    ----------
    submits : callable
        Whether this process still submits the run's input: then nobody needs to be told that it is not complete.
    why_idle : callable
        Why no worker takes the run, and what to do.
    """

    def __init__(
        self, submits: Callable[[], bool] = lambda: False, why_idle: Callable[[RunStatus], str] | None = None
    ) -> None:
        self._submits = submits
        self._why_idle = why_idle
        self._paused = False
        self._starved: tuple[int, float] | None = None  # how many items there were, and when
        self._told = False
        self._idle_since: float | None = None
        self._idle_told = False

    def look(self, status: RunStatus) -> None:
        """Say why nothing moves and what to do, if that is news."""
        paused = status.state is RunState.PAUSED
        if paused and not self._paused:
            say(pause_text(status))
        self._paused = paused
        starved = not status.closed and not status.state.final and status.done == status.submitted
        if not starved or self._submits():
            self._starved = None
        elif self._starved is None or self._starved[0] != status.submitted:
            self._starved, self._told = (status.submitted, status.at), False
        elif not self._told and status.at - self._starved[1] >= STARVED_S:
            self._told = True
            say(starved_text(status))
        self._look_idle(status)

    def _look_idle(self, status: RunStatus) -> None:
        waiting = status.state is RunState.RUNNING and status.remaining + status.ready > 0
        if not waiting or status.active:
            self._idle_since, self._idle_told = None, False
        elif self._idle_since is None:
            self._idle_since = status.at
        elif self._why_idle is not None and not self._idle_told and status.at - self._idle_since >= IDLE_S:
            self._idle_told = True
            say(self._why_idle(status))


def why_paused(status: RunStatus) -> str:
    """The reason that a run is paused for, as far as somebody said one."""
    return one_line(status.reason) or "somebody asked for it"


def pause_text(status: RunStatus) -> str:
    """Why a run is paused, and what to do, for people."""
    return (
        f"Run {status.run_id} is paused: {why_paused(status)}. It waits for "
        "run.resume(), or run.cancel(); run.retry_dead() sends what failed for good back to work. "
        "An interrupt stops this wait, not the run."
    )


def starved_text(status: RunStatus) -> str:
    """Why a run whose items are all done does not end, and what to do, for people."""
    return (
        f"Run {status.run_id}: all {status.submitted:,} items so far are done, and its input is not complete; it waits "
        f"for the client that submits it. If that one is gone, client.map(..., run_id={status.run_id!r}) with the same "
        "task and items goes on, .cancel() ends it."
    )


def detached_text(run_id: str, *, submitting: bool = False) -> str:
    """What somebody is told who interrupts a wait for a run."""
    more = " Its input still comes, from this process." if submitting else ""
    return f"\nDetached. Run {run_id} goes on; client.get_run({run_id!r}) finds it, .cancel() stops it.{more}"


def say(text: str) -> None:
    """Tell somebody who waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
