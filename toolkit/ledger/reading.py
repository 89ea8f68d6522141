"""Reads of a run's bulk: results, metric rows, dead letters, events. Pull only, no transition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolkit import codec
from toolkit.errors import LedgerCorrupt, LedgerError, RunStateError
from toolkit.ledger import keys
from toolkit.ledger.connection import Connection
from toolkit.ledger.pages import unpack_output
from toolkit.records import METRIC_ROW, METRIC_SEGMENT_ROWS, DeadLetter

_OUTPUTS_PER_CALL = 200
_BYTES_PER_CALL = 8 * 1024 * 1024

Ranges = list[tuple[int, int]]


class Reader:
    """Reads of one run.

    Parameters
    ----------
    connection : Connection
        The door to the server.
    run_id : str
        Which run.
    """

    def __init__(self, connection: Connection, run_id: str) -> None:
        self._connection = connection
        self.run_id = run_id

    def _command(self, name: str, key: str, *args: Any) -> Any:
        return self._connection.command(name, keys.of(self.run_id, key), *args)

    def outputs(self, first: int = 0) -> Iterator[tuple[Ranges, list[Any]]]:
        """Ok ranges and their results, one pair a commit, from commit number `first` on."""
        while batch := self._command("LRANGE", "outputs", first, first + _OUTPUTS_PER_CALL - 1):
            for element in batch:
                ranges, page = unpack_output(element)
                yield ranges, codec.decode_page(page)
            first += len(batch)

    def output_ranges(self) -> Ranges:
        """Indexes that ended ok and whose results are kept."""
        found: Ranges = []
        first = 0
        while batch := self._command("LRANGE", "outputs", first, first + _OUTPUTS_PER_CALL - 1):
            for element in batch:
                found += unpack_output(element)[0]
            first += len(batch)
        return found

    def metric_rows(self, first: int = 0) -> tuple[list[bytes], int]:
        """Packed metric rows from row number `first` on, and the number to go on from.

        Returns
        -------
        chunks : list of bytes
            Each a whole number of rows of `records.METRIC_ROW.size` bytes.
        next : int
            Row number after the last one read.
        """
        chunks: list[bytes] = []
        size = METRIC_ROW.size
        per_call = _BYTES_PER_CALL // size
        while True:
            segment, offset = divmod(first, METRIC_SEGMENT_ROWS)
            rows = min(per_call, METRIC_SEGMENT_ROWS - offset)
            key = keys.metrics_segment(self.run_id, segment)
            data = self._connection.command("GETRANGE", key, offset * size, (offset + rows) * size - 1)
            whole = len(data) // size
            if len(data) % size:
                raise LedgerCorrupt(f"run {self.run_id}: key metrics:{segment} ends inside a row")
            if whole:
                chunks.append(data)
                first += whole
            if whole < rows:
                return chunks, first

    def workers(self) -> dict[int, str]:
        """Worker identities by the code that metric rows carry."""
        flat = self._command("HGETALL", "workers")
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        return {int(code): identity.decode("utf-8", "replace") for identity, code in pairs}

    def dead_indexes(self) -> list[int]:
        """Indexes of all dead letters, ascending."""
        return sorted(int(x) for x in self._command("HKEYS", "dead"))

    def dead_letters(self, indexes: list[int] | None = None) -> list[DeadLetter]:
        """Dead letters, ascending by index; all of them by default."""
        wanted = self.dead_indexes() if indexes is None else indexes
        letters = []
        for at in range(0, len(wanted), 500):
            part = wanted[at : at + 500]
            for index, blob in zip(part, self._command("HMGET", "dead", *part), strict=True):
                if blob is not None:
                    letters.append(self._letter(index, blob))
        return letters

    def _letter(self, index: int, blob: bytes) -> DeadLetter:
        try:
            values = dict(codec.decode(blob) if blob else _LOST)
            item, key = (values.pop("item"), values.pop("key")) if "item" in values else self.item(index)
            return DeadLetter(index=index, item=item, key=key, **values)
        except (LedgerError, LookupError, TypeError, ValueError) as error:
            raise LedgerCorrupt(f"run {self.run_id}: key dead, field {index} does not parse ({error})") from error

    def item(self, index: int) -> tuple[Any, Any]:
        """Item `index` and its key, as they were submitted."""
        found = self._command("ZREVRANGEBYSCORE", "page_index", index, "-inf", "LIMIT", 0, 1)
        start = int(found[0]) if found else 0
        page, page_keys = self._command("HMGET", "pages", start, f"k{start}")
        items = codec.decode_page(page) if page is not None else []
        if index - start >= len(items):
            if self._command("HGET", "head", "release") == b"1":
                raise RunStateError(
                    f"run {self.run_id} keeps no results, and the inputs of items that ended are deleted with them: "
                    f"item {index} is not stored any more"
                )
            raise LedgerCorrupt(f"run {self.run_id}: key pages, field {start} does not hold item {index}")
        key = codec.decode_page(page_keys)[index - start] if page_keys else None
        return items[index - start], key

    def item_keys(self) -> list[Any] | None:
        """The user's key of every item in order, None when the run has none; None for items not stored any more."""
        found: list[Any] = []
        for start in self._command("ZRANGE", "page_index", 0, -1):
            page_keys = self._command("HGET", "pages", b"k" + start)
            if page_keys is None:
                return None
            found += [None] * (int(start) - len(found))
            found += codec.decode_page(page_keys)
        return found or None

    def events(self, after: str = "-", count: int = 10_000) -> list[tuple[str, dict[str, str]]]:
        """Events in order, from the start or after the event id `after`."""
        start = after if after == "-" else f"({after}"
        entries = self._command("XRANGE", "events", start, "+", "COUNT", count)
        found = []
        for event_id, fields in entries:
            pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
            found.append((event_id.decode(), {k.decode(): v.decode("utf-8", "replace") for k, v in pairs}))
        return found

    def delete(self) -> None:
        """Remove every key of the run."""
        _, rows = self.metric_rows_count()
        every = [*keys.of_run(self.run_id)]
        every += [keys.metrics_segment(self.run_id, s) for s in range(rows // METRIC_SEGMENT_ROWS + 1)]
        self._connection.command("DEL", *every)

    def metric_rows_count(self) -> tuple[int, int]:
        """Batches executed and metric rows stored."""
        batches, rows = self._command("HMGET", "head", "batches", "rows")
        return int(batches or 0), int(rows or 0)

    def structure(self) -> dict[str, Any]:
        """Raw bookkeeping, for `verify`: ranges by place, counters."""
        head = self._command("HMGET", "head", "state", "submitted", "cursor", "ready", "delayed", "claimed", "ok",
                             "dead", "skipped", "finals", "generation")  # fmt: skip
        return {
            "state": (head[0] or b"").decode(),
            "counters": [int(x or 0) for x in head[1:]],
            "ready": [x.decode() for x in self._command("LRANGE", "ready", 0, -1)],
            "delayed": [x.decode() for x in self._command("ZRANGE", "delayed", 0, -1)],
            "claims": [x.decode() for x in self._command("HVALS", "claims")],
            "leases": int(self._command("ZCARD", "leases")),
            "dead": self.dead_indexes(),
        }


_LOST = {
    "error_type": "WorkerLost",
    "message": "the process that executed this item died each time",
    "traceback_text": "",
    "category": "worker_lost",
    "attempts": 0,
    "worker": "",
    "logs": "",
    "at": 0.0,
}
