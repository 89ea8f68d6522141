"""Tasks of which some items take too long, each in another way."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from toolkit.execution import current_item, task


def spin() -> None:
    """Run for ever in Python code."""
    while True:
        pass


def swallow() -> None:
    """Run for ever, and survive every exception."""
    while True:
        with suppress(Exception):
            spin()


def hang() -> None:
    """Run for ever in C: no signal handler of Python runs meanwhile."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


WAYS = {"spin": spin, "swallow": swallow, "hang": hang}


@task
def attempts(x: int, slow: dict[str, str]) -> int:
    """Return the number of this attempt; `slow` maps an item to its way of never ending."""
    if str(x) in slow:
        WAYS[slow[str(x)]]()
    item = current_item()
    assert item is not None
    return item.attempt


@task
def better_each_time(x: int, ways: list[str]) -> int:
    """Return the number of the attempt that has no way of never ending any more."""
    item = current_item()
    assert item is not None
    if item.attempt <= len(ways):
        WAYS[ways[item.attempt - 1]]()
    return item.attempt


@task
def nap(x: int, pause_s: float, endless: int = -1) -> int:
    """Take a while; one item takes for ever."""
    time.sleep(pause_s)
    if x == endless:
        spin()
    return x


@task(batched=True)
def batch(items: list[int], slow: int, way: str) -> list[int]:
    """Never end when one item is in the batch."""
    if slow in items:
        WAYS[way]()
    return items


@task
def survivor(x: int, folder: str) -> int:
    """Say that it has begun, and never end."""
    (Path(folder) / f"{x}").touch()
    swallow()
    return x
