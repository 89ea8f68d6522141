"""The ledger's transitions told a second time, in plain Python, for tests to compare with."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.integration.ledgers import weight
from toolkit.ledger import NOBODY, Ask, Death, FailedItem, Progress, Range, Renewed, Weighed
from toolkit.records import CATEGORIES

SUSPICIONS = 3
GATHERED = 64
WINDOW = 200


@dataclass
class Held:
    """A live claim: what it took, and how far it is."""

    ranges: list[Range]
    asked: int
    offset: int = 0
    ok: int = 0
    retried: int = 0
    dead: int = 0
    weighed: tuple[float, float, float] | None = None  # size, limit, weight

    def __len__(self) -> int:
        return sum(len(r) for r in self.ranges)

    def indexes(self) -> list[int]:
        return [i for r in self.ranges for i in range(r.start, r.stop)]

    def rest(self) -> list[Range]:
        """What is not committed yet."""
        left, skip = [], self.offset
        for r in self.ranges:
            start = min(r.stop, r.start + skip)
            skip -= start - r.start
            left.append(replace(r, start=start))
        return [r for r in left if len(r)]


@dataclass
class Model:
    """A run's bookkeeping. Each method answers what the server is expected to answer."""

    batch_size: int
    auto: bool
    cap: int
    known: int
    release: bool = False
    breaker: float = 0.0
    breaker_items: int = 20
    weighted: bool = False  # then batch_size is a weight
    born: int = 0
    state: str = "running"
    reason: str = ""
    grace: str = ""  # of a cancelled run: "" for never, "waits", "over"
    closed: bool = False
    submitted: int = 0
    cursor: int = 0
    ok: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    pages: list[tuple[int, int]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    recent: int = 0
    recently: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    lost: int = 0
    batches: int = 0
    buried: int = 0
    revived: tuple[str, int] = ("", 0)  # the latest call that sent back or dropped dead letters, and how many
    generation: int = 0
    finals: int = 0
    last_batch: int = 0
    last_size: float = 0.0
    unit_s: float = 0.0
    lost_weight: float = 0.0
    ready: list[Range] = field(default_factory=list)
    delayed: list[Range] = field(default_factory=list)
    due: list[Range] = field(default_factory=list)
    claims: dict[bytes, Held] = field(default_factory=dict)
    expired: set[bytes] = field(default_factory=set)
    ended: dict[bytes, bool] = field(default_factory=dict)  # claim id -> ended by its own commit
    tickets: set[str] = field(default_factory=set)
    away: bool = False

    def view(self) -> Model:
        """A copy to compare with later."""
        return copy.deepcopy(self)

    # ------------------------------------------------------------------ input and commands

    def append(self, expected: int, n: int, close: bool, heavy: float = 0.0) -> int | None:
        """Items of the run afterwards, None when the page is refused."""
        if self.submitted == expected + n and (n > 0 or self.closed) and (not close or self.closed):
            return self.submitted if self.holds(expected, n) else None
        if self.state not in ("running", "paused") or self.closed or self.submitted != expected:
            return None
        self.submitted += n
        if n:
            self.pages.append((expected, expected + n))
            if self.weighted:
                self.ready += cut(expected, expected + n, heavy)
                self.cursor = self.submitted
        if close:
            self.closed = True
            self.settle()
        return self.submitted

    def steer(self, verb: str, reason: str = "", grace: str = "") -> str:
        edges = {
            ("cancel", "running"): "cancelling", ("cancel", "paused"): "cancelling",
            ("cancel", "cancelling"): "cancelling", ("pause", "running"): "paused", ("resume", "paused"): "running",
        }  # fmt: skip
        if (verb, self.state) in edges:
            self.state = edges[verb, self.state]
            self.reason = "" if verb == "resume" else reason
            if verb == "resume":
                self.recent, self.recently = 0, Counter()
            if verb == "cancel":
                self.grace = grace or self.grace
        return self.settle()

    def update(self, batch_size: int | None, auto: bool | None, max_workers: int | None) -> None:
        self.batch_size = self.batch_size if batch_size is None else batch_size
        self.auto = self.auto if auto is None else auto
        self.cap = self.cap if max_workers is None else max_workers

    def revive(self, verb: str, call: str, first: bool, indexes: Sequence[int]) -> int:
        """`retry_dead` or `drop_dead` once a call; a repeated one gets its answer again.

        Calls after the `first` one of a wish are of its generation, unless the run ended in between.
        """
        if verb == "retry_dead" and self.state in ("cancelling", "cancelled"):
            return 0
        if call == self.revived[0]:
            return self.revived[1]
        n = self.retry_dead(indexes, first) if verb == "retry_dead" else self.drop_dead(indexes)
        if n:
            self.revived = call, n
        return n

    def retry_dead(self, indexes: Sequence[int], first: bool) -> int:
        chosen = [i for i in indexes if i in self.dead]
        self.dead -= set(chosen)
        self.ready += [Range(i, i + 1) for i in chosen]
        if chosen:
            self.generation += first or self.state == "finished"
            self.state = "running" if self.state == "finished" else self.state
        return len(chosen)

    def drop_dead(self, indexes: Sequence[int]) -> int:
        chosen = self.dead & set(indexes)
        self.dead -= chosen
        self.skipped |= chosen
        return len(chosen)

    def holds(self, start: int, n: int) -> bool:
        """Whether the page given is the one stored, as far as can be told: one that was released may have been it."""
        if n and start in self.stored_pages():
            return (start, start + n) in self.pages
        return not n or self.release

    def stored_pages(self) -> list[int]:
        """Starts of the pages that still hold an item that has not ended; all of them where pages are kept."""
        over = self.ok | self.skipped if self.release else set()
        return [a for a, b in self.pages if not over.issuperset(range(a, b))]

    # ------------------------------------------------------------------ work

    def left(self) -> int:
        return self.submitted - self.cursor + sum(len(r) for r in self.ready)

    def ordered(self) -> list[Range]:
        """The ready ranges, next first."""
        if not self.weighted:
            return self.ready
        return sorted(self.ready, key=lambda r: (-weight(r.start) if len(r) == 1 else r.start, text(r)))

    def weight_left(self) -> float:
        return weight_of(self.ready) if self.weighted else 0.0

    def weighed(self, held: Held) -> Weighed | None:
        """What the answer to a claim says of weights."""
        return held.weighed and Weighed(*held.weighed, self.weight_left(), self.last_size, self.unit_s)

    def claim(self, ask: Ask) -> Held | str:
        """The claim, or why there is none."""
        if ask.born not in (0, self.born):
            return "other"
        if ask.claim_id in self.claims:
            return self.claims[ask.claim_id]
        if ask.claim_id in self.ended:
            return "gone"
        if self.state == "running" and ask.generation not in (-1, self.generation):
            return "anew"
        self.tickets.discard(ask.ticket)
        if refusal := self.refusal():
            return refusal
        limit, asked = self.weight_limit(ask) if self.weighted else self.limit(ask)
        self.ready = self.ordered()
        taken, alone = self.take_ready(limit)
        n = sum(len(r) for r in taken)
        if not alone and n < limit and self.cursor < self.submitted:
            stop = min(self.submitted, self.cursor + limit - n)
            taken.append(Range(self.cursor, stop))
            self.cursor = stop
        held = self.claims[ask.claim_id] = Held(taken, n if self.weighted else asked)
        if self.weighted:
            held.weighed = (asked, limit, weight_of(taken)) if asked else (weight_of(taken),) * 3
            self.last_size, self.unit_s = held.weighed[0], ask.unit_s or self.unit_s
        self.last_batch = held.asked
        if ask.new_ticket and self.left() and len(self.claims) + len(self.tickets) < self.desired():
            self.tickets.add(ask.new_ticket)
        return self.claims[ask.claim_id]

    def refusal(self) -> str:
        """Why nobody gets a batch now, empty where one is to be had."""
        if self.state != "running":
            return self.state
        if not self.left():
            return "empty"
        return "busy" if self.cap and len(self.claims) >= self.cap else ""

    def desired(self) -> int:
        """Workers that the run wants."""
        if self.cap:
            return min(self.cap, self.known) if self.known else self.cap
        return max(1, self.known)

    def weight_limit(self, ask: Ask) -> tuple[float, float]:
        """Weight that a claim may take, and the size of its batch before tapering; 0 while nobody knows any."""
        if not self.auto:
            return self.batch_size, self.batch_size
        size = self.batch_size or ask.want or self.last_size
        return min(size, max(ask.floor, self.weight_left() / (2 * self.sharers()))), size

    def sharers(self) -> int:
        workers = max(self.known, len(self.claims) + 1)
        return min(workers, self.cap) if self.cap else workers

    def limit(self, ask: Ask) -> tuple[int, int]:
        """Items that a claim may take, and its batch size before tapering."""
        if not self.auto:
            return max(1, self.batch_size), max(1, self.batch_size)
        size = self.batch_size or ask.want or max(1, self.last_batch)
        return max(1, min(size, max(ask.floor, math.ceil(self.left() / (2 * self.sharers()))))), size

    def take_ready(self, limit: float) -> tuple[list[Range], bool]:
        taken: list[Range] = []
        while self.ready and len(taken) < GATHERED:
            r = self.ready[0]
            alone = r.alone or r.suspicions > 0
            if alone and taken:
                break
            cut = self.fits(r, limit, taken)
            if cut == r.start:
                break
            self.ready[:1] = [replace(r, start=cut)] if cut < r.stop else []
            taken.append(replace(r, stop=cut))
            if alone:
                return taken, True
            if cut < r.stop:
                break
        return taken, False

    def fits(self, r: Range, limit: float, taken: Sequence[Range]) -> int:
        """Where to cut a range that joins others in a batch of at most `limit`; the first item may weigh more."""
        if not self.weighted:
            return min(r.stop, r.start + int(limit) - sum(map(len, taken)))
        stop, total = r.start, weight_of(taken)
        while stop < r.stop and (total + weight(stop) <= limit or not total):
            total += weight(stop)
            stop += 1
        return stop

    def commit(self, p: Progress) -> bool:
        """Whether it is accepted. Settling comes later, after the next claim of the same call."""
        held = self.claims.get(p.claim_id)
        if held is None:
            return self.ended.get(p.claim_id, False)
        if p.start != held.offset or not p.start <= p.stop <= len(held):
            return p.stop <= held.offset and not p.last
        indexes = held.indexes()
        attributes = [r for r in held.ranges for _ in range(len(r))]
        for f in p.failed:
            self.fail(held, f, indexes[f.position], attributes[f.position])
        bad = {f.position for f in p.failed}
        good = {indexes[at] for at in range(p.start, p.stop) if at not in bad}
        assert not good & (self.ok | self.dead | self.skipped), "an index ends twice"
        self.count(p.stop - p.start, p.failed)
        if p.pause:
            self.pause(p.pause)
        self.ok |= good
        held.ok += len(good)
        held.offset = p.stop
        if p.last:
            self.close(p.claim_id, by_commit=True)
            rest = held.rest()
            self.ready[:0] = halves(rest) if p.split and sum(len(r) for r in rest) > 1 else rest
            self.batches += 1
        else:
            self.expired.discard(p.claim_id)
        return True

    def count(self, n: int, failed: Sequence[FailedItem]) -> None:
        """Errors by category; too many alike among the latest items pause the run."""
        by = Counter(f.category for f in failed if f.kind != "again")
        self.errors += by
        if not self.breaker or not n:
            return
        self.recent += n
        self.recently += by
        for category in CATEGORIES:
            m = self.recently[category]
            if by[category] and self.recent >= self.breaker_items and m > self.breaker * self.recent:
                self.pause(f"{m} of the latest {self.recent} items failed with category {category}")
        if self.recent > WINDOW:
            self.recent //= 2
            self.recently = Counter({c: m // 2 for c, m in self.recently.items()})

    def pause(self, reason: str) -> None:
        if self.state == "running":
            self.state, self.reason = "paused", reason

    def fail(self, held: Held, failure: FailedItem, index: int, r: Range) -> None:
        if failure.kind == "dead":
            self.bury(index)
            held.dead += 1
            return
        charge = int(failure.kind == "retry")
        self.retried += charge
        held.retried += charge
        back = Range(index, index + 1, r.attempts + charge, r.suspicions)
        (self.delayed if failure.delay_s else self.ready).append(back)

    def bury(self, index: int) -> None:
        assert index not in self.dead | self.ok | self.skipped, "an index ends twice"
        self.dead.add(index)
        self.buried += 1

    def close(self, claim_id: bytes, *, by_commit: bool) -> None:
        del self.claims[claim_id]
        self.expired.discard(claim_id)
        self.ended[claim_id] = by_commit

    def lose(self, claim_id: bytes, death: Death, suspicions: int = SUSPICIONS) -> None:
        held = self.claims.get(claim_id)
        if held is None:
            return
        self.close(claim_id, by_commit=False)
        self.lost += 1
        self.batches += 1
        self.lost_weight += held.weighed[2] if held.weighed else 0.0
        rest, blamed = held.rest(), death.blamed
        left = sum(len(r) for r in rest)
        if blamed != NOBODY and left == 1:
            blamed = held.offset
        if not held.offset <= blamed < len(held):
            self.ready[:0] = rest if blamed == NOBODY else halves(rest)
            return
        bad = held.indexes()[blamed]
        self.errors[death.category] += 1
        back: list[Range] = []
        for r in rest:
            back += self.blame(r, bad, death, suspicions, held) if r.start <= bad < r.stop else [r]
        self.ready[:0] = back

    def blame(self, r: Range, bad: int, death: Death, suspicions: int, held: Held) -> list[Range]:
        before, after = Range(r.start, bad, r.attempts), Range(bad + 1, r.stop, r.attempts)
        again: list[Range] = []
        one = Range(bad, bad + 1, r.attempts + 1, r.suspicions, alone=True)
        if death.category == "timeout":
            dies = one.attempts >= (death.limit or SUSPICIONS)
            if not dies:
                self.retried += 1
                held.retried += 1
                if death.delay_s:
                    self.delayed.append(one)
                else:
                    again = [one]
        else:
            one = replace(one, suspicions=r.suspicions + 1)
            dies = one.suspicions >= (death.limit or suspicions)
            again = [] if dies else [one]
        if dies:
            self.bury(bad)
            held.dead += 1
        return [x for x in (before, *again, after) if len(x)]

    def renew(self, known: int, claim_ids: Sequence[bytes]) -> Renewed:
        self.known = known
        self.expired -= set(claim_ids)
        over = self.state == "cancelling" and self.grace == "over"
        return Renewed(self.state, over, frozenset(c for c in claim_ids if c not in self.claims))

    def sweep(self, known: int) -> tuple[Any, ...]:
        self.known = known
        if self.away:
            self.expired.clear()
        self.away = False
        gone = sorted(self.expired)
        for claim_id in gone:
            self.lose(claim_id, Death(), SUSPICIONS + 2)
        self.delayed = [r for r in self.delayed if r not in self.due]
        self.ready += sorted(self.due, key=text)
        self.due = []
        state, left, wanted = self.settle(), self.left(), 0
        if state == "running" and left:
            desired = min(max(1, known), self.cap or known or 1, left)
            wanted = max(0, desired - len(self.claims) - len(self.tickets))
        return state, left, len(self.claims), len(gone), len(self.delayed), wanted

    def register(self, ticket: str, lacking: bool) -> int:
        if self.state != "running":
            return 0
        room = min(self.desired(), self.left()) - len(self.claims) - len(self.tickets)
        if lacking and room <= 0 and ticket not in self.tickets:
            return 0
        self.tickets.add(ticket)
        return 1

    # ------------------------------------------------------------------ the end

    def settle(self) -> str:
        """End the run when nothing is left to do."""
        over = self.closed and len(self.ok) + len(self.dead) + len(self.skipped) == self.submitted
        if self.claims or self.state in ("finished", "cancelled"):
            return self.state
        if self.state == "cancelling":
            self.skipped = set(range(self.submitted)) - self.ok - self.dead
            self.ready, self.delayed, self.due, self.cursor, self.closed = [], [], [], self.submitted, True
        if self.state == "cancelling" or over:
            self.state = "cancelled" if self.state == "cancelling" else "finished"
            self.finals += 1
            self.tickets.clear()
        return self.state


def cut(start: int, stop: int, heavy: float) -> list[Range]:
    """A page of a weighted run: the heavy items by themselves, the others between them."""
    found, at = [], start
    for i in [i for i in range(start, stop) if weight(i) >= heavy]:
        found += [Range(at, i), Range(i, i + 1)]
        at = i + 1
    return [r for r in [*found, Range(at, stop)] if len(r)]


def weight_of(ranges: Sequence[Range]) -> float:
    return sum(weight(i) for r in ranges for i in range(r.start, r.stop))


def halves(rest: Sequence[Range]) -> list[Range]:
    """Two halves by item count, every part to be claimed alone."""
    cut = sum(len(r) for r in rest) // 2
    low, high = [], []
    for r in rest:
        middle = min(r.stop, r.start + max(0, cut))
        cut -= len(r)
        low.append(replace(r, stop=middle, alone=True))
        high.append(replace(r, start=middle, alone=True))
    return [r for r in low + high if len(r)]


def text(r: Range) -> str:
    """The form that the server keeps."""
    return f"{r.start}:{r.stop}:{r.attempts}:{r.suspicions}:{int(r.alone)}"
