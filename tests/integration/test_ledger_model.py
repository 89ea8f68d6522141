"""Random histories on the real server, step by step beside a model; and an audit from outside at their end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Server
from tests.integration.ledger_model import Held, Model, text
from tests.integration.ledgers import LETTER, Run, identity, items_of, metric_row, page_of, weigh
from toolkit import codec
from toolkit.errors import LedgerError, RunStateError
from toolkit.ledger import (
    NOBODY,
    UNKNOWN,
    Ask,
    Claim,
    Death,
    FailedItem,
    Ledger,
    NoClaim,
    PageCache,
    Progress,
    check_structure,
    keys,
    pack_output,
)
from toolkit.records import CATEGORIES

EXAMPLES = {"valkey": 160, "redis": 40}
STEPS = 40
FAR = 10**5  # seconds: longer than any test, so that only the test itself moves time
HOUR = 3600.0
FATES = ["ok", "ok", "ok", "retry", "later", "again", "dead", "dead", "part", "rest", "split", "kill", "kill", "hang",
         "slow", "slow", "stop"]  # fmt: skip
Plan = list[tuple[str, int]]
plans = st.lists(st.tuples(st.sampled_from(FATES), st.integers(0, 5)), min_size=2, max_size=8)

KILLED = Death(letter=LETTER)
STOPPED = Death(NOBODY, letter=LETTER)
picks = st.integers(0, 99)


@pytest.fixture
def ledger(server: Server) -> Iterator[Ledger]:
    with closing(Ledger(server.address)) as ledger:
        yield ledger


class Machine(RuleBasedStateMachine):
    """Each rule says the same to the server and to the model, and compares their answers."""

    ledger: ClassVar[Ledger]

    @initialize(
        sizes=st.tuples(
            st.integers(0, 7), st.booleans(), st.sampled_from([0, 0, 2, 3]), st.integers(0, 4),
            st.sampled_from([False, False, True]),
        ),
        pages=st.lists(st.sampled_from([4, 1, 5, 6]), min_size=2, max_size=4),
        close=st.sampled_from([True, True, False]), release=st.booleans(),
        breaker=st.sampled_from([0.0, 0.0, 0.25, 0.5]), plan=plans,
    )  # fmt: skip
    def begin(
        self, sizes: tuple[int, bool, int, int, bool], pages: list[int], close: bool, release: bool, breaker: float,
        plan: Plan,
    ) -> None:  # fmt: skip
        batch_size, auto, cap, known, weighted = sizes
        self.run_ = Run(
            self.ledger, batch_size=batch_size, auto=auto, max_workers=cap, known_workers=known, lease_s=FAR,
            release=release, breaker=breaker, breaker_items=3, weight_size=batch_size if weighted else None,
        )  # fmt: skip
        self.model = Model(batch_size, auto, cap, known, release, breaker, 3, weighted)
        self.model.born = self.ledger.stored(self.run_.run_id).born
        self.history: list[Callable[[], None]] = []
        self.asks: list[Ask] = []
        self.caches = {"w1": PageCache(), "w2": PageCache()}
        self.numbers = 0
        for n, size in enumerate(pages):
            self.append(size, 0, close and n == len(pages) - 1, again=False)
        self.work(plan)

    def say(self, call: Callable[[], None], *, again: bool) -> None:
        """Make a call, and perhaps repeat it at once: then nothing may change."""
        call()
        if again:
            before = self.model.view()
            call()
            assert self.model == before
        self.history.append(call)

    # ------------------------------------------------------------------ input and commands

    @precondition(lambda self: not self.model.closed or self.numbers % 4 == 0)
    @rule(n=st.integers(0, 7), shift=st.sampled_from([0, 0, 0, -1, 1]), close=st.booleans(), again=st.booleans())
    def append(self, n: int, shift: int, close: bool, again: bool) -> None:
        start = max(0, self.model.submitted + shift)
        if not n and not close:
            return

        def call() -> None:
            m, heavy = self.model, (0.0, 1.5, 4.0, 99.0)[start % 4]
            cursor = m.cursor - sum(map(len, m.ready)) if m.weighted else m.cursor
            expected = m.append(start, n, close, heavy)
            page = page_of(start, start + n) if n else None
            if page and m.weighted:
                page = weigh(page, heavy)
            if expected is None:
                with pytest.raises(RunStateError):
                    self.ledger.append(self.run_.run_id, page, expected=start, close=close)
            else:
                answer = self.ledger.append(self.run_.run_id, page, expected=start, close=close)
                assert answer == (expected, cursor)

        self.say(call, again=again)

    @rule(
        verb=st.sampled_from(["pause", "cancel", "nonsense", *["update", "tickets"] * 2, *["resume"] * 5]),
        batch_size=st.none() | st.integers(0, 9), auto=st.none() | st.booleans(),
        cap=st.none() | st.sampled_from([0, 0, 2]), grace=st.sampled_from(["", "waits", "over"]), again=st.booleans(),
    )  # fmt: skip
    def command(
        self, verb: str, batch_size: int | None, auto: bool | None, cap: int | None, grace: str, again: bool
    ) -> None:  # fmt: skip
        if verb == "update":
            self.say(partial(self.make_update, batch_size, auto, cap), again=again)
        elif verb == "tickets":
            self.numbers += 1
            self.say(partial(self.make_tickets, f"r{self.numbers}", grace != "over"), again=again)
        elif verb != "cancel" or len(self.history) > 40:
            self.say(partial(self.make_turn, verb, f"{verb} {len(self.history)}", grace), again=again)

    def make_turn(self, verb: str, reason: str, grace: str) -> None:
        grace_s = {"": None, "waits": FAR, "over": 0.0}[grace]
        answer = self.ledger.steer(self.run_.run_id, verb, reason, grace_s)
        assert answer == self.model.steer(verb, reason, grace)

    def make_update(self, batch_size: int | None, auto: bool | None, cap: int | None) -> None:
        self.ledger.update(self.run_.run_id, batch_size=batch_size, auto=auto, max_workers=cap)
        self.model.update(batch_size, auto, cap)

    def make_tickets(self, ticket: str, lacking: bool) -> None:
        answer = self.ledger.register_tickets(self.run_.run_id, [ticket], lacking=lacking)
        assert answer == self.model.register(ticket, lacking)

    @precondition(lambda self: self.model.dead)
    @rule(verb=st.sampled_from(["retry_dead", "retry_dead", "drop_dead"]), pick=picks, some=st.integers(1, 4),
          first=st.booleans(), again=st.booleans())  # fmt: skip
    def revive(
        self, verb: str, pick: int, some: int, first: bool, again: bool
    ) -> None:  # fmt: skip
        dead = sorted(self.model.dead)
        indexes = [*dead[pick % (len(dead) + 1) :][:some], self.model.submitted + 7]
        self.numbers += 1
        call = partial(self.make_revival, verb, f"{self.numbers:016x}", first, indexes)
        if again:  # the answer was lost, and the same call comes once more, when the items may be dead again
            call()
            self.work([("dead", 0), ("dead", 1)])
        self.say(call, again=again)
        if self.model.state == "running" and self.model.left():
            self.work([("ok", 0), ("kill", 0), ("dead", 0)])

    def make_revival(self, verb: str, number: str, first: bool, indexes: list[int]) -> None:
        state, n = self.ledger.connection.call(verb, keys.of_run(self.run_.run_id), number, int(first), *indexes)
        assert (n, state.decode()) == (self.model.revive(verb, number, first, indexes), self.model.state)

    # ------------------------------------------------------------------ work

    def ask(self, worker: str, want: int, floor: int) -> Ask:
        self.numbers += 1
        ticket = min(self.model.tickets) if self.model.tickets and self.numbers % 2 else ""
        born = (self.model.born - (self.numbers % 13 == 0)) * (self.numbers % 2)
        number = f"{random.Random(self.numbers).getrandbits(128):032x}"  # ids sort otherwise than they were made
        return Ask(
            bytes.fromhex(number), identity(worker), want, floor, self.caches[worker].have, ticket,
            f"t{number}" if self.numbers % 3 else "", self.numbers % 5 / 4, born,
            max(-1, self.model.generation - self.numbers % 7 // 5) if self.numbers % 3 else -1,
        )  # fmt: skip

    def compare_claim(self, answer: Claim | NoClaim | None, expected: Held | str, tickets: set[str]) -> None:
        if isinstance(expected, str):
            assert isinstance(answer, NoClaim)
            assert answer.reason == expected
            return
        assert isinstance(answer, Claim)
        assert list(answer.ranges) == expected.ranges
        assert (answer.offset, answer.asked, answer.left) == (expected.offset, expected.asked, self.model.left())
        assert answer.spawn == bool(self.model.tickets - tickets)
        assert answer.weighed == self.model.weighed(expected)

    @rule(worker=st.sampled_from(["w1", "w2"]), want=st.integers(0, 5), floor=st.integers(1, 3), again=st.booleans())
    def claim(self, worker: str, want: int, floor: int, again: bool) -> None:
        ask = self.ask(worker, want, floor)
        self.asks.append(ask)
        self.say(lambda: self.make_claim(ask), again=again)
        if ask.claim_id in self.model.claims:
            self.execute(worker, self.ledger.claim(self.run_.run_id, ask))

    @precondition(lambda self: self.model.state == "running" and self.model.left())
    @rule(plan=plans)
    def work_more(self, plan: Plan) -> None:
        """The same under a second name, because rules are drawn by name and most time is spent working."""
        self.work(plan)

    @precondition(lambda self: self.model.state == "running" and self.model.left())
    @rule(plan=plans)
    def work(self, plan: Plan) -> None:
        """A worker that does what workers do: batch after batch, each with its fate."""
        deaths = {"kill": KILLED, "slow": replace(KILLED, category="timeout", limit=2), "stop": STOPPED}
        for fate, position in plan:
            ask = self.ask("w2", 0, 1)
            self.asks.append(ask)
            self.say(partial(self.make_claim, ask), again=False)
            held = self.model.claims.get(ask.claim_id)
            if held is None:
                return
            at, delays = position % len(held), {"later": HOUR}
            if fate in ("ok", "retry", "later", "again", "dead"):
                kind = "retry" if fate == "later" else fate
                category = CATEGORIES[1 + position % 3]
                failed = () if fate == "ok" else (FailedItem(at, kind, delays.get(fate, 0.0), category, LETTER),)
                progress = self.progress(held, 0, len(held), failed)._replace(claim_id=ask.claim_id)
                self.say(partial(self.make_commit, progress, None), again=False)
            elif fate in ("part", "rest", "split"):
                progress = self.progress(held, 0, at, ())
                progress = progress._replace(claim_id=ask.claim_id, last=fate != "part", split=fate == "split")
                self.say(partial(self.make_commit, progress, None), again=False)
            elif fate in deaths:
                blamed = NOBODY if fate == "stop" else at
                self.say(partial(self.make_loss, ask.claim_id, replace(deaths[fate], blamed=blamed)), again=False)

    def make_claim(self, ask: Ask) -> None:
        tickets = set(self.model.tickets)
        expected = self.model.claim(ask)
        self.compare_claim(self.ledger.claim(self.run_.run_id, ask), expected, tickets)

    def execute(self, worker: str, claim: Claim | NoClaim | None) -> None:
        """What a worker reads from its pages are the items of the claim."""
        assert isinstance(claim, Claim)
        assert items_of(claim, self.caches[worker]) == list(claim.indexes())

    def pick_ask(self, pick: int) -> Ask | None:
        """A live claim, mostly."""
        live = [a for a in self.asks if a.claim_id in self.model.claims]
        chosen = live if live and pick % 10 else self.asks
        return chosen[pick % len(chosen)] if chosen else None

    @precondition(lambda self: self.asks)
    @rule(
        pick=picks, part=st.sampled_from([0.0, 0.3, 0.6, 1.0, 1.0, 1.0, 1.4]),
        flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.sampled_from([False] * 9 + [True])),
        again=st.booleans(), data=st.data(),
    )  # fmt: skip
    def commit(self, pick: int, part: float, flags: tuple[bool, ...], again: bool, data: Any) -> None:
        ask = self.pick_ask(pick)
        last, split, then, from_start = flags
        held = self.model.claims.get(ask.claim_id) or Held([], 0)
        start = 0 if from_start else held.offset
        if len(held) > held.offset + 1:
            self.commit_badly(ask.claim_id, held)
        stop = start + round(part * (len(held) - held.offset))
        failures = data.draw(st.dictionaries(
            st.integers(start, stop - 1), st.sampled_from(["retry", "retry", "again", "dead"]), max_size=3,
        )) if stop > start else {}  # fmt: skip
        delay = data.draw(st.sampled_from([0.0, HOUR])) if failures else 0.0
        category = data.draw(st.sampled_from(CATEGORIES[1:])) if failures else ""
        failed = tuple(FailedItem(p, kind, delay, category, LETTER) for p, kind in sorted(failures.items()))
        progress = self.progress(held, start, stop, failed)._replace(
            claim_id=ask.claim_id, last=last, split=split,
            pause=f"because of {ask.claim_id.hex()[:6]}" if pick % 7 == 0 else "",
        )  # fmt: skip
        following = self.ask("w1", 0, 1) if then else None
        if following:
            self.asks.append(following)
        self.say(lambda: self.make_commit(progress, following), again=again)

    def progress(self, held: Held, start: int, stop: int, failed: tuple[FailedItem, ...]) -> Progress:
        bad = {f.position for f in failed}
        indexes = held.indexes()
        good = [indexes[p] for p in range(start, min(stop, len(held))) if p not in bad]
        output = pack(good) if good else b""
        kinds = [f.kind for f in failed]
        row = metric_row(
            items=len(held), ok=held.ok + len(good), retried=held.retried + kinds.count("retry"),
            dead=held.dead + kinds.count("dead"),
        )  # fmt: skip
        return Progress(b"", start, stop, row=row, output=output, failed=failed)

    def make_commit(self, p: Progress, following: Ask | None) -> None:
        answer = self.ledger.commit(self.run_.run_id, p, following)
        accepted = self.model.commit(p)
        tickets = set(self.model.tickets)
        if following:
            expected = self.model.claim(following)
            self.compare_claim(answer.claim, expected, tickets)
        assert (answer.accepted, answer.state, answer.left) == (accepted, self.model.settle(), self.model.left())

    def commit_badly(self, claim_id: bytes, held: Held) -> None:
        """A list of failures with something wrong at its end leaves everything as it was."""
        at = held.offset
        for second in (
            FailedItem(at, "dead"), FailedItem(len(held), "retry"), FailedItem(at + 1, "lost"),
            FailedItem(at + 1, "dead", category="none"),
        ):  # fmt: skip
            bad = Progress(
                claim_id, at, len(held), output=b"x", row=metric_row(), failed=(FailedItem(at, "retry"), second)
            )  # fmt: skip
            with pytest.raises(LedgerError, match="bad failure list"):
                self.ledger.commit(self.run_.run_id, bad)

    # ------------------------------------------------------------------ deaths and time

    def make_loss(self, claim_id: bytes, death: Death) -> None:
        self.model.lose(claim_id, death)
        assert self.ledger.lost(self.run_.run_id, claim_id, death) == self.model.settle()

    @precondition(lambda self: self.asks)
    @rule(
        pick=picks, blamed=st.integers(-2, 8), category=st.sampled_from(["timeout", "worker_lost", "out_of_memory"]),
        limit=st.integers(0, 3), delay=st.sampled_from([0.0, HOUR]), again=st.booleans(),
    )  # fmt: skip
    def lose(
        self, pick: int, blamed: int, category: str, limit: int, delay: float, again: bool
    ) -> None:  # fmt: skip
        claim_id = self.pick_ask(pick).claim_id
        death = Death(blamed, category, limit, delay, LETTER)
        self.say(lambda: self.make_loss(claim_id, death), again=again)

    @rule(
        picked=st.lists(picks, max_size=2), renewals=st.lists(picks, max_size=2), due=st.booleans(),
        away=st.sampled_from([False, False, True]), known=st.integers(0, 4), again=st.booleans(),
    )  # fmt: skip
    def time_passes(
        self, picked: list[int], renewals: list[int], due: bool, away: bool, known: int, again: bool
    ) -> None:  # fmt: skip
        """Leases end or are renewed, delays end, perhaps nobody swept meanwhile; then somebody sweeps."""
        for ask in map(self.pick_ask, picked):
            if ask and ask.claim_id in self.model.claims:
                self.run_.lease_until(ask.claim_id, 1)
                self.model.expired.add(ask.claim_id)
        if due:
            self.run_.make_due()
            self.model.due = list(self.model.delayed)
        if away:
            self.run_.last_swept(2 * FAR)
            self.model.away = True
        renewed = [a.claim_id for a in map(self.pick_ask, renewals) if a]
        self.say(partial(self.make_renewal, known, renewed), again=again)
        self.say(lambda: self.make_sweep(known), again=again)

    def make_renewal(self, known: int, ids: list[bytes]) -> None:
        assert self.ledger.renew(self.run_.run_id, known, ids) == self.model.renew(known, ids)

    def make_sweep(self, known: int) -> None:
        swept = self.run_.sweep(known)
        answer = (swept.state, swept.left, swept.active, swept.expired, swept.delayed, swept.tickets)
        assert answer == self.model.sweep(known)

    @rule(pick=st.integers(0, 999))
    def replay(self, pick: int) -> None:
        """Any call of the past arrives once more."""
        if self.history:
            self.history[-1 - pick % len(self.history)]()

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        m, structure = self.model, self.run_.reader.structure()
        assert structure["state"] == m.state
        assert structure["ready"] == [text(r) for r in m.ordered()]
        assert float(self.run_.head("weight_left")) == m.weight_left() if m.weighted else True
        assert sorted(structure["delayed"]) == sorted(text(r) for r in m.delayed)
        assert sorted((c.offset, c.ok, c.retried, c.dead, *map(text, c.ranges)) for c in structure["claims"]) == sorted(
            (h.offset, h.ok, h.retried, h.dead, *map(text, h.ranges)) for h in m.claims.values()
        )
        assert structure["dead"] == sorted(m.dead)
        sums = [sum(len(r) for r in place) for place in (m.ready, m.delayed)]
        held = sum(len(h) - h.offset for h in m.claims.values())
        assert structure["counters"] == [
            m.submitted, m.cursor, *sums, held, len(m.ok), len(m.dead), len(m.skipped), m.finals, m.generation
        ]  # fmt: skip
        self.agrees_on_pages()
        assert m.finals <= m.generation + 1
        assert self.run_.tickets() == m.tickets
        assert check_structure(structure) == []

    def agrees_on_pages(self) -> None:
        """Exactly the pages that are still needed are there, in each of the forms that the server keeps."""
        m, run = self.model, self.run_
        starts = m.stored_pages()
        assert [int(start) for start in run.command("ZRANGE", "page_index", 0, -1)] == starts
        fields = {field.decode() for field in run.command("HKEYS", "pages")}
        weights = m.weighted and not (m.release and m.state == "cancelled")
        letters = ["", *(["n"] if m.release else []), *(["w"] if weights else [])]
        assert fields == {f"{letter}{start}" for start in starts for letter in letters}
        needed = [*m.ready, *m.delayed, *(r for held in m.claims.values() for r in held.rest())]
        stored = {i for a, b in m.pages if a in starts for i in range(a, b)}
        assert stored.issuperset(i for r in needed for i in range(r.start, r.stop))

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        self.audit()
        self.drain()
        if self.model.state == "finished":  # a second generation
            self.revive("retry_dead", 0, 3, first=True, again=True)
            self.agrees()
            self.drain()
        self.audit()
        self.run_.reader.delete()

    def drain(self) -> None:
        """From wherever a history led, workers bring the run to its end."""
        m, again = self.model, False
        m.breaker = 0.0
        self.run_.command("HSET", "head", "breaker", "0.0")  # else it may pause the run again and again
        self.make_turn("resume", "", "")
        self.make_update(4, False, 0)
        self.end_all()
        self.append(0, 0, close=True, again=again)
        self.end_all()
        assert m.state in ("finished", "cancelled")
        assert len(m.ok) + len(m.dead) + len(m.skipped) == m.submitted
        assert len(m.ok | m.dead | m.skipped) == m.submitted

    def end_all(self) -> None:
        """Until nothing is left to do, or the run has ended."""
        m, again = self.model, False
        for _ in range(100):
            if m.state not in ("running", "cancelling") or not (m.left() or m.claims or m.delayed):
                break
            for claim_id in list(m.claims):
                self.make_loss(claim_id, Death(UNKNOWN, letter=LETTER))
            self.time_passes([], [], due=True, away=False, known=1, again=again)
            self.agrees()
            if m.left():
                self.work([("ok", 0)] * 3)
        self.agrees()

    def audit(self) -> None:
        m, run = self.model, self.run_
        run.check()
        status, rows = run.status(), run.rows()
        assert (status.retried, status.lost, status.batches) == (m.retried, m.lost, m.batches)
        assert (status.reason, status.errors) == (m.reason, dict(m.errors))
        assert run.results() == {i: i for i in m.ok}
        live = list(m.claims.values())
        assert sum(r["ok"] for r in rows) + sum(h.ok for h in live) == len(m.ok)
        assert sum(r["dead"] for r in rows) + sum(h.dead for h in live) == m.buried
        assert sum(r["retried"] for r in rows) + sum(h.retried for h in live) == m.retried
        assert sum(r["weight"] for r in rows) == m.lost_weight
        assert self.ledger.connection.command("ZCARD", keys.of(run.run_id, "closed")) == len(m.ended)


def pack(indexes: list[int]) -> bytes:
    return pack_output([(i, i + 1) for i in indexes], codec.encode_page(indexes))


def test_every_history_agrees_with_the_model(server: Server, ledger: Ledger) -> None:
    machine = type("LedgerMachine", (Machine,), {"ledger": ledger})
    profile = settings(
        max_examples=EXAMPLES[server.engine], stateful_step_count=STEPS, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), print_blob=False,
        phases=[Phase.generate],  # shrinking a failure takes minutes; drop this line to have it
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=profile)
