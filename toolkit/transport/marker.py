"""A small shared memory that tells a node's main process what each of its workers is doing.

The main process maps it before its workers are forked. A worker writes its own slot, without a lock and without a
system call; the main process reads all slots, renews the leases, and knows exactly which item a dead worker was on.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit.errors import TransportError
from toolkit.ledger import UNKNOWN

SLOTS = 2048
"""Workers of a node that can be told apart, processes or threads."""
_SLOT_BYTES = 192
# active, stop, ending | pid | position | item since | batch since | claim id | length of the run id, run id
_HEAD = struct.Struct("<BBB5xQqdd16sB")
_MOMENT = struct.Struct("@qd")  # native: each field is one store, which no death of the process cuts in two
_RUN_ID_MAX = 64
_AT_STOP = 1
_AT_ENDING = 2
_AT_MOMENT = 16
_AT_ITEM_SINCE = 24
# behind the run id: process that can be interrupted | claim id that it asks for
_AT_ARMED = 128
_AT_ASKED = 136
# the run's creation, which tells it from another one that has had its id
_AT_BORN = 152
_PID = struct.Struct("@Q")
_SINCE = struct.Struct("@d")
_NONE = bytes(16)


@dataclass(frozen=True, slots=True)
class Work:
    """What one worker is doing.

    Attributes
    ----------
    slot : int
        Its slot.
    pid : int
        Its process.
    run_id : str
        The run.
    claim_id : bytes
        The claim; empty while it asks for its first one.
    asked : bytes
        The claim that it asks for, or asked for last; the server may have granted it before the worker says so.
    position : int
        Absolute offset in the claim of the item that was begun last, `UNKNOWN` before the first one and when it cannot
        be told (one call per batch).
    item_since : float
        When user code was given that item, or the batch, on the clock of `time.perf_counter`; 0 while no user code of
        an item runs.
    batch_since : float
        When the worker took the claim up, on the same clock.
    armed : bool
        The process can be interrupted by a signal.
    born : int
        `ledger.Stored.born` of the run, 0 when it was not said.
    ending : bool
        The process was told to end (SIGTERM), and does.
    """

    slot: int
    pid: int
    run_id: str
    claim_id: bytes
    asked: bytes
    position: int
    item_since: float
    batch_since: float
    armed: bool
    born: int = 0
    ending: bool = False

    def same_item(self, other: Work) -> bool:
        """Whether `other` is the same execution of the same item."""
        return (self.pid, self.claim_id, self.position, self.item_since) == (
            other.pid, other.claim_id, other.position, other.item_since
        )  # fmt: skip


class Marker:
    """Slots of all workers of a node."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * _SLOT_BYTES + 1)  # the last byte: the node shuts down
        self._free = list(range(SLOTS))  # of threads and greenlets, which come and go; popped and appended at once

    @contextmanager
    def slot(self, index: int | None) -> Iterator[int]:
        """Have a slot: that of pool process number `index`, or one that nobody has where there is no such number.

        Raises
        ------
        TransportError
            There are more workers than slots.
        """
        try:
            taken = self._free.pop() if index is None else range(SLOTS)[index]
        except IndexError:
            raise TransportError(
                f"the node has more than {SLOTS:,} workers, whose leases it could not tell apart: start it with fewer "
                "(-c), and another node beside it"
            ) from None
        try:
            yield taken
        finally:
            if index is None:
                self._free.append(taken)

    def ask(self, slot: int, run_id: str, claim_id: bytes, born: int = 0) -> None:
        """Note the claim that the worker is about to ask for: it may die between the grant and `begin`."""
        base = slot * _SLOT_BYTES
        if not self._memory[base]:
            self._write(base, run_id, _NONE, UNKNOWN, born)
        self._memory[base + _AT_ASKED : base + _AT_ASKED + 16] = claim_id

    def begin(self, slot: int, run_id: str, claim_id: bytes, position: int, born: int = 0) -> None:
        """Note the claim that the worker starts on."""
        self._write(slot * _SLOT_BYTES, run_id, claim_id, position, born)

    def _write(self, base: int, run_id: str, claim_id: bytes, position: int, born: int) -> None:
        self._memory[base] = 0  # a reader skips the slot while it is written
        encoded = run_id.encode("ascii")[:_RUN_ID_MAX]
        since = time.perf_counter()
        _HEAD.pack_into(self._memory, base, 0, 0, 0, os.getpid(), position, 0.0, since, claim_id, len(encoded))
        start = base + _HEAD.size
        self._memory[start : start + len(encoded)] = encoded
        _PID.pack_into(self._memory, base + _AT_BORN, born)
        self._memory[base] = 1

    def stepper(self, slot: int, offset: int | None) -> Callable[[int], bool]:
        """Return the call made before each item: notes it, and tells whether to stop before it.

        Parameters
        ----------
        slot : int
            The worker's slot.
        offset : int or None
            Absolute offset in the claim of position 0. None for one call per batch: no single item can be blamed, and
            the call is never stopped.
        """
        memory, pack, clock = self._memory, _MOMENT.pack_into, time.perf_counter
        at, stop = slot * _SLOT_BYTES + _AT_MOMENT, slot * _SLOT_BYTES + _AT_STOP
        first = offset or 0

        def step(position: int) -> bool:
            pack(memory, at, first + position, clock())
            return memory[stop] != 0

        def call(_position: int) -> bool:
            pack(memory, at, UNKNOWN, clock())
            return False

        return call if offset is None else step

    def rest(self, slot: int) -> None:
        """No user code runs: what takes time now is not the fault of an item."""
        _SINCE.pack_into(self._memory, slot * _SLOT_BYTES + _AT_ITEM_SINCE, 0.0)

    def arm(self, slot: int) -> None:
        """Note that this process can be interrupted from now on."""
        _PID.pack_into(self._memory, slot * _SLOT_BYTES + _AT_ARMED, os.getpid())

    def ending(self, slot: int) -> None:
        """The process ends on request, and leaves what it holds to the node's main process."""
        self._memory[slot * _SLOT_BYTES + _AT_ENDING] = 1

    def end(self, slot: int) -> None:
        """The worker holds no claim any more."""
        self._memory[slot * _SLOT_BYTES] = 0

    def stop(self, slot: int, claim_id: bytes) -> None:
        """Ask the worker to stop before its next item, if it still works on this claim."""
        work = self.read(slot)
        if work is not None and work.claim_id == claim_id:
            self._memory[slot * _SLOT_BYTES + _AT_STOP] = 1

    def end_dead(self, work: Work) -> None:
        """Clear the slot of a worker that died, unless its successor already uses it."""
        now = self.read(work.slot)
        if now is not None and now.pid == work.pid and now.claim_id == work.claim_id:
            self.end(work.slot)

    def drain(self) -> None:
        """Ask all workers to give their tickets back after the batch they are on."""
        self._memory[SLOTS * _SLOT_BYTES] = 1

    @property
    def draining(self) -> bool:
        """Whether the node shuts down."""
        return self._memory[SLOTS * _SLOT_BYTES] != 0

    def works(self) -> list[Work]:
        """What the workers are doing now."""
        active = self._memory[: SLOTS * _SLOT_BYTES : _SLOT_BYTES]
        return [w for s, a in enumerate(active) if a and (w := self.read(s)) is not None]

    def read(self, slot: int) -> Work | None:
        """What the worker of one slot is doing, None when it is at rest or just changing."""
        base = slot * _SLOT_BYTES
        head = _HEAD.unpack_from(self._memory, base)
        active, _, ending, pid, position, item_since, batch_since, claim_id, length = head
        start = base + _HEAD.size
        run_id = bytes(self._memory[start : start + length]).decode("ascii", "replace")
        asked = bytes(self._memory[base + _AT_ASKED : base + _AT_ASKED + 16])
        armed = _PID.unpack_from(self._memory, base + _AT_ARMED)[0] == pid
        born = int(_PID.unpack_from(self._memory, base + _AT_BORN)[0])
        # read again: a slot rewritten meanwhile is skipped this time
        if not active or not self._memory[base] or _HEAD.unpack_from(self._memory, base)[7] != claim_id:
            return None
        if claim_id == _NONE:
            claim_id = b""
        return Work(slot, pid, run_id, claim_id, asked, position, item_since, batch_since, armed, born, bool(ending))
