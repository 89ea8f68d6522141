"""What the ledger's tests share: a run told in a few verbs, on the real server."""

from __future__ import annotations

import secrets
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from toolkit import codec
from toolkit.ledger import (
    UNKNOWN,
    Ask,
    Claim,
    Committed,
    Contact,
    Death,
    FailedItem,
    Ledger,
    NoClaim,
    Page,
    PageCache,
    Progress,
    Range,
    Reader,
    Swept,
    check_structure,
    keys,
    new_claim_id,
    pack_output,
    weigh_page,
)
from toolkit.records import METRIC_NAMES, METRIC_ROW, RunSpec, RunStatus, WorkerIdentity

LETTER = codec.encode({
    "error_type": "ValueError", "message": "bad item", "traceback_text": "", "category": "fatal", "attempts": 1,
    "worker": "n/1", "logs": "", "at": 1.0,
})  # fmt: skip


def new_run_id() -> str:
    return f"test-{secrets.token_hex(8)}"


def identity(worker: str = "w1") -> str:
    return WorkerIdentity("host", worker, 1, "", "").encode()


def weight(index: int) -> float:
    """What an item weighs in a weighted run: numbers whose sums are exact in whichever order."""
    return (1.0, 0.25, 4.0, 0.5, 2.0, 1.5, 8.0)[index % 7]


def metric_row(**values: float) -> bytes:
    return METRIC_ROW.pack(*(values.get(name, 0) for name in METRIC_NAMES))


