"""Submission of a stream beside the caller, who has the run's handle while its input still comes."""

from __future__ import annotations

import atexit
import concurrent.futures.process
import concurrent.futures.thread  # noqa: F401 - both, since what is registered later runs earlier: `_at_exit`
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from toolkit.client.drawing import Source, Stopped
from toolkit.client.notices import detached_text, say
from toolkit.client.submit import Submission
from toolkit.errors import ToolkitError
from toolkit.records import one_line
from toolkit.settings import redact_url

SOON_S: Final = 0.25
"""A submission that ends so soon is waited for: what is wrong with it is raised where it was asked for."""
_LOOK_S: Final = 1.0
_STOP_S: Final = 2.0

Write = Callable[[Source, Callable[[], None]], None]

_pending: Final[set[Submitting]] = set()
"""Those of this process whose input still comes, or whose error nobody was told."""


@dataclass(frozen=True, slots=True)
class _Over:
    """What is kept of a `Submission` that has ended: it holds its client, and handles of runs outlive that."""

    submitted: int
    failed: bool


class Submitting:
    """The submission of one stream, on threads of its own.

    Parameters
    ----------
    run_id : str
        The run.
    items : iterable
        Its input.
    submission : Submission
        The way into the ledger.
    write : callable
        ``write(source, begun)`` takes that way.
    over : callable
        Looks whether the run has ended, so that nobody waits for its input any more.
    """

    def __init__(
        self, run_id: str, items: Iterable[Any], submission: Submission, write: Write, over: Callable[[], bool]
    ) -> None:
        self.run_id = run_id
        self._source = Source(items, f"toolkit-draw-{run_id}")
        self._submission: Submission | _Over = submission
        self._way: tuple[Submission, Write] | None = submission, write  # until it ends
        self._over = over
        self._error: BaseException | None = None
        self._untold = False
        self._begun, self._ended = threading.Event(), threading.Event()
        self._pid = os.getpid()

    @property
    def alive(self) -> bool:
        """Whether input still comes; not in a forked child, which has no part in it."""
        return not self._ended.is_set() and self._pid == os.getpid()

    @property
    def pending(self) -> bool:
        """Whether input still comes, or ended with an error that nobody was told; in this process."""
        return self.alive or (self._untold and self._pid == os.getpid())

    def begin(self) -> None:
        """Start, and return once the run exists with its first items; or later by as much as a short stream takes.

        Raises
        ------
        BaseException
            Whatever went wrong until then, in the source or in the ledger. An interrupt leaves a run that exists alone.
        """
        began = time.monotonic()
        _at_exit()
        _pending.add(self)
        name = f"toolkit-submit-{self.run_id}"
        self._source.start()
        threading.Thread(target=copy_context().run, args=(self._work,), name=name, daemon=True).start()
        try:
            self._begun.wait()
            self._ended.wait(max(0.0, SOON_S - (time.monotonic() - began)))
        except KeyboardInterrupt:
            if self._begun.is_set():
                say(detached_text(self.run_id, submitting=self.alive))
            else:
                self._source.stop()
                say(f"\nInterrupted before the first item: run {self.run_id} was not submitted.")
            raise
        self.check()

    def check(self) -> None:
        """Raise what ended the submission too early; while its run is being cancelled for it, wait for that."""
        if self._submission.failed:
            self._ended.wait()
        if self._error is not None:
            self._told()
            raise self._error

    def finish(self) -> None:
        """Wait for the end of the input, and say so; an interrupt ends the wait."""
        if not self._ended.wait(SOON_S):
            say(
                f"Run {self.run_id}: waiting for the rest of its input, {self._submission.submitted:,} items so far. "
                "An interrupt ends that."
            )
        while not self._ended.wait(_LOOK_S) and not _is_so(self._over):
            pass
        self.tell()

    def tell(self) -> None:
        """Say what ended the input too early, unless somebody was told."""
        if self._error is not None and self._untold:
            self._told()
            notes = "".join(f"; {note}" for note in getattr(self._error, "__notes__", ()))
            said = one_line(redact_url(f"{type(self._error).__name__}: {self._error}{notes}"), 1000)
            say(f"Run {self.run_id}: its input ended early, {said}")

    def stop(self) -> None:
        """Submit no more, and say how to go on, unless the run has ended all the same."""
        over = self._over  # it goes when the submission ends
        self._source.stop()
        self._ended.wait(_STOP_S)
        _pending.discard(self)
        if _is_so(over):
            return
        say(
            f"Run {self.run_id}: its input stopped after {self._submission.submitted:,} items. client.map(..., "
            f"run_id={self.run_id!r}) with the same task and items goes on, .cancel() ends it."
        )

    def _told(self) -> None:
        self._untold = False
        _pending.discard(self)

    def _work(self) -> None:
        assert self._way is not None
        submission, write = self._way
        try:
            write(self._source, self._begun.set)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the run
            if not submission.cancelled:
                self._error, self._untold = error, True
        finally:
            self._source.stop()
            self._submission = _Over(submission.submitted, submission.failed)
            self._way, self._over = None, _ended
            if not self._untold:
                _pending.discard(self)
            self._ended.set()
            self._begun.set()


def _ended() -> bool:
    return True


def _is_so(over: Callable[[], bool]) -> bool:
    try:
        return over()
    except ToolkitError:  # a server that is away ends nothing
        return False


def finish_all(submissions: Iterable[Submitting], *, wait: bool = True) -> None:
    """End submissions before their client goes: input that still comes is waited for, or stopped.

    An error of input that ended earlier is said, where nobody was told of it.

    Raises
    ------
    KeyboardInterrupt
        The wait was interrupted; they are stopped.
    """
    pending = [submission for submission in submissions if submission.pending]
    try:
        for submission in pending if wait else ():
            submission.finish()
    finally:
        for submission in pending:
            if submission.alive:
                submission.stop()
            submission.tell()


def finish_at_exit() -> None:
    """The same at the end of the process, where an interrupt has nobody to go to."""
    with suppress(KeyboardInterrupt):
        finish_all(list(_pending))


@cache
def _at_exit() -> None:
    """Let the end of the process wait for its streams, while whatever they draw from still works.

    Executors take no more work once the interpreter waits for threads, long before `atexit`. Nothing public precedes
    that, so this is registered as they do it themselves, and after them; where that fails, late is better than never.
    """
    try:
        threading._register_atexit(finish_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    except (AttributeError, RuntimeError):
        atexit.register(finish_at_exit)
