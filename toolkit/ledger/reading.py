"""Reads of a run's bulk: results, metric rows, dead letters, events. Pull only, no transition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit import codec
from toolkit.errors import LedgerCorrupt, LedgerError, RunStateError
from toolkit.ledger import keys
from toolkit.ledger.connection import Connection
from toolkit.ledger.pages import decode_items, unpack_output
from toolkit.ledger.stored import StoredClaim
from toolkit.records import METRIC_ROW, METRIC_SEGMENT_ROWS, DeadLetter, RunStatus

_OUTPUTS_PER_CALL = 200
_LETTERS_PER_CALL = 500
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

    def metric_rows(self, first: int = 0, row_bytes: int = METRIC_ROW.size) -> tuple[list[bytes], int]:
        """Packed metric rows from row number `first` on, and the number to go on from.

        Parameters
        ----------
        first : int
            Number of the first row wanted.
        row_bytes : int
            Bytes of a row, which differ between versions of the layout.

        Returns
        -------
        chunks : list of bytes
            Each a whole number of rows.
        next : int
            Row number after the last one read.
        """
        chunks = list(self.each_metric_rows(first, row_bytes))
        return chunks, first + sum(len(chunk) for chunk in chunks) // row_bytes

    def each_metric_rows(self, first: int = 0, row_bytes: int = METRIC_ROW.size) -> Iterator[bytes]:
        """The same, a few megabytes in memory at a time."""
        per_call = _BYTES_PER_CALL // row_bytes
        while True:
            segment, offset = divmod(first, METRIC_SEGMENT_ROWS)
            rows = min(per_call, METRIC_SEGMENT_ROWS - offset)
            key = keys.metrics_segment(self.run_id, segment)
            data = self._connection.command("GETRANGE", key, offset * row_bytes, (offset + rows) * row_bytes - 1)
            whole = len(data) // row_bytes
            if len(data) % row_bytes:
                raise LedgerCorrupt(f"run {self.run_id}: key metrics:{segment} ends inside a row")
            if whole:
                yield data
                first += whole
            if whole < rows:
                return

    def workers(self) -> dict[int, str]:
        """Worker identities by the code that metric rows carry."""
        codes = self._connection.fields(keys.of(self.run_id, "workers"))
        return {
            self._number("workers", identity, code): identity.decode("utf-8", "replace")
            for identity, code in codes.items()
        }

    def _number(self, key: str, field: Any, value: bytes | None) -> int:
        try:
            return int(value or 0)
        except ValueError as error:
            raise LedgerCorrupt(f"run {self.run_id}: key {key}, field {field} does not parse: {value!r:.60}") from error

    def dead_indexes(self) -> list[int]:
        """Indexes of all dead letters, ascending."""
        return sorted(self._number("dead", "index", x) for x in self._command("HKEYS", "dead"))

    def dead_letters(self, indexes: Sequence[int] | None = None) -> list[DeadLetter]:
        """Dead letters, ascending by index; all of them by default."""
        return list(self.each_dead_letter(indexes))

    def each_dead_letter(self, indexes: Sequence[int] | None = None) -> Iterator[DeadLetter]:
        """The same, a few hundred in memory at a time."""
        wanted = self.dead_indexes() if indexes is None else sorted(set(indexes))
        for at in range(0, len(wanted), _LETTERS_PER_CALL):
            part = wanted[at : at + _LETTERS_PER_CALL]
            for index, blob in zip(part, self._command("HMGET", "dead", *part), strict=True):
                if blob is not None:
                    yield self._letter(index, blob)

    def _letter(self, index: int, blob: bytes) -> DeadLetter:
        values = self._letter_values(index, blob)
        if "item" not in values:
            try:
                values["item"], values["key"] = self._stored_item(index)
            except LedgerError as error:  # a letter without its item is better than no letter, or than no list of them
                values["item"], values["key"] = None, None
                values["message"] = f"{values.get('message', '')} [item not shown: {error}]"
        try:
            letter = DeadLetter(index=index, **values)
        except TypeError as error:
            raise LedgerCorrupt(f"run {self.run_id}: key dead, field {index} does not parse ({error})") from error
        if not all(isinstance(getattr(letter, name), kind) for name, kind in _LETTER_TYPES.items()):
            raise LedgerCorrupt(f"run {self.run_id}: key dead, field {index} holds values of other types")
        return letter

    def _letter_values(self, index: int, blob: bytes) -> dict[str, Any]:
        try:
            return dict(codec.decode(blob) if blob else _LOST)
        except (LedgerError, TypeError, ValueError) as error:
            raise LedgerCorrupt(f"run {self.run_id}: key dead, field {index} does not parse ({error})") from error

    def item(self, index: int) -> tuple[Any, Any]:
        """Item `index` and its key, as they were submitted; of a dead letter, as the letter keeps them.

        Raises
        ------
        RunStateError
            The run releases its inputs, and this one is gone.
        LedgerCorrupt
            It is not where it should be, or does not decode.
        """
        blob = self._command("HGET", "dead", index)
        values = self._letter_values(index, blob) if blob else {}
        return (values["item"], values.get("key")) if "item" in values else self._stored_item(index)

    def _stored_item(self, index: int) -> tuple[Any, Any]:
        found = self._command("ZREVRANGEBYSCORE", "page_index", index, "-inf", "LIMIT", 0, 1)
        start = int(found[0]) if found else 0
        page, page_keys = self._command("HMGET", "pages", start, f"k{start}")
        where = f"run {self.run_id}: key pages, field {start}"
        try:
            items = decode_items(page) if page is not None else []
            all_keys = codec.decode_page(page_keys) if page_keys else None
        except LedgerCorrupt as error:
            raise LedgerCorrupt(f"{where} or k{start}: {error}") from error
        if index - start >= len(items):
            if self._command("HGET", "head", "release") == b"1":
                raise RunStateError(
                    f"run {self.run_id} keeps no results, and the inputs of items that ended are deleted with them: "
                    f"item {index} is not stored any more"
                )
            raise LedgerCorrupt(f"{where} does not hold item {index}")
        item = items[index - start]
        if type(item) is LedgerCorrupt:
            raise LedgerCorrupt(f"{where}: item {index} does not decode ({item})")
        return item, all_keys[index - start] if all_keys else None

    def page(self, start: int) -> tuple[bytes | None, bytes, bytes]:
        """Items, keys and weights of the page that begins at `start`, as a `Page` has them.

        None for the items when it is not stored (any more).
        """
        items, page_keys, weights = self._command("HMGET", "pages", start, f"k{start}", f"w{start}")
        return items, page_keys or b"", weights or b""

    def page_starts(self) -> list[int]:
        """Where each page that the run holds begins, ascending."""
        return [int(start) for start in self._command("ZRANGE", "page_index", 0, -1)]

    def released(self, start: int) -> bool:
        """Whether the page that begins at `start` may be gone because its items ended."""
        release, cursor = self._command("HMGET", "head", "release", "cursor")
        return release == b"1" and self._number("head", "cursor", cursor) > start

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
        return [_event(*entry) for entry in self._command("XRANGE", "events", start, "+", "COUNT", count)]

    def latest_events(self, count: int) -> list[tuple[str, dict[str, str]]]:
        """At most `count` events, the latest first."""
        return [_event(*entry) for entry in self._command("XREVRANGE", "events", "+", "-", "COUNT", count)]

    def await_events(self, after: str, block_s: float, count: int = 1000) -> list[tuple[str, dict[str, str]]]:
        """Events after the id `after`; waits for the first of them, up to `block_s` seconds, at the server.

        Parameters
        ----------
        after : str
            Id of an event, or ``0-0`` for the start.
        block_s : float
            At most 2 s are waited, well below the time after which a connection counts as dead.
        """
        key = keys.of(self.run_id, "events")
        block_ms = max(1, int(1000 * min(block_s, 2.0)))
        answer = self._connection.command(
            "XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", key, after, retry_s=min(block_s, 2.0)
        )
        streams = list(answer.items()) if isinstance(answer, dict) else answer or []
        return [_event(*entry) for _, entries in streams for entry in entries]

    def claims(self) -> dict[bytes, StoredClaim]:
        """Each live claim by its id.

        Raises
        ------
        LedgerCorrupt
            One of them does not parse.
        """
        claims = self._connection.fields(keys.of(self.run_id, "claims"))
        return {claim_id: StoredClaim.parse(data) for claim_id, data in claims.items()}

    def delete(self) -> None:
        """Remove every key of the run."""
        rows = self.metric_rows_count()
        every = [*keys.of_run(self.run_id)]
        every += [keys.metrics_segment(self.run_id, s) for s in range(rows // METRIC_SEGMENT_ROWS + 1)]
        self._connection.command("DEL", *every)

    def retire(self, status: RunStatus) -> bool:
        """Remove every key of a run that has ended, unless it went on since `status`; returns whether it is gone.

        Another run that has the id by now stays.
        """
        created_at = round(status.created_at * 1000)
        return bool(self._connection.call("retire", keys.of_run(self.run_id), status.batches, status.dead, created_at))

    def first_metric_rows(self, most: int) -> bytes:
        """The packed metric rows of the first batches that ended, `most` of them at most."""
        key = keys.metrics_segment(self.run_id, 0)
        data: bytes = self._connection.command("GETRANGE", key, 0, min(most, METRIC_SEGMENT_ROWS) * METRIC_ROW.size - 1)
        return data[: len(data) // METRIC_ROW.size * METRIC_ROW.size]

    def metric_rows_count(self) -> int:
        """Metric rows stored, one for each executed batch."""
        return self._number("head", "rows", self._command("HGET", "head", "rows"))

    def structure(self) -> dict[str, Any]:
        """Raw bookkeeping, for `verify`: ranges by place, counters."""
        counters = (
            "submitted", "cursor", "ready", "delayed", "claimed", "ok", "dead", "skipped", "finals", "generation",
        )  # fmt: skip
        state, weights, *values = self._command("HMGET", "head", "state", "weight_size", *counters)
        ready = "LRANGE" if weights is None else "ZRANGE"
        return {
            "state": _text(state or b""),
            "counters": [self._number("head", field, x) for field, x in zip(counters, values, strict=True)],
            "ready": [_text(x) for x in self._command(ready, "ready", 0, -1)],
            "delayed": [_text(x) for x in self._command("ZRANGE", "delayed", 0, -1)],
            "claims": [StoredClaim.parse(data) for data in self._command("HVALS", "claims")],
            "dead": self.dead_indexes(),
        }


def _event(event_id: bytes, fields: Any) -> tuple[str, dict[str, str]]:
    pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    return event_id.decode(), {_text(k): _text(v) for k, v in pairs}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


_LETTER_TYPES: dict[str, type | tuple[type, ...]] = {
    "error_type": str, "message": str, "traceback_text": str, "category": str, "worker": str, "logs": str,
    "attempts": int, "at": (int, float),
}  # fmt: skip
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
