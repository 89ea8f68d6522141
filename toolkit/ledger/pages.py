"""Pages of items: written by the client in order, read by workers in slices, results packed the other way."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from toolkit import codec
from toolkit.errors import LedgerCorrupt

PAGE_ITEMS = 1024
"""Items of a page at most."""
PAGE_BYTES = 1024 * 1024
"""Encoded bytes of a page at most, before compression; more only for a single item."""
KEY_BYTES = 1024
"""Encoded bytes of a user's key at most."""


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive items of a run, encoded.

    Attributes
    ----------
    start, stop : int
        Indexes of its items.
    items : bytes
        The items, as `codec.encode_page` writes them.
    keys : bytes
        The user's keys likewise, empty when there are none.
    """

    start: int
    stop: int
    items: bytes
    keys: bytes = b""


def make_pages(items: Iterable[Any], *, start: int = 0, key: Any = None, max_item_bytes: int) -> Iterator[Page]:
    """Encode a stream of items, page by page, in bounded memory.

    Raises
    ------
    EncodeError
        An item or key cannot be stored exactly; names its index.
    """
    stream = iter(items)
    while chunk := list(islice(stream, PAGE_ITEMS)):
        for count, encoded in codec.encode_pages(chunk, start, max_item_bytes, PAGE_BYTES):
            keys = b""
            if key is not None:
                keys = codec.encode_page([key(item) for item in chunk[:count]], start, KEY_BYTES)
            yield Page(start, start + count, encoded, keys)
            chunk = chunk[count:]
            start += count


class PageCache:
    """Decoded pages that a worker keeps between claims: the one it is on."""

    def __init__(self) -> None:
        self._pages: dict[int, tuple[list[Any], list[Any] | None, int]] = {}

    @property
    def have(self) -> int:
        """First index of the latest page kept, -1 when none."""
        return next(reversed(self._pages)) if self._pages else -1

    def slice(
        self, pages: Sequence[tuple[int, bytes, bytes]], ranges: Sequence[tuple[int, int]]
    ) -> tuple[list[Any], list[Any] | None, int]:
        """Items of `ranges`, their keys where the run has keys, and their share of encoded bytes.

        Parameters
        ----------
        pages : sequence of (start, items, keys)
            Every page that the ranges touch; empty bytes for one that is kept.
        ranges : sequence of (start, stop)
            Item indexes.
        """
        table: dict[int, tuple[list[Any], list[Any] | None, int]] = {}
        for start, blob, keys in pages:
            if blob:
                decoded = codec.decode_page(blob)
                table[start] = (decoded, codec.decode_page(keys) if keys else None, len(blob))
            elif start in self._pages:
                table[start] = self._pages[start]
            else:
                raise LedgerCorrupt(f"page {start} was asked for as known and is not")
        ordered = sorted(table.items())  # the server names a page where a range first touches it
        items: list[Any] = []
        all_keys: list[Any] = []
        size = 0.0
        for a, b in ranges:
            for start, (values, keys_, length) in ordered:
                low, high = max(a, start), min(b, start + len(values))
                if low < high:
                    items += values[low - start : high - start]
                    if keys_ is not None:
                        all_keys += keys_[low - start : high - start]
                    size += length * (high - low) / len(values)
        if len(items) != sum(b - a for a, b in ranges):
            raise LedgerCorrupt(f"pages hold {len(items)} of the items of {ranges}")
        if ordered:
            self._pages = dict(ordered[-1:])
        return items, all_keys or None, int(size)


def pack_output(ranges: Sequence[tuple[int, int]], page: bytes) -> bytes:
    """One element of the outputs list: ok ranges, then their results in the same order."""
    flat = [x for r in ranges for x in r]
    return struct.pack(f"<I{len(flat)}Q", len(ranges), *flat) + page


def unpack_output(data: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """Inverse of `pack_output`.

    Raises
    ------
    LedgerCorrupt
        The element is cut short.
    """
    try:
        (n,) = struct.unpack_from("<I", data)
        flat = struct.unpack_from(f"<{2 * n}Q", data, 4)
    except struct.error as error:
        raise LedgerCorrupt("an element of outputs does not parse") from error
    return list(zip(flat[::2], flat[1::2], strict=True)), data[4 + 16 * n :]
