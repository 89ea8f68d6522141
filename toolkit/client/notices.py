"""What somebody who waits for a run is told."""

from __future__ import annotations

import sys

from toolkit.records import RunState, RunStatus, one_line


class PauseNotice:
    """Tells somebody who waits that the run is paused, once each time that it is."""

    def __init__(self) -> None:
        self._told = False

    def look(self, status: RunStatus) -> None:
        """Say why nothing moves and what to do, if that is news."""
        if status.state is RunState.PAUSED and not self._told:
            say(pause_text(status))
        self._told = status.state is RunState.PAUSED


def why_paused(status: RunStatus) -> str:
    """The reason that a run is paused for, as far as somebody said one."""
    return one_line(status.reason) or "somebody asked for it"


def pause_text(status: RunStatus) -> str:
    """Why a run is paused, and what to do, for people."""
    return (
        f"Run {status.run_id} is paused: {why_paused(status)}. It waits for "
        "run.resume(), or run.cancel(); run.retry_dead() sends what failed for good back to work."
    )


def detached_text(run_id: str, *, submitting: bool = False) -> str:
    """What somebody is told who interrupts a wait for a run."""
    more = " Its input still comes, from this process." if submitting else ""
    return f"\nDetached. Run {run_id} goes on; client.get_run({run_id!r}) finds it, .cancel() stops it.{more}"


def say(text: str) -> None:
    """Tell somebody who waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
