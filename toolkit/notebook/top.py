"""What ``toolkit top`` shows: a `Board` as lines of text for a terminal of a given size.

Every foreign text passes `toolkit.notebook.escape`; colours are the plain ones of ANSI, which the terminal's own theme
chooses, and no fact is told by a colour alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toolkit.notebook import board as of
from toolkit.notebook import escape, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.board import Board, RunLine
from toolkit.notebook.progress import bar
from toolkit.records import RunState

_RESET: Final = "\x1b[0m"
_COLOURS: Final = {"bold": "\x1b[1m", "dim": "\x1b[2m", "red": "\x1b[31m", "green": "\x1b[32m", "blue": "\x1b[34m"}


@dataclass(frozen=True, slots=True)
class Screen:
    """Where the lines are to be shown.

    Attributes
    ----------
    width, height : int
        Characters and lines; a height of 0 has no limit.
    colour : bool
        Escape sequences for colours are allowed.
    fine : bool
        The encoding has more than ASCII.
    """

    width: int = 100
    height: int = 0
    colour: bool = False
    fine: bool = True

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in a colour, where that is allowed."""
        return f"{_COLOURS[colour]}{text}{_RESET}" if self.colour and colour and text.strip() else text


def cells(text: str) -> int:
    """Return how many cells of a terminal a printable text takes: wide characters take two, combining ones none."""
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def fit(text: str, width: int, right: bool = False) -> str:
    """Return `text` in exactly `width` cells, cut or padded."""
    if cells(text) > width:
        kept, used = "", 0
        for character in text:
            used += _width(character)
            if used > width - 1:
                break
            kept += character
        text = kept + ("…" if width else "")
    gap = " " * (width - cells(text))
    return gap + text if right else text + gap


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    right: bool
    need: int  # shown from this width of the terminal on


_COLUMNS: Final = (  # each is there from the width on at which a name still has twenty cells beside it
    _Column("run", 0, right=False, need=0),
    _Column("state", 10, right=False, need=0),
    _Column("progress", 12, right=False, need=118),
    _Column("items", 21, right=True, need=0),
    _Column("throughput", 15, right=True, need=74),
    _Column("left", 12, right=True, need=88),
    _Column("90 % of it", 22, right=True, need=170),
    _Column("failed", 8, right=True, need=98),
    _Column("busy", 5, right=True, need=105),
    _Column("run id", 24, right=False, need=144),
)


def frame(board: Board, screen: Screen, text: str = "", state: str = "all", keys: str = "") -> list[str]:
    """Return the lines of one picture; each takes at most the width of the screen, and all at most its height.

    Parameters
    ----------
    board : Board
        What is shown.
    screen : Screen
        Where.
    text, state : str
        Limit the runs, as for `board.chosen`.
    keys : str
        What the keys do, for the last line; empty without.

    Raises
    ------
    InvalidInput
        `state` is none.
    """
    lines = of.chosen(board, text, state)
    top = _totals(board, screen, text, state)
    columns = [column for column in _COLUMNS if column.need <= screen.width]
    taken = sum(column.width + 2 for column in columns if column.width)
    widths = [column.width or max(8, min(40, screen.width - taken)) for column in columns]
    shown = list(lines) if not screen.height else list(lines[: max(0, screen.height - len(top) - 3 - bool(keys))])
    body = [screen.paint(_row([column.title for column in columns], columns, widths, screen), "bold")]
    body += [_run(line, columns, widths, screen) for line in shown]
    if len(lines) > len(shown):
        body.append(_cut(f"and {len(lines) - len(shown):,} more", screen))
    if not lines:
        body.append(_cut("no run fits the filters" if board.lines else "no runs", screen))
    last = [screen.paint(_cut(keys, screen), "dim")] if keys else []
    return [*top, "", *body, *last]


def _cut(text: str, screen: Screen) -> str:
    text = fit(text, screen.width).rstrip()
    return text if screen.fine else text.encode("ascii", "replace").decode("ascii")


def _totals(board: Board, screen: Screen, text: str, state: str) -> list[str]:
    waits = of.backlog(board)
    states = ", ".join(f"{n:,} {name}" for name, n in board.states.items()) or "no runs"
    said = f"backlog {fmt.quantity(waits.items, 'item')}"
    if waits.items:
        said += f", {fmt.rough(waits.time_s)} of work for the workers that listen"
    if waits.unmeasured:
        said += f" ({fmt.quantity(waits.unmeasured, 'run')} unmeasured)"
    limits = [f"filter: {escape.plain(text, 60)}"] if text.strip() else []
    limits += [f"state: {state}"] if state != "all" else []
    lines = [
        screen.paint(_cut(f"toolkit top  {fmt.moment(board.at)}   runs: {states}", screen), "bold"),
        _cut(
            f"{said}   workers {board.busy:,} busy of {board.workers:,} on {fmt.quantity(len(board.nodes), 'node')}"
            f"   {fmt.quantity(board.dead, 'dead letter')}",
            screen,
        ),
    ]
    if limits:
        lines.append(_cut("   ".join(limits), screen))
    if board.trouble is not None:
        since = fmt.clock(board.trouble.since_at)
        lines.append(
            screen.paint(_cut(f"no answer since {since}: {escape.plain(board.trouble.message)}", screen), "red")
        )
    elif board.at and not board.workers and waits.items:
        lines.append(screen.paint(_cut("no worker is there: unfinished runs wait", screen), "red"))
    return lines


def _row(values: Sequence[str], columns: Sequence[_Column], widths: Sequence[int], screen: Screen) -> str:
    parts = [fit(value, width, column.right) for value, column, width in zip(values, columns, widths, strict=True)]
    return _cut("  ".join(parts), screen)


def _run(line: RunLine, columns: Sequence[_Column], widths: Sequence[int], screen: Screen) -> str:
    status = line.status
    done, left = leaves.executed(status), line.time_left
    total = fmt.count(status.submitted) + ("" if status.closed else "+")
    final = status.state.final
    values = {
        "run": escape.plain(line.title, 60),
        "state": str(status.state),
        "progress": bar(done / max(1, status.submitted), 12, screen.fine),
        "items": f"{fmt.count(done)}/{total} {fmt.progress(done, status.submitted):>5}",
        "throughput": fmt.rate(line.pace),
        "left": fmt.UNKNOWN if final or left is None else fmt.rough(left.best),
        "90 % of it": "" if final else leaves.span(left),
        "failed": fmt.count(line.failed),
        "busy": "" if final else fmt.count(status.active),
        "run id": escape.plain(line.run_id, 64),
    }
    text = _row([values[column.title] for column in columns], columns, widths, screen)
    return screen.paint(text, _colour(line))


def _colour(line: RunLine) -> str:
    status = line.status
    if status.state is RunState.CANCELLING or status.dead:
        return "red"
    return {RunState.RUNNING: "blue", RunState.FINISHED: "green"}.get(status.state, "dim")
