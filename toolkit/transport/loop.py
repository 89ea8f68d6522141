"""The life of a ticket on a worker: claim, execute, commit and claim again, until its slice is over.

Knows no Celery, so that the same loop serves a run inline, in the caller's process.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from toolkit import codec
from toolkit._version import __version__
from toolkit.execution import Failure, Part, Runner, Task, code_version
from toolkit.execution.sizing import Controller
from toolkit.guards import default_guards
from toolkit.ledger import (
    Ask,
    Claim,
    Committed,
    FailedItem,
    Ledger,
    NoClaim,
    PageCache,
    Progress,
    new_claim_id,
    pack_output,
)
from toolkit.records import (
    CATEGORIES,
    FLAG_BATCHED,
    FLAG_CUT_OFF,
    FLAG_FIRST,
    FLAG_TAIL,
    METRIC_ROW,
    OUTCOMES,
    RunSpec,
    WorkerIdentity,
)
from toolkit.transport.marker import Marker

logger = logging.getLogger(__name__)

SLICE_S = 0.25
"""How long a ticket works before it looks whether another run waits."""
_U32 = 0xFFFFFFFF


@dataclass(slots=True)
class RunContext:
    """What a worker process keeps about a run between batches.

    Attributes
    ----------
    spec : RunSpec
        The run.
    runner : Runner
        Executes its batches.
    identity : str
        This worker, as the ledger's dictionary stores it.
    controller : Controller
        Steers the batch size.
    pages : PageCache
        The page it is on.
    batches : int
        Batches executed by this process.
    """

    spec: RunSpec
    runner: Runner
    identity: str
    controller: Controller
    pages: PageCache
    batches: int = 0


def make_context(
    spec: RunSpec, task: Task, kwargs: bytes, *, host: str, node: str, passthrough: bool = False
) -> RunContext:
    """Prepare a run for execution in this process."""
    values = codec.decode(kwargs) if kwargs else {}
    runner = Runner(task, spec, values, guards=default_guards(spec, passthrough=passthrough))
    identity = WorkerIdentity(host, node, os.getpid(), code_version(task), __version__)
    return RunContext(spec, runner, identity.encode(), Controller(), PageCache())


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop asks its surroundings.

    Attributes
    ----------
    marker : Marker
        Where the running item is noted.
    slot : int
        This worker's slot in it.
    waits : callable of RunSpec
        Whether another run waits for this worker.
    draining : callable
        Whether to give the ticket back after this batch.
    spawn : callable of (RunSpec, str)
        Publish one more ticket, already counted.
    """

    marker: Marker
    slot: int
    waits: Callable[[RunSpec], bool]
    draining: Callable[[], bool]
    spawn: Callable[[RunSpec, str], None]


