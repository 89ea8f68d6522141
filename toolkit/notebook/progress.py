"""The progress bar of a terminal: one pure function that makes the line, one small object that draws it.

Where the stream is a terminal the line is redrawn in place; in a notebook too, because its outputs honour the
carriage return. Anywhere else (a log file, a pipe) a full line is written now and then. No escape sequence is sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, TextIO

from toolkit.notebook import escape, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.trend import Trend
from toolkit.records import RunState, RunStatus

START_S: Final = 0.5
"""A wait that is over before this draws nothing: the results of a short run come without noise."""

REDRAW_S: Final = 0.1
"""Shortest time between two drawings in place."""

LOG_S: Final = 5.0
"""Shortest time between two lines where nothing can be redrawn."""

REPEAT_S: Final = 30.0
"""There a line that says the same as the one before it comes so late."""

_FINE: Final = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int, fine: bool = True) -> str:
    """Return a bar of `width` characters, filled to `share` of 1; in ASCII unless `fine`."""
    share = min(max(share, 0.0), 1.0)
    if not fine:
        full = int(share * width)
        return "#" * full + "." * (width - full)
    eighths = int(share * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_FINE[rest] if rest else "")).ljust(width, "░")[:width]


def progress_line(status: RunStatus, width: int = 80, fine: bool = True, trend: Trend | None = None) -> str:
    """Return one line of at most `width` characters: name, bar, items, times, throughput, workers, failures.

    What does not fit is left out, the least important first. With a `trend`, the time left has its 90 % interval.
    """
    total = fmt.count(status.submitted) + ("" if status.closed else "+")
    name = escape.plain(status.name or status.task, 24)
    ended = status.ok + status.dead  # a cancel skips the others
    share = ended / status.submitted if status.submitted else 0.0
    done = f"{fmt.progress(ended, status.submitted):>5}  {fmt.count(ended)}/{total} items"
    # From the most to the least important.
    extra = []
    if status.state is not RunState.RUNNING:
        extra.append(str(status.state))
    if status.dead:
        extra.append(f"{fmt.quantity(status.dead, 'dead letter')}")
    if status.eta_s and not status.state.final and status.state is not RunState.PAUSED:
        left = trend.time_left(status) if trend is not None else None
        sure = leaves.span(left)
        extra.append(f"{fmt.rough(left.best if left else status.eta_s)} left{f' ({sure})' if sure else ''}")
    if status.elapsed_s:
        extra.append(f"{fmt.duration(status.elapsed_s)}")
        extra.append(fmt.rate(status.rate))
    if not status.state.final:
        extra.append(f"{status.active}/{status.known_workers} workers")
    if status.retried:
        extra.append(f"{fmt.count(status.retried)} retried")
    # The bar's width depends on the terminal alone, so that it does not jump while the numbers change.
    parts = [name, bar(share, min(30, width // 5), fine), done] if width >= 60 else [name, done]
    while extra and len("  ".join([*parts, *extra])) > width:
        extra.pop()
    line = escape.plain("  ".join([*parts, *extra]), max(width, 1))
    return line if fine else line.replace("–", "-")


class ProgressBar:
    """Draw the progress of a run on a text stream.

    Parameters
    ----------
    stream : text file
        Usually ``sys.stderr``.
    silent : bool, default False
        Draw nothing at all.
    clock : callable, default `time.monotonic`
        Seconds, for the pauses between drawings.
    """

    def __init__(self, stream: TextIO, *, silent: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.silent = silent
        self._clock = clock
        # A kernel's stream is no terminal, but the notebook obeys a carriage return.
        self._in_place = _is_terminal(stream) or in_kernel(stream)
        self._drawn = ""
        self._trend = Trend()
        self._began_at: float | None = None
        self._next_at = 0.0
        self._logged, self._repeat_at = "", 0.0

    def update(self, status: RunStatus) -> None:
        """Draw `status`, unless the last drawing was a moment ago. Never raises because of the stream."""
        now = self._clock()
        if self._began_at is None:
            self._began_at = now
            # In a log the first line comes after a while: a run of a few seconds leaves only its last one.
            self._next_at = now + (START_S if self._in_place else LOG_S)
        if self.silent or now < self._next_at:
            return
        self._trend = self._trend.add(status)
        self._next_at = now + (REDRAW_S if self._in_place else LOG_S)
        if not self._in_place:
            line = status.line()
            if line == self._logged and now < self._repeat_at:
                return
            self._logged, self._repeat_at = line, now + REPEAT_S
        self._draw(status, end="" if self._in_place else "\n")

    def close(self, status: RunStatus | None = None) -> None:
        """Draw the last line and end it; without `status` end the line that is there.

        After a wait shorter than `START_S`, or for a run that had ended before it, nothing is drawn.
        """
        if self.silent or self._began_at is None or self._clock() - self._began_at < START_S:
            return
        if status is not None:
            self._draw(status, end="\n")
        elif self._drawn:
            self._write("\n")
        self.silent = True

    def _draw(self, status: RunStatus, end: str) -> None:
        fine = (getattr(self.stream, "encoding", None) or "ascii").lower().startswith("utf")
        if not self._in_place:
            self._write(escape.plain(status.line(), 400) + end)
            return
        # One column is left free, or the terminal would wrap and the next carriage return would start a new line.
        line = progress_line(status, _width(self.stream) - 1, fine, self._trend)
        self._write("\r" + line + " " * max(0, len(self._drawn) - len(line)) + end)
        self._drawn = "" if end else line

    def _write(self, text: str) -> None:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
            self.stream.flush()
        except (OSError, ValueError, LookupError):  # a closed pipe must not end the wait
            self.silent = True


def in_kernel(stream: TextIO) -> bool:
    """Whether a stream leads to the output of a notebook's cell."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _width(stream: TextIO) -> int:
    try:
        return max(20, os.get_terminal_size(stream.fileno()).columns or 80)
    except (AttributeError, OSError, ValueError):
        return 100
