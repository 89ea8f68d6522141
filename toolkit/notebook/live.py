"""What every live view is: one thread that looks and draws, any number of outputs, and an end as static HTML.

A daemon thread per view, however many outputs show it: an asyncio task would freeze while a cell computes. A callback
of a widget may run on any thread and only says what is wanted; the thread acts.

At its end a view replaces its outputs by static HTML: when what it shows has ended, or when the kernel goes down. A
page that was loaded meanwhile takes no part in such a replacement (see `toolkit.notebook.outputs`); the last picture
stays there and says what to do. What is saved from that page is the static HTML that it had, so until the end that is
brought up to date now and then.
"""

from __future__ import annotations

import atexit
import threading
import time
from functools import cache
from typing import Any, Final

from toolkit.notebook.clicks import listen
from toolkit.notebook.outputs import Beside, quietly, shell, show_bundle

AFTER_CELL_S: Final = 0.5
"""Longest time that the end of a cell waits for a last look."""

MAX_VIEWS: Final = 64
"""Outputs of one view that are replaced at its end; executing a cell again and again leaves dead ones behind."""

_open: set[LiveView] = set()

FULL_S: Final = 60.0
SLOW_S: Final = 300.0
LONG_S: Final = 900.0


def period_s(age_s: float, trouble: bool = False) -> float:
    """Return the pause between two refreshes: short while someone is likely to watch, long for a run of hours.

    jupyter_server stores every message for a tab that is closed, so a view must not go on at full rate for ever: these
    steps leave less than 2 MB an hour, also of a run with failures, whose refreshes are longer. Whoever clicks, or runs
    a cell that shows the view, is seen to watch.

    Parameters
    ----------
    age_s : float
        Seconds since somebody was seen to watch.
    trouble : bool
        The server does not answer.
    """
    pause = 0.25 if age_s < FULL_S else 1.0 if age_s < SLOW_S else 5.0 if age_s < LONG_S else 10.0
    return max(pause, 1.0) if trouble else pause


def keep_s(age_s: float) -> float:
    """Return the pause between two static pictures for the notebook: each is as long as many refreshes.

    Parameters
    ----------
    age_s : float
        Seconds since somebody was seen to watch.
    """
    return 30.0 if age_s < SLOW_S else 900.0


FIRST_KEPT_S: Final = 5.0
"""The first static picture after the one that was shown follows so soon: by then there is something to see."""

MOST_S: Final = 20.0
"""Longest time between two readings of something costly that changes."""


class Costly:
    """When to read something again that costs more than a snapshot: so that about a hundredth of the time goes into it.

    Parameters
    ----------
    least_s : float
        Shortest time between two readings.
    """

    def __init__(self, least_s: float = 2.0) -> None:
        self._least_s = least_s
        self._warm = False
        self._next_at = 0.0
        self._mark: Any = None

    def due(self, mark: Any) -> bool:
        """Whether it is time, and `mark`, which stands for what would be read, is another than at the last reading."""
        return mark != self._mark and time.monotonic() >= self._next_at

    def read(self, mark: Any, took_s: float) -> None:
        """Note a reading; what the first one cost is left out, because it imported what it needs."""
        self._mark = mark
        self._next_at = time.monotonic() + max(self._least_s, min(MOST_S, 100 * took_s) if self._warm else 0.0)
        self._warm = True


class LiveView:
    """A box of widgets, kept fresh by one thread; subclasses say what to look at and how it is drawn.

    Attributes
    ----------
    box : ipywidgets widget
        What the outputs show; set by the subclass.
    ended : bool
        It is static by now.
    """

    box: Any

    def __init__(self, name: str) -> None:
        self.ended = False
        self._name = name
        self._outputs: list[Beside] = []
        self._kept = ""
        self._keep_at = time.monotonic() + FIRST_KEPT_S
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._watched_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._caught_up: threading.Event | None = None

    # ------------------------------------------------------------------ for subclasses to say

    def look(self) -> bool:
        """Ask for news and draw what changed; returns whether the view has ended. Called by the thread."""
        raise NotImplementedError

    def pause_s(self) -> float:
        """Seconds until the next look."""
        return period_s(time.monotonic() - self._watched_at)

    def summary(self) -> tuple[str, str]:
        """Return one line of plain text, and the static HTML that stays."""
        raise NotImplementedError

    def finish(self) -> None:
        """Ask for what only the last summary shows."""

    def last_words(self) -> None:
        """Prepare the widgets for pages that keep them."""

    # ------------------------------------------------------------------ on the kernel's threads

    def show(self) -> None:
        """Add an output below the current cell."""
        with self._lock:
            line, markup = self.summary()
            if self.ended:
                show_bundle({"text/plain": line, "text/html": markup})
                return
            self._outputs.append(Beside(self.box))
            self._outputs[-1].show(markup, line)
            del self._outputs[:-MAX_VIEWS]
            if self._thread is None:
                self._thread = threading.Thread(target=self._refresh, name=self._name, daemon=True)
                self._thread.start()
                shell().events.register("post_run_cell", self._after_cell)
                _end_at_exit()
                _open.add(self)
                listen(getattr(shell(), "kernel", None), lambda: _open)
        self.attend()

    def _after_cell(self, _result: Any) -> None:
        """Let the thread look once more before the cell counts as executed.

        What runs a notebook from top to bottom (nbconvert, papermill) listens only while a cell runs: what ended during
        the cell must show its summary now, or the widget would be saved in its place.
        """
        done = threading.Event()
        self._caught_up = done
        self._wake.set()
        done.wait(AFTER_CELL_S)

    def attend(self) -> None:
        """Someone looks: refresh now, and fast for the next minute."""
        self._watched_at = time.monotonic()
        self._wake.set()

    # ------------------------------------------------------------------ on the thread

    def _refresh(self) -> None:
        while not self.ended:
            self._wake.wait(self.pause_s())
            self._wake.clear()
            waiting, self._caught_up = self._caught_up, None
            if self.look():
                self.finish()
                self.end()
            elif waiting is not None or time.monotonic() >= self._keep_at:
                self._keep_picture()
            if waiting is not None:
                waiting.set()

    def end(self) -> None:
        """Replace every output by the static summary; the models stay for pages that were reloaded."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
            outputs, self._outputs = self._outputs, []
        _open.discard(self)
        self._wake.set()
        quietly(shell().events.unregister, "post_run_cell", self._after_cell)
        quietly(self.last_words)
        line, markup = self.summary()
        for output in outputs:
            quietly(output.end, markup, line)

    def _keep_picture(self) -> None:
        """Bring the static HTML up to date, for a page that will be loaded, or saved, before the end."""
        now = time.monotonic()
        self._keep_at = now + keep_s(now - self._watched_at)
        line, markup = self.summary()
        if markup == self._kept:
            return
        self._kept = markup
        with self._lock:  # a view that ends meanwhile has the last word
            for output in self._outputs:
                quietly(output.update, markup, line)


@cache
def _end_at_exit() -> None:
    """When the kernel goes down, what is live stays in the notebook as it is then."""

    def end() -> None:
        for view in list(_open):
            quietly(view.end)

    atexit.register(end)
