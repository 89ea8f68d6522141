"""What every live view is: one thread that looks and draws, any number of outputs, and an end as static HTML.

A daemon thread per view, however many outputs show it: an asyncio task would freeze while a cell computes. A callback
of a widget may run on any thread and only says what is wanted; the thread acts.

A saved widget reopens as "model not found", so at its end a view replaces its outputs by static HTML: when what it
shows has ended, or when the kernel goes down. A page that was loaded meanwhile takes no part in such a replacement,
because JupyterLab forgets which output is which; the last picture stays there and says what to do.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from functools import cache
from typing import Any, Final

VIEW_TYPE: Final = "application/vnd.jupyter.widget-view+json"

AFTER_CELL_S: Final = 0.5
"""Longest time that the end of a cell waits for a last look."""

MAX_VIEWS: Final = 64
"""Outputs of one view that are replaced at its end; executing a cell again and again leaves dead ones behind."""

_open: set[LiveView] = set()

FULL_S: Final = 60.0
SLOW_S: Final = 300.0


def period_s(age_s: float, trouble: bool = False) -> float:
    """Return the pause between two refreshes: short while someone is likely to watch, long for a run of hours.

    jupyter_server stores every message for a tab that is closed, so a view must not go on at full rate for ever: these
    steps leave less than 2 MB an hour. Whoever clicks, or runs a cell that shows the view, is seen to watch.

    Parameters
    ----------
    age_s : float
        Seconds since somebody was seen to watch.
    trouble : bool
        The server does not answer.
    """
    pause = 0.25 if age_s < FULL_S else 1.0 if age_s < SLOW_S else 5.0
    return max(pause, 1.0) if trouble else pause


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
        self._outputs: list[Any] = []
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
            if self.ended:
                show_bundle(self._bundle(live=False))
                return
            self._outputs.append(show_bundle(self._bundle(live=True), display_id=True))
            del self._outputs[:-MAX_VIEWS]
            if self._thread is None:
                self._thread = threading.Thread(target=self._refresh, name=self._name, daemon=True)
                self._thread.start()
                shell().events.register("post_run_cell", self._after_cell)
                _end_at_exit()
                _open.add(self)
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

    def _bundle(self, live: bool) -> dict[str, Any]:
        line, markup = self.summary()
        bundle: dict[str, Any] = {"text/plain": line, "text/html": markup}
        if live:
            bundle[VIEW_TYPE] = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return bundle

    # ------------------------------------------------------------------ on the thread

    def _refresh(self) -> None:
        while not self.ended:
            self._wake.wait(self.pause_s())
            self._wake.clear()
            waiting, self._caught_up = self._caught_up, None
            if self.look():
                self.finish()
                self.end()
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
        bundle = self._bundle(live=False)
        for output in outputs:
            quietly(output.update, bundle, raw=True)


@cache
def _end_at_exit() -> None:
    """When the kernel goes down, what is live stays in the notebook as it is then."""

    def end() -> None:
        for view in list(_open):
            quietly(view.end)

    atexit.register(end)


def quietly(send: Any, *args: Any, **kwargs: Any) -> None:
    """Call something that sends to the browser; a closed channel is not an error of what is shown."""
    # Nobody is left to tell: what failed is the channel to the browser.
    with contextlib.suppress(Exception):
        send(*args, **kwargs)


def put(leaf: Any, markup: str) -> None:
    """Send markup to a leaf if it is other than what is there."""
    if leaf.value != markup:
        leaf.value = markup


def show_bundle(bundle: dict[str, Any], **options: Any) -> Any:
    """Display a bundle of MIME types; with ``display_id=True`` return its handle."""
    from IPython import display

    show: Any = display.display  # untyped in IPython
    return show(bundle, raw=True, **options)


def shell() -> Any:
    """Return the interactive shell of this process, None outside of IPython."""
    from IPython.core.getipython import get_ipython

    return get_ipython()


def kernel_present() -> bool:
    """Whether this process is a kernel whose outputs a browser shows."""
    return getattr(shell(), "kernel", None) is not None
