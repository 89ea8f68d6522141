"""What was measured, on its way to the server: a bounded queue and the thread that empties it."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

from toolkit.errors import LedgerFull, LedgerRefused, LedgerUnavailable
from toolkit.instruments.measuring import Execution, Tags

logger = logging.getLogger(__name__)

GATHER_S: Final = 1.0
"""How long rows are gathered before they are sent together."""
BATCH_ROWS: Final = 500
"""Rows sent at a time; so many are sent at once."""
_LONGEST_PAUSE_S = 30.0

Key = tuple[str, Tags]
Delivery = Callable[[], None]
"""Sends what it holds; called again after an error that passes, without a second effect."""
Prepare = Callable[[Sequence[Execution], Counter[Key]], Sequence[tuple[Key, int, Delivery]]]
"""Turns executions, and what was dropped, into deliveries: whose, how many rows (dropped ones too), and how."""

_PASSING = (LedgerUnavailable, LedgerFull, LedgerRefused)


class Outbox:
    """Takes executions at once, and delivers them when the server is there.

    Bounded: when the queue is full, the oldest is dropped and counted, and the count is delivered later. Not for use
    after a fork: the child makes its own.

    Parameters
    ----------
    prepare : Prepare
        Makes deliveries.
    limit : int
        Executions waiting at most.
    """

    def __init__(self, prepare: Prepare, limit: int) -> None:
        self._prepare = prepare
        self._limit = limit
        self._queue: deque[Execution] = deque()
        self._drops: Counter[Key] = Counter()
        self._pending: deque[tuple[Key, int, Delivery]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._asked = self._tried = 0
        self._failures = 0
        self._refused: set[Key] = set()

    def put(self, execution: Execution) -> None:
        """Queue an execution; never blocks for longer than a few instructions of the thread."""
        with self._changed:
            self._queue.append(execution)
            waiting = len(self._queue)
            if waiting > self._limit:
                oldest = self._queue.popleft()
                self._drops[oldest.task, oldest.tags] += 1
            elif waiting in (1, BATCH_ROWS):
                self._changed.notify_all()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="toolkit-outbox", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending: the next row tries again
            logger.debug("the thread that delivers metric rows does not start: %s", error)
            return
        self._thread = thread

    def flush(self, timeout_s: float) -> bool:
        """Try once to deliver all; whether nothing is left. Rows left when a process ends are lost."""
        with self._changed:
            if self._thread is None:
                return True
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._tried >= asked, timeout_s)
            return not (self._queue or self._drops or self._pending)

    @property
    def waiting(self) -> int:
        """Rows that are not delivered yet, and rows dropped whose count is not."""
        with self._changed:
            return len(self._queue) + sum(self._drops.values()) + sum(n for _, n, _ in self._pending)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._something)
                if not self._failures:
                    self._changed.wait_for(self._hurry, GATHER_S)
                else:
                    pause_s = min(_LONGEST_PAUSE_S, GATHER_S * 2.0 ** min(self._failures, 6))
                    pause_s *= 0.5 + random.random() / 2  # noqa: S311 - jitter, not a secret
                    self._changed.wait_for(lambda: self._asked > self._tried, pause_s)
                asked = self._asked
            more = self._deliver()
            with self._changed:
                if not (more and self._queue):
                    self._tried = asked
                self._changed.notify_all()

    def _something(self) -> bool:
        # Drops alone wake nobody: their count goes with the next rows. It is of a full queue, or of rows refused.
        return bool(self._queue or self._pending or self._asked > self._tried)

    def _hurry(self) -> bool:
        return len(self._queue) >= BATCH_ROWS or self._asked > self._tried

    def _deliver(self) -> bool:
        """Deliver one batch; False when the server does not take it now."""
        try:
            if not self._pending:
                self._take()
            while self._pending:
                self._send(*self._pending[0])
                self._pending.popleft()
        except _PASSING as error:
            if not self._failures:
                logger.warning(
                    "metric rows of instrumented tasks wait, at most %d: %s. Tasks are not affected", self._limit, error
                )
            self._failures += 1
            return False
        if self._failures:
            logger.warning("metric rows of instrumented tasks are delivered again")
        self._failures = 0
        return True

    def _take(self) -> None:
        with self._changed:
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_ROWS))]
            drops, self._drops = self._drops, Counter()
        try:
            self._pending.extend(self._prepare(taken, drops))
        except _PASSING:
            with self._changed:  # nothing was sent: back to where they came from
                self._queue.extendleft(reversed(taken))
                self._drops.update(drops)
                while len(self._queue) > self._limit:
                    oldest = self._queue.popleft()
                    self._drops[oldest.task, oldest.tags] += 1
            raise
        except Exception:  # the thread must live on
            logger.exception("%d metric rows of instrumented tasks could not be packed; they are counted", len(taken))
            with self._changed:
                self._drops.update(drops)
                self._drops.update((e.task, e.tags) for e in taken)

    def _send(self, key: Key, rows: int, deliver: Delivery) -> None:
        try:
            deliver()
        except _PASSING:
            raise
        except Exception:  # the thread must live on
            if key in self._refused:
                logger.debug("%d metric rows of task %s were refused again", rows, key[0])
            else:
                self._refused.add(key)
                logger.exception("%d metric rows of task %s were refused by the server; they are counted", rows, key[0])
            with self._changed:
                self._drops[key] += rows
