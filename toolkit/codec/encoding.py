"""Writing: plain values go straight to msgspec, everything else is rewritten first.

msgspec alone would quietly turn a tuple into a list, a set into a list and a datetime into text. So the types are
looked at first: level by level with ``set(map(type, ...))``, which runs in C and costs less than the encoding, and only
a value that holds something else than plain scalars, lists and dicts is walked in Python.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from msgspec.msgpack import Encoder, Ext

from toolkit.codec import extensions
from toolkit.codec.arrays import is_numpy, pack_numpy
from toolkit.codec.counting import check_elements
from toolkit.codec.extensions import PACKERS, pack_int, pack_str
from toolkit.codec.hints import key_refusal, refusal
from toolkit.codec.limits import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_PAGE_BYTES,
    MAX_VALUE_BYTES,
    PAGE_RAW,
    PAGE_ZLIB,
    SCALARS,
    Refused,
    megabytes,
)
from toolkit.errors import EncodeError

_encode: Final[Callable[[Any], bytes]] = Encoder().encode

_CONTAINERS: Final = frozenset({list, dict})
_PLAIN: Final = SCALARS | _CONTAINERS
# Scalars that msgspec takes whatever their value: an int may be too long and a str no Unicode.
_SAFE: Final = SCALARS - {int, str}
_STRICT_LEAVES: Final[dict[type, Callable[[Any], Any]]] = {**PACKERS, int: pack_int, str: pack_str}
_SEQUENCES: Final[dict[type, int]] = {
    tuple: extensions.TUPLE,
    set: extensions.SET,
    frozenset: extensions.FROZENSET,
}

_RAW_BYTE: Final = bytes([PAGE_RAW])
_ZLIB_BYTE: Final = bytes([PAGE_ZLIB])
_COMPRESS_BYTES: Final = 16 * 1024  # below it a page costs more time to compress than it saves on the wire
_SAMPLE_BYTES: Final = 4 * 1024
_WORTH: Final = 0.8  # compressed over raw size, of the sample, from which compression is left out


def is_plain(values: list[Any]) -> bool:
    """Whether `values` holds only exact plain scalars, in lists and dicts within the limits.

    False also means: not sure, walk it. It never recurses, and what it keeps is the containers of one level.
    """
    kinds = set(map(type, values))
    if kinds <= SCALARS:
        return True
    level: list[Any] = values
    elements = 0
    for _ in range(MAX_DEPTH):
        if not kinds <= _PLAIN:
            return False
        dicts = level if kinds == {dict} else [value for value in level if type(value) is dict]
        lists = level if kinds == {list} else [value for value in level if type(value) is list]
        if not set(map(type, chain.from_iterable(dicts))) <= SCALARS:
            return False
        elements += sum(map(len, dicts)) + sum(map(len, lists))
        if elements > MAX_ELEMENTS:
            return False
        kinds = set(map(type, _children(dicts, lists)))
        if kinds <= SCALARS:
            return True
        level = [value for value in _children(dicts, lists) if type(value) in _CONTAINERS]
        # Scalars are not in the level any more, so they do not count among its kinds either.
        kinds = kinds - SCALARS
    return False


def _children(dicts: list[Any], lists: list[Any]) -> Iterator[Any]:
    return chain(chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(lists))


class _Rewriter:
    """Turns values into what msgspec encodes exactly; counts the elements of each on the way.

    Parameters
    ----------
    strict : bool
        Look at each int and str too. Needed only when msgspec has refused one of them, which is rare.
    """

    __slots__ = ("elements", "leaves", "plain", "strict")

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.plain: frozenset[type] = _SAFE if strict else SCALARS
        self.leaves = _STRICT_LEAVES if strict else PACKERS
        self.elements = 0

    def __call__(self, value: Any) -> Any:
        self.elements = 0
        return self._rewrite(value, 0)

    def _rewrite(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in self.plain:
            return value
        pack = self.leaves.get(kind)
        if pack is not None:
            return pack(value)
        if kind is dict:
            return self._dict(value, self._enter(value, depth))
        if kind is list:
            return self._list(value, self._enter(value, depth))
        code = _SEQUENCES.get(kind)
        if code is not None:
            return Ext(code, _encode(self._list(list(value), self._enter(value, depth))))
        if is_numpy(value):
            return pack_numpy(value)
        raise Refused(refusal(value))

    def _enter(self, value: Any, depth: int) -> int:
        if depth >= MAX_DEPTH:
            raise Refused(f"nested deeper than {MAX_DEPTH} levels, or it contains itself")
        self.elements += len(value)
        if self.elements > MAX_ELEMENTS:
            raise Refused(f"more than {MAX_ELEMENTS:,} elements: pass a numpy array, or store it and pass a path")
        return depth + 1

    def _list(self, values: list[Any], depth: int) -> list[Any]:
        plain = self.plain
        if set(map(type, values)) <= plain:
            return values
        out: list[Any] = []
        try:
            for value in values:
                # One by one, so that the length says which one is refused.
                out.append(value if type(value) in plain else self._rewrite(value, depth))  # noqa: PERF401
        except Refused as error:
            raise error.inside(len(out)) from None
        return out

    def _dict(self, values: dict[Any, Any], depth: int) -> Any:
        if not set(map(type, values)) <= SCALARS:
            raise Refused(key_refusal(next(key for key in values if type(key) not in SCALARS)))
        plain = self.plain
        out = {}
        key = None
        try:
            for key, value in values.items():
                out[key] = value if type(value) in plain else self._rewrite(value, depth)
        except Refused as error:
            raise error.inside(key) from None
        return self._keys(out) if self.strict else out

    def _keys(self, values: dict[Any, Any]) -> Any:
        """Rewrite the keys too; where one becomes an extension, which msgspec takes for no key, so do the pairs."""
        keys = self._list(list(values), 0)
        if not any(type(key) is Ext for key in keys):
            return values
        return Ext(extensions.DICT, _encode(list(chain.from_iterable(zip(keys, values.values(), strict=True)))))


def _encode_items(items: list[Any], first_index: int | None, limit: int | None) -> list[bytes]:
    """Encode each item by itself, or raise an error that names its index (none where `first_index` is None)."""
    allowed = MAX_VALUE_BYTES if limit is None else min(limit, MAX_VALUE_BYTES)
    rewrite = _Rewriter(strict=False)
    parts: list[bytes] = []
    for item in items:
        try:
            try:
                data = _encode(rewrite(item))
            except (OverflowError, UnicodeEncodeError):
                data = _encode(_Rewriter(strict=True)(item))
        except Refused as error:
            raise EncodeError(error.reason, _index(first_index, parts), error.path) from None
        if len(data) > allowed:
            hint = "store it and pass a path" + (", or raise the limit" if allowed < MAX_VALUE_BYTES else "")
            reason = f"{megabytes(len(data))} encoded, the limit is {megabytes(allowed)}: {hint}"
            raise EncodeError(reason, _index(first_index, parts))
        parts.append(data)
    return parts


def _index(first_index: int | None, parts: list[bytes]) -> int | None:
    return None if first_index is None else first_index + len(parts)


def encode(value: Any) -> bytes:
    """Encode one value.

    Parameters
    ----------
    value : Any
        See `toolkit.codec` for the types.

    Returns
    -------
    bytes
        MessagePack, not compressed.

    Raises
    ------
    EncodeError
        Something in it cannot be stored exactly, is nested too deep or is too large; names the path inside the value.
    """
    values = [value]
    if is_plain(values):
        try:
            data = _encode(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # a long int, which is rewritten, or no Unicode, which is refused with its path
        else:
            if len(data) <= MAX_VALUE_BYTES:
                return data
    return _encode_items(values, None, None)[0]


def _encode_array(items: list[Any], first_index: int, limit: int | None) -> bytes:
    """Encode a page's items as one MessagePack array."""
    if is_plain(items):
        try:
            data = _encode(items)
        except (OverflowError, UnicodeEncodeError):
            pass  # one of them is a long int or no Unicode: say which
        else:
            if len(data) <= (MAX_VALUE_BYTES if limit is None else min(limit, MAX_VALUE_BYTES)):
                return data  # the page is within the limit of one item, so every item is
    return _join(_encode_items(items, first_index, limit))


