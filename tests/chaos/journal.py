"""What really ran: one append-only file a process, written by the tasks themselves and read by nobody but the oracle.

A record is 16 bytes and goes to the kernel at once (``O_APPEND``), so a killed process loses none. A kill in the middle
of a long write leaves a torn record at the end of a file; it is cut off when reading.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

DIRECTORY = "CHAOS_JOURNAL"
"""Environment variable that names the journal's directory."""
NO_RUN = 0xFFFF
# run, event, attempt, index, seconds of the monotonic clock (one for all processes of a machine)
RECORD = struct.Struct("<HBBId")
DTYPE = np.dtype([("run", "<u2"), ("event", "u1"), ("attempt", "u1"), ("index", "<u4"), ("at", "<f8")])


class Event(IntEnum):
    """What a record tells."""

    STARTED = 1
    """An execution of the item began."""
    FINISHED = 2
    """It ended well."""
    FAILED = 3
    """It is about to raise, as planned."""
    ENDING = 4
    """It is about to kill its own process, as planned."""
    ACCEPTED = 5
    """The ledger took a commit of this process."""
    REFUSED = 6
    """The ledger refused a commit of this process: its claim was gone."""


_open: dict[int, int] = {}


def _file() -> int:
    """The file of this process, opened at its first record: a fork does not inherit its parent's."""
    pid = os.getpid()
    fd = _open.get(pid)
    if fd is None:
        _open.clear()
        path = Path(os.environ[DIRECTORY]) / f"{pid}-{time.monotonic_ns()}.journal"
        fd = _open[pid] = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    return fd


def note(run: int, event: Event, index: int, attempt: int) -> None:
    """Append one record."""
    os.write(_file(), RECORD.pack(run, event, min(attempt, 255), index, time.monotonic()))


def note_all(run: int, event: Event, indexes: Iterable[int], attempt: int) -> None:
    """Append one record for each item of a batched call, in one write."""
    now, attempt = time.monotonic(), min(attempt, 255)
    os.write(_file(), b"".join(RECORD.pack(run, event, attempt, i, now) for i in indexes))


@dataclass(frozen=True)
class Life:
    """All that one process noted, in order.

    Attributes
    ----------
    pid : int
        The process.
    records : numpy.ndarray
        Of `DTYPE`.
    """

    pid: int
    records: np.ndarray

    @property
    def first_at(self) -> float:
        """Monotonic seconds of its first record."""
        return float(self.records["at"][0])

    def before(self, at: float) -> np.ndarray:
        """Records up to a moment."""
        return self.records[: int(np.searchsorted(self.records["at"], at, side="right"))]

    def last_items(self, at: float = float("inf")) -> tuple[int, set[int]]:
        """Run and items of the latest call before `at`; a batched call notes all its items at one moment."""
        seen = self.before(at)
        seen = seen[seen["event"] <= Event.ENDING]
        if not len(seen):
            return NO_RUN, set()
        latest = seen[-1]
        same = seen[(seen["at"] == latest["at"]) & (seen["run"] == latest["run"])]
        return int(latest["run"]), {int(i) for i in same["index"]}


class Journal:
    """Every record of a campaign.

    Parameters
    ----------
    lives : iterable of Life
        One for each process that noted something.
    """

    def __init__(self, lives: Iterable[Life]) -> None:
        self.lives = [life for life in lives if len(life.records)]
        every = [life.records for life in self.lives]
        records = np.concatenate(every) if every else np.zeros(0, DTYPE)
        self._records = records[np.argsort(records["run"], kind="stable")]

    @classmethod
    def read(cls, directory: Path) -> Journal:
        """Read the files of a directory."""
        return cls(
            Life(int(path.name.partition("-")[0]), _whole_records(path)) for path in sorted(directory.glob("*.journal"))
        )

    def count(self, run: int, event: Event, n: int) -> np.ndarray:
        """How often each of the `n` items of a run has an event."""
        low, high = np.searchsorted(self._records["run"], [run, run + 1])
        part = self._records[low:high]
        chosen = part["index"][part["event"] == event].astype(np.int64)
        return np.bincount(chosen, minlength=n)

    def total(self, event: Event) -> int:
        """Records of one kind."""
        return int(np.count_nonzero(self._records["event"] == event))

    def life_of(self, pid: int, at: float) -> Life | None:
        """The process that had this pid at a moment, if it noted anything until then."""
        found = [life for life in self.lives if life.pid == pid and life.first_at <= at]
        return max(found, key=lambda life: life.first_at, default=None)


def _whole_records(path: Path) -> np.ndarray:
    data = path.read_bytes()
    return np.frombuffer(data[: len(data) // RECORD.size * RECORD.size], DTYPE)
