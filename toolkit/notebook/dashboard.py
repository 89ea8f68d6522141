"""The dashboard: all runs of a client in one live view, with filters.

It holds no logic: `toolkit.notebook.board` says what to show, `toolkit.notebook.board_views` how it looks,
`toolkit.notebook.live` keeps it fresh and ends it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

from toolkit.errors import InvalidInput
from toolkit.notebook import board as of
from toolkit.notebook import board_views as views
from toolkit.notebook import escape, folds, top
from toolkit.notebook.board import Board
from toolkit.notebook.live import LiveView
from toolkit.notebook.outputs import kernel_present, put, quietly, show_bundle
from toolkit.notebook.sheet import sheet
from toolkit.settings import Settings

SCOPE: Final = "tk-dashboard"
CARDS: Final = (
    f"<style>.{SCOPE}{{container-type:inline-size}}@container (max-width:740px){{"
    f".{SCOPE} thead.blk{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}}"
    f".{SCOPE} .card{{padding:8px 0}}.{SCOPE} td:nth-child(5).cc::before{{content:'left ';opacity:.75}}"
    f".{SCOPE} td.cd::before{{content:'failed ';opacity:.75}}}}</style>"
)
"""Looks of a narrow dashboard, whose lines are cards: the heading is for who listens, cells say what they are."""

WIDE: Final = 160
"""Characters of a line where nobody says how wide the place is."""
_SECTIONS: Final = (("Workers", views.workers), ("Dead letters", views.dead), ("Backlog by task", views.by_task))


def period_s(age_s: float) -> float:
    """Return the pause between two refreshes; a table is many times as long as a panel, so it is sent less often."""
    return 1.0 if age_s < 60 else 5.0 if age_s < 600 else 30.0


class Dashboard(LiveView):
    """Widgets that show all runs of a client, and the thread that keeps them fresh.

    Parameters
    ----------
    client : Client
        Anything with ``watch_runs()`` and ``closed``.
    text, state : str
        The filters at first.

    Raises
    ------
    ImportError
        ipywidgets is not installed.
    """

    def __init__(self, client: Any, text: str = "", state: str = "all") -> None:
        super().__init__("toolkit-dashboard")
        self._client = client
        self._watch = client.watch_runs(of.LATEST)
        self.board = first_look(self._watch)
        self._frozen = False
        self._build(text, state)
        self._draw()

    def _build(self, text: str, state: str) -> None:
        import ipywidgets as w

        self.leaves = {
            name: w.HTML(layout=w.Layout(margin="0"))
            for name in ("totals", "table", "foot", *(words for words, _ in _SECTIONS))
        }
        self.text = w.Text(
            text, placeholder="name, task, id, queue or tag", description="Filter", layout=w.Layout(width="320px")
        )
        self.state = w.Dropdown(options=of.FILTERS, value=state, description="State", layout=w.Layout(width="200px"))
        for control in (self.text, self.state):
            control.style.description_width = "initial"
            control.observe(self._changed, names="value")
        self.button = w.Button(
            description="Keep as it is", tooltip="End the live view and leave this picture in the notebook",
            icon="camera", layout=w.Layout(width="auto"),
        )  # fmt: skip
        self.button.add_class("tk-keep")
        self.button.on_click(self._keep)
        titles = tuple(words for words, _ in _SECTIONS)
        self.sections = folds.Folds(titles, [self.leaves[words] for words in titles], self.attend)
        row = w.HBox([self.text, self.state, self.button], layout=w.Layout(flex_flow="row wrap", margin="8px 0"))
        look_of_all = w.HTML(sheet(SCOPE) + folds.STYLE + CARDS, layout=w.Layout(margin="0", height="0"))
        box = w.Layout(border="1px solid #8888", padding="10px 14px", max_width="1060px", overflow="hidden")
        shown = [self.leaves["totals"], row, self.leaves["table"], self.leaves["foot"], self.sections.box]
        self.box = w.VBox([look_of_all, *shown], layout=box)
        self.box.add_class(SCOPE)
        self._row = row

    def summary(self) -> tuple[str, str]:
        """Return the board in one line, and as it stays."""
        return escape.plain(views.line(self.board)), views.summary(self.board, self.text.value, self.state.value)

    def pause_s(self) -> float:
        """Seconds until the next look."""
        return period_s(time.monotonic() - self._watched_at)

    # ------------------------------------------------------------------ on the kernel's threads

    def _changed(self, _change: Any) -> None:
        self.attend()

    def _keep(self, _button: Any) -> None:
        self._frozen = True
        self.attend()

    # ------------------------------------------------------------------ on the thread

    def look(self) -> bool:
        """Look at the server and draw what changed; ended when the client is closed, or as it was clicked."""
        if self._frozen or self._client.closed:
            return True
        self.board = looked(self.board, self._watch)
        quietly(self._draw)
        return False

    def _draw(self) -> None:
        board = self.board
        put(self.leaves["totals"], views.totals(board))
        put(self.leaves["table"], views.table(of.chosen(board, self.text.value, self.state.value), board))
        put(self.leaves["foot"], views.foot(board))
        for place in self.sections.opened:
            words, draw = _SECTIONS[place]
            put(self.leaves[words], draw(board))
        counts = (len(board.nodes), board.dead, of.backlog(board).items)
        titles = tuple(f"{words} ({n:,})" for (words, _), n in zip(_SECTIONS, counts, strict=True))
        self.sections.entitle(titles)

    def last_words(self) -> None:
        """Leave the last picture to pages that keep the widgets."""
        self.leaves["foot"].value = views.foot(self.board, frozen=True)
        self._row.layout.display = "none"


def first_look(watch: Any) -> Board:
    """Return the board after one look at a server, or its trouble; never raises."""
    return looked(Board(), watch)


def looked(board: Board, watch: Any) -> Board:
    """Return the board after one more look at a server, or with its trouble; never raises."""
    try:
        return of.grown(board, watch.look())
    except Exception as error:  # noqa: BLE001 - whatever the server or a proxy throws, the next look may succeed
        return of.unanswered(board, error, time.time())


def client_display(client: Any, text: str = "", state: str = "all") -> None:
    """Show all runs of `client`: the dashboard in a kernel with ipywidgets, else static HTML, else text.

    Parameters
    ----------
    client : Client
        Whose runs.
    text, state : str
        The filters, see `toolkit.notebook.board.chosen`.

    Raises
    ------
    InvalidInput
        `state` is none of `toolkit.notebook.board.FILTERS`.
    """
    if state not in of.FILTERS:
        raise InvalidInput(f"state={state!r:.60}: one of {', '.join(of.FILTERS)}")
    if not kernel_present():
        board = first_look(client.watch_runs(of.LATEST))
        sys.stdout.write("\n".join(top.frame(board, top.Screen(WIDE), text, state)) + "\n")
        return
    if not Settings.from_env().progress or not _quiet_live(lambda: Dashboard(client, text, state)):
        board = first_look(client.watch_runs(of.LATEST))
        show_bundle({"text/plain": escape.plain(views.line(board)), "text/html": views.summary(board, text, state)})


def _quiet_live(make: Callable[[], Dashboard]) -> bool:
    """Open a dashboard; False when ipywidgets is not installed."""
    try:
        made = make()
    except ImportError:
        return False
    made.show()
    return True
