"""What goes into the ledger's calls and comes out of them, as frozen records.

What each batch needs is a named tuple where it can be: made in a fifth of the time of a frozen dataclass.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from toolkit.errors import LedgerCorrupt

TICKET_EXPIRY_S = 60.0
"""How long a ticket counts as outstanding, and how long its message lives on the broker."""


@dataclass(frozen=True, slots=True)
class Range:
    """Item indexes ``start <= i < stop`` that share a history.

    Attributes
    ----------
    start, stop : int
        Indexes.
    attempts : int
        Executions so far that ended with an error.
    suspicions : int
        Process deaths it is suspected of.
    alone : bool
        Not to be gathered with other ranges.
    """

    start: int
    stop: int
    attempts: int = 0
    suspicions: int = 0
    alone: bool = False

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read the form that the server keeps."""
        try:
            a, b, att, sus, solo = text.split(":")
            return cls(int(a), int(b), int(att), int(sus), solo == "1")
        except ValueError as error:
            raise LedgerCorrupt(f"a stored range does not parse: {text[:60]!r}") from error

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a claim says in a run whose items have weights, in their unit.

    Attributes
    ----------
    size : float
        Weight of a batch before tapering.
    limit : float
        Of this batch, after tapering; a single item may weigh more.
    weight : float
        What its items weigh.
    left : float
        Weight that nobody holds, after this claim.
    last_size : float
        Size of the latest claim's batch.
    unit_s : float
        The run's seconds per unit of weight, 0 when unknown.
    """

    size: float
    limit: float
    weight: float
    left: float
    last_size: float
    unit_s: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that this process holds under a lease.

    Attributes
    ----------
    claim_id : bytes
        128 random bits made by the claimer.
    at : float
        Seconds since the epoch by the server's clock.
    worker : int
        Code of the claimer's identity.
    active, known_workers : int
        Claims of the run and workers known at that moment.
    left : int
        Items nobody holds, after this claim.
    spawn : bool
        The claimer is to publish one more ticket, already counted.
    item_s : float
        The run's seconds per item, 0 when unknown.
    last_batch : int
        Batch size of the latest claim.
    max_workers : int
        The run's cap, 0 for none.
    offset : int
        Items committed from its start.
    asked : int
        Batch size before tapering.
    ranges : tuple of Range
        What to execute, from offset 0 on.
    pages : tuple of (int, bytes, bytes)
        Start, items, keys of each page touched; empty bytes for the one the claimer has.
    batch_size : int
        The run's own batch size, 0 when the controller chooses.
    weighed : Weighed or None
        The same in weight; None where items have none.
    """

    claim_id: bytes
    at: float
    worker: int
    active: int
    known_workers: int
    left: int
    spawn: bool
    item_s: float
    last_batch: int
    max_workers: int
    offset: int
    asked: int
    ranges: tuple[Range, ...]
    pages: tuple[tuple[int, bytes, bytes], ...]
    batch_size: int
    weighed: Weighed | None = None

    def __len__(self) -> int:
        return sum([r.stop - r.start for r in self.ranges])

    def indexes(self) -> Sequence[int]:
        """Item index of every position; a plain range in the common case."""
        if len(self.ranges) == 1:
            return range(self.ranges[0].start, self.ranges[0].stop)
        return [i for r in self.ranges for i in range(r.start, r.stop)]

    def attempts(self) -> list[int]:
        """Attempt number (from 1) of every position."""
        return [r.attempts + 1 for r in self.ranges for _ in range(r.start, r.stop)]


@dataclass(frozen=True, slots=True)
class NoClaim:
    """No batch, and why.

    Attributes
    ----------
    reason : str
        ``empty``, ``busy``, ``gone``, ``norun``, ``other`` (another run has this id now), ``anew`` (another generation
        began), ``full`` (the server is out of memory) or the run's state.
    left : int
        Items nobody holds; for ``empty``, the delayed ones.
    """

    reason: str
    left: int


