"""What a run looks like at one moment: plain records that the views draw, and the pure functions that fill them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from toolkit.notebook.trend import TimeLeft, Trend
from toolkit.records import DeadLetter, RunEvent, RunStatus

if TYPE_CHECKING:
    from toolkit.client.tally import BatchCounter, Tally

MAX_ERRORS: Final = 20
"""Kinds of error shown; the rest is counted."""

MAX_WORKERS: Final = 64
"""Workers shown; the rest is counted."""

MAX_EVENTS: Final = 12
"""Events shown, the latest."""

MAX_LETTERS: Final = 50
"""Dead letters that are read for a table of their kinds, evenly spread: they carry their items."""

SEED_EVENTS: Final = 500
"""Events that tell a view what happened before it was opened."""


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """What one worker did in a run.

    Attributes
    ----------
    worker, host : str
        Which one.
    batches, items, failed : int
        Batches and items executed, and items that failed (retried or dead).
    busy : float
        Share of the time from the run's first claim that it spent in batches, 0 to 1.
    """

    worker: str
    host: str
    batches: int
    items: int
    failed: int
    busy: float


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """Dead letters of one kind of error.

    Attributes
    ----------
    error_type, category : str
        The error's class and category.
    items : int
        Dead letters with it.
    index : int
        Lowest index among them.
    message : str
        The message of that item's error.
    """

    error_type: str
    category: str
    items: int
    index: int
    message: str


@dataclass(frozen=True, slots=True)
class Errors:
    """The dead letters of a run by kind of error.

    Attributes
    ----------
    lines : tuple of ErrorLine
        The most frequent first.
    read, dead : int
        Dead letters that were read for it, of so many.
    """

    lines: tuple[ErrorLine, ...] = ()
    read: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """The server does not answer.

    Attributes
    ----------
    since_at : float
        Seconds since the epoch of the last answer, or of the first question when there was none.
    message : str
        The latest error.
    """

    since_at: float
    message: str


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything a view of a run shows.

    Attributes
    ----------
    run_id, title, task : str
        Which run; the title is the user's name for it, or the task.
    status : RunStatus or None
        The latest snapshot, None before the first answer.
    at : float
        Seconds since the epoch, by this machine's clock, of that snapshot.
    trouble : Trouble or None
        Set while the server does not answer.
    trend : Trend
        What was seen of its progress.
    tally : Tally, or str, or None
        What its batches came to; text says why that is not known, None that nobody asked yet.
    errors : Errors, or str, or None
        Likewise, for the dead letters.
    events : tuple of RunEvent, or str, or None
        Likewise, what happened lately, oldest first.
    asked : str
        What a button was clicked for, as in "Cancelling", until it is done.
    notice : str
        Something that the user asked for and that was refused, or what came of it.
    """

    run_id: str
    title: str
    task: str
    status: RunStatus | None = None
    at: float = 0.0
    trouble: Trouble | None = None
    trend: Trend = field(default_factory=Trend)
    tally: Tally | str | None = None
    errors: Errors | str | None = None
    events: tuple[RunEvent, ...] | str | None = None
    asked: str = ""
    notice: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.status is not None and self.status.state.final

    @property
    def time_left(self) -> TimeLeft | None:
        """How long it may still take; None when nothing can be said."""
        return self.trend.time_left(self.status) if self.status is not None else None

    @property
    def workers(self) -> tuple[WorkerLine, ...] | str | None:
        """A line per worker, or why there is none."""
        if self.tally is None or isinstance(self.tally, str):
            return self.tally
        return worker_lines(self.tally, self.status.elapsed_s if self.status is not None else 0.0)

    def line(self) -> str:
        """One line of text; not escaped."""
        if self.status is not None:
            return self.status.line()
        why = f": {self.trouble.message}" if self.trouble else ""
        return f"{self.title} {self.run_id}: no answer from the server{why}"


def blank(run: Any) -> RunView:
    """Return the view of a run before anything was asked; never raises and asks no server."""
    run_id = getattr(run, "run_id", "")
    spec = getattr(run, "spec", None)
    task = getattr(spec, "task", "")
    return RunView(str(run_id), str(getattr(spec, "name", "") or task or "run"), str(task))


def describe_error(error: BaseException) -> str:
    """Return an exception as ``Type: message``; never raises."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a broken __str__
        return type(error).__name__


def worker_lines(tally: Tally, elapsed_s: float) -> tuple[WorkerLine, ...]:
    """Return one line per worker, the busiest first; `elapsed_s` are the seconds since the run's first claim."""
    return tuple(
        WorkerLine(w.worker, w.host, w.batches, w.items, w.failed, min(1.0, w.busy_s / elapsed_s) if elapsed_s else 0.0)
        for w in tally.workers
    )


