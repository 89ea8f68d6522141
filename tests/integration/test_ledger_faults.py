"""Every single fault at every call that two workers make: the run ends, and each item is accounted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from tests.integration.ledgers import LETTER, Run, identity, items_of, metric_row
from toolkit import codec
from toolkit.ledger import Ask, Claim, FailedItem, Ledger, PageCache, Progress, Reader, new_claim_id, pack_output
from toolkit.records import RunStatus
from toolkit.settings import LedgerSettings, ServerAddress

N = 9
DEAD, FLAKY = 2, 5  # item 2 always fails; item 5 fails at its first attempt
FAULTS = ("dies before", "dies after", "answer lost", "arrives twice", "arrives again later", "lease stolen")


class Died(BaseException):
    """The worker's process is gone; nothing catches this but the operating system."""


class Line:
    """The wire between one worker and the server, with one fault at its call number `at`.

    It stands where the client library's connection stands, so that the ledger's own repetition is under test.
    """

    def __init__(self, real: Any, at: int, fault: str, steal: Callable[[], None]) -> None:
        self._real, self._at, self._fault, self._steal = real, at, fault, steal
        self._pending: tuple[Any, ...] | None = None
        self.calls = 0

    def execute_command(self, *args: Any) -> Any:
        if self._pending:
            self._real.execute_command(*self._pending)
            self._pending = None
        self.calls += 1
        fault = self._fault if self.calls == self._at else ""
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
            self._pending = args
        return answer

    def close(self) -> None:
        self._real.close()


class Worker:
    """One worker: takes a batch, commits its first half, then the rest together with the next claim."""

    def __init__(self, name: str, run: Run, boss: Ledger, faults: dict[int, str], log: Counter[int]) -> None:
        self.name, self.run, self.boss, self.faults, self.log = name, run, boss, faults, log
        self.ledger = Ledger(boss.connection.address, LedgerSettings(retry_s=5.0))
        ((at, fault),) = faults.items() or [(0, "")]
        self.line = Line(self.ledger.connection.redis, at, fault, self.steal)
        self.ledger.connection.redis = self.line  # type: ignore[assignment]
        self.held = self.next = new_claim_id()
        self.ended = False

    def steal(self) -> None:
        """The node's main process takes the worker for dead."""
        self.boss.lost(self.run.run_id, self.held)

    def live(self) -> Iterator[None]:
        """One step after another, so that two workers can be interleaved; a new process follows one that died."""
        while not self.ended:
            try:
                yield from self.process()
            except Died:
                yield
                # Its node's main process saw it die; of a claim that it had just asked for only the lease tells.
                self.boss.lost(self.run.run_id, self.held)
                self.run.command("ZADD", "leases", "XX", 1, self.next)

    def process(self) -> Iterator[None]:
        cache, claim = PageCache(), None
        while True:
            if claim is None:
                answer = self.ledger.claim(self.run.run_id, self.ask(cache))
                self.held = self.next
                yield
                if not isinstance(answer, Claim):
                    self.ended = answer.reason == "finished"
                    if self.ended:
                        return
                    continue
                claim = answer
            claim = yield from self.execute(claim, cache)

    def ask(self, cache: PageCache) -> Ask:
        self.next = new_claim_id()
        return Ask(self.next, identity(self.name), have=cache.have)

    def execute(self, claim: Claim, cache: PageCache) -> Iterator[None]:
        items, half = items_of(claim, cache), len(claim) // 2
        assert items == list(claim.indexes())
        committed = self.ledger.commit(self.run.run_id, self.part(claim, 0, half, last=False))
        yield
        if not committed.accepted:
            return None
        progress = self.part(claim, half, len(claim), last=True)
        committed = self.ledger.commit(self.run.run_id, progress, self.ask(cache))
        self.held = self.next
        yield
        return committed.claim if isinstance(committed.claim, Claim) else None

    def part(self, claim: Claim, start: int, stop: int, *, last: bool) -> Progress:
        """Execute some items of a claim, and say how they ended."""
        failed, good = [], []
        for at in range(start, stop):
            index, attempt = claim.indexes()[at], claim.attempts()[at]
            self.log[index] += 1
            if index == DEAD:
                failed.append(FailedItem(at, "dead", letter=LETTER))
            elif index == FLAKY and attempt == 1:
                failed.append(FailedItem(at, "retry"))
            else:
                good.append(index)
        output = pack_output([(i, i + 1) for i in good], codec.encode_page([i * i for i in good])) if good else b""
        row = metric_row(items=len(claim), ok=len(good)) if last else b""
        return Progress(claim.claim_id, start, stop, last=last, row=row, output=output, failed=tuple(failed))


@pytest.fixture
def boss(address: ServerAddress) -> Iterator[Ledger]:
    """The ledger of the client and of the nodes' main processes, which meet no fault here."""
    with closing(Ledger(address)) as ledger:
        yield ledger


def play(boss: Ledger, faults: dict[int, str]) -> int:
    """Run two workers in turns to the end and audit it from outside; returns the calls of the first one."""
    run, log = Run(boss, N, page=4, batch_size=3), Counter[int]()
    workers = [Worker("w1", run, boss, faults, log), Worker("w2", run, boss, {}, log)]
    lives = [worker.live() for worker in workers]
    for _ in range(100):
        for life in lives:
            next(life, None)
        run.sweep()
        if all(worker.ended for worker in workers):
            break
    audit(run, boss, boss.status(run.run_id), log)
    for worker in workers:
        worker.ledger.close()
    run.reader.delete()
    return workers[0].line.calls


def audit(run: Run, boss: Ledger, status: RunStatus, log: Counter[int]) -> None:
    good = set(range(N)) - {DEAD}
    assert status.state == "finished"
    assert run.results() == {i: i * i for i in good}
    assert Reader(boss.connection, run.run_id).dead_indexes() == [DEAD]
    assert (status.ok, status.dead, status.skipped) == (N - 1, 1, 0)
    assert set(log) == set(range(N))
    assert log[FLAKY] >= 2
    assert run.events("finished") == ["finished"]
    run.check()


def test_without_faults_each_item_is_executed_once(boss: Ledger) -> None:
    assert play(boss, {}) > 5


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_call_loses_and_doubles_nothing(boss: Ledger, fault: str) -> None:
    calls = play(boss, {})
    for at in range(1, calls + 1):
        assert play(boss, {at: fault}) >= at, f"the fault at call {at} never happened"
