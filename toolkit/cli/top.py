"""``toolkit top``: all runs, live in a terminal."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from toolkit.cli.output import open_client, plain_errors
from toolkit.notebook import board as of
from toolkit.notebook import top as drawn
from toolkit.notebook.dashboard import looked
from toolkit.settings import Settings

_ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_KEYS = "q quits, s next state"


@click.command()
@click.option("--once", is_flag=True, help="Print one picture and end, as for a pipe.")
@click.option("--interval", "interval_s", type=click.FloatRange(min=0.2), default=1.0, show_default=True,
              help="Seconds between two pictures.")  # fmt: skip
@click.option("--filter", "text", default="", help="Only runs that hold these words in name, task, id, queue or tags.")
@click.option("--state", type=click.Choice(of.FILTERS), default="all", show_default=True)
@click.pass_context
@plain_errors
def top(context: click.Context, once: bool, interval_s: float, text: str, state: str) -> None:
    """Watch all runs: progress, throughput, time left, failures, backlog, workers. Leave with q or Ctrl-C."""
    watch = open_client(context).watch_runs(of.LATEST)
    live = not once and sys.stdout.isatty()
    board = of.Board()
    if not live:
        board = of.grown(board, watch.look())
        fine = (sys.stdout.encoding or "ascii").lower().startswith("utf")
        width = shutil.get_terminal_size((120, 0)).columns
        for line in drawn.frame(board, drawn.Screen(width=width, fine=fine), text, state):
            click.echo(line)
        return
    with _screen() as keyboard:
        while True:
            board = looked(board, watch)
            _draw(board, text, state, keys=_KEYS if keyboard else "Ctrl-C quits")
            key = _wait(interval_s, keyboard)
            if key == "q":
                return
            if key == "s":
                state = of.FILTERS[(of.FILTERS.index(state) + 1) % len(of.FILTERS)]


def _draw(board: of.Board, text: str, state: str, keys: str) -> None:
    """Paint over the picture before, line by line, so that nothing flickers."""
    size = shutil.get_terminal_size()
    screen = drawn.Screen(
        width=size.columns, height=size.lines, colour=Settings.from_env().colour,
        fine=(sys.stdout.encoding or "ascii").lower().startswith("utf"),
    )  # fmt: skip
    lines = drawn.frame(board, screen, text, state, keys)
    sys.stdout.write("\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines[: size.lines]) + "\x1b[J")
    sys.stdout.flush()


def _wait(seconds: float, keyboard: bool) -> str:
    """Wait for a key, as long as until the next picture; returns it, or nothing."""
    if not keyboard:
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace").lower() if ready else ""


@contextmanager
def _screen() -> Iterator[bool]:
    """Show the other screen of the terminal and read single keys; all is as before at the end, however it comes.

    Yields whether there is a keyboard.
    """
    keyboard = sys.stdin.isatty()
    if keyboard:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)  # Ctrl-C still interrupts
    sys.stdout.write(_ENTER)
    try:
        yield keyboard
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if keyboard:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def add_to(group: click.Group) -> None:
    """Make it a command of `group`."""
    group.add_command(top)
