"""A small run in which a client, a node and two workers make every call of the ledger, and meet faults at chosen ones.

The actors are generators that take turns, so that a play is the same each time, call by call. A fault stands on the
wire, where the client library's connection stands, so that the ledger's own repetition is under test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.integration.ledgers import LETTER, Run, identity, items_of, metric_row, page_of
from toolkit import codec
from toolkit.errors import LedgerUnavailable
from toolkit.ledger import (
    NOBODY,
    Ask,
    Claim,
    Death,
    FailedItem,
    Ledger,
    PageCache,
    Progress,
    new_claim_id,
    pack_output,
)
from toolkit.records import RunStatus

N, PAGE = 9, 4
PAUSER, DEAD, HANG, FLAKY, AGAIN, POISON = 0, 2, 4, 5, 7, 8  # items, by what becomes of them
FAULTS = ("dies before", "dies after", "answer lost", "arrives twice", "arrives again later", "lease stolen")
LATER = 3  # calls of others before a message that comes twice comes again
ROUNDS = 200
HOUR = 3600.0
TIMED_OUT = Death(category="timeout", limit=3, delay_s=HOUR, letter=LETTER)
CALLS = ("FCALL", "FCALL_RO")


class Died(BaseException):
    """A process is gone; nothing catches this but the operating system.

    Attributes
    ----------
    death : Death
        What its node's main process makes of it.
    """

    def __init__(self, death: Death | None = None) -> None:
        super().__init__()
        self.death = death or Death(letter=LETTER)


class Line:
    """The wire between the actors of a play and the server, with faults at the calls of these numbers (from 1)."""

    def __init__(self, real: Any, faults: Mapping[int, str], steal: Callable[[], None]) -> None:
        self._real, self._faults, self._steal = real, faults, steal
        self._pending: dict[int, tuple[Any, ...]] = {}
        self.names: list[str] = []
        self.met: set[int] = set()

    def execute_command(self, *args: Any) -> Any:
        name = str(args[1]).rsplit("_", maxsplit=1)[-1] if args[0] in CALLS else ""
        if name in ("", "status"):  # reads change nothing, and have no state to lose
            return self._real.execute_command(*args)
        self.names.append(name)
        number = len(self.names)
        if number in self._pending:
            self._real.execute_command(*self._pending.pop(number))
        fault = self._faults.get(number, "")
        if fault:
            self.met.add(number)
        if fault == "dies before":
            raise Died
        if fault == "lease stolen":
            self._steal()
        answer = self._real.execute_command(*args)
        if fault == "dies after":
            raise Died
        if fault == "answer lost":
            raise redis.exceptions.ConnectionError("the line broke")
        if fault == "arrives twice":
            self._real.execute_command(*args)
        if fault == "arrives again later":
            self._pending[number + LATER] = args
        return answer


@dataclass(eq=False)
class Worker:
    """One worker: commits the first half of a batch, then the rest together with the next claim."""

    play: Play
    name: str
    held: bytes = b""
    asked: bytes = b""
    hung: bool = False

    def process(self) -> Iterator[None]:
        play, cache = self.play, PageCache()
        self.held, self.hung = b"", False
        claim: Claim | None = None
        while True:
            if claim is None:
                answer = play.ledger.claim(play.run.run_id, self.ask(cache)) if play.has_work() else None
                claim = answer if isinstance(answer, Claim) else None
                self.held = self.asked if claim else b""
                yield
            else:
                claim = yield from self.execute(claim, cache)

    def ask(self, cache: PageCache) -> Ask:
        self.asked = new_claim_id()
        return Ask(self.asked, identity(self.name), have=cache.have, ticket="t1", new_ticket="t2")

    def execute(self, claim: Claim, cache: PageCache) -> Iterator[None]:
        play, half = self.play, len(claim) // 2
        assert items_of(claim, cache) == list(claim.indexes())
        if half:
            part = yield from self.part(claim, 0, half, last=False)
            accepted = play.ledger.commit(play.run.run_id, part).accepted
            yield
            if not accepted:
                return None
        part = yield from self.part(claim, half, len(claim), last=True)
        committed = play.ledger.commit(play.run.run_id, part, self.ask(cache))
        following = committed.claim if isinstance(committed.claim, Claim) else None
        self.held = self.asked if following else b""
        yield
        return following

    def part(self, claim: Claim, start: int, stop: int, *, last: bool) -> Iterator[None]:
        """Execute some items of a claim, and say how they ended."""
        failed, good, pause = [], [], ""
        for at in range(start, stop):
            index, attempt = claim.indexes()[at], claim.attempts()[at]
            first = not self.play.log[index]
            self.play.log[index] += 1
            if index == POISON:
                raise Died(Death(at, "out_of_memory", letter=LETTER))
            if index == HANG and attempt == 1:
                self.hung = True
                yield  # and never again by itself
                raise Died(Death(at, TIMED_OUT.category, TIMED_OUT.limit, TIMED_OUT.delay_s, LETTER))
            if index == DEAD:
                failed.append(FailedItem(at, "dead", letter=LETTER))
            elif index == FLAKY and attempt == 1:
                failed.append(FailedItem(at, "retry", HOUR, "retryable"))
            elif index in (AGAIN, PAUSER) and first:
                failed.append(FailedItem(at, "again", 0.0, "bad_payload"))
                pause = "quota" if index == PAUSER else pause
            else:
                good.append(index)
        output = pack_output([(i, i + 1) for i in good], codec.encode_page([i * i for i in good])) if good else b""
        row = metric_row(items=len(claim), ok=len(good)) if last else b""
        return Progress(
            claim.claim_id, start, stop, last=last, row=row, output=output, failed=tuple(failed), pause=pause
        )


@dataclass(eq=False)
class Node:
    """The node's main process: renews leases, reports deaths, sweeps."""

    play: Play
    reports: list[tuple[bytes, Death]] = field(default_factory=list)

    def process(self) -> Iterator[None]:
        play = self.play
        while True:
            yield
            while self.reports:
                play.ledger.lost(play.run.run_id, *self.reports[0])
                del self.reports[0]
            if play.rounds % 5 == 2:
                self.renew()
            if play.rounds % 5 == 4:
                play.time_passes()
                self.sweep()

    def renew(self) -> None:
        held = [w.held for w in self.play.workers if w.held]
        if held:
            try:
                renewed = self.play.ledger.renew(self.play.run.run_id, 2, held)
            except LedgerUnavailable:
                return
            for worker in self.play.workers:
                if renewed.terminate and worker.held:
                    self.play.kill(worker, Death(NOBODY))

    def sweep(self) -> None:
        try:
            self.play.ledger.sweep(self.play.run.run_id, known_workers=2, idle_workers=0, lease_s=1e5)
        except LedgerUnavailable:
            return


