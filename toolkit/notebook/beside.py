"""What the explorers share: an answerer on a thread of its own, and static HTML beside live widgets.

An explorer has no end at which its widgets could be replaced, as the panel of a run has. So its cell has two outputs:
static HTML, which a style hides while the widgets live, and the widgets. In a notebook that is opened later, without
the kernel, the widgets are gone and the static part is there; the same style then hides "model not found".
The sanitiser of an untrusted notebook takes the style away and draws no widgets, which also leaves the static part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from toolkit.notebook.live import VIEW_TYPE, kernel_present, show_bundle

REST_S: Final = 0.8
"""Pause after the last answer until the static part is brought up to date: it is not sent while a slider moves."""

LIVE_CLASS: Final = "tk-live"
STATIC_CLASS: Final = "tk-static"
_AREA: Final = ".jp-OutputArea"
STYLE: Final = (
    f"<style>{_AREA}:has(.{LIVE_CLASS}) .{STATIC_CLASS}{{display:none}}"
    # JupyterLab notes the type of each output in its element, but of widgets, also while and after they are looked for.
    f"{_AREA}:has(.{STATIC_CLASS}):not(:has(.{LIVE_CLASS})) .jp-OutputArea-output:not([data-mime-type]){{display:none}}"
    "</style>"
)
"""Shows the static part exactly where no widgets live."""

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
    """

    def __init__(self, answer: Callable[[Q], None], rested: Callable[[], None], rest_s: float = REST_S) -> None:
        self._answer, self._rested, self.rest_s = answer, rested, rest_s
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

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._next:
                    self._changed.wait(self.rest_s)
                if not self._next:
                    break
                question = self._next.pop()
            self._answer(question)
        self._rested()
        with self._changed:
            self._thread = None
            waiting = self._next
        if waiting:  # asked while the static part was brought up to date
            self.ask(waiting[0])


class Beside:
    """The two outputs of an explorer below one cell.

    Parameters
    ----------
    box : ipywidgets Box
        The widgets.
    """

    def __init__(self, box: Any) -> None:
        self.box = box
        box.add_class(LIVE_CLASS)
        self._output: Any = None

    def show(self, markup: str, text: str) -> None:
        """Add both outputs to the current cell; without a kernel only the static one."""
        if not kernel_present():
            show_bundle({"text/plain": text, "text/html": markup})
            return
        self._output = show_bundle(self._bundle(markup, text), display_id=True)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        # The empty HTML is what an untrusted notebook draws instead of the widgets.
        show_bundle({"text/plain": "", "text/html": "<div></div>", VIEW_TYPE: view})

    def update(self, markup: str, text: str) -> None:
        """Bring the static output up to date."""
        if self._output is not None:
            self._output.update(self._bundle(markup, text), raw=True)

    @staticmethod
    def _bundle(markup: str, text: str) -> dict[str, str]:
        return {"text/plain": text, "text/html": f'{STYLE}<div class="{STATIC_CLASS}">{markup}</div>'}
