"""Submission of a stream beside the caller, who has the run's handle while its input still comes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final

from toolkit.client.drawing import Source, Stopped
from toolkit.client.notices import detached_text, say
from toolkit.client.submit import Submission
from toolkit.errors import ToolkitError

SOON_S: Final = 0.25
"""A submission that ends so soon is waited for: what is wrong with it is raised where it was asked for."""
_LOOK_S: Final = 1.0
_STOP_S: Final = 2.0

Write = Callable[[Source, Callable[[], None]], None]


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
        self._submission = submission
        self._write = write
        self._over = over
        self._error: BaseException | None = None
        self._begun, self._ended = threading.Event(), threading.Event()
        self._pid = os.getpid()

    @property
    def alive(self) -> bool:
        """Whether input still comes; not in a forked child, which has no part in it."""
        return not self._ended.is_set() and self._pid == os.getpid()

    def begin(self) -> None:
        """Start, and return once the run exists with its first items; or later by as much as a short stream takes.

        Raises
        ------
        BaseException
            Whatever went wrong until then, in the source or in the ledger. An interrupt leaves a run that exists alone.
        """
        began = time.monotonic()
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
            raise self._error

    def finish(self) -> None:
        """Wait for the end of the input, and say so; an interrupt ends the wait."""
        if not self._ended.wait(SOON_S):
            say(
                f"Run {self.run_id}: waiting for the rest of its input, {self._submission.submitted:,} items so far. "
                "An interrupt ends that."
            )
        while not self._ended.wait(_LOOK_S) and not self._run_ended():
            pass
        if self._error is not None:
            say(f"Run {self.run_id}: its input ended early, {type(self._error).__name__}: {self._error}")

    def stop(self) -> None:
        """Submit no more, and say how to go on."""
        self._source.stop()
        self._ended.wait(_STOP_S)
        say(
            f"Run {self.run_id}: its input stopped after {self._submission.submitted:,} items. client.map(..., "
            f"run_id={self.run_id!r}) with the same task and items goes on, .cancel() ends it."
        )

    def _run_ended(self) -> bool:
        try:
            return self._over()
        except ToolkitError:  # a server that is away ends nothing
            return False

    def _work(self) -> None:
        try:
            self._write(self._source, self._begun.set)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the run
            if not self._submission.cancelled:
                self._error = error
        finally:
            self._source.stop()
            self._ended.set()
            self._begun.set()


def finish_all(submissions: Iterable[Submitting], *, wait: bool = True) -> None:
    """End submissions before their client goes: those of input that still comes are waited for, or stopped.

    Raises
    ------
    KeyboardInterrupt
        The wait was interrupted; they are stopped.
    """
    live = [submission for submission in submissions if submission.alive]
    try:
        for submission in live if wait else ():
            submission.finish()
    finally:
        for submission in live:
            if submission.alive:
                submission.stop()


def finish_at_exit(submissions: Iterable[Submitting]) -> None:
    """The same at the end of the process, where an interrupt has nobody to go to."""
    with suppress(KeyboardInterrupt):
        finish_all(submissions)
