"""What the explorers share: an answerer on a thread of its own, since a slider moves faster than a model answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

REST_S: Final = 0.8
"""Pause after the last answer until the static part is brought up to date: it is not sent while a slider moves."""

SENT_S: Final = 0.01
"""Pause after an answer before anything is done in advance: the thread that sends the answer needs the interpreter."""

Q = TypeVar("Q")


class Latest(Generic[Q]):
    """Answers questions one at a time, always the latest one; those overtaken while they wait are dropped.

    A slider that moves asks more often than a model answers. The thread ends when nothing is asked any more.

    Parameters
    ----------
    answer : callable
        Called with a question; must not raise.
    rested : callable
        Called when no question came for `rest_s` seconds after an answer.
    rest_s : float
        Seconds.
    spare : callable, optional
        Called after an answer that no other question waits behind, for work that may make the next answer quicker.
    """

    def __init__(
        self,
        answer: Callable[[Q], None],
        rested: Callable[[], None],
        rest_s: float = REST_S,
        spare: Callable[[], None] | None = None,
    ) -> None:
        self._answer, self._rested, self.rest_s, self._spare = answer, rested, rest_s, spare
        self._changed = threading.Condition()
        self._next: list[Q] = []
        self._thread: threading.Thread | None = None

    def ask(self, question: Q) -> None:
        """Put a question; returns at once."""
        with self._changed:
            self._next = [question]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="toolkit-explorer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def join(self) -> None:
        """Wait until all is answered and rested."""
        while (thread := self._thread) is not None:
            thread.join()

    def _waits(self, pause_s: float) -> bool:
        """Whether there is a question, or comes one within `pause_s` seconds."""
        with self._changed:
            if not self._next:
                self._changed.wait(pause_s)
            return bool(self._next)

    def _work(self) -> None:
        while self._waits(self.rest_s):
            with self._changed:
                question = self._next.pop()
            self._answer(question)
            if self._spare is not None and not self._waits(SENT_S):
                self._spare()
        self._rested()
        with self._changed:
            self._thread = None
            waiting = self._next
        if waiting:  # asked while the static part was brought up to date
            self.ask(waiting[0])
