"""Series: metric rows of tasks that are measured outside of runs. Written by `record`, capped, read by number."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from toolkit.errors import LedgerCorrupt
from toolkit.ledger import keys
from toolkit.ledger.connection import Connection
from toolkit.records import METRIC_FIELDS, METRIC_ROW, METRIC_SCHEMA

SEGMENT_ROWS: Final = 4096
"""Rows of a segment, which is also how many are deleted at a time."""
MAX_SERIES: Final = 1000
"""Series of one server; beyond it, rows with tags go to their task's series without tags."""

_WORKER_AT: Final = struct.calcsize(
    "<" + "".join(code for _, code in METRIC_FIELDS[: [name for name, _ in METRIC_FIELDS].index("worker")])
)


@dataclass(frozen=True, slots=True)
class SeriesName:
    """What the rows of a series have in common.

    Attributes
    ----------
    task : str
        Name of the task.
    tags : str
        Labels, as JSON with sorted keys.
    schema : int
        Version of the rows' layout.
    """

    task: str
    tags: str = "{}"
    schema: int = METRIC_SCHEMA

    @classmethod
    def of(cls, task: str, tags: Mapping[str, str] | None = None) -> SeriesName:
        """Name of the series of a task and its tags."""
        return cls(task, json.dumps(dict(tags or {}), sort_keys=True, ensure_ascii=False))

    @property
    def series_id(self) -> str:
        """Id under which it is stored: formed like a run's, and the same in every process."""
        text = f"{self.schema}\0{self.task}\0{self.tags}".encode("utf-8", "backslashreplace")
        return f"series-{hashlib.sha256(text).hexdigest()[:20]}"

    def labels(self) -> dict[str, str]:
        """The tags as a mapping."""
        try:
            return {str(k): str(v) for k, v in json.loads(self.tags).items()}
        except (ValueError, AttributeError) as error:
            raise LedgerCorrupt(f"key {keys.SERIES_INDEX}: the tags of task {self.task!r} do not parse") from error


