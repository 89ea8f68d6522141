"""The items of a claim while they are executed: their ranges, their dead letters, their metric row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from toolkit import codec
from toolkit.errors import LedgerCorrupt
from toolkit.execution import Failure, Part
from toolkit.execution.failures import Described, type_name
from toolkit.ledger import Claim, PageCache
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

_U32 = 0xFFFFFFFF
_OUTCOME_CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_CATEGORY_CODES = {category: code for code, category in enumerate(CATEGORIES)}


class Executing(Protocol):
    """What a metric row tells of the process: the run, and how many of its batches it executed."""

    spec: RunSpec
    batches: int


class Batch(NamedTuple):
    """The items of a claim that are being executed."""

    indexes: Sequence[int]
    attempts: Sequence[int]
    keys: Sequence[object] | None
    pages: PageCache

    def ok_ranges(self, part: Part) -> list[tuple[int, int]]:
        """Index ranges of the part's ok items, in the order of its results."""
        if not part.failures and isinstance(self.indexes, range):
            return [(self.indexes[part.start], self.indexes[part.stop - 1] + 1)]
        failed = {f.position for f in part.failures}
        return list(_runs(self.indexes[p] for p in range(part.start, part.stop) if p not in failed))

    def letter(self, failure: Failure, identity: str, at: float) -> bytes:
        """The dead letter of a failed item; without the item, which stays in its page, where both cannot be encoded.

        A letter is a level deeper than its item, and an item may be as deep as a value can be.
        """
        p = failure.position
        said = {
            "error_type": failure.error_type,
            "message": _clean(failure.message),
            "traceback_text": _clean(failure.traceback_text),
            "category": failure.category,
            "attempts": self.attempts[p],
            "worker": WorkerIdentity.decode(identity).worker,
            "logs": _clean(failure.logs),
            "at": at,
        }
        try:
            item, key = self.pages.original(self.indexes[p]), self.keys[p] if self.keys else None
            return codec.encode({"item": item, "key": key} | said)
        except Exception:  # noqa: BLE001 - whatever is wrong with the item, its letter is written
            return codec.encode(said)


def undecodable_letter(error: LedgerCorrupt, attempt: int, identity: str, at: float) -> bytes:
    """The dead letter of an item that does not decode; it stays in its page, and so is not in the letter."""
    told = Described(type_name(error), f"the item does not decode here: {error}", "")
    return bare_letter(told, "bad_payload", attempt, WorkerIdentity.decode(identity).worker, at)


def bare_letter(told: Described, category: str, attempts: int, worker: str, at: float) -> bytes:
    """A dead letter without its item, which stays in its page, of somebody who has not seen it executed."""
    return codec.encode({
        "error_type": told.error_type, "message": _clean(told.message), "traceback_text": _clean(told.traceback_text),
        "category": category, "attempts": attempts, "worker": worker, "logs": "", "at": at,
    })  # fmt: skip


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
    context: Executing
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

    def weight(self, executed: int) -> float:
        """What so many executed items weigh; of a batch that was not executed whole, their share. 0 without weights."""
        weighed = self.claim.weighed
        return weighed.weight * executed / len(self.claim) if weighed else 0.0

    def row(self, part: Part) -> bytes:
        """The packed metric row of the batch that ends with `part`."""
        claim, stats = self.claim, part.stats
        flags = FLAG_FIRST if self.context.batches == 1 else 0
        weighed = claim.weighed
        small = weighed.limit < weighed.size or not claim.left if weighed else len(claim) < claim.asked
        flags |= FLAG_TAIL if small else 0
        flags |= FLAG_CUT_OFF if part.stopped else 0
        flags |= FLAG_BATCHED if self.context.spec.batched else 0
        failed = self.retried + self.dead
        outcome = "ok" if not failed and not part.bisect else "partial" if self.ok else "failed"
        return METRIC_ROW.pack(
            min(claim.worker, 0xFFFF), flags, _OUTCOME_CODES[outcome],
            _CATEGORY_CODES.get(self.category, _CATEGORY_CODES["fatal"]),
            min(max([r.attempts for r in claim.ranges]) + 1, 0xFFFF), min(claim.active, 0xFFFF),
            min(claim.known_workers, 0xFFFF), min(claim.asked, _U32), min(part.stop, _U32), self.ok, self.retried,
            self.dead, weighed.size if weighed else 0.0, self.weight(part.stop), claim.ranges[0].start, claim.at,
            stats.service_s, self.decode_s, stats.store_s, self.idle_s, stats.cpu_user_s, stats.cpu_system_s,
            min(stats.peak_rss_kib, _U32), min(self.input_bytes, _U32), min(stats.output_bytes, _U32),
            stats.item_sum_s, stats.item_sumsq_s2, stats.item_max_s,
        )  # fmt: skip