def _join(parts: list[bytes]) -> bytes:
    """Make one MessagePack array of encoded elements."""
    count = len(parts)
    if count < 16:
        head = bytes([0x90 | count])
    elif count < 0x10000:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(parts)


def _page(data: bytes, first_index: int) -> bytes:
    """Put the header byte in front, and compress where a sample says that it pays."""
    try:
        check_elements(data)
    except ValueError as error:
        raise EncodeError(f"the values of one page hold {error} in all: put fewer in a page", first_index) from None
    if len(data) >= _COMPRESS_BYTES:
        middle = len(data) // 2
        sample = data[middle : middle + _SAMPLE_BYTES]
        if len(zlib.compress(sample, 1)) < _WORTH * len(sample):
            return _ZLIB_BYTE + zlib.compress(data, 1)
    return _RAW_BYTE + data


def encode_page(values: Sequence[Any], first_index: int = 0, max_item_bytes: int | None = None) -> bytes:
    """Encode a run of consecutive values as one page.

    Parameters
    ----------
    values : sequence
        The values, each as `encode` takes them.
    first_index : int
        Index of the first one, for messages.
    max_item_bytes : int or None
        Largest encoded value in bytes; never more than `MAX_VALUE_BYTES`.

    Returns
    -------
    bytes
        One header byte and a MessagePack array, compressed where that is worth it.

    Raises
    ------
    EncodeError
        A value cannot be stored, or is too large; names its index. Nothing is lost, the caller may leave it out.
        Also where the page would exceed `MAX_PAGE_BYTES`, or hold more than `MAX_ELEMENTS` elements in all;
        `encode_pages` cuts instead.
    """
    items = values if type(values) is list else list(values)
    data = _encode_array(items, first_index, max_item_bytes)
    if len(data) > MAX_PAGE_BYTES:
        raise EncodeError(
            f"{len(items)} values encode to {megabytes(len(data))}, the limit of a page is "
            f"{megabytes(MAX_PAGE_BYTES)}: put fewer in a page",
            first_index,
        )
    return _page(data, first_index)


def encode_pages(
    values: Sequence[Any], first_index: int = 0, max_item_bytes: int | None = None, page_bytes: int = 4 * 1024 * 1024
) -> list[tuple[int, bytes]]:
    """Encode consecutive values as pages of limited size: one page for small values, more for large ones.

    Parameters
    ----------
    values, first_index, max_item_bytes
        As in `encode_page`.
    page_bytes : int
        Largest page before compression; a value that is larger has a page to itself.

    Returns
    -------
    list of (int, bytes)
        Number of values and page, in order. Empty for no values.

    Raises
    ------
    EncodeError
        As in `encode_page`.
    """
    items = values if type(values) is list else list(values)
    data = _encode_array(items, first_index, max_item_bytes)
    if len(data) <= page_bytes:
        return [(len(items), _page(data, first_index))] if items else []
    pages: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    size = 0
    for part in _encode_items(items, first_index, max_item_bytes):
        if parts and size + len(part) > page_bytes:
            pages.append((len(parts), _page(_join(parts), first_index)))
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    pages.append((len(parts), _page(_join(parts), first_index)))
    return pages
