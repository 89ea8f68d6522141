"""Four kinds of work for real workers: cheap items, a fixed cost a call, a heavy tail, a lock that all share."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from toolkit.execution import task


def _hash(rounds: int) -> None:
    value = b""
    for _ in range(rounds):
        value = sha256(value).digest()


@task
def cheap(rounds: int) -> None:
    """Processor time alone: `rounds` hashes."""
    _hash(rounds)


@task(batched=True)
def call(batch: Sequence[int]) -> list[int]:
    """A call to a slow service: 40 ms to be answered at all, and half a millisecond an item."""
    time.sleep(0.04 + 5e-4 * len(batch))
    return list(batch)


@task
def uneven(rounds: int) -> None:
    """Processor time with a heavy tail, which the items bring."""
    _hash(rounds)


@task(batched=True)
def store(batch: Sequence[int], path: str) -> list[int]:
    """Prepare each item, then write them where only one may write: 10 ms a batch and 0.1 ms an item."""
    for rounds in batch:
        _hash(rounds)
    with Path(path).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(0.01 + 1e-4 * len(batch))
    return list(batch)