def error_lines(letters: Iterable[DeadLetter]) -> tuple[ErrorLine, ...]:
    """Return one line per kind of error, the most frequent first."""
    kinds: dict[tuple[str, str], tuple[int, int, str]] = {}
    for letter in letters:
        kind = (letter.error_type, letter.category)
        items, lowest, message = kinds.get(kind, (0, letter.index, ""))
        if not items or letter.index < lowest:
            lowest, message = letter.index, letter.message
        kinds[kind] = (items + 1, lowest, message)
    lines = [ErrorLine(name, category, *rest) for (name, category), rest in kinds.items()]
    return tuple(sorted(lines, key=lambda line: (-line.items, line.index)))


def read_tally(counter: BatchCounter | None, status: RunStatus) -> Tally | str:
    """Ask the server for the batches that are new and return what all came to, or why not; never raises."""
    try:
        if counter is None:
            raise TypeError("this handle counts no batches")  # noqa: TRY301 - told like every other reason
        return counter.pull(status)
    except Exception as error:  # noqa: BLE001 - this section is missing, the rest of the view is not
        return f"Not available: {describe_error(error)}"


def read_errors(run: Any, status: RunStatus) -> Errors | str:
    """Ask the server for some dead letters and return their kinds, or why not; never raises."""
    try:
        letters = list(run.sample_dead(MAX_LETTERS)) if status.dead else []
        return Errors(error_lines(letters), len(letters), max(status.dead, len(letters)))
    except Exception as error:  # noqa: BLE001 - this section is missing, the rest of the view is not
        return f"Not available: {describe_error(error)}"


def read_events(run: Any, known: tuple[RunEvent, ...] | str | None = None) -> tuple[RunEvent, ...] | str:
    """Ask the server for the latest events that tell more than counters, or why not; never raises.

    Parameters
    ----------
    known : tuple of RunEvent, optional
        Found before: samples of the counters may have pushed them out of the latest ones since.
    """
    try:
        found = {event.event_id: event for event in known} if isinstance(known, tuple) else {}
        latest = run.latest_events(SEED_EVENTS)
        found.update((event.event_id, event) for event in latest if event.kind not in ("progress", "item_dead"))
        return tuple(found.values())[-MAX_EVENTS:]
    except Exception as error:  # noqa: BLE001 - this section is missing, the rest of the view is not
        return f"Not available: {describe_error(error)}"


def seeded(run: Any, view: RunView) -> RunView:
    """Return `view` with what the run's events tell of the time before it was opened; never raises."""
    status = view.status
    if status is None or not status.started_at:
        return view
    try:
        before = Trend.of_events(run.latest_events(SEED_EVENTS), status.started_at)
    except Exception:  # noqa: BLE001 - the history begins later, the rest of the view is there
        return view
    return replace(view, trend=before.add(status))


def with_details(run: Any, view: RunView, counter: BatchCounter | None = None) -> RunView:
    """Return `view` with its tables, from a few calls; never raises."""
    if view.status is None:
        return view
    if counter is None:
        make = getattr(run, "batch_counter", None)
        counter = make() if make is not None else None
    return replace(view, errors=read_errors(run, view.status), tally=read_tally(counter, view.status))


def answered(view: RunView, status: RunStatus, at: float) -> RunView:
    """Return `view` after the server's answer at moment `at`."""
    title, trend = status.name or status.task, view.trend.add(status)
    return replace(view, status=status, at=at, trouble=None, title=title, task=status.task, trend=trend)


def unanswered(view: RunView, error: BaseException, at: float) -> RunView:
    """Return `view` after a question at moment `at` that failed; the trouble counts from the last answer."""
    since_at = view.trouble.since_at if view.trouble else view.at or at
    return replace(view, trouble=Trouble(since_at, describe_error(error)))


def look(run: Any) -> RunView:
    """Ask a run for its state once and return what a view shows; never raises.

    Parameters
    ----------
    run : Run
        Anything with ``run_id``, ``spec`` and ``status()``. Of a run that has ended, workers, dead letters and the
        history of its pace are read too.
    """
    view = blank(run)
    try:
        view = answered(view, run.status(), time.time())
    except Exception as error:  # noqa: BLE001 - a representation must not raise, whatever the server or a proxy throws
        return unanswered(view, error, time.time())
    return with_details(run, seeded(run, view)) if view.final else view
