"""The live panel of a run.

The panel holds no logic: `toolkit.notebook.view` says what to show, `toolkit.notebook.leaves` how it looks,
`toolkit.notebook.live` keeps it fresh and ends it. A click is an order that the thread carries out.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from toolkit.errors import RunStateError
from toolkit.notebook import escape, folds, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.html import summary
from toolkit.notebook.live import Costly, LiveView, period_s
from toolkit.notebook.outputs import kernel_present, put, quietly, show_bundle
from toolkit.notebook.sheet import sheet
from toolkit.notebook.view import (
    RunView,
    answered,
    describe_error,
    look,
    read_errors,
    read_events,
    read_tally,
    seeded,
    unanswered,
    with_details,
)
from toolkit.records import RunState, RunStatus
from toolkit.settings import Settings

__all__ = ["RunPanel", "run_display"]

SCOPE: Final = "tk-run-panel"

_live: dict[str, RunPanel] = {}
_live_lock = threading.Lock()

_ORDERS: Final = {"cancel": "Cancelling", "pause": "Pausing", "resume": "Resuming", "retry_dead": "Sending back"}
"""What a button asks for, and how that is called until it is done."""


class RunPanel(LiveView):
    """Widgets that show one run, and the thread that keeps them fresh.

    Parameters
    ----------
    run : Run
        Anything with ``run_id``, ``spec``, ``status()`` and the verbs of the buttons; more is asked where it has more.
    view : RunView
        What is known already.

    Raises
    ------
    ImportError
        ipywidgets is not installed.
    """

    def __init__(self, run: Any, view: RunView) -> None:
        super().__init__(f"toolkit-panel-{view.run_id}")
        self.run = run
        self.view = view
        self._build()
        self._order = ""
        self._fresh = True
        self._costly = {name: Costly() for name in ("tally", "errors", "events")}
        make = getattr(run, "batch_counter", None)
        self._counter = make() if make is not None else None
        self._draw()

    def _build(self) -> None:
        import ipywidgets as w

        self.leaves = {
            name: w.HTML(layout=w.Layout(margin="0"))
            for name in ("head", "pulse", "failures", "notes", "workers", "errors", "events")
        }
        look_of_all = w.HTML(sheet(SCOPE) + folds.STYLE, layout=w.Layout(margin="0", height="0"))
        parts = [self.leaves[name] for name in ("workers", "errors", "events")]
        self.sections = folds.Folds(("Workers", "Dead letters", "What happened"), parts, self.attend)
        self.buttons = {
            "cancel": _button("Cancel", "stop", "Nothing more is started; batches on a worker end at their next item"),
            "pause": _button("Pause", "pause", "Nothing more is started until you resume; what is on a worker ends"),
            "retry_dead": _button("Retry dead", "refresh", "Send the dead letters so far back to work"),
        }
        for verb, button in self.buttons.items():
            button.add_class(f"tk-{verb.replace('_', '-')}")
            button.on_click(self._clicked)
        row = w.HBox(list(self.buttons.values()), layout=w.Layout(flex_flow="row wrap", margin="8px 0 0 0"))
        top = [self.leaves[name] for name in ("head", "pulse", "failures", "notes")]
        box = w.Layout(border="1px solid #8888", padding="10px 14px", max_width="820px", overflow="hidden")
        self.box = w.VBox([look_of_all, *top, self.sections.box, row], layout=box)
        self.box.add_class(SCOPE)
        self._row = row

    def summary(self) -> tuple[str, str]:
        """Return the run in one line, and its static summary."""
        more = "" if self.view.final else leaves.later(self.view)
        return escape.plain(self.view.line()), summary(self.view, more)

    def pause_s(self) -> float:
        """Longer while the server does not answer."""
        return period_s(time.monotonic() - self._watched_at, self.view.trouble is not None)

    # ------------------------------------------------------------------ on the kernel's threads

    def _clicked(self, button: Any) -> None:
        verb = next(verb for verb, known in self.buttons.items() if known is button)
        paused = self.view.status is not None and self.view.status.state is RunState.PAUSED
        self._order = "resume" if verb == "pause" and paused else verb
        self.attend()

    # ------------------------------------------------------------------ on the thread

    def look(self) -> bool:
        """Carry out a click, take a new snapshot, and draw; an error becomes a line of the panel."""
        try:
            if self._order:
                self._carry_out()
            self.view = answered(self.view, self.run.status(), time.time())
            if self._fresh:
                self._fresh, self.view = False, seeded(self.run, self.view)
            self._read_more()
        except Exception as error:  # noqa: BLE001 - whatever the server or a proxy throws, the next look may succeed
            self.view = unanswered(self.view, error, time.time())
        # A view that cannot be sent (the kernel is going down) must not end the watch of the others.
        quietly(self._draw)
        return self.view.final

    def _carry_out(self) -> None:
        order = self._order
        self.view = replace(self.view, asked=_ORDERS[order], notice="")
        quietly(self._draw)
        notice = ""
        try:
            came = getattr(self.run, order)()
            if order == "retry_dead":
                notice = f"{fmt.quantity(came, 'dead letter')} sent back to work"
        except RunStateError as error:
            # It may have ended by itself between the click and now, which the next snapshot tells better.
            notice = "" if order == "cancel" else describe_error(error)
        except (ConnectionError, TimeoutError):
            raise  # the order stays: tried again with the next snapshot
        except Exception as error:  # noqa: BLE001 - refused for good, so the click is used up
            self.view = replace(self.view, asked="")
            notice = f"{order.replace('_', ' ').capitalize()} failed: {describe_error(error)}"
        if self._order == order:
            self._order = ""
        self.view = replace(self.view, asked=self.view.asked if order == "cancel" else "", notice=notice)

    def _read_more(self) -> None:
        """Read what costs more than a snapshot: rarely, and of the sections only what is open."""
        status = self.view.status
        assert status is not None
        wanted: dict[str, tuple[Any, Callable[[], Any]]] = {
            "tally": (status.batches, lambda: read_tally(self._counter, status)),
            "errors": (status.dead, lambda: read_errors(self.run, status)),
        }
        if 2 in self.sections.opened:
            mark = (status.state, status.batches, status.batch_size, status.lost)
            wanted["events"] = (mark, lambda: read_events(self.run, self.view.events))
        for name, (mark, read) in wanted.items():
            costly = self._costly[name]
            if costly.due(mark):
                began = time.thread_time()
                found: Any = read()
                self.view = replace(self.view, **{name: found})
                costly.read(mark, time.thread_time() - began)

    def _draw(self) -> None:
        """Send the leaves whose markup changed; a closed section is not drawn."""
        view = self.view
        put(self.leaves["head"], leaves.head(view))
        put(self.leaves["pulse"], leaves.pulse(view))
        put(self.leaves["failures"], leaves.failures(view))
        put(self.leaves["notes"], leaves.notes(view))
        draw: tuple[tuple[str, Callable[[], str]], ...] = (
            ("workers", lambda: leaves.workers(view.workers)),
            ("errors", lambda: leaves.errors(view.errors)),
            ("events", lambda: leaves.events(view.events)),
        )
        for place in self.sections.opened:
            name, markup = draw[place]
            put(self.leaves[name], markup())
        status = view.status
        known, dead = (status.known_workers, status.dead) if status else (0, 0)
        titles = (f"Workers ({known:,})", f"Dead letters ({dead:,})", "What happened")
        self.sections.entitle(titles)
        self._draw_buttons(status)

    def _draw_buttons(self, status: RunStatus | None) -> None:
        state = status.state if status else RunState.RUNNING
        cancelling = self.view.asked == _ORDERS["cancel"] or state is RunState.CANCELLING
        waits = bool(self._order) or cancelling
        _set(self.buttons["cancel"], "Cancelling…" if cancelling else "Cancel", disabled=cancelling)
        paused = state is RunState.PAUSED
        _set(self.buttons["pause"], "Resume" if paused else "Pause", disabled=waits, icon="play" if paused else "pause")
        dead = status.dead if status else 0
        _set(self.buttons["retry_dead"], f"Retry dead ({dead:,})" if dead else "Retry dead", disabled=waits or not dead)

    def finish(self) -> None:
        """Read the tables of the summary."""
        self.view = replace(with_details(self.run, self.view, self._counter), asked="")

    def end(self) -> None:
        """Make way for another panel of the run, which may go on when its dead letters are retried."""
        with _live_lock:
            if _live.get(self.view.run_id) is self:
                del _live[self.view.run_id]
        super().end()

    def last_words(self) -> None:
        """Say in pages that keep the widgets that they cannot save them."""
        self._draw()
        self.leaves["notes"].value = leaves.notes(self.view) + leaves.reloaded()
        self._row.layout.display = "none"


def _button(words: str, icon: str, tooltip: str) -> Any:
    import ipywidgets as w

    layout = w.Layout(width="auto", margin="0 8px 0 0")
    return w.Button(description=words, icon=icon, tooltip=tooltip, layout=layout)


def _set(button: Any, words: str, *, disabled: bool, icon: str | None = None) -> None:
    """Change a button, and send only what is other than before."""
    wanted = {"description": words, "disabled": disabled, **({"icon": icon} if icon else {})}
    changes = {name: value for name, value in wanted.items() if getattr(button, name) != value}
    if changes:
        with button.hold_sync():
            for name, value in changes.items():
                setattr(button, name, value)


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