class Run:
    """A run whose item `i` is the number `i` and whose result is the text ``r`` and `i`.

    Time is moved by changing the moments that the server stored, never by waiting.
    """

    def __init__(
        self, ledger: Ledger, items: int = 0, *, page: int = 4, close: bool = True, batch_size: int = 4,
        auto: bool = False, max_workers: int = 0, known_workers: int = 0, lease_s: float = 10.0,
        retention_s: float | None = None, release: bool = False, breaker: float = 0.0, breaker_items: int = 20,
        create: bool = True, weight_size: float | None = None,
    ) -> None:  # fmt: skip
        self.ledger = ledger
        self.run_id = new_run_id()
        self.page = page
        self.reader = Reader(ledger.connection, self.run_id)
        self.spec = RunSpec(
            self.run_id, "tests.task", lease_s=lease_s, retention_s=retention_s, breaker=breaker,
            breaker_items=breaker_items, weighted=weight_size is not None,
        )  # fmt: skip
        self.sizes: dict[str, Any] = {
            "batch_size": batch_size, "auto": auto, "max_workers": max_workers, "known_workers": known_workers,
            "release": release, "weight_size": weight_size,
        }  # fmt: skip
        if create:
            ledger.create(self.spec, **self.sizes)
        if items:
            self.append(items, close=close)

    # ------------------------------------------------------------------ input and work

    def append(self, n: int, *, close: bool = False, heavy: float = 4.0) -> None:
        start = self.status().submitted
        for a in range(start, start + n, self.page):
            b = min(a + self.page, start + n)
            page = page_of(a, b)
            if self.spec.weighted:
                page = weigh(page, heavy)
            self.ledger.append(self.run_id, page, expected=a, close=close and b == start + n)

    def ask(self, worker: str = "w1", **values: Any) -> Ask:
        return Ask(new_claim_id(), identity(worker), **values)

    def claim(self, worker: str = "w1", **values: Any) -> Claim:
        answer = self.ledger.claim(self.run_id, self.ask(worker, **values))
        assert isinstance(answer, Claim), answer
        return answer

    def refusal(self, worker: str = "w1", **values: Any) -> NoClaim:
        answer = self.ledger.claim(self.run_id, self.ask(worker, **values))
        assert isinstance(answer, NoClaim), answer
        return answer

    def progress(
        self, claim: Claim, stop: int | None = None, *, start: int = 0, failed: Sequence[FailedItem] = (),
        **values: Any,
    ) -> Progress:  # fmt: skip
        """What a worker says after executing offsets `start` to `stop` of a claim."""
        stop = len(claim) if stop is None else stop
        bad = {f.position for f in failed}
        ok = [index for at, index in enumerate(claim.indexes()) if start <= at < stop and at not in bad]
        output = pack_output([(i, i + 1) for i in ok], codec.encode_page([f"r{i}" for i in ok])) if ok else b""
        if values.setdefault("last", True):
            values.setdefault("row", metric_row(items=stop, ok=stop - len(bad)))
        return Progress(claim.claim_id, start, stop, failed=tuple(failed), output=output, **values)

    def commit(self, claim: Claim, stop: int | None = None, *, ask: Ask | None = None, **values: Any) -> Committed:
        return self.ledger.commit(self.run_id, self.progress(claim, stop, **values), ask)

    def lose(self, claim: Claim, blamed: int = UNKNOWN, letter: bytes = b"", **cause: Any) -> str:
        return self.ledger.lost(self.run_id, claim.claim_id, Death(blamed, letter=letter, **cause))

    def sweep(self, known_workers: int = 0, idle_workers: int = 0, contact: Contact | None = None) -> Swept:
        return self.ledger.sweep(
            self.run_id, known_workers=known_workers, idle_workers=idle_workers, lease_s=self.spec.lease_s,
            contact=contact,
        )  # fmt: skip

    def die(self, *indexes: int) -> None:
        """Bring items to their dead letters by one commit of the next batch."""
        claim = self.claim()
        dead = [FailedItem(at, "dead", letter=LETTER) for at, i in enumerate(claim.indexes()) if i in indexes]
        assert len(dead) == len(indexes)
        self.commit(claim, failed=dead)

    # ------------------------------------------------------------------ time

    def expire(self, *claims: Claim) -> None:
        """Let leases end now."""
        for claim in claims:
            self.lease_until(claim.claim_id, 1)

    def lease_until(self, claim_id: bytes, ms: int) -> None:
        """Let the lease of a claim that lives end at `ms`, by the server's clock."""
        if stored := self.command("HGET", "claims", claim_id):
            self.command("HSET", "claims", claim_id, stored[:1] + struct.pack("<d", ms) + stored[9:])

    def make_due(self) -> None:
        """Let every delay end now."""
        for text in self.command("ZRANGE", "delayed", 0, -1):
            self.command("ZADD", "delayed", "XX", 1, text)

    def last_swept(self, seconds_ago: float) -> None:
        """Pretend that the latest sweep was so long ago."""
        self.command("HSET", "head", "swept_at", int((self.status().at - seconds_ago) * 1000))

    # ------------------------------------------------------------------ look

    def command(self, name: str, key: str, *args: Any) -> Any:
        return self.ledger.connection.command(name, keys.of(self.run_id, key), *args)

    def head(self, field: str) -> str:
        return str(self.command("HGET", "head", field).decode())

    def status(self) -> RunStatus:
        return self.ledger.status(self.run_id)

    def ready(self) -> list[Range]:
        return [Range.parse(text) for text in self.reader.structure()["ready"]]

    def delayed(self) -> list[Range]:
        return [Range.parse(text) for text in self.reader.structure()["delayed"]]

    def counts(self) -> tuple[int, int, int, int]:
        """Items that ended ok, dead, skipped, and those that did not end."""
        s = self.status()
        return s.ok, s.dead, s.skipped, s.submitted - s.done

    def tickets(self) -> set[str]:
        return {t.decode() for t in self.command("ZRANGE", "tickets", 0, -1)}

    def events(self, *kinds: str) -> list[str]:
        every = [fields["event"] for _, fields in self.reader.events()]
        return [kind for kind in every if not kinds or kind in kinds]

    def results(self) -> dict[int, Any]:
        """Results by index, after checking that none is there twice."""
        pairs = [
            (index, value)
            for ranges, values in self.reader.outputs()
            for index, value in zip((i for a, b in ranges for i in range(a, b)), values, strict=True)
        ]
        assert max(Counter(i for i, _ in pairs).values(), default=0) <= 1, "an index has two results"
        return dict(pairs)

    def rows(self) -> list[dict[str, Any]]:
        """Metric rows, decoded."""
        chunks, _ = self.reader.metric_rows()
        return [dict(zip(METRIC_NAMES, row, strict=True)) for row in METRIC_ROW.iter_unpack(b"".join(chunks))]

    def everything(self, *but: str) -> dict[str, Any]:
        """All that the server stores of this run, without the parts named in `but` (a key, or a field of head)."""
        command = self.command
        stored: dict[str, Any] = {name: _table(command("HGETALL", name)) for name in ("head", "pages", "workers")}
        stored |= {name: _table(command("HGETALL", name)) for name in ("claims", "dead")}
        ready = "LRANGE" if command("TYPE", "ready") == b"list" else "ZRANGE"
        stored |= {"ready": command(ready, "ready", 0, -1), "outputs": command("LRANGE", "outputs", 0, -1)}
        zsets = ("page_index", "delayed", "closed", "tickets")
        stored |= {name: _table(command("ZRANGE", name, 0, -1, "WITHSCORES")) for name in zsets}
        stored["events"], stored["rows"] = self.reader.events(), self.reader.metric_rows()
        for name in but:
            stored["head"].pop(name.encode(), None)
            stored.pop(name, None)
        return stored

    def check(self) -> None:
        """The invariants that hold after every step."""
        assert check_structure(self.reader.structure()) == []
        status, rows = self.status(), self.reader.metric_rows_count()
        assert status.ok == len(self.results())
        assert status.batches == rows == len(self.rows())
        assert len(self.events("finished", "cancelled")) == int(self.head("finals")) <= status.generation + 1


def page_of(start: int, stop: int, *, keyed: bool = False) -> Page:
    encoded = codec.encode_page(list(range(start, stop)))
    return Page(start, stop, encoded, codec.encode_page([f"k{i}" for i in range(start, stop)]) if keyed else b"")


def weigh(page: Page, heavy: float) -> Page:
    """A page with its weights, where items of at least `heavy` begin before the others."""
    weights = [weight(i) for i in range(page.start, page.stop)]
    return weigh_page(page, weights, [at for at, w in enumerate(weights) if w >= heavy])


def spans(claim: Claim) -> list[tuple[int, int]]:
    return [(r.start, r.stop) for r in claim.ranges]


def items_of(claim: Claim, cache: PageCache | None = None) -> list[Any]:
    """The items that a worker would execute."""
    return (cache or PageCache()).slice(claim.pages, spans(claim))[0]


def _table(answer: Any) -> dict[Any, Any]:
    """A hash or a scored set as a dict, whichever form the client library gave it."""
    if isinstance(answer, dict):
        return dict(answer)
    if answer and isinstance(answer[0], list | tuple):
        return dict(answer)
    flat: Iterator[Any] = iter(answer)
    return dict(zip(flat, flat, strict=True))