class BatchLoop:
    """Serves one ticket of one run.

    Parameters
    ----------
    ledger : Ledger
        Where batches come from.
    context : RunContext
        The run, as this process knows it.
    hooks : Hooks
        The surroundings.
    new_ticket_id : callable
        Makes ids for further tickets; empty ones ask for none.
    """

    def __init__(
        self, ledger: Ledger, context: RunContext, hooks: Hooks, new_ticket_id: Callable[[], str] = lambda: ""
    ) -> None:
        self.ledger = ledger
        self.context = context
        self.hooks = hooks
        self._new_ticket_id = new_ticket_id
        self._idle_since: float | None = None
        self._slice_end = 0.0

    def serve(self, ticket: str = "") -> NoClaim:
        """Execute batches until there are none, the run ended, or the worker is wanted elsewhere.

        Returns
        -------
        NoClaim
            Why it stopped: a reason of `ledger.NoClaim`, or ``yield`` when items are left for a further ticket.
        """
        run_id = self.context.spec.run_id
        self._slice_end = time.perf_counter() + SLICE_S
        ask = self._ask(None, ticket)
        answer: Claim | NoClaim | None = self.ledger.claim(run_id, ask)
        try:
            while isinstance(answer, Claim):
                if answer.spawn:
                    self.hooks.spawn(self.context.spec, ask.new_ticket)
                committed, ask = self._batch(answer)
                answer = committed.claim
                if answer is None:
                    return NoClaim("yield" if committed.state == "running" else committed.state, committed.left)
        finally:
            self.hooks.marker.end(self.hooks.slot)
        return answer or NoClaim("empty", 0)

    # ------------------------------------------------------------------ one batch

    def _ask(self, claim: Claim | None, ticket: str = "") -> Ask:
        context = self.context
        hint, last, left, workers = (
            (claim.item_s, claim.last_batch, claim.left, claim.known_workers) if claim else (0.0, 0, 0, 1)
        )
        want, floor = 0, 1
        if claim is not None:
            proposal = context.controller.propose(hint, last, left, max(workers, claim.active))
            want, floor = proposal.want, proposal.floor
        return Ask(new_claim_id(), context.identity, want, floor, context.pages.have, ticket, self._new_ticket_id())

    def _batch(self, claim: Claim) -> tuple[Committed, Ask]:
        """Execute one claim to its end and commit it, asking for the next one in the same call."""
        context, hooks = self.context, self.hooks
        # The claim is marked before anything is decoded: a death in the decoder is blamed too.
        hooks.marker.begin(hooks.slot, context.spec.run_id, claim.claim_id, -1)
        t_claimed = time.perf_counter()
        items, item_keys, input_bytes = context.pages.slice(claim.pages, [(r.start, r.stop) for r in claim.ranges])
        decode_s = time.perf_counter() - t_claimed
        offset = claim.offset
        indexes, attempts = claim.indexes(), claim.attempts()
        if offset:  # a claim taken up again after a lost answer
            items, indexes, attempts = items[offset:], indexes[offset:], attempts[offset:]
            item_keys = item_keys[offset:] if item_keys else None
        step = hooks.marker.stepper(hooks.slot, offset)
        context.batches += 1
        idle_s = math.nan if self._idle_since is None else time.perf_counter() - self._idle_since
        tally = Tally(claim, context, idle_s, decode_s, input_bytes)
        batch = Batch(indexes, attempts, item_keys, context.pages)
        ask: Ask | None = None
        parts = context.runner.run(items, indexes, attempts, item_keys, on_item=_never_stop(step, context))
        for part in parts:
            tally.count(part)
            progress = self._progress(claim, part, offset, batch, tally)
            if part.last:
                self._idle_since = time.perf_counter()
                service_s = part.stats.service_s
                if part.stop:
                    context.controller.observe(part.stop, service_s, idle_s)
                ask = self._ask(claim)
                go_on = not part.stopped and not self._must_leave()
                committed = self.ledger.commit(context.spec.run_id, progress, ask if go_on else None)
                return committed, ask
            committed = self.ledger.commit(context.spec.run_id, progress)
            if not committed.accepted:
                logger.warning("run %s: claim taken away, the rest is executed elsewhere", context.spec.run_id)
                parts.close()
                return Committed(False, committed.state, committed.left, None), self._ask(claim)
        raise RuntimeError("the runner ended without a last part")

    def _must_leave(self) -> bool:
        if self.hooks.draining():
            return True
        now = time.perf_counter()
        if now < self._slice_end:
            return False
        self._slice_end = now + SLICE_S
        return self.hooks.waits(self.context.spec)

    def _progress(self, claim: Claim, part: Part, offset: int, batch: Batch, tally: Tally) -> Progress:
        failed = tuple(
            FailedItem(offset + f.position, "retry", f.delay_s, f.category)
            if f.retry
            else FailedItem(
                offset + f.position, "dead", 0.0, f.category, batch.letter(f, self.context.identity, claim.at)
            )
            for f in part.failures
        )
        output = b""
        if part.output is not None and part.n_ok:
            output = pack_output(batch.ok_ranges(part), part.output)
        item_s = part.stats.service_s / part.stop if part.stop and part.last else 0.0
        # of a batch to be halved nothing is settled
        stop = part.start if part.bisect else part.stop
        return Progress(
            claim.claim_id, offset + part.start, offset + stop, part.last, part.bisect, item_s,
            tally.row(part) if part.last else b"", output, failed,
        )  # fmt: skip


