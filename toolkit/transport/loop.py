"""The life of a ticket on a worker: claim, execute, commit and claim again, until its slice is over.

Knows no Celery, so that the same loop serves a run inline, in the caller's process.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from toolkit import codec
from toolkit._version import __version__
from toolkit.errors import LedgerCorrupt, LedgerError
from toolkit.execution import Failure, Part, Runner, Task, code_version
from toolkit.execution.sizing import Controller
from toolkit.guards import default_guards
from toolkit.ledger import (
    NOBODY,
    Ask,
    Claim,
    Committed,
    Death,
    FailedItem,
    Ledger,
    NoClaim,
    PageCache,
    Progress,
    new_claim_id,
    pack_output,
)
from toolkit.records import RunSpec, WorkerIdentity, one_line
from toolkit.transport import profiles, tracing
from toolkit.transport.batch import Batch, Tally, undecodable_letter
from toolkit.transport.beginning import Beginning
from toolkit.transport.giving import blame, give_back
from toolkit.transport.marker import Marker

logger = logging.getLogger(__name__)

SLICE_S = 0.25
"""How long a ticket works before it looks whether another run waits."""


_FINAL = ("finished", "cancelled")
_UNTRACED = nullcontext()


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
    born : int
        `ledger.Stored.born`: all of this is of the run that was created then; 0 for whichever has the id.
    edition, generation : int
        `Modules.edition` that its task was loaded from, and the generation of the run that it serves, -1 for any.
    passthrough : bool
        The process is a user's, who may interrupt it.
    beginning : Beginning or None
        What is done about its first batches; None where the cost of a batch is known apart from that of its items,
        or where the first batch has a setup to do.
    """

    spec: RunSpec
    runner: Runner
    identity: str
    controller: Controller
    pages: PageCache
    batches: int = 0
    born: int = 0
    edition: int = 0
    generation: int = -1
    passthrough: bool = False
    beginning: Beginning | None = None


