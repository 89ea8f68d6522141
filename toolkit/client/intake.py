"""How pages enter a run: within a window, around a full server, after a rollback, and beside what is there already."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from toolkit.client.notices import say, why_paused
from toolkit.errors import InvalidInput, LedgerFull, RunNotFound, RunStateError
from toolkit.ledger import InputDigest, Ledger, Page, Reader
from toolkit.records import RunSpec, RunState, RunStatus

KEPT_S = 2.0
"""How long a stored page is kept, to be appended again: what a server that syncs every second may lose."""
KEPT_BYTES = 16 * 1024 * 1024
"""Encoded bytes kept for that at most."""
_TELL_AFTER_S = 3.0
"""How long nothing moves before somebody who waits is told why."""
_READY_SHARE = 4
"""The part of the window, a fourth, that may hold untaken input even while workers hold all the rest."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.25
_RANGE_BYTES = 40
"""About what the server spends, for each byte that names an item alone, on the ranges around it: two of 80 bytes."""
_FIELD_BYTES = 256
"""About what the server spends on a page beside its items: two or three fields, an entry of the index."""


class Intake:
    """The way of one run's pages into the ledger, in order.

    Parameters
    ----------
    ledger : Ledger
        Where they go.
    spec : RunSpec
        The run.
    create : callable
        Creates the run again, should a server that restarted have lost it.
    stream : bool
        Keep input that no worker has taken below ``look_ahead_bytes`` of the settings.
    stored : int
        Items that the run holds already, from an interrupted submission.
    check : callable
        Called while submission waits; raises where nobody wants the rest any more.

    Attributes
    ----------
    foreign : bool
        The run holds other items than those given, so it is somebody else's.
    starved : bool
        When the latest page was stored, workers had taken everything before it.
    """

    def __init__(
        self, ledger: Ledger, spec: RunSpec, create: Callable[[], None], *, stream: bool, stored: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.foreign = False
        self.starved = False
        self._ledger = ledger
        self._run_id = spec.run_id
        self._create = create
        self._check = check
        self._reader = Reader(ledger.connection, spec.run_id)
        self._stored = stored
        self._patience = Patience(spec)
        self._limit = ledger.settings.look_ahead_bytes if stream else 0
        self._waiting = Window()  # input that no worker has taken
        self._stored_input = Window()  # with what workers are at: all input there is, where ended items are deleted
        self._release = not spec.keep_results
        self._weighted = spec.weighted
        self._kept: deque[Kept] = deque()
        self._kept_bytes = 0
        self._digest = InputDigest()

    # ------------------------------------------------------------------ one page

    def put(self, page: Page, *, close: bool = False) -> None:
        """Store one page, as soon as there is room for it; `close` ends the input.

        Raises
        ------
        RunStateError
            The run was cancelled, or its input is closed; or the server lost more than this process keeps.
        LedgerFull
            The server has had no memory for ``full_wait_s``, and nothing ended meanwhile.
        InvalidInput
            The run holds other items already.
        """
        self._wait_for_room(page)
        before = self._digest.text() if page.start else ""
        self._digest.add(page)
        kept = Kept(page, before, self._digest.text())
        while page.start >= self._stored:
            try:
                self._note(kept, kept.append(self._ledger, self._run_id, close=close))
            except LedgerFull as error:
                self._wait_for_memory(error)
            except InvalidInput as error:
                raise self._differs(f"it holds other items before item {page.start:,}") from error
            except (RunStateError, RunNotFound) as error:
                self._reconcile(page.start, error)
            else:
                return
        self._compare(kept)
        if close:
            self.close(page.stop)

    def close(self, stop: int) -> None:
        """End the input of a run that holds all of it, `stop` items; raises as `put` does."""
        while self._stored <= stop:
            try:
                digest = self._digest.text()
                self._ledger.append(self._run_id, None, expected=stop, close=True, digest=digest, before=digest)
            except LedgerFull as error:
                self._wait_for_memory(error)
            except InvalidInput as error:
                raise self._differs("it holds other items") from error
            except (RunStateError, RunNotFound) as error:
                self._reconcile(stop, error)
            else:
                return
        raise self._differs(f"it holds {self._stored:,} items, and {stop:,} are given")

    def _note(self, kept: Kept, taken: int) -> None:
        """A page was stored: count it into the window, and keep it for a while."""
        page, now = kept.page, time.monotonic()
        kept.at = now
        self._kept.append(kept)
        self._kept_bytes += len(page.items)
        self.starved = taken >= page.start
        while len(self._kept) > 1 and (now - self._kept[0].at > KEPT_S or self._kept_bytes > KEPT_BYTES):
            self._kept_bytes -= len(self._kept.popleft().page.items)
        self._count(page, taken)

    # ------------------------------------------------------------------ the window

    def waits(self, page: Page) -> bool:
        """Whether `page` has to wait until workers take what is there."""
        if not self._limit:
            return False
        if self._release:  # however much workers hold at a time, a part of the window lies ready for them
            least = self._waiting.holds(page, self._limit // _READY_SHARE)
            return least and self._stored_input.holds(page, self._limit)
        return self._waiting.holds(page, self._limit)

    def _count(self, page: Page, taken: int) -> None:
        if self._limit:
            self._waiting.add(page)
            self._waiting.drop(taken)
            if self._release:
                self._stored_input.add(page)

    def _wait_for_room(self, page: Page) -> None:
        pause = _PAUSE_S
        self._patience.start()
        while self.waits(page):
            try:
                status = self._ledger.status(self._run_id)
            except RunNotFound:
                return  # the next append finds out what the server lost
            self._waiting.drop(self._taken(status))
            self._stored_input.drop(status.done)
            if status.state not in (RunState.RUNNING, RunState.PAUSED):
                return  # and here, what happened
            if self.waits(page):
                self._patience.look(status)
                self._check()
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, pause * 1.5)

    def _taken(self, status: RunStatus) -> int:
        """How many items workers have taken; which of them is known only where they take the first ones first."""
        return status.submitted - status.remaining - (status.ready if self._weighted else 0)

    # ------------------------------------------------------------------ a full server

    def _wait_for_memory(self, error: LedgerFull) -> None:
        """Wait a moment; the page is tried again then.

        Raises
        ------
        LedgerFull
            Nothing has moved for ``full_wait_s``.
        """
        status = self._ledger.status(self._run_id)
        quiet_s = self._patience.look(status, full=True)
        limit_s = self._ledger.settings.full_wait_s
        if quiet_s > limit_s:
            error.add_note(f"submission waited {limit_s:g} s, and no item was taken or ended meanwhile")
            raise error
        self._check()
        time.sleep(_LONGEST_PAUSE_S if quiet_s > 1.0 else 4 * _PAUSE_S)

    # ------------------------------------------------------------------ what is stored otherwise than expected

    def _reconcile(self, start: int, error: RunStateError | RunNotFound) -> None:
        """The run holds less than this process believes, after a rollback, or more, beside another submitter."""
        if isinstance(error, RunNotFound):
            if not self._kept or self._kept[0].page.start > 0:
                raise error
            self._create()
        status = self._ledger.status(self._run_id)
        if status.state not in (RunState.RUNNING, RunState.PAUSED):
            raise error
        if status.submitted < start:
            self._append_again(status, start)
        elif status.submitted > start:
            self._stored = status.submitted  # another process submits the same; what it stored is compared
        elif status.closed:
            raise error

    def _append_again(self, status: RunStatus, expected: int) -> None:
        again = [kept for kept in self._kept if kept.page.start >= status.submitted]
        if status.closed or not again or again[0].page.start != status.submitted:
            raise RunStateError(
                f"run {self._run_id}: the server holds {status.submitted:,} of {expected:,} items submitted, so it "
                f"lost more than its last {KEPT_S:g} s, which is all that is kept here. Check that it runs with "
                "appendonly yes, then submit again"
            )
        for kept in again:
            try:
                kept.append(self._ledger, self._run_id)
            except LedgerFull as error:
                return self._wait_for_memory(error)  # then the run is looked at again, here as below
            except InvalidInput as error:
                raise self._differs(f"it holds other items before item {kept.page.start:,}") from error
            except (RunStateError, RunNotFound):
                return None  # another process stored it first, or the server has lost more
        return None

    def _compare(self, kept: Kept) -> None:
        """Compare a page with what the run holds in its place; items that ended may be gone from there.

        Then nobody knows how its pages were cut, and the digest of all that was given tells with the next one.
        """
        page = kept.page
        if page.stop > self._stored:
            raise self._differs(f"it ends, at {self._stored:,} items so far, inside the page of items", page)
        items, keys, weights = self._reader.page(page.start)
        same = (items, keys) == (page.items, page.keys)
        if same and weights != page.weights:
            raise self._differs("it holds other weights for items", page)
        if items is not None and not same and not (self._release and self._ledger.input_digest(self._run_id)):
            raise self._differs("it holds something else as items", page)
        if items is None and not self._reader.released(page.start):
            # Pages of a sequence may be larger than those of a stream.
            raise self._differs("its pages are cut otherwise (a list where it was a stream?) at items", page)
        self._note(kept, 0)

    def _differs(self, what: str, page: Page | None = None) -> InvalidInput:
        self.foreign = True
        where = f" {page.start:,} to {page.stop - 1:,}" if page else ""
        return InvalidInput(
            f"run {self._run_id} exists already, and {what}{where}: to go on with it, pass the same items in the same "
            "order; for other items choose another run_id"
        )


@dataclass(slots=True)
class Kept:
    """A page with the digests of all input without it and with it, and when it was stored."""

    page: Page
    before: str
    digest: str
    at: float = 0.0

    def append(self, ledger: Ledger, run_id: str, *, close: bool = False) -> int:
        """Store it; returns how many of the run's items workers have taken. Raises as `Ledger.append` does."""
        page = self.page
        return ledger.append(
            run_id, page, expected=page.start, close=close, digest=self.digest, before=self.before
        )[1]  # fmt: skip


class Window:
    """Pages of a run, oldest first, and about how much memory of the server they take."""

    def __init__(self) -> None:
        self._pages: deque[tuple[int, int]] = deque()  # (stop, bytes)
        self._bytes = 0

    def add(self, page: Page) -> None:
        """A page was stored."""
        size = stored_bytes(page)
        self._pages.append((page.stop, size))
        self._bytes += size

    def drop(self, stop: int) -> None:
        """The pages of the first `stop` items are out of it."""
        while self._pages and self._pages[0][0] <= stop:
            self._bytes -= self._pages.popleft()[1]

    def holds(self, page: Page, limit: int) -> bool:
        """Whether it holds so much that `page` would exceed `limit` bytes."""
        return bool(self._pages) and self._bytes + stored_bytes(page) > limit


class Patience:
    """How long a run has not moved while somebody waits for it, and why; each reason told once, on stderr."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._told: set[bool] = set()
        self._seen: tuple[int, ...] = ()
        self._since = 0.0

    def start(self) -> None:
        """Begin to wait anew."""
        self._seen, self._since = (), time.monotonic()

    def look(self, status: RunStatus, *, full: bool = False) -> float:
        """Seconds since the run was last seen to move."""
        seen = (status.submitted - status.remaining, status.done, status.retried, status.claimed)
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        quiet_s = now - self._since
        if full not in self._told and (full or quiet_s > _TELL_AFTER_S):
            self._told.add(full)
            say(f"Run {self._spec.run_id}: submission waits, {self._why(status, full)}")
        return quiet_s

    def _why(self, status: RunStatus, full: bool) -> str:
        if full:
            return "the server is out of memory; it goes on when items end or maxmemory is raised"
        if status.state is RunState.PAUSED:
            return f"the run is paused ({why_paused(status)}); run.resume() goes on"
        if status.known_workers == 0:
            return f"no worker listens to queue {self._spec.queue!r}; `toolkit doctor {self._spec.run_id}` tells more"
        return f"{status.known_workers} workers are busy, and enough input lies ready for them"


def stored_bytes(page: Page) -> int:
    """About the server's memory for a page: its allocator rounds sizes up, in steps of a quarter of a power of two."""
    size = len(page.items) + 32
    step = max(16, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step + len(page.keys) + len(page.weights) + _RANGE_BYTES * len(page.alone) + _FIELD_BYTES
