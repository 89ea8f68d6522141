"""The live panel of a run.

A daemon thread per run, however many views are open, asks ``run.status()`` and sends what changed: an asyncio task
would freeze while a cell computes. The panel holds no logic: `toolkit.notebook.view` says what to show,
`toolkit.notebook.leaves` how it looks. A button's callback may run on any thread and only sets an event, on which the
refresher acts.

When the run ends, every output that shows the panel is replaced by static HTML, because a saved widget reopens as
"model not found". A page that was reloaded meanwhile no longer takes part in such a replacement; it keeps the last
picture of the panel, and displaying the run again gives the static one.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from dataclasses import replace
from typing import Any, Final

from toolkit.errors import RunStateError
from toolkit.notebook import escape, leaves
from toolkit.notebook.html import look, summary
from toolkit.notebook.view import (
    RunView,
    answered,
    describe_error,
    read_errors,
    read_workers,
    unanswered,
    with_details,
)
from toolkit.settings import Settings

VIEW_TYPE: Final = "application/vnd.jupyter.widget-view+json"

SECTION_S: Final = 2.0
"""Shortest time between two readings of an open section (workers, dead letters), which cost more than a snapshot."""

AFTER_CELL_S: Final = 0.5
"""Longest time that the end of a cell waits for a last look at the run."""

MAX_VIEWS: Final = 64
"""Outputs of one run that are replaced at its end; executing a cell again and again leaves dead ones behind."""

_live: dict[str, RunPanel] = {}
_live_lock = threading.Lock()


def period_s(age_s: float, trouble: bool = False) -> float:
    """Return the pause between two refreshes: short while someone is likely to watch, long for a run of hours.

    jupyter_server stores every message for a tab that is closed, so a panel must not go on at full rate for ever.
    """
    pause = 0.25 if age_s < 120 else 1.0 if age_s < 1800 else 5.0
    return max(pause, 1.0) if trouble else pause


class RunPanel:
    """Widgets that show one run, and the thread that keeps them fresh.

    Parameters
    ----------
    run : Run
        Anything with ``run_id``, ``spec``, ``status()`` and ``cancel()``; ``metrics()`` and ``dead_letters()`` are
        asked when their section is open.
    view : RunView
        What is known already.

    Raises
    ------
    ImportError
        ipywidgets is not installed.
    """

    def __init__(self, run: Any, view: RunView) -> None:
        import ipywidgets as w

        self.run = run
        self.view = view
        self.leaves = {
            name: w.HTML(layout=w.Layout(margin="0")) for name in ("head", "bar", "numbers", "workers", "errors")
        }
        self.sections = w.Accordion([self.leaves["workers"], self.leaves["errors"]], titles=("Workers", "Dead letters"))
        self.button = w.Button(
            description="Cancel",
            icon="stop",
            tooltip="Cancel the run: nothing more is started, batches on a worker end",
            layout=w.Layout(width="auto", align_self="flex-start", margin="8px 0 0 0"),
        )
        box = w.Layout(border="1px solid #8888", padding="10px 14px", max_width="820px", overflow="hidden")
        top = [self.leaves["head"], self.leaves["bar"], self.leaves["numbers"]]
        self.box = w.VBox([*top, self.sections, self.button], layout=box)
        self.box.add_class("tk-run-panel")
        self.button.add_class("tk-cancel")
        self.button.on_click(self._clicked)
        self.sections.observe(self._section_opened, names="selected_index")
        self._outputs: list[Any] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._cancel = threading.Event()
        self._watched_at = time.monotonic()
        self._read_at: dict[str, tuple[float, int]] = {}
        self._thread: threading.Thread | None = None
        self._caught_up: threading.Event | None = None
        self.ended = False
        self._draw()

    # ------------------------------------------------------------------ on the kernel's threads

    def show(self) -> None:
        """Add a view below the current cell."""
        with self._lock:
            if self.ended:
                show_bundle(self._bundle(live=False))
                return
            self._outputs.append(show_bundle(self._bundle(live=True), display_id=True))
            del self._outputs[:-MAX_VIEWS]
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._refresh, name=f"toolkit-panel-{self.view.run_id}", daemon=True
                )
                self._thread.start()
                shell().events.register("post_run_cell", self._after_cell)
        self._attend()

    def _after_cell(self, _result: Any) -> None:
        """Let the refresher look once more before the cell counts as executed.

        What runs a notebook from top to bottom (nbconvert, papermill) listens only while a cell runs: a run that ended
        during the cell must show its summary now, or the widget would be saved in its place.
        """
        done = threading.Event()
        self._caught_up = done
        self._wake.set()
        done.wait(AFTER_CELL_S)

    def _clicked(self, _button: Any) -> None:
        self._cancel.set()
        self._attend()

    def _section_opened(self, _change: Any) -> None:
        self._attend()

    def _attend(self) -> None:
        """Someone looks: refresh now, and fast for the next two minutes."""
        self._watched_at = time.monotonic()
        self._wake.set()

    def _bundle(self, live: bool) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": escape.plain(self.view.line()), "text/html": summary(self.view)}
        if live:
            bundle[VIEW_TYPE] = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return bundle

    # ------------------------------------------------------------------ on the refresher

    def _refresh(self) -> None:
        while not self.ended:
            self._wake.wait(period_s(time.monotonic() - self._watched_at, self.view.trouble is not None))
            self._wake.clear()
            waiting, self._caught_up = self._caught_up, None
            self._look()
            if waiting is not None:
                waiting.set()

    def _look(self) -> None:
        self._ask()
        # A view that cannot be sent (the kernel is going down) must not end the watch of the others.
        _quietly(self._draw)
        if self.view.final:
            self._end()

    def _ask(self) -> None:
        """Pass on a click, then take a new snapshot; an error becomes a line of the panel."""
        try:
            if self._cancel.is_set():
                self._pass_on_cancel()
            self.view = answered(self.view, self.run.status(), time.time())
        except Exception as error:  # noqa: BLE001 - refused for good, so the click is used up
            self.view = unanswered(self.view, error, time.time())
            return
        self._read_open_section()

    def _pass_on_cancel(self) -> None:
        self.view = replace(self.view, cancelling=True, notice="")
        _quietly(self._draw)
        try:
            self.run.cancel()
        except RunStateError:
            pass  # it ended by itself between the click and now
        except (ConnectionError, TimeoutError):
            raise  # the event stays set: asked again with the next snapshot
        except Exception as error:  # noqa: BLE001 - refused for good, so the click is used up
            self.view = replace(self.view, cancelling=False, notice=f"Cancel failed: {describe_error(error)}")
        self._cancel.clear()

    def _read_open_section(self) -> None:
        status, place = self.view.status, self.sections.selected_index
        if status is None or place is None:
            return
        name = ("workers", "errors")[place]
        mark = status.batches if name == "workers" else status.dead
        read_at, seen = self._read_at.get(name, (-SECTION_S, -1))
        now = time.monotonic()
        if now - read_at < SECTION_S or mark == seen:
            return
        if name == "workers":
            self.view = replace(self.view, workers=read_workers(self.run, status))
        else:
            self.view = replace(self.view, errors=read_errors(self.run, status))
        self._read_at[name] = (time.monotonic(), mark)

    def _draw(self) -> None:
        """Send the leaves whose markup changed."""
        view = self.view
        pieces = {
            "head": leaves.head(view),
            "bar": leaves.bar(view),
            "numbers": leaves.tiles(view) + leaves.foot(view),
            "workers": leaves.workers(view.workers),
            "errors": leaves.errors(view.errors),
        }
        for name, markup in pieces.items():
            if self.leaves[name].value != markup:
                self.leaves[name].value = markup
        status = view.status
        known, dead = (status.known_workers, status.dead) if status else (0, 0)
        titles = (f"Workers ({known:,})", f"Dead letters ({dead:,})")
        if tuple(self.sections.titles) != titles:
            self.sections.titles = titles
        asked = view.cancelling or (status is not None and status.state == "cancelling")
        if self.button.disabled != asked:
            self.button.disabled = asked
            self.button.description = "Cancelling…" if asked else "Cancel"

    def _end(self) -> None:
        """Replace every output by the static summary; the models stay for pages that were reloaded."""
        self.view = with_details(self.run, replace(self.view, cancelling=False))
        with self._lock:
            self.ended = True
            outputs, self._outputs = self._outputs, []
            with _live_lock:
                _live.pop(self.view.run_id, None)
        _quietly(shell().events.unregister, "post_run_cell", self._after_cell)
        _quietly(self._draw)
        _quietly(self._hide_button)
        bundle = self._bundle(live=False)
        for output in outputs:
            _quietly(output.update, bundle, raw=True)

    def _hide_button(self) -> None:
        self.button.layout.display = "none"


def _quietly(send: Any, *args: Any, **kwargs: Any) -> None:
    """Call something that sends to the browser; a closed channel is not an error of the run."""
    # Nobody is left to tell: what failed is the channel to the browser.
    with contextlib.suppress(Exception):
        send(*args, **kwargs)


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


def run_display(run: Any) -> None:
    """Show `run`: the live panel in a kernel with ipywidgets, else static HTML, else one line of text.

    Parameters
    ----------
    run : Run
        The handle. Views of the same run share one panel and one thread.
    """
    if not kernel_present():
        sys.stdout.write(escape.plain(look(run).line()) + "\n")
        return
    view_id = str(getattr(run, "run_id", ""))
    with _live_lock:
        panel = _live.get(view_id)
    if panel is not None:
        panel.show()
        return
    view = look(run)
    if view.final or not Settings.from_env().progress or not _show_live(run, view):
        show_bundle({"text/plain": escape.plain(view.line()), "text/html": summary(view)})


def _show_live(run: Any, view: RunView) -> bool:
    """Open a panel; False when ipywidgets is not installed."""
    try:
        panel = RunPanel(run, view)
    except ImportError:
        return False
    with _live_lock:
        panel = _live.setdefault(view.run_id, panel)
    panel.show()
    return True