@dataclass(eq=False)
class Play:
    """One run with faults at some of its calls.

    Parameters
    ----------
    ledger : Ledger
        Of every actor; its wire is replaced for the length of the play.
    boss : Ledger
        Of those who look on.
    faults : mapping of int to str
        Call number -> one of `FAULTS`.
    cancels : bool
        The client cancels the run half-way.
    """

    ledger: Ledger
    boss: Ledger
    faults: Mapping[int, str] = field(default_factory=dict)
    cancels: bool = False
    rounds: int = 0
    did: set[str] = field(default_factory=set)
    log: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.run = Run(self.boss, batch_size=3, known_workers=2, lease_s=1e5, release=True, create=False)
        self.workers = [Worker(self, "w1"), Worker(self, "w2")]
        self.node = Node(self)
        self.status: RunStatus | None = None
        self.lives: dict[Any, Iterator[None]] = {}

    # ------------------------------------------------------------------ the client

    def process(self) -> Iterator[None]:
        """The client, and a second one that goes on where the first one died."""
        ledger, run_id = self.ledger, self.run.run_id
        ledger.create(self.run.spec, **self.run.sizes)
        start = self.boss.status(run_id).submitted
        while start < N:
            stop = min(start + PAGE, N)
            ledger.append(run_id, page_of(start, stop), expected=start, close=stop == N)
            start = stop
            yield
        once = {
            "tickets": lambda: ledger.register_tickets(run_id, ["t1"]),
            "update": lambda: ledger.update(run_id, batch_size=2),
            "pause": lambda: ledger.steer(run_id, "pause", "lunch"),
        }
        while True:
            for name, call in once.items():
                if name not in self.did:
                    call()
                    self.did.add(name)
            yield
            self.command()

    def command(self) -> None:
        """What the user says next, seeing how the run is."""
        status, run_id = self.boss.status(self.run.run_id), self.run.run_id
        if status.state == "paused":
            self.ledger.steer(run_id, "resume")
        elif self.cancels and status.state == "running" and status.ok >= 3:
            self.ledger.steer(run_id, "cancel", "enough", grace_s=0.0)
        elif status.state == "finished" and "retry" not in self.did:
            self.ledger.retry_dead(run_id, [DEAD])
            self.did.add("retry")
        elif status.state == "finished" and "drop" not in self.did:
            self.ledger.drop_dead(run_id, [POISON])
            self.did.add("drop")

    # ------------------------------------------------------------------ the stage

    def has_work(self) -> bool:
        return (
            self.status is not None
            and self.status.state == "running"
            and bool(self.status.remaining + self.status.ready)
        )

    def over(self) -> bool:
        if self.status is None or not self.status.state.final:
            return False
        return self.status.state == "cancelled" or "drop" in self.did

    def steal(self) -> None:
        """Somebody takes a worker for dead that lives."""
        held = [w.held or w.asked for w in self.workers if w.held or w.asked]
        for claim_id in held[:1]:
            self.boss.lost(self.run.run_id, claim_id, Death(letter=LETTER))

    def kill(self, worker: Worker, death: Death) -> None:
        """The node learns of a death, and starts another worker."""
        if worker.held:
            self.node.reports.append((worker.held, death))
        worker.held, worker.hung = b"", False
        self.lives[worker.name] = worker.process()

    def time_passes(self) -> None:
        """Delays end, and so do the leases that nobody renews: those of claims that no living worker knows of."""
        self.run.make_due()
        live = {w.held for w in self.workers}
        for claim_id in self.run.reader.claims():
            if claim_id not in live:
                self.run.lease_until(claim_id, 1)

    def turn(self, name: str, actor: Any) -> None:
        try:
            if actor in self.workers and actor.hung and self.rounds % 5 != 3:
                return
            next(self.lives[name])
        except Died as died:
            if actor in self.workers:
                self.kill(actor, died.death)
                return
            self.lives[name] = actor.process()
            if actor is self.node:  # what it knew is lost; a new one knows the workers that live
                self.node.reports.clear()

    def perform(self) -> Play:
        """Play to the end."""
        real = self.ledger.connection.redis
        self.line = Line(real, self.faults, self.steal)
        actors = {"client": self, "w1": self.workers[0], "w2": self.workers[1], "node": self.node}
        self.lives = {name: actor.process() for name, actor in actors.items()}
        self.ledger.connection.redis = self.line  # type: ignore[assignment]
        try:
            while not self.over():
                self.rounds += 1
                assert self.rounds < ROUNDS, f"no end: {self.status}"
                for name, actor in actors.items():
                    self.turn(name, actor)
                    if self.line.names:
                        self.look()
        finally:
            self.ledger.connection.redis = real
        return self

    def look(self) -> None:
        """The run as it is now, None while it is not there."""
        if self.status is not None or self.run.command("EXISTS", "head"):
            self.status = self.boss.status(self.run.run_id)

    # ------------------------------------------------------------------ the audit

    def audit(self) -> None:
        """Each item is accounted once."""
        run, status = self.run, self.boss.status(self.run.run_id)
        run.check()
        results, dead = run.results(), run.reader.dead_indexes()
        assert results == {i: i * i for i in results}
        assert set(results).isdisjoint(dead)
        assert status.ok + status.dead + status.skipped == status.submitted == N
        assert set(results) <= set(self.log)
        starts = {i // PAGE * PAGE for i in dead}
        assert {int(start) for start in run.command("ZRANGE", "page_index", 0, -1)} == starts
        assert [(letter.index, letter.item) for letter in run.reader.dead_letters()] == [(i, i) for i in dead]
        if status.state == "cancelled":
            assert run.events("finished", "cancelled") == ["cancelled"]
            assert status.reason == "enough"
            assert set(dead) <= {DEAD, POISON}
        else:
            assert set(results) == set(range(N)) - {DEAD, POISON}
            assert (dead, status.skipped) == ([DEAD], 1)
            assert set(self.log) == set(range(N))
            assert status.generation >= 1
