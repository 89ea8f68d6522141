"""Sections of a live view that open by a click or a key.

Their headings are buttons. Those of the Accordion of ipywidgets are not: they answer to a pointer alone, and a screen
reader takes them for text. A style opens a section in the page itself, so also while a cell keeps the kernel busy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

FOLD: Final = "tk-fold"

STYLE: Final = (
    f"<style>.{FOLD}.{FOLD}{{width:100%;margin:4px 0 0 0;text-align:left;box-shadow:none;font-weight:600;"
    "background:transparent;color:inherit;border-top:1px solid #8884;overflow:visible}"
    # The picture of a triangle is not part of the button's name, where a browser knows how to say so.
    f".{FOLD}::before{{content:'▸ ';content:'▸ ' / ''}}"
    f".{FOLD}.mod-active::before{{content:'▾ ';content:'▾ ' / ''}}"
    f".{FOLD}:focus-visible{{outline:2px solid currentColor;outline-offset:-2px}}"
    f".{FOLD}:not(.mod-active)+*{{display:none}}</style>"
)
"""Looks of the headings, and what a closed section hides; a view puts it into one of its leaves."""


class Folds:
    """Headings, each with what it opens below it.

    Parameters
    ----------
    titles : sequence of str
        Words of the headings.
    parts : sequence of widgets
        What they open.
    changed : callable, optional
        Called with no argument when one is opened or closed.
    """

    def __init__(self, titles: Sequence[str], parts: Sequence[Any], changed: Callable[[], None] | None = None) -> None:
        import ipywidgets as w

        self._buttons = [w.ToggleButton(description=words, layout=w.Layout(width="100%")) for words in titles]
        for button in self._buttons:
            button.add_class(FOLD)
            if changed is not None:
                button.observe(lambda _change: changed(), names="value")
        children = [child for pair in zip(self._buttons, parts, strict=True) for child in pair]
        self.box = w.VBox(children, layout=w.Layout(margin="8px 0 0 0", overflow="hidden"))

    @property
    def opened(self) -> tuple[int, ...]:
        """Positions of the sections that are open."""
        return tuple(place for place, button in enumerate(self._buttons) if button.value)

    def entitle(self, titles: Sequence[str]) -> None:
        """Change the words of the headings, and send only what is other than before."""
        for button, words in zip(self._buttons, titles, strict=True):
            if button.description != words:
                button.description = words
