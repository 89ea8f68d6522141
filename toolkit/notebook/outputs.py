"""What a cell shows: bundles of MIME types, and static HTML beside live widgets.

A saved widget reopens as "model not found", and a page that was loaded after the cell ran can no longer be told to
replace an output, because JupyterLab notes which output is which only while it stands. So what is live has two outputs:
static HTML, which a style hides while the widgets live, and the widgets. In a notebook that is opened later, without
the kernel, the widgets are gone and the static part is there; the same style then hides "model not found".
The sanitiser of an untrusted notebook takes the style away and draws no widgets, which also leaves the static part.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

VIEW_TYPE: Final = "application/vnd.jupyter.widget-view+json"

LIVE_CLASS: Final = "tk-live"
STATIC_CLASS: Final = "tk-static"
_AREA: Final = ".jp-OutputArea"

NOTHING: Final = {
    "text/plain": "",
    "text/html": f'<style>{_AREA}-child:has(.tk-nothing){{display:none}}</style><div class="tk-nothing"></div>',
}
"""What an untrusted notebook draws instead of the widgets, and what stays of them: not even the space of a line."""


def _style(key: str) -> str:
    """Return the style that shows the static part of a view exactly where its widgets do not live."""
    live, static = f".{LIVE_CLASS}-{key}", f".{STATIC_CLASS}-{key}"
    # JupyterLab notes the type of each output in its element, but of widgets, also while and after they are looked for.
    lost = f"{_AREA}:has({static}):not(:has({live})) {_AREA}-output:not([data-mime-type])"
    return f"<style>:root:has({live}) {static},{lost}{{display:none}}</style>"


class Beside:
    """The two outputs of a live view below one cell.

    Parameters
    ----------
    box : ipywidgets Box
        The widgets.
    """

    def __init__(self, box: Any) -> None:
        self.box = box
        self._key = str(box.model_id)
        for name in (LIVE_CLASS, f"{LIVE_CLASS}-{self._key}"):
            box.add_class(name)
        self._static: Any = None
        self._live: Any = None

    def show(self, markup: str, text: str) -> None:
        """Add both outputs to the current cell; without a kernel only the static one."""
        if not kernel_present():
            show_bundle({"text/plain": text, "text/html": markup})
            return
        self._static = show_bundle(self._bundle(markup, text), display_id=True)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        self._live = show_bundle({**NOTHING, VIEW_TYPE: view}, display_id=True)

    def update(self, markup: str, text: str) -> None:
        """Bring the static output up to date."""
        if self._static is not None:
            self._static.update(self._bundle(markup, text), raw=True)

    def end(self, markup: str, text: str) -> None:
        """Leave only the static output."""
        if self._static is not None:
            self._static.update({"text/plain": text, "text/html": markup}, raw=True)
            self._live.update(dict(NOTHING), raw=True)

    def _bundle(self, markup: str, text: str) -> dict[str, str]:
        classes = f"{STATIC_CLASS} {STATIC_CLASS}-{self._key}"
        return {"text/plain": text, "text/html": f'{_style(self._key)}<div class="{classes}">{markup}</div>'}


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
