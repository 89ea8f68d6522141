"""Submission: check everything, then write the run, then its items page by page."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from itertools import chain
from typing import Any, Final

from toolkit.client.arguments import Size
from toolkit.client.drawing import Source, Stopped
from toolkit.client.intake import Intake
from toolkit.client.weights import Weights
from toolkit.errors import InvalidInput, LedgerError, RunNotFound, RunStateError, ToolkitError
from toolkit.ledger import (
    PAGE_ITEMS,
    PAGE_SCALARS,
    Cuts,
    Draw,
    InputDigest,
    Ledger,
    Page,
    Reader,
    Registry,
    draw_from,
    draw_pages,
)
from toolkit.records import INLINE_QUEUE, RunSpec, RunState, RunStatus, one_line
from toolkit.settings import redact_url

_CHECKED_AHEAD_BYTES = 64 * 1024 * 1024
"""Encoded bytes of a sequence that are checked before the run is created."""
_HEAD_START_S = 0.25
"""How long the first tickets wait for the input of whole batches: a batch cut short there spoils an even split."""
_CALL_AGAIN_S = 0.05
"""Workers that ran out of input are called again at most so often; beside this, the sweep calls them each second."""
_SAME = ("task", "path", "kind", "call", "batched", "weighted", "code_version", "protocol")
"""What a submission that is given again must have in common with the first one."""
_NUMBERS: Final = frozenset((bool, int, float, type(None)))
_CANCEL_STATES: Final = (RunState.CANCELLING, RunState.CANCELLED)


def find_earlier(ledger: Ledger, spec: RunSpec, kwargs: bytes) -> RunSpec | None:
    """Look for an earlier submission with the id of `spec`; None when there is none.

    Returns
    -------
    RunSpec or None
        What the run was asked to be the first time, which stays.

    Raises
    ------
    InvalidInput
        It was another task, or called otherwise; says what differs.
    RunStateError
        It was cancelled: its items will not be executed.
    """
    try:
        earlier = ledger.spec(spec.run_id)
    except RunNotFound:
        return None
    differs = [
        f"{name} {getattr(earlier, name)!r} there, {getattr(spec, name)!r} here"
        for name in _SAME
        if getattr(earlier, name) != getattr(spec, name)
    ]
    if (earlier.queue == INLINE_QUEUE) != (spec.queue == INLINE_QUEUE):
        differs.append(f"inline={earlier.queue == INLINE_QUEUE} there, {spec.queue == INLINE_QUEUE} here")
    if ledger.function(spec.run_id)[1] != kwargs:
        differs.append("kwargs")
    if differs:
        raise InvalidInput(
            f"run {spec.run_id} exists already and differs: {'; '.join(differs)}. Pass the same task and options to go "
            "on with it, or another run_id"
        )
    state = ledger.status(spec.run_id).state
    if state in _CANCEL_STATES:
        raise RunStateError(f"run {spec.run_id} exists already and is {state}; choose another run_id")
    return earlier


class Submission:
    """One run on its way into the ledger.

    Parameters
    ----------
    ledger, registry
        Where it goes.
    spec : RunSpec
        What it is.
    size : Size
        Its batch size and worker cap.
    send : callable of int
        Sends that many tickets.
    resumes : bool
        The run is there already (`find_earlier`), and its input may be incomplete.

    Attributes
    ----------
    submitted : int
        Items stored so far.
    cancelled : bool
        It ended since somebody cancelled the run.
    failed : bool
        It ends with an error, for which the run is cancelled.
    """

    def __init__(
        self, ledger: Ledger, registry: Registry, spec: RunSpec, size: Size, send: Callable[[int], Any],
        resumes: bool = False,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._registry = registry
        self._spec = spec
        self._size = size
        self._send = send
        self._resumes = resumes
        self._known = 0
        self.submitted = 0
        self.cancelled = self.failed = False

    def write(
        self, items: Iterable[Any] | Source, key: Callable[[Any], Any] | None, weights: Weights | None, function: bytes,
        kwargs: bytes, begun: Callable[[], None] = lambda: None,
    ) -> int:  # fmt: skip
        """Check and encode items, create the run, append its pages, send its first tickets.

        A sequence is encoded before anything is stored (up to 64 MiB of it); a stream page by page, as fast as it comes
        and workers take it. When a later page fails, the run is cancelled, and the error says so. Of a run that is
        there already, the items that it holds are compared, and the rest is appended; it stays where that fails before.

        Parameters
        ----------
        begun : callable
            Called once a stream's first page is stored, and after those of its items that the run held before.

        Returns
        -------
        int
            Items submitted.
        """
        stored = self._ledger.status(self._spec.run_id) if self._resumes else None
        limit = self._ledger.settings.max_item_bytes
        nodes = [n for n in self._registry.nodes() if self._spec.queue in n.queues]
        self._known = sum(n.workers for n in nodes)
        stream = isinstance(items, Source)
        draw = _drawing(items, self._cuts(stored))
        pages = draw_pages(weights.beside(draw) if weights else draw, key=key, max_item_bytes=limit)
        if weights is not None:
            workers = min(self._known or math.inf, self._size.max_workers or math.inf)
            pages = (weights.lay(page, int(workers) if workers < math.inf else 0) for page in pages)
        if stored is not None and stored.closed:
            return self._check_complete(stored, items, pages)
        checked = self._check_ahead(pages, not stream)

        def create() -> None:
            self._registry.add_run(self._spec)
            self._ledger.create(
                self._spec, function=function, kwargs=kwargs, batch_size=self._size.batch_size, auto=self._size.auto,
                max_workers=self._size.max_workers, known_workers=self._known, release=not self._spec.keep_results,
                weight_size=self._size.weight_size,
            )  # fmt: skip
            with suppress(LedgerError):  # a sweep that did not find it yet may have taken it off the list
                self._registry.activate(self._spec)

        if stored is None:
            create()
        else:
            self._registry.add_run(self._spec, anew=False)
        held = stored.submitted if stored else 0
        check = items.check if isinstance(items, Source) else lambda: None
        intake = Intake(self._ledger, self._spec, create, stream=stream, stored=held, check=check)
        try:
            for stop in self._append(chain(checked, pages), intake, stream):
                self.submitted = stop
                if stop >= held:
                    begun()
        except Stopped:
            raise
        except BaseException as error:
            self.cancelled = isinstance(error, RunStateError) and self._is_cancelled()
            if not intake.foreign and not self.cancelled:
                self._give_up(error, held)
            raise
        return self.submitted

    def _cuts(self, stored: RunStatus | None) -> Cuts:
        """Where the pages that a run holds are cut: how many items a stream had for each is nobody's to know."""
        if stored is None:
            return Cuts()
        starts = Reader(self._ledger.connection, self._spec.run_id).page_starts()
        within = [start for start in starts if start < stored.submitted]
        if self._spec.keep_results:
            return Cuts([*within, stored.submitted])
        # Pages that workers have not taken whole are all there, and have to be given as they were cut.
        taken, none = stored.submitted - stored.remaining, stored.submitted
        whole_from = max((start for start in within if start <= taken), default=none) if stored.remaining else none
        return Cuts([*within, stored.submitted], whole_from=whole_from)

    def _check_ahead(self, pages: Iterator[Page], everything: bool) -> list[Page]:
        checked: list[Page] = []
        size = 0
        for page in pages:
            checked.append(page)
            size += len(page.items)
            if not everything or size > _CHECKED_AHEAD_BYTES:
                break
        if not checked:
            raise InvalidInput("items is empty: there is nothing to run")
        return checked

    def _append(self, pages: Iterable[Page], intake: Intake, stream: bool) -> Iterator[int]:
        """Yield how many items are stored, after each page.

        A sequence is ended in one call with its last page; a stream's page is not held back until the next one.
        """
        # The heaviest item of a sequence may be its last one: the first tickets wait for it, for a moment.
        first = math.inf if self._size.weight_size is not None and not stream else self._size.batch_size
        tickets = Tickets(self._send, max(1, min(self._size.max_workers or 64, self._known or 2)), first)
        pending: Page | None = None
        stop = 0
        for page in pages:
            ready, pending = (page, None) if stream else (pending, page)
            if ready is not None:
                intake.put(ready)
                stop = ready.stop
                tickets.look(stop, intake.starved)
                yield stop
        if pending is not None:
            intake.put(pending, close=True)
            stop = pending.stop
        else:
            intake.close(stop)
        tickets.close()
        yield stop

    def _is_cancelled(self) -> bool:
        try:
            return self._ledger.status(self._spec.run_id).state in _CANCEL_STATES
        except ToolkitError:
            return False

    def _check_complete(self, stored: RunStatus, items: Iterable[Any] | Source, pages: Iterable[Page]) -> int:
        """A run whose input is complete is in place, if it is the same input: counted first, then compared."""
        known, given = self._ledger.input_digest(self._spec.run_id), InputDigest()
        n = len(items) if isinstance(items, Sized) else stored.submitted
        if n == stored.submitted and (known or not isinstance(items, Sized)):
            n = 0
            for page in pages:
                given.add(page)
                n = page.stop
                if n > stored.submitted:
                    break
        at_least = " or more" if n > stored.submitted and not isinstance(items, Sized) else ""
        if n != stored.submitted:
            raise InvalidInput(
                f"run {self._spec.run_id} exists already with {stored.submitted:,} items, and {n:,}{at_least} are "
                "given; choose another run_id"
            )
        if known and given.text() != known:
            raise InvalidInput(
                f"run {self._spec.run_id} exists already, and it holds other items, as many as are given; choose "
                "another run_id"
            )
        return n

    def _give_up(self, error: BaseException, held: int) -> None:
        """Half a run is worse than none: cancel it, unless it `held` all that is stored before this submission."""
        if self._resumes and self.submitted <= held:
            error.add_note(f"run {self._spec.run_id} is as it was before; the same call goes on with it")
            return
        self.failed = True  # before its run is seen to be cancelled
        try:
            said = redact_url(f"submission failed: {type(error).__name__}: {error}")
            self._ledger.steer(self._spec.run_id, "cancel", one_line(said, 300))
        except ToolkitError:
            error.add_note(f"run {self._spec.run_id} could not be cancelled; client.get_run(...).cancel() when back")
            return
        error.add_note(f"run {self._spec.run_id} was cancelled: its input is incomplete")