def make_context(
    spec: RunSpec, task: Task, kwargs: bytes, *, host: str, node: str, passthrough: bool = False
) -> RunContext:
    """Prepare a run for execution in this process.

    With `passthrough` it is that of a user, who sees what items print and may interrupt them.

    Raises
    ------
    LedgerCorrupt
        Its keyword arguments do not decode.
    InvalidInput
        Run and task do not fit.
    """
    try:
        values = codec.decode(kwargs) if kwargs else {}
    except LedgerCorrupt as error:
        raise LedgerCorrupt(f"key head, field kwargs: {error}") from error
    guards = default_guards(spec, passthrough=passthrough)
    runner = Runner(task, spec, values, guards=guards, interrupts=passthrough)
    identity = WorkerIdentity(host, node, os.getpid(), code_version(task), __version__)
    controller = Controller(whole=not spec.weighted)
    compared = spec.batched and not spec.weighted and task.setup is None
    return RunContext(
        spec, runner, identity.encode(), controller, PageCache(), passthrough=passthrough,
        beginning=Beginning(spec.run_id, controller) if compared else None,
    )  # fmt: skip


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
        self._traced = False
        self._asked = b""

    def serve(self, ticket: str = "") -> NoClaim:
        """Execute batches until there are none, the run ended, or the worker is wanted elsewhere.

        Returns
        -------
        NoClaim
            Why it stopped: a reason of `ledger.NoClaim`, or ``yield`` when items are left for a further ticket.
        """
        run_id = self.context.spec.run_id
        self._begin_slice(time.perf_counter())
        answer: Claim | NoClaim | None = None
        try:
            ask = self._ask(None, ticket)
            answer = self.ledger.claim(run_id, ask)
            while isinstance(answer, Claim):
                if answer.spawn:
                    self.hooks.spawn(self.context.spec, ask.new_ticket)
                nth = self.context.batches + 1
                with (
                    tracing.batch(self.ledger, self.context.spec, answer) if self._traced else _UNTRACED,
                    profiles.batch(self.ledger, self.context.spec, nth),
                ):
                    committed, ask = self._batch(answer)
                answer = committed.claim
                if committed.state in _FINAL and not (isinstance(answer, NoClaim) and answer.reason == "other"):
                    answer = NoClaim(committed.state, committed.left)  # this batch was the last
                elif answer is None:
                    answer = NoClaim("yield" if committed.state == "running" else committed.state, committed.left)
        except LedgerCorrupt as error:
            self.hooks.marker.end(self.hooks.slot)
            self._give_up(answer if isinstance(answer, Claim) else None, error)
            return NoClaim("paused", 0)
        except BaseException as error:
            self._leave(answer if isinstance(answer, Claim) else None, error)
            raise
        self.hooks.marker.end(self.hooks.slot)
        return answer or NoClaim("empty", 0)

    def _leave(self, claim: Claim | None, error: BaseException) -> None:
        """An exception that is no item's own ends this: what is claimed goes back, unless the process ends."""
        context, hooks = self.context, self.hooks
        if isinstance(error, SystemExit) and not context.passthrough:
            hooks.marker.ending(hooks.slot)  # the node's main process sees it die, and reports what it held
            return
        hooks.marker.end(hooks.slot)
        mine = context.passthrough and isinstance(error, KeyboardInterrupt | SystemExit)  # the user's own interrupt
        at = claim.at if claim else 0.0
        death = Death(NOBODY) if mine else blame(error, context.identity, at)
        give_back(self.ledger, context.spec.run_id, claim.claim_id if claim else b"", self._asked, death, error)

    # ------------------------------------------------------------------ one batch

    def _ask(self, claim: Claim | None, ticket: str = "", unit_s: float = 0.0) -> Ask:
        context = self.context
        want: float = 0
        floor: float = 0 if context.spec.weighted else 1
        if claim is None:
            if context.beginning is not None and not context.batches:
                want = context.beginning.want(self.ledger)
        elif not _of_one(claim):
            weighed = claim.weighed
            hint, last, left = (
                (weighed.unit_s, weighed.last_size, weighed.left)
                if weighed
                else (claim.item_s, claim.last_batch, claim.left)
            )
            proposal = context.controller.propose(hint, last, left, max(claim.known_workers, claim.active))
            want, floor = proposal.want, proposal.floor
        claim_id = self._asked = new_claim_id()
        self.hooks.marker.ask(self.hooks.slot, context.spec.run_id, claim_id, context.born)
        return Ask(
            claim_id, context.identity, want, floor, context.pages.have, ticket, self._new_ticket_id(), unit_s,
            context.born, context.generation,
        )  # fmt: skip

    def _batch(self, claim: Claim) -> tuple[Committed, Ask]:
        """Execute one claim to its end and commit it, asking for the next one in the same call."""
        context, hooks = self.context, self.hooks
        # The claim is marked before anything is decoded: a death in the decoder is blamed too.
        hooks.marker.begin(hooks.slot, context.spec.run_id, claim.claim_id, -1, context.born)
        t_claimed = time.perf_counter()
        items, item_keys, input_bytes = context.pages.slice(claim.pages, [(r.start, r.stop) for r in claim.ranges])
        decode_s = time.perf_counter() - t_claimed
        offset = claim.offset
        bad = context.pages.undecodable()
        if bad and not bad.keys().isdisjoint(claim.indexes()[offset:]):
            return self._bury_undecodable(claim, bad)
        indexes, attempts = claim.indexes(), claim.attempts()
        if offset:  # a claim taken up again after a lost answer
            items, indexes, attempts = items[offset:], indexes[offset:], attempts[offset:]
            item_keys = item_keys[offset:] if item_keys else None
        step = hooks.marker.stepper(hooks.slot, None if context.spec.batched else offset)
        context.batches += 1
        idle_s = math.nan if self._idle_since is None else time.perf_counter() - self._idle_since
        tally = Tally(claim, context, idle_s, decode_s, input_bytes)
        batch = Batch(indexes, attempts, item_keys, context.pages)
        ask: Ask | None = None
        parts = context.runner.run(
            items, indexes, attempts, item_keys, on_item=step, on_rest=partial(hooks.marker.rest, hooks.slot)
        )
        for part in parts:
            tally.count(part)
            progress = self._progress(claim, part, offset, batch, tally)
            if part.last:
                self._idle_since = time.perf_counter()
                service_s = part.stats.service_s
                amount = part.stop if claim.weighed is None else tally.weight(part.stop)
                if part.stop and not _of_one(claim):
                    items_s = None if context.spec.batched else part.stats.item_sum_s
                    context.controller.observe(amount, service_s, idle_s, items_s)
                    if context.beginning is not None:
                        context.beginning.end(self.ledger, claim, context.batches, service_s)
                ask = self._ask(claim, unit_s=service_s / amount if claim.weighed and amount else 0.0)
                go_on = not part.stopped and not self._must_leave()
                committed = self.ledger.commit(context.spec.run_id, progress, ask if go_on else None)
                return committed, ask
            committed = self.ledger.commit(context.spec.run_id, progress)
            if not committed.accepted:
                logger.warning("run %s: claim taken away, the rest is executed elsewhere", context.spec.run_id)
                parts.close()
                return Committed(False, committed.state, committed.left, None), self._ask(claim)
        raise RuntimeError("the runner ended without a last part")

    def _bury_undecodable(self, claim: Claim, bad: Mapping[int, LedgerCorrupt]) -> tuple[Committed, Ask]:
        """Items that do not decode are dead letters; the others of the claim go back, uncharged, without them."""
        run_id, indexes, attempts = self.context.spec.run_id, claim.indexes(), claim.attempts()
        stop = 1 + max(p for p, index in enumerate(indexes) if index in bad)
        failed = tuple(
            FailedItem(
                p, "dead", 0.0, "bad_payload",
                undecodable_letter(bad[indexes[p]], attempts[p], self.context.identity, claim.at),
            )
            if indexes[p] in bad
            else FailedItem(p, "again", 0.0, "bad_payload")
            for p in range(claim.offset, stop)
        )  # fmt: skip
        ask = self._ask(claim)
        progress = Progress(claim.claim_id, claim.offset, stop, failed=failed)
        return self.ledger.commit(run_id, progress, None if self._must_leave() else ask), ask

    def _give_up(self, claim: Claim | None, error: LedgerCorrupt) -> None:
        """What the server holds of this run cannot be read: give back what is claimed of it, and pause the run."""
        run_id = self.context.spec.run_id
        pause_corrupt(self.ledger, run_id, error)
        # The server may have granted the claim that was asked for last, though its answer is an error.
        for claim_id, offset in ((claim.claim_id, claim.offset) if claim else (b"", 0), (self._asked, 0)):
            try:
                if claim_id:
                    self.ledger.commit(run_id, Progress(claim_id, offset, offset))
            except LedgerError as failed:
                logger.warning("run %s: its lease will return what was claimed (%s)", run_id, failed)

    def _must_leave(self) -> bool:
        if self.hooks.draining():
            return True
        now = time.perf_counter()
        if now < self._slice_end:
            return False
        self._begin_slice(now)
        return self.hooks.waits(self.context.spec)

    def _begin_slice(self, now: float) -> None:
        self._slice_end = now + SLICE_S
        self._traced = tracing.active()  # once a slice: the look is a part of the cost of a short batch

    def _failed(self, failure: Failure, offset: int, batch: Batch, at: float) -> FailedItem:
        position, category = offset + failure.position, failure.category
        if failure.retry:
            return FailedItem(position, "retry" if failure.charged else "again", failure.delay_s, category)
        return FailedItem(position, "dead", 0.0, category, batch.letter(failure, self.context.identity, at))

    def _progress(self, claim: Claim, part: Part, offset: int, batch: Batch, tally: Tally) -> Progress:
        failed = tuple([self._failed(f, offset, batch, claim.at) for f in part.failures])
        output = b""
        if part.output is not None and part.n_ok:
            output = pack_output(batch.ok_ranges(part), part.output)
        pause = next((f for f in part.failures if f.pause), None) if failed else None
        item_s = part.stats.service_s / part.stop if part.stop and part.last else 0.0
        # of a batch to be halved nothing is settled
        stop = part.start if part.bisect else part.stop
        return Progress(
            claim.claim_id, offset + part.start, offset + stop, part.last, part.bisect, item_s,
            tally.row(part) if part.last else b"", output, failed,
            pause.reason(batch.indexes[pause.position]) if pause else "", pause is not None and pause.unless_ok,
        )  # fmt: skip


def _of_one(claim: Claim) -> bool:
    """Whether the run's batches are of one item each: nothing is to be chosen, tapered, or learned for that."""
    return claim.batch_size == 1 and claim.weighed is None


def pause_corrupt(ledger: Ledger, run_id: str, error: LedgerCorrupt) -> None:
    """Pause a run whose stored data do not parse, with the key and the field as the reason; others go on."""
    logger.error("run %s: paused, %s", run_id, error)
    try:
        ledger.steer(run_id, "pause", one_line(f"what the server stores of it cannot be read: {error}", 500))
    except LedgerError as failed:
        logger.warning("run %s: not paused (%s)", run_id, failed)
