"""What a run looks like at one moment: plain records that the views draw, and the pure functions that fill them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from toolkit.records import RunStatus

if TYPE_CHECKING:
    import pandas as pd

MAX_ERRORS: Final = 20
"""Kinds of error shown; the rest is counted."""

MAX_WORKERS: Final = 64
"""Workers shown; the rest is counted."""


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
    workers : tuple of WorkerLine, or str, or None
        Text says why there is no table; None when not asked for.
    errors : tuple of ErrorLine, or str, or None
        Likewise, for the dead letters.
    cancelling : bool
        Cancel was clicked and the run has not ended.
    notice : str
        Something that the user asked for and that was refused.
    """

    run_id: str
    title: str
    task: str
    status: RunStatus | None = None
    at: float = 0.0
    trouble: Trouble | None = None
    workers: tuple[WorkerLine, ...] | str | None = None
    errors: tuple[ErrorLine, ...] | str | None = None
    cancelling: bool = False
    notice: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.status is not None and self.status.state.final

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


def worker_lines(frame: pd.DataFrame, elapsed_s: float) -> tuple[WorkerLine, ...]:
    """Return one line per worker of a metrics frame of one run, the busiest first.

    Parameters
    ----------
    frame : DataFrame
        One row per batch, as `Run.metrics` gives it.
    elapsed_s : float
        Seconds since the run's first claim.
    """
    if frame.empty:
        return ()
    spent = frame["service_s"].fillna(0.0) + frame["decode_s"].fillna(0.0) + frame["store_s"].fillna(0.0)
    grouped = (
        frame.assign(spent_s=spent)
        .groupby(["worker", "host"], observed=True)[["items", "failed", "spent_s"]]
        .agg(batches=("items", "size"), items=("items", "sum"), failed=("failed", "sum"), spent_s=("spent_s", "sum"))
        .sort_values("spent_s", ascending=False)
    )
    return tuple(
        WorkerLine(
            worker=str(worker),
            host=str(host),
            batches=int(batches),
            items=int(items),
            failed=int(failed),
            busy=min(1.0, float(spent_s) / elapsed_s) if elapsed_s > 0 else 0.0,
        )
        for (worker, host), batches, items, failed, spent_s in zip(
            grouped.index, grouped["batches"], grouped["items"], grouped["failed"], grouped["spent_s"], strict=True
        )
    )


def error_lines(letters: Iterable[dict[str, Any]]) -> tuple[ErrorLine, ...]:
    """Return one line per kind of error, the most frequent first.

    Parameters
    ----------
    letters : iterable of mapping
        Dead letters with the keys ``index``, ``error_type``, ``category`` and ``message``.
    """
    kinds: dict[tuple[str, str], tuple[int, int, str]] = {}
    for letter in letters:
        kind = (str(letter.get("error_type", "")), str(letter.get("category", "")))
        index = int(letter.get("index", 0))
        items, lowest, message = kinds.get(kind, (0, index, ""))
        if not items or index < lowest:
            lowest, message = index, str(letter.get("message", ""))
        kinds[kind] = (items + 1, lowest, message)
    lines = [ErrorLine(name, category, *rest) for (name, category), rest in kinds.items()]
    return tuple(sorted(lines, key=lambda line: (-line.items, line.index)))


MAX_BATCHES_READ: Final = 50_000
"""Metric rows (104 bytes each) that a view reads for its table of workers; a longer run is left to `Run.metrics`."""

MAX_LETTERS_READ: Final = 1_000
"""Dead letters that a view reads; they carry their items, so more would be slow."""


def read_workers(run: Any, status: RunStatus) -> tuple[WorkerLine, ...] | str:
    """Ask the server for the run's batches and return a line per worker, or why not; never raises."""
    if status.batches > MAX_BATCHES_READ:
        return f"{status.batches:,} batches are too many for this table: see run.metrics()."
    try:
        return worker_lines(run.metrics(), status.elapsed_s) if status.batches else ()
    except Exception as error:  # noqa: BLE001 - this section is missing, the rest of the view is not
        return f"Not available: {describe_error(error)}"


def read_errors(run: Any, status: RunStatus) -> tuple[ErrorLine, ...] | str:
    """Ask the server for the run's dead letters and return a line per kind, or why not; never raises."""
    if status.dead > MAX_LETTERS_READ:
        return f"{status.dead:,} dead letters are too many for this table: see run.dead_letters()."
    try:
        return error_lines(run.dead_letters().to_dict("records")) if status.dead else ()
    except Exception as error:  # noqa: BLE001 - this section is missing, the rest of the view is not
        return f"Not available: {describe_error(error)}"


def with_details(run: Any, view: RunView) -> RunView:
    """Return `view` with its tables of workers and dead letters; never raises."""
    if view.status is None:
        return view
    return replace(view, errors=read_errors(run, view.status), workers=read_workers(run, view.status))


def answered(view: RunView, status: RunStatus, at: float) -> RunView:
    """Return `view` after the server's answer at moment `at`."""
    return replace(view, status=status, at=at, trouble=None, title=status.name or status.task, task=status.task)


def unanswered(view: RunView, error: BaseException, at: float) -> RunView:
    """Return `view` after a question at moment `at` that failed; the trouble counts from the last answer."""
    since_at = view.trouble.since_at if view.trouble else view.at or at
    return replace(view, trouble=Trouble(since_at, describe_error(error)))