class Tickets:
    """When a submission calls workers: once a batch for each of them is there, and again when they ran out of input.

    Parameters
    ----------
    send : callable of int
        Sends that many tickets.
    n : int
        How many workers to call.
    batch_size : int or float
        Items of a batch; 0 for a size that adapts, infinite to wait for all input.
    """

    def __init__(self, send: Callable[[int], Any], n: int, batch_size: float) -> None:
        self._send = send
        self._n = n
        self._enough = n * batch_size
        self._latest = time.monotonic() + _HEAD_START_S
        self._sent_at = 0.0
        self._owed = True

    def look(self, submitted: int, starved: bool) -> None:
        """A page was stored, the first for workers that had nothing to do if `starved`."""
        now = time.monotonic()
        if self._sent_at == 0.0:
            if submitted >= self._enough or now >= self._latest:
                self._call(now)
        elif starved:
            self._owed = True
            if now - self._sent_at > _CALL_AGAIN_S:
                self._call(now)

    def close(self) -> None:
        """All input is there."""
        if self._owed:
            self._call(time.monotonic())

    def _call(self, now: float) -> None:
        self._send(self._n)
        self._sent_at = now
        self._owed = False


def _drawing(items: Iterable[Any] | Source, cuts: Cuts) -> Draw:
    """Draw what belongs into one page: all of one that the run holds, else a full one, or what a stream has by now.

    Of a stream of numbers a full one holds as many as of a sequence; of others that much may be too large for memory.
    """
    if not isinstance(items, Source):
        return draw_from(items, cuts)
    most = PAGE_ITEMS

    def draw(at: int) -> list[Any]:
        nonlocal most
        known = cuts.count(at, PAGE_ITEMS)
        taken = items.take(most) if known is None else items.take(known, None)
        most = PAGE_SCALARS if _NUMBERS.issuperset(map(type, taken)) else PAGE_ITEMS
        return taken

    return draw