@dataclass(frozen=True, slots=True)
class Flush:
    """Rows of one series that one process hands over at once.

    Attributes
    ----------
    flush_id : bytes
        Random; repeated when the call is repeated.
    keep_rows : int
        Latest rows that the server is to keep, at least; it keeps up to `SEGMENT_ROWS` more.
    first_at, last_at : float
        Earliest start and latest end among the rows, seconds since the epoch.
    dropped : int
        Rows lost on the way since the previous flush.
    parts : sequence of (identity, rows, waits)
        For each worker its `WorkerIdentity.encode`, its packed rows, and a float32 of queue wait for each of them.
    """

    flush_id: bytes
    keep_rows: int
    first_at: float = 0.0
    last_at: float = 0.0
    dropped: int = 0
    parts: Sequence[tuple[str, bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class SeriesHead:
    """A series as it stands.

    Attributes
    ----------
    name : SeriesName
        Whose rows.
    rows : int
        Number of the row to come: rows ever stored.
    first : int
        Number of the first row that is kept.
    dropped : int
        Rows that were lost before they reached the server, as far as their process could tell later.
    capped : int
        Rows deleted because there were newer ones.
    last_at : float
        Latest end of an execution, seconds since the epoch.
    sessions : tuple of int
        Numbers of the first rows after long pauses, ascending.
    """

    name: SeriesName
    rows: int = 0
    first: int = 0
    dropped: int = 0
    capped: int = 0
    last_at: float = 0.0
    sessions: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows that share a dictionary of workers.

    Attributes
    ----------
    first : int
        Number of its first row.
    rows : bytes
        Packed rows.
    waits : bytes
        A float32 for each.
    workers : mapping of int to str
        Worker identities by the code that its rows carry.
    """

    first: int
    rows: bytes
    waits: bytes
    workers: Mapping[int, str]


class SeriesStore:
    """The series of one server.

    Parameters
    ----------
    connection : Connection
        The door to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # ------------------------------------------------------------------ writing

    def admit(self, name: SeriesName) -> SeriesName:
        """Index a series and return it; the one without tags where the server has `MAX_SERIES` already."""
        command = self._connection.command
        if (
            name.tags != "{}"
            and not command("HEXISTS", keys.SERIES_INDEX, name.series_id)
            and command("HLEN", keys.SERIES_INDEX) >= MAX_SERIES
        ):
            name = SeriesName(name.task, schema=name.schema)
        command("HSET", keys.SERIES_INDEX, name.series_id, json.dumps([name.task, name.tags, name.schema]))
        return name

    def record(self, name: SeriesName, flush: Flush) -> int:
        """Append rows and return how many there ever were; may be repeated with the same `flush_id`.

        Raises
        ------
        LedgerFull, LedgerUnavailable, LedgerRefused, LedgerCorrupt, LedgerError
            Nothing was stored, or, where no answer came, perhaps all of it.
        """
        answer = self._connection.call(
            "record", keys.of_series(name.series_id), flush.flush_id, name.task, name.tags, name.schema, SEGMENT_ROWS,
            flush.keep_rows, METRIC_ROW.size, _WORKER_AT, f"{flush.first_at:.6f}", f"{flush.last_at:.6f}",
            flush.dropped, *(value for part in flush.parts for value in part),
        )  # fmt: skip
        return int(answer[0])

    # ------------------------------------------------------------------ reading

    def names(self) -> list[SeriesName]:
        """Every indexed series, by task and tags."""
        found = []
        for text in self._connection.command("HVALS", keys.SERIES_INDEX):
            try:
                task, tags, schema = json.loads(text)
                found.append(SeriesName(str(task), str(tags), int(schema)))
            except (ValueError, TypeError) as error:
                raise LedgerCorrupt(f"key {keys.SERIES_INDEX} does not parse: {text!r:.60}") from error
        return sorted(found, key=lambda n: (n.task, n.tags, n.schema))

    def head(self, name: SeriesName) -> SeriesHead:
        """A series as it stands; one that is not stored (any more) has no rows."""
        series, _, sessions, *_ = keys.of_series(name.series_id)
        fields = ("rows", "first", "dropped", "capped", "last_at")
        values = self._connection.command("HMGET", series, *fields)
        starts = self._connection.command("LRANGE", sessions, 0, -1)
        try:
            rows, first, dropped, capped = (int(v or 0) for v in values[:4])
            return SeriesHead(
                name, rows, first, dropped, capped, float(values[4] or 0), tuple(int(start) for start in starts)
            )
        except ValueError as error:
            raise LedgerCorrupt(f"key {series.decode()} or its sessions do not parse ({error})") from error

    def segments(self, head: SeriesHead, first: int = 0) -> Iterator[Segment]:
        """Rows from number `first` on up to those that `head` knows; what was deleted meanwhile is left out."""
        series_id, size = head.name.series_id, METRIC_ROW.size
        at = max(first, head.first)
        while at < head.rows:
            segment, skip = divmod(at, SEGMENT_ROWS)
            n = min(SEGMENT_ROWS - skip, head.rows - at)
            # Workers last: their dictionary only grows, so it knows every worker of the rows that were read before it.
            rows = self._range(series_id, "rows", segment, skip * size, n * size)
            waits = self._range(series_id, "waits", segment, skip * 4, n * 4)
            workers = self._workers(series_id, segment)
            if len(rows) == n * size and len(waits) == n * 4:
                yield Segment(at, rows, waits, workers)
            at += n

    def _range(self, series_id: str, name: str, segment: int, start: int, length: int) -> bytes:
        key = keys.series_segment(series_id, name, segment)
        data: bytes = self._connection.command("GETRANGE", key, start, start + length - 1)
        return data

    def _workers(self, series_id: str, segment: int) -> dict[int, str]:
        codes = self._connection.fields(keys.series_segment(series_id, "series_workers", segment))
        try:
            return {int(code): identity.decode("utf-8", "replace") for identity, code in codes.items()}
        except ValueError as error:
            raise LedgerCorrupt(f"series {series_id}: workers of segment {segment} do not parse") from error

    def delete(self, name: SeriesName) -> None:
        """Remove a series with all its rows."""
        head = self.head(name)
        segments = range(head.first // SEGMENT_ROWS, head.rows // SEGMENT_ROWS + 1)
        every = [*keys.of_series(name.series_id)]
        every += [
            keys.series_segment(name.series_id, k, s) for s in segments for k in ("rows", "waits", "series_workers")
        ]
        self._connection.command("HDEL", keys.SERIES_INDEX, name.series_id)
        self._connection.command("DEL", *every)
