"""Reading: bytes from a server are not trusted.

Whatever they are, the result is a value or a `LedgerCorrupt`. A length in front of a container never allocates more
than the bytes behind it justify (msgspec grows lists as it reads), a compressed page unpacks to `MAX_PAGE_BYTES` at
most, and what is long enough to hold too many elements is counted before any is built (`toolkit.codec.counting`). A
MessagePack timestamp, which `encode` never writes, reads as a datetime in UTC.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final

from msgspec import MsgspecError, Raw
from msgspec.msgpack import Decoder

from toolkit.codec import extensions
from toolkit.codec.arrays import unpack_array, unpack_scalar
from toolkit.codec.counting import check_elements
from toolkit.codec.extensions import UNPACKERS
from toolkit.codec.limits import MAX_DEPTH, MAX_ELEMENTS, MAX_PAGE_BYTES, PAGE_RAW, PAGE_ZLIB, SCALARS
from toolkit.errors import LedgerCorrupt

MALFORMED: Final = (
    MsgspecError,  # before msgspec 0.21 it is no ValueError
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    RecursionError,
    struct.error,
)
"""What reading malformed bytes may raise, in msgspec, in an extension or in numpy."""

_SEQUENCES: Final = frozenset({list, tuple, set, frozenset})
_CONTAINERS: Final = _SEQUENCES | {dict}


class _Nesting(threading.local):
    """How many extensions with parts are being read inside each other in this thread."""

    depth = 0


_nesting = _Nesting()

_ARRAY_HEADS: Final = {0xDC: 3, 0xDD: 5}  # bytes of a MessagePack array's head; a short one has a single byte


def _parts(data: memoryview) -> list[Any]:
    """Read the array inside an extension; bounded, because each level is a level of C calls too."""
    if _nesting.depth >= MAX_DEPTH:
        raise ValueError("nested too deep")
    _nesting.depth += 1
    try:
        parts = _decode(data)
    finally:
        _nesting.depth -= 1
    if type(parts) is not list:
        raise ValueError("an extension holds no array")
    return parts


def _dict(data: memoryview) -> dict[Any, Any]:
    parts = _parts(data)
    return dict(zip(parts[::2], parts[1::2], strict=True))


_UNPACKERS: Final[dict[int, Callable[[memoryview], Any]]] = {
    **UNPACKERS,
    extensions.TUPLE: lambda data: tuple(_parts(data)),
    extensions.SET: lambda data: set(_parts(data)),
    extensions.FROZENSET: lambda data: frozenset(_parts(data)),
    extensions.DICT: _dict,
    extensions.NUMPY_SCALAR: unpack_scalar,
    extensions.NUMPY_ARRAY: unpack_array,
}


def _extension(code: int, data: memoryview) -> Any:
    unpack = _UNPACKERS.get(code)
    if unpack is None:
        raise ValueError(f"extension {code} is unknown: written by a newer version of the toolkit?")
    return unpack(data)


_decode: Final[Callable[[Any], Any]] = Decoder(ext_hook=_extension).decode
_cut: Final[Callable[[Any], list[Raw]]] = Decoder(list[Raw]).decode


def _check(values: list[Any], max_elements: int) -> None:
    """Refuse what `encode` would have refused: too deep, too many elements, a tuple as a key."""
    kinds = set(map(type, values))
    if kinds <= SCALARS:
        return
    level: list[Any] = values
    elements = 0
    for _ in range(MAX_DEPTH + 1):
        kinds &= _CONTAINERS
        if not kinds:
            return
        dicts = level if kinds == {dict} == set(map(type, level)) else [v for v in level if type(v) is dict]
        sequences = [v for v in level if type(v) in _SEQUENCES] if kinds & _SEQUENCES else []
        if not set(map(type, chain.from_iterable(dicts))) <= SCALARS:
            raise ValueError("a dict has a key of another type than str, int, float, bool, None or bytes")
        elements += sum(map(len, dicts)) + sum(map(len, sequences))
        if elements > max_elements:
            raise ValueError(f"more than {max_elements:,} elements")
        kinds = set(map(type, _children(dicts, sequences)))
        level = [v for v in _children(dicts, sequences) if type(v) in _CONTAINERS] if kinds & _CONTAINERS else []
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _children(dicts: list[Any], sequences: list[Any]) -> Iterator[Any]:
    return chain(chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(sequences))


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Decode what `encode` wrote.

    Raises
    ------
    LedgerCorrupt
        The bytes are no such value.
    """
    try:
        check_elements(data)
        value = _decode(data)
        if type(value) in _CONTAINERS:
            _check([value], MAX_ELEMENTS)
    except MALFORMED as error:
        raise _corrupt("a stored value", error) from None
    return value


def _corrupt(what: str, error: BaseException) -> LedgerCorrupt:
    return LedgerCorrupt(f"{what} does not decode: {type(error).__name__}: {str(error)[:200]}")


def _unpack(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """Take the header byte off and decompress; the bytes that follow are still to be decoded."""
    view = memoryview(data)
    kind = view[0]
    if kind == PAGE_RAW:
        check_elements(view[1:])
        return view[1:]
    if kind != PAGE_ZLIB:
        raise ValueError(f"header {kind} is unknown: written by a newer version of the toolkit?")
    inflate = zlib.decompressobj()
    raw = inflate.decompress(view[1:], MAX_PAGE_BYTES + 1)
    if len(raw) > MAX_PAGE_BYTES:
        raise ValueError("it unpacks to more than the limit of a page")
    if not inflate.eof or inflate.unused_data:
        raise ValueError("its compressed bytes end too early or too late")
    check_elements(raw)
    return raw


def page_body(data: bytes | bytearray | memoryview) -> memoryview:
    """Return the encoded values of a page one after the other, the same however a run of values is cut into pages.

    Raises
    ------
    LedgerCorrupt
        The bytes are no page.
    """
    try:
        raw = memoryview(_unpack(data))
        return raw[_ARRAY_HEADS.get(raw[0], 1) :]
    except (*MALFORMED, zlib.error, IndexError) as error:
        raise _corrupt("a stored page", error) from None


def decode_page(data: bytes | bytearray | memoryview) -> list[Any]:
    """Decode what `encode_page` wrote.

    Returns
    -------
    list
        The values, in order.

    Raises
    ------
    LedgerCorrupt
        The bytes are no page.
    """
    try:
        raw = _unpack(data)
        values = _decode(raw)
        if type(values) is not list:
            raise ValueError("no array")
        _check(values, len(raw))  # a page may hold several values of many elements; its size bounds their number
    except (*MALFORMED, zlib.error) as error:
        raise _corrupt("a stored page", error) from None
    return values


def decode_each(data: bytes | bytearray | memoryview) -> list[Any]:
    """Decode what `encode_page` wrote, value by value: one that does not decode leaves the others as they are.

    Returns
    -------
    list
        The values, in order; in the place of one that does not decode, a `LedgerCorrupt` that says why.

    Raises
    ------
    LedgerCorrupt
        The bytes are no page: not even where a value begins can be told.
    """
    try:
        parts = _cut(_unpack(data))
    except (*MALFORMED, zlib.error) as error:
        raise _corrupt("a stored page", error) from None
    return [_one(part) for part in parts]


def _one(part: Raw) -> Any:
    try:
        return decode(memoryview(part))
    except LedgerCorrupt as error:
        return error
