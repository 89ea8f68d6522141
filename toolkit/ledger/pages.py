"""Pages of items: written by the client in order, read by workers in slices, results packed the other way."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any

from toolkit import codec
from toolkit.errors import LedgerCorrupt

PAGE_ITEMS = 1024
"""Items of a page at most."""
PAGE_SCALARS = 8 * PAGE_ITEMS
"""Of numbers and the like in a sequence: nobody waits for them to be made, and a page of them decodes at once."""
PAGE_BYTES = 1024 * 1024
"""Encoded bytes of a page at most, before compression; more only for a single item."""
KEY_BYTES = 1024
"""Encoded bytes of a user's key at most."""

Draw = Callable[[int], list[Any]]
"""Given an index, the items from there on that belong into one page; none at the end of the input."""


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
    weights : bytes
        Running sums of the items' weights, little-endian 64-bit floats; empty when they have none.
    alone : bytes
        Offsets of items so heavy that they begin before the others, ascending, little-endian 32-bit.
    """

    start: int
    stop: int
    items: bytes
    keys: bytes = b""
    weights: bytes = b""
    alone: bytes = b""


class InputDigest:
    """What tells one run's input from another one's: a digest of items and keys, however they are cut into pages."""

    def __init__(self) -> None:
        self._parts = [hashlib.blake2b(digest_size=16) for _ in range(2)]

    def add(self, page: Page) -> None:
        """Take the next page in, in order from the first one on."""
        for digest, part in zip(self._parts, (page.items, page.keys), strict=True):
            if part:
                digest.update(codec.page_body(part))

    def text(self) -> str:
        """The digest of the pages so far."""
        return hashlib.blake2b(b"".join(part.digest() for part in self._parts), digest_size=16).hexdigest()


def make_pages(items: Iterable[Any], *, start: int = 0, key: Any = None, max_item_bytes: int) -> Iterator[Page]:
    """Encode items into full pages, one by one, in bounded memory; raises as `draw_pages` does."""
    return draw_pages(draw_from(items), start=start, key=key, max_item_bytes=max_item_bytes)


class Cuts:
    """Where the pages of an input that a run holds already are cut, so that what is given again can be compared.

    Parameters
    ----------
    stops : sequence of int
        Known ones, ascending; the last is how many items the run holds.
    whole_from : int
        From the page on that begins here they are all of them: none of those was deleted.
    """

    def __init__(self, stops: Sequence[int] = (), *, whole_from: int = 0) -> None:
        self._stops = stops
        self._whole_from = whole_from

    def count(self, start: int, most: int) -> int | None:
        """How many items from `start` on go into one page, None behind what the run holds.

        No page goes across a known cut. One that is not known to be a page of the run has `most` items at most.
        """
        at = bisect_right(self._stops, start)
        if at == len(self._stops):
            return None
        count = self._stops[at] - start
        return count if start >= self._whole_from else min(count, most)


def draw_from(items: Iterable[Any], cuts: Cuts | None = None) -> Draw:
    """Draw full pages from an iterable, cut as `cuts` says."""
    stream, known = iter(items), cuts or Cuts()
    most = PAGE_SCALARS if isinstance(items, Sequence) else PAGE_ITEMS
    return lambda at: list(islice(stream, known.count(at, most) or most))


def draw_pages(draw: Draw, *, start: int = 0, key: Any = None, max_item_bytes: int) -> Iterator[Page]:
    """Encode items into pages whose cuts `draw` decides; one of too many bytes becomes several.

    Raises
    ------
    EncodeError
        An item or key cannot be stored exactly; names its index.
    """
    while ahead := draw(start):
        # A page of others is decoded anew where user code may have changed them, so it stays small.
        step = len(ahead) if _IMMUTABLE.issuperset(map(type, ahead)) else PAGE_ITEMS
        for at in range(0, len(ahead), step):
            yield from _pages_of(ahead[at : at + step], start, key, max_item_bytes)
            start += len(ahead[at : at + step])


def _pages_of(chunk: list[Any], start: int, key: Any, max_item_bytes: int) -> Iterator[Page]:
    """Encode what is one page, or more where it is too large for one."""
    for count, encoded in codec.encode_pages(chunk, start, max_item_bytes, PAGE_BYTES):
        keys = b""
        if key is not None:
            keys = codec.encode_page([key(item) for item in chunk[:count]], start, KEY_BYTES)
        yield Page(start, start + count, encoded, keys)
        chunk = chunk[count:]
        start += count


def weigh_page(page: Page, weights: Sequence[float], alone: Sequence[int] = ()) -> Page:
    """Return `page` with the weights of its items, and the offsets of those that begin before the others."""
    sums = struct.pack(f"<{len(weights)}d", *accumulate(weights))
    return replace(page, weights=sums, alone=struct.pack(f"<{len(alone)}I", *alone))


def decode_items(blob: bytes) -> list[Any]:
    """Items of an encoded page; in the place of one that does not decode, a `LedgerCorrupt` that says why.

    Raises
    ------
    LedgerCorrupt
        It is no page at all.
    """
    try:
        return codec.decode_page(blob)
    except LedgerCorrupt:
        return codec.decode_each(blob)


_IMMUTABLE = frozenset((bool, int, float, str, bytes, type(None)))


class _Decoded:
    """One page in memory.

    User code may change an item in place. A position that was handed out once is therefore decoded anew the next time,
    unless the items are of a kind that nobody can change.
    """

    __slots__ = ("_blob", "_handed", "_mutable", "bad", "keys", "size", "values")

    def __init__(self, blob: bytes, keys: bytes) -> None:
        self._blob = blob
        self.values = decode_items(blob)
        self.keys = codec.decode_page(keys) if keys else None
        self.bad = {at: value for at, value in enumerate(self.values) if type(value) is LedgerCorrupt}
        self.size = len(blob)
        self._mutable = not _IMMUTABLE.issuperset(map(type, self.values))
        self._handed: set[int] = set()

    def take(self, low: int, high: int) -> list[Any]:
        """Items of the positions ``low <= i < high``, as they were submitted."""
        if self._mutable:
            positions = range(low, high)
            if not self._handed.isdisjoint(positions):
                self.values = decode_items(self._blob)
                self._handed.clear()
            self._handed.update(positions)
        return self.values[low:high]

    def original(self, position: int) -> Any:
        """One item as it was submitted, whatever became of the one handed out."""
        return decode_items(self._blob)[position] if self._mutable else self.values[position]


def _decoded(start: int, blob: bytes, keys: bytes) -> _Decoded:
    try:
        return _Decoded(blob, keys)
    except LedgerCorrupt as error:
        raise LedgerCorrupt(f"key pages, field {start} or k{start}: {error}") from error


class PageCache:
    """Decoded pages that a worker keeps between claims: the one it is on."""

    def __init__(self) -> None:
        self._pages: dict[int, _Decoded] = {}
        self._kept = -1

    @property
    def have(self) -> int:
        """First index of the latest page kept, -1 when none."""
        return self._kept

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

        Raises
        ------
        LedgerCorrupt
            The pages do not hold what the ranges name.
        """
        table = {start: self._page(start, blob, keys) for start, blob, keys in pages}
        ordered = sorted(table.items())  # the server names a page where a range first touches it, not in order
        items: list[Any] = []
        all_keys: list[Any] = []
        size = 0.0
        for a, b in ranges:
            for start, page in ordered:
                low, high = max(a - start, 0), min(b - start, len(page.values))
                if low < high:
                    items += page.take(low, high)
                    if page.keys is not None:
                        all_keys += page.keys[low:high]
                    size += page.size * (high - low) / len(page.values)
        if len(items) != sum([b - a for a, b in ranges]):
            fields = ", ".join(map(str, sorted(table)))
            raise LedgerCorrupt(
                f"key pages, field {fields}: pages hold {len(items)} of the items of {list(ranges)[:5]}"
            )
        if table:
            # all pages of this claim stay until the next one, for `original`
            self._pages, self._kept = table, max(table)
        return items, all_keys or None, int(size)

    def undecodable(self) -> dict[int, LedgerCorrupt]:
        """Indexes of items on the pages of the latest slice that do not decode, and why."""
        return {start + at: error for start, page in self._pages.items() for at, error in page.bad.items()}

    def _page(self, start: int, blob: bytes, keys: bytes) -> _Decoded:
        if blob:
            return _decoded(start, blob, keys)
        if start not in self._pages:
            raise LedgerCorrupt(f"page {start} was asked for as known and is not")
        return self._pages[start]

    def original(self, index: int) -> Any:
        """Item `index` of the latest slice as it was submitted, even if user code changed the one handed out."""
        start = max(s for s in self._pages if s <= index)
        return self._pages[start].original(index - start)


_ONE_RANGE = struct.Struct("<I2Q")


def pack_output(ranges: Sequence[tuple[int, int]], page: bytes) -> bytes:
    """One element of the outputs list: ok ranges, then their results in the same order."""
    if len(ranges) == 1:
        return _ONE_RANGE.pack(1, *ranges[0]) + page
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
