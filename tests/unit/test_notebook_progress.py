"""The progress bar of a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
from typing import BinaryIO

import pytest

from tests.unit.notebook_samples import EVERYTHING, HOSTILE, ended, status, trend
from toolkit.notebook.progress import LOG_S, REPEAT_S, START_S, ProgressBar, bar, progress_line
from toolkit.records import RunState


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Closed(io.StringIO):
    """A stream whose reader went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


def read_to_end(screen: BinaryIO) -> str:
    """Read what a terminal was sent, up to the end of the line."""
    drawn = b""
    while not drawn.endswith(b"\r\n"):
        drawn += screen.read(4096)
    return drawn.decode("utf-8")


def test_line_says_what_a_watcher_asks():
    line = progress_line(status(), 140)
    for words in (
        "thumbnails", "50 %", "500/1,000 items", "25 s left", "20 items/s", "4/6 workers", "10 dead letters",
        "30 retried",
    ):  # fmt: skip
        assert words in line


def test_time_left_has_its_interval_once_enough_was_seen():
    assert re.search(r"25 s left \(2\d\.\d–2\d\.\d s\)", progress_line(status(), 160, trend=trend(status())))
    assert "left (2" in progress_line(status(), 160, fine=False, trend=trend(status()))
    assert "–" not in progress_line(status(), 160, fine=False, trend=trend(status()))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("snapshot", [status(), ended(), status(name="x" * 200, state=RunState.PAUSED)])
def test_line_fits_the_terminal(width: int, snapshot):
    assert len(progress_line(snapshot, width)) <= width


def test_narrow_line_keeps_the_count():
    assert "500/1,000" in progress_line(status(), 45)


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_hostile_name_draws_nothing_but_text(text: str):
    line = progress_line(status(name=text, task=text), 120)
    assert line.isprintable() or all(c.isprintable() or c == "\ufffd" for c in line)
    assert "\n" not in line


@pytest.mark.parametrize(("share", "text"), [(0, "░░░░"), (0.5, "██░░"), (0.54, "██▏░"), (1, "████"), (7, "████")])
def test_bar_has_eighths(share: float, text: str):
    assert bar(share, 4) == text


def test_bar_in_ascii():
    assert bar(0.5, 4, fine=False) == "##.."


def test_log_gets_a_full_line_now_and_then_and_the_last_one():
    clock, stream = Clock(), io.StringIO()
    progress = ProgressBar(stream, clock=clock)
    progress.update(status())
    assert stream.getvalue() == ""
    clock.now = LOG_S
    progress.update(status())
    clock.now += LOG_S / 2
    progress.update(status(ok=500))
    progress.close(ended())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "490" not in lines[0]
    assert "500/1,000" in lines[0]
    assert "finished" in lines[1]
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_log_repeats_a_line_that_says_nothing_new_only_after_a_while():
    clock, stream = Clock(), io.StringIO()
    progress = ProgressBar(stream, clock=clock)
    waiting = status(ok=0, started_at=0.0, claimed=0, active=0)
    for _ in range(int(REPEAT_S / LOG_S) + 1):
        progress.update(waiting)
        clock.now += LOG_S
    assert len(stream.getvalue().splitlines()) == 1
    progress.update(status(ok=500))
    assert len(stream.getvalue().splitlines()) == 2
    clock.now += LOG_S
    progress.update(waiting)
    clock.now += REPEAT_S
    progress.update(waiting)
    assert len(stream.getvalue().splitlines()) == 4


@pytest.mark.parametrize(("waited_s", "lines"), [(START_S / 2, 0), (START_S, 1)])
def test_wait_of_a_few_seconds_leaves_one_line_in_a_log_and_a_shorter_one_none(waited_s: float, lines: int):
    clock, stream = Clock(), io.StringIO()
    progress = ProgressBar(stream, clock=clock)
    progress.update(status())
    clock.now = waited_s
    progress.close(ended())
    assert len(stream.getvalue().splitlines()) == lines


def test_terminal_is_redrawn_in_place_without_escape_sequences():
    # Given a real terminal
    controller, terminal = pty.openpty()
    clock = Clock()
    with os.fdopen(terminal, "w", encoding="utf-8") as stream, os.fdopen(controller, "rb", buffering=0) as screen:
        progress = ProgressBar(stream, clock=clock)
        # When two snapshots come at once and one later
        progress.update(status(ok=50))
        clock.now = START_S
        progress.update(status(ok=100))
        progress.update(status(ok=200))
        clock.now = 1.0
        progress.update(status(ok=300))
        progress.close(ended())
        drawn = read_to_end(screen)
    # Then the second is skipped, each drawing starts at the left edge, and the line is ended
    assert drawn.count("\r") - drawn.count("\r\n") == 3
    assert "60/1,000" not in drawn  # too early
    assert "210/1,000" not in drawn
    assert "310/1,000" in drawn
    assert drawn.endswith("\r\n")
    assert "\x1b" not in drawn


def test_shorter_line_covers_the_longer_one_before():
    controller, terminal = pty.openpty()
    clock = Clock()
    with os.fdopen(terminal, "w", encoding="utf-8") as stream, os.fdopen(controller, "rb", buffering=0) as screen:
        progress = ProgressBar(stream, clock=clock)
        progress.update(status())
        clock.now = START_S
        progress.update(status(name="a long name of a run"))
        progress.close(ended(name="b", ok=5, dead=0, submitted=5))
        first, second = read_to_end(screen).split("\r")[1:3]
    assert len(second) >= len(first)


def test_silent_bar_draws_nothing():
    stream = io.StringIO()
    progress = ProgressBar(stream, silent=True)
    progress.update(status())
    progress.close(ended())
    assert stream.getvalue() == ""


def test_stream_without_unicode_gets_ascii():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    clock = Clock()
    progress = ProgressBar(stream, clock=clock)
    progress.update(status())
    clock.now = START_S
    progress.close(ended(name="Größe"))
    assert b"Gr??e" in raw.getvalue()


def test_a_closed_pipe_does_not_end_the_wait():
    clock = Clock()
    progress = ProgressBar(Closed(), clock=clock)
    progress.update(status())
    clock.now = START_S
    progress.close(ended())
    assert progress.silent


def test_waiting_for_what_has_ended_draws_nothing():
    stream = io.StringIO()
    ProgressBar(stream).close(ended())
    assert stream.getvalue() == ""