def _never_stop(step: Callable[[int], bool], context: RunContext) -> Callable[[int], bool]:
    """For one call per batch no single item can be blamed: leave the marker at "unknown"."""
    return (lambda _position: False) if context.spec.batched else step


@dataclass(frozen=True, slots=True)
class Batch:
    """The items of a claim that are being executed."""

    indexes: Sequence[int]
    attempts: Sequence[int]
    keys: Sequence[object] | None
    pages: PageCache

    def ok_ranges(self, part: Part) -> list[tuple[int, int]]:
        """Index ranges of the part's ok items, in the order of its results."""
        failed = {f.position for f in part.failures}
        if not failed and isinstance(self.indexes, range):
            return [(self.indexes[part.start], self.indexes[part.stop - 1] + 1)]
        return list(_runs(self.indexes[p] for p in range(part.start, part.stop) if p not in failed))

    def letter(self, failure: Failure, identity: str, at: float) -> bytes:
        """The dead letter of a failed item."""
        p = failure.position
        letter = {
            "item": self.pages.original(self.indexes[p]),
            "key": self.keys[p] if self.keys else None,
            "error_type": failure.error_type,
            "message": _clean(failure.message),
            "traceback_text": _clean(failure.traceback_text),
            "category": failure.category,
            "attempts": self.attempts[p],
            "worker": WorkerIdentity.decode(identity).worker,
            "logs": _clean(failure.logs),
            "at": at,
        }
        return codec.encode(letter)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _runs(indexes: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Consecutive indexes as ranges."""
    start = stop = -1
    for i in indexes:
        if i != stop:
            if stop > start:
                yield start, stop
            start = i
        stop = i + 1
    if stop > start:
        yield start, stop


@dataclass(slots=True)
class Tally:
    """Sums over the parts of one batch, for its metric row."""

    claim: Claim
    context: RunContext
    idle_s: float
    decode_s: float
    input_bytes: int
    ok: int = 0
    retried: int = 0
    dead: int = 0
    category: str = ""

    def count(self, part: Part) -> None:
        """Add a part."""
        self.ok += part.n_ok
        for f in part.failures:
            self.retried += f.retry
            self.dead += not f.retry
            self.category = self.category or f.category
        if part.cause is not None:
            self.category = self.category or part.cause.category

    def row(self, part: Part) -> bytes:
        """The packed metric row of the batch that ends with `part`."""
        claim, stats = self.claim, part.stats
        flags = FLAG_FIRST if self.context.batches == 1 else 0
        flags |= FLAG_TAIL if len(claim) < claim.asked else 0
        flags |= FLAG_CUT_OFF if part.stopped else 0
        flags |= FLAG_BATCHED if self.context.spec.batched else 0
        failed = self.retried + self.dead
        outcome = "ok" if not failed and not part.bisect else "partial" if self.ok else "failed"
        return METRIC_ROW.pack(
            min(claim.worker, 0xFFFF), flags, OUTCOMES.index(outcome),
            CATEGORIES.index(self.category) if self.category in CATEGORIES else CATEGORIES.index("fatal"),
            min(max(r.attempts for r in claim.ranges) + 1, 0xFFFF), min(claim.active, 0xFFFF),
            min(claim.known_workers, 0xFFFF), min(claim.asked, _U32), min(part.stop, _U32), self.ok, self.retried,
            self.dead, 0.0, 0.0, claim.ranges[0].start, claim.at, stats.service_s, self.decode_s, stats.store_s,
            self.idle_s, stats.cpu_user_s, stats.cpu_system_s, min(stats.peak_rss_kib, _U32),
            min(self.input_bytes, _U32), min(stats.output_bytes, _U32), stats.item_sum_s, stats.item_sumsq_s2,
            stats.item_max_s,
        )  # fmt: skip
