"""A module with tasks, as a user would write it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from toolkit.execution import current_item, task


@task
def double(x: int) -> int:
    """Return twice the input."""
    return 2 * x


def plain(x: int) -> int:
    """Return three times the input; no task."""
    return 3 * x


@task
def journal(x: int, folder: str, pause_s: float = 0.0) -> int:
    """Note on disk that the item was executed, apart from any ledger."""
    item = current_item()
    assert item is not None
    with (Path(folder) / f"{x}").open("a", encoding="ascii") as file:
        file.write(f"{item.attempt} {os.getpid()}\n")
    time.sleep(pause_s)
    return x


@task
def nap(x: int) -> int:
    """Take ten milliseconds of nobody's time."""
    time.sleep(0.01)
    return x


@task
def nap_or_fail(x: int) -> int:
    """Take ten milliseconds of nobody's time; needs a number."""
    time.sleep(0.01)
    return x + 1


@task
def poison(x: int) -> int:
    """Kill the process on one item."""
    if x == 37:
        os._exit(9)
    time.sleep(0.002)
    return x


@task(batched=True)
def poison_batch(items: list[int]) -> list[int]:
    """Kill the process when one item is in the batch."""
    if 37 in items:
        os._exit(9)
    return items


def load_table() -> dict[str, int]:
    """Stand for a model that is expensive to load: the process that loaded it shows in the result."""
    return {"pid": os.getpid()}


@task(batched=True, setup=load_table)
def with_setup(items: list[int], table: dict[str, int]) -> list[bool]:
    """Tell whether the table was loaded in this very process."""
    return [table["pid"] == os.getpid() for _ in items]


@task(batched=True)
def wrong_length(items: list[int]) -> list[int]:
    """Return one result too few."""
    return items[:-1]


@task
def length(text: bytes) -> int:
    """Return the number of bytes."""
    return len(text)


class Adds:
    """Adds a number; its objects are called."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, x: int) -> int:
        """The sum."""
        return x + self.amount
