"""What happened to a run: one record an event."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from toolkit.records.words import one_line

_COUNT = re.compile(r"[0-9]{1,18}")
_NAMES = ("submitted", "ok", "dead", "skipped", "retried")


@dataclass(frozen=True, slots=True)
class Counters:
    """How far a run was at a moment; all since its start.

    Attributes
    ----------
    submitted : int
        Items stored.
    ok, dead, skipped : int
        Items that ended well, ended as dead letters, were cancelled or dropped.
    retried : int
        Attempts that failed and were tried again.
    """

    submitted: int = 0
    ok: int = 0
    dead: int = 0
    skipped: int = 0
    retried: int = 0

    @property
    def done(self) -> int:
        """Items that ended, whichever way."""
        return self.ok + self.dead + self.skipped


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event of a run.

    Attributes
    ----------
    event_id : str
        Its id in the stream; ids ascend.
    at : datetime
        When, UTC by the server's clock.
    kind : str
        ``created``, ``progress`` (a sample of the counters, at most two a second), ``updated``, ``pause``, ``resume``,
        ``cancel``, ``item_dead`` (its worker died, or a sample with more dead letters than before), ``retry_dead``,
        ``drop_dead``, ``worker_lost``, ``finished`` or ``cancelled``; and remarks of others, such as ``declined`` by a
        node, ``code_version`` (a worker executes another version than was submitted), ``drift`` and ``slow_host`` (seen
        in an automatic run while its client is there), ``workers`` (what
        ``max_workers="auto"`` made of a LocalCluster), ``lost_batch`` for traces and ``profile`` of a batch.
    counters : Counters or None
        How far the run was then; None for remarks.
    detail : str
        More, for people: one line.
    """

    event_id: str
    at: datetime
    kind: str
    counters: Counters | None
    detail: str = ""

    @classmethod
    def parse(cls, event_id: str, fields: Mapping[str, str]) -> RunEvent:
        """Read an entry of the stream, whose id starts with milliseconds since the epoch.

        A counter that does not parse makes all of them missing: an event is history, no reason to fail.
        """
        texts = [fields.get(name, "") for name in _NAMES]
        known = all(_COUNT.fullmatch(text) for text in texts)
        at = datetime.fromtimestamp(int(event_id.partition("-")[0]) / 1000, UTC)
        counters = Counters(*map(int, texts)) if known else None
        return cls(event_id, at, one_line(fields.get("event", "")), counters, one_line(fields.get("detail", ""), 1000))

    @property
    def final(self) -> bool:
        """Whether the run ended here, unless dead letters are sent back to work later."""
        return self.kind in ("finished", "cancelled")
