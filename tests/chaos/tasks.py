"""The work of a campaign: notes in the journal what it does, and fails where it was told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.journal import DIRECTORY, Event, note, note_all
from toolkit.execution import current_item, task


class PlannedError(ValueError):
    """An item that fails for good."""


class PassingError(OSError):
    """An item that fails, and works when tried again."""


def value_of(index: int) -> int:
    """Item number `index` of every run."""
    return 2 * index + 1


def result_of(index: int, run: int) -> int:
    """What its execution returns."""
    return 3 * value_of(index) + run


def mended(run: int, directory: Path | None = None) -> Path:
    """A file beside the journal, whose presence heals the fatal items of a run."""
    return (directory or Path(os.environ[DIRECTORY])) / f"mended-{run}"


def _end(exits: bool) -> None:
    if exits:
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)


@task
def single(
    x: int, run: int, pause_s: float = 0.0, fatal: Sequence[int] = (), killers: Sequence[int] = (), twice: int = 0
) -> int:
    """Execute one item.

    Parameters
    ----------
    run : int
        Number of the run in the campaign.
    pause_s : float
        How long it takes.
    fatal, killers : sequence of int
        Indexes that raise, and that kill their own process.
    twice : int
        One item of so many fails twice; 0 for none.
    """
    item = current_item()
    assert item is not None
    index, attempt = item.index, item.attempt
    note(run, Event.STARTED, index, attempt)
    if index in fatal and not mended(run).exists():
        note(run, Event.FAILED, index, attempt)
        raise PlannedError(f"item {index} is planted")
    if index in killers:
        note(run, Event.ENDING, index, attempt)
        _end(exits=bool(index % 2))
    if twice and index % twice == twice // 2 and attempt <= 2:
        note(run, Event.FAILED, index, attempt)
        raise PassingError(f"item {index}, attempt {attempt}")
    if pause_s:
        time.sleep(pause_s)
    note(run, Event.FINISHED, index, attempt)
    return 3 * x + run


@task(batched=True)
def several(
    xs: list[int], run: int, pause_s: float = 0.0, fatal: Sequence[int] = (), killers: Sequence[int] = ()
) -> list[int]:
    """Execute a batch in one call; parameters as those of `single`."""
    call = current_item()
    assert call is not None
    indexes, attempt = call.indexes, call.attempt
    note_all(run, Event.STARTED, indexes, attempt)
    if not set(indexes).isdisjoint(fatal) and not mended(run).exists():
        note_all(run, Event.FAILED, indexes, attempt)
        raise PlannedError("a planted item is in the batch")
    if not set(indexes).isdisjoint(killers):
        note_all(run, Event.ENDING, indexes, attempt)
        _end(exits=bool(indexes[0] % 2))
    if pause_s:
        time.sleep(pause_s)
    note_all(run, Event.FINISHED, indexes, attempt)
    return [3 * x + run for x in xs]
