"""The items of a stream, drawn on a thread of their own: who stores them takes what is there, and waits for no more."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from itertools import islice
from typing import Any, Final

from toolkit.ledger import PAGE_ITEMS

CUT_S: Final = 0.2
"""How long a page waits for further items, from its first one on."""
_BULK: Final = 256  # items drawn at once from a source that gives so many
_QUICK_S: Final = 0.001  # within this


class Stopped(Exception):
    """Nobody wants the rest of the input; what is stored stays, to be gone on with."""


class Source:
    """Draws items at most a page ahead of who takes them.

    A source that takes a second for an item must not hold up those before it, and nobody can interrupt it: hence the
    thread. All of the iterable runs there, its first item as well.

    Parameters
    ----------
    items : iterable
        What to draw from.
    name : str
        Name of the thread.
    """

    def __init__(self, items: Iterable[Any], name: str) -> None:
        self._changed = threading.Condition()
        self._buffer: deque[Any] = deque()
        self._wanted = PAGE_ITEMS
        self._over = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=copy_context().run, args=(self._draw, items), name=name, daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """Draw no more than what is being waited for; who takes hears of it as `Stopped`.

        That is one item, or up to 256 of a source that was quick until now.
        """
        with self._changed:
            self._stopped = True
            self._buffer.clear()
            self._changed.notify_all()

    def check(self) -> None:
        """Raise `Stopped` once `stop` was called."""
        if self._stopped:
            raise Stopped

    def take(self, most: int, within_s: float | None = CUT_S) -> list[Any]:
        """Return the next items, at least one unless there are no more.

        Parameters
        ----------
        most : int
            How many at most.
        within_s : float or None
            How long to wait for further ones once the first is there; None for as long as it takes.

        Raises
        ------
        Stopped
            `stop` was called.
        BaseException
            Whatever the source raised.
        """
        with self._changed:
            self._wanted = most
            self._changed.notify_all()  # there is room for so many, then
            self._await(lambda: bool(self._buffer), None)
            self._await(lambda: len(self._buffer) >= most, within_s)
            taken = [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]
            self._changed.notify_all()
        return taken

    def _await(self, enough: Callable[[], bool], within_s: float | None) -> None:
        # A source that was quick and is slow now adds items that nobody is told of: hence they are looked for.
        while not self._changed.wait_for(lambda: enough() or self._over or self._stopped, within_s or CUT_S):
            if within_s is not None:
                break
        self.check()
        if self._error is not None:
            raise self._error

    def _draw(self, items: Iterable[Any]) -> None:
        try:
            source, many = iter(items), 1
            for item in source:
                with self._changed:
                    self._buffer.append(item)
                    if len(self._buffer) == 1 or len(self._buffer) >= self._wanted:
                        self._changed.notify_all()
                    while len(self._buffer) >= max(self._wanted, PAGE_ITEMS) and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                    room = max(self._wanted, PAGE_ITEMS) - len(self._buffer)
                began = time.perf_counter()
                self._buffer.extend(islice(source, min(many, room) - 1))  # each is there to be taken as it comes
                many = min(_BULK, 2 * many) if time.perf_counter() - began < _QUICK_S else 1
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are taken
            self._error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