class Ask(NamedTuple):
    """What a worker says when it asks for a batch.

    Attributes
    ----------
    claim_id : bytes
        Fresh random id; repeat it to repeat the call.
    identity : str
        `WorkerIdentity.encode` of the claimer.
    want, floor : int or float
        Batch size, and the least that tapering may cut it to; 0 means the run's latest. In weight where items have one.
    have : int
        Start of the page that the worker keeps, -1 for none.
    ticket : str
        Id of the ticket that brought it here, empty after the first claim.
    new_ticket : str
        Id for one more ticket, should the run want one.
    unit_s : float
        Seconds per unit of weight as this worker sees it, 0 to say nothing.
    born : int
        `Stored.born` of the run that it means; 0 takes whichever has the id.
    generation : int
        `Stored.generation` of the run that its code was loaded for; -1 takes any.
    """

    claim_id: bytes
    identity: str
    want: float = 0
    floor: float = 1
    have: int = -1
    ticket: str = ""
    new_ticket: str = ""
    unit_s: float = 0.0
    born: int = 0
    generation: int = -1

    def arguments(self) -> tuple[Any, ...]:
        """In the order of the server-side function."""
        return (
            self.claim_id, self.identity, self.want, self.floor, self.have, self.ticket, self.new_ticket,
            int(TICKET_EXPIRY_S * 1000), self.born, self.generation, *([self.unit_s] if self.unit_s > 0 else []),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FailedItem:
    """One failed item of a commit.

    Attributes
    ----------
    position : int
        Absolute offset in the claim.
    kind : str
        ``retry`` (attempt charged), ``again`` (not charged) or ``dead``.
    delay_s : float
        Before the next attempt.
    category : str
        One of `records.CATEGORIES`.
    letter : bytes
        The dead letter, encoded; empty unless dead.
    """

    position: int
    kind: str
    delay_s: float = 0.0
    category: str = "fatal"
    letter: bytes = b""


class Progress(NamedTuple):
    """The part of a claim that was executed since the previous commit.

    Attributes
    ----------
    claim_id : bytes
        Whose.
    start, stop : int
        Absolute offsets in the claim.
    last : bool
        Close the claim and give back what was not done.
    split : bool
        Give it back in halves, each to be claimed alone.
    item_s : float
        Seconds per item as this worker sees it, 0 to say nothing.
    row : bytes
        The metric row, with the last part.
    output : bytes
        `pages.pack_output` of the ok results, empty when there are none.
    failed : tuple of FailedItem
        In ascending position.
    pause : str
        Why the run is to be paused, empty when it is not.
    unless_ok : bool
        It is paused for that only where no item of it has ended well.
    """

    claim_id: bytes
    start: int
    stop: int
    last: bool = True
    split: bool = False
    item_s: float = 0.0
    row: bytes = b""
    output: bytes = b""
    failed: tuple[FailedItem, ...] = ()
    pause: str = ""
    unless_ok: bool = False


class Committed(NamedTuple):
    """Answer to a commit.

    Attributes
    ----------
    accepted : bool
        False when the claim was taken away meanwhile: the work will be done elsewhere.
    state : str
        State of the run afterwards.
    left : int
        Items nobody holds.
    claim : Claim, NoClaim or None
        The next batch, when one was asked for.
    """

    accepted: bool
    state: str
    left: int
    claim: Claim | NoClaim | None


@dataclass(frozen=True, slots=True)
class Renewed:
    """Answer to a renewal.

    Attributes
    ----------
    state : str
        The run's state, ``norun`` when it is gone.
    terminate : bool
        Kill what still runs of it.
    gone : frozenset of bytes
        Claims that are no longer held.
    """

    state: str
    terminate: bool = False
    gone: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Death:
    """Why a worker process died.

    Attributes
    ----------
    blamed : int
        Offset in the claim of the item that it was executing, `UNKNOWN`, or `NOBODY`.
    category : str
        One of `records.CATEGORIES`: ``worker_lost``, ``timeout`` or ``out_of_memory``.
    limit : int
        For a timeout, executions of the item before it is a dead letter.
    delay_s : float
        For a timeout, before the next attempt.
    letter : bytes
        The dead letter that the item gets if it is not tried again, encoded.
    """

    blamed: int = -1
    category: str = "worker_lost"
    limit: int = 0
    delay_s: float = 0.0
    letter: bytes = b""


UNKNOWN = -1
"""Whom to blame cannot be told: the batch is halved."""
NOBODY = -2
"""Nobody is to blame: it was killed on purpose."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Answer to a sweep: the run's state and the tickets it lacks."""

    state: str
    left: int
    active: int
    expired: int
    delayed: int
    tickets: int
    due_s: float | None = field(default=None, compare=False)
    """Until the next lease ends, None without leases."""


SILENCE_S = 2.0
"""A silence no longer than this is no break, however short a lease: twice the period at which nodes look and sweep."""


@dataclass(frozen=True, slots=True)
class Contact:
    """From when to when a process has heard from the server without a break, seconds by the server's clock.

    That clock tells what the process's own does not: a machine that slept, and a clock that was set.
    """

    since: float = 0.0
    seen: float = 0.0

    def heard(self, now: float) -> Contact:
        """The contact after the server said what time it is."""
        return Contact(self.since if 0 <= now - self.seen <= SILENCE_S else now, now)


def new_claim_id() -> bytes:
    """128 random bits."""
    return os.urandom(16)
