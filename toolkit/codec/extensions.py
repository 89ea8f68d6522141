"""Extension types: Python values that MessagePack does not know.

======  ===========  ==================================================================================
code    type         payload
======  ===========  ==================================================================================
1       int          beyond 64 bits: little-endian two's complement
2       tuple        MessagePack array
3       set          MessagePack array
4       frozenset    MessagePack array
5       dict         with an integer key beyond 64 bits: MessagePack array of key, value, key, value, …
6       bytearray    its bytes
7       datetime     year u16, month, day, hour, minute, second u8, microsecond u32, fold u8, zone
8       date         year u16, month u8, day u8
9       time         hour, minute, second u8, microsecond u32, fold u8, zone
10      timedelta    days i32, seconds i32, microseconds u32
11      Decimal      its text
12      UUID         16 bytes, and one more where ``is_safe`` is known
13      complex      real and imaginary part, f64
14      path         one of P (PosixPath), W (WindowsPath), p and w (the pure ones), and its text
20      numpy scalar see `toolkit.codec.arrays`
21      ndarray      see `toolkit.codec.arrays`
======  ===========  ==================================================================================

A zone is nothing (naive), or one of ``o`` offset i64 in microseconds, ``n`` the same and a name, ``z`` a zoneinfo key.
All numbers are little-endian. Codes are never used again for something else.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final
from zoneinfo import ZoneInfo

from msgspec.msgpack import Ext

from toolkit.codec.limits import MAX_INT_BYTES, Refused
from toolkit.records import qualified_name

INT: Final = 1
TUPLE: Final = 2
SET: Final = 3
FROZENSET: Final = 4
DICT: Final = 5
BYTEARRAY: Final = 6
DATETIME: Final = 7
DATE: Final = 8
TIME: Final = 9
TIMEDELTA: Final = 10
DECIMAL: Final = 11
UUID: Final = 12
COMPLEX: Final = 13
PATH: Final = 14
NUMPY_SCALAR: Final = 20
NUMPY_ARRAY: Final = 21

_DATETIME: Final = struct.Struct("<HBBBBBIB")
_DATE: Final = struct.Struct("<HBB")
_TIME: Final = struct.Struct("<BBBIB")
_TIMEDELTA: Final = struct.Struct("<iiI")
_COMPLEX: Final = struct.Struct("<dd")
_OFFSET: Final = struct.Struct("<q")
_UTC: Final = b"o" + _OFFSET.pack(0)
_PATHS: Final[dict[bytes, type[PurePath]]] = {
    b"P": PosixPath, b"W": WindowsPath, b"p": PurePosixPath, b"w": PureWindowsPath,
}  # fmt: skip
_MICROSECOND: Final = timedelta(microseconds=1)
# A key becomes a path below the zone database, so it is checked before zoneinfo sees it.
_ZONE_KEY: Final = re.compile(r"[A-Za-z0-9_+-]{1,64}(/[A-Za-z0-9_+-]{1,64}){0,3}", re.ASCII)

# --------------------------------------------------------------------------- writing


def pack_int(value: int) -> int | Ext:
    """Return the integer itself where 64 bits hold it, else its extension."""
    if -0x8000_0000_0000_0000 <= value <= 0xFFFF_FFFF_FFFF_FFFF:
        return value
    size = value.bit_length() // 8 + 1
    if size > MAX_INT_BYTES:
        raise Refused(f"an integer of {value.bit_length():,} bits, the limit is {8 * MAX_INT_BYTES:,}")
    return Ext(INT, value.to_bytes(size, "little", signed=True))


def pack_str(value: str) -> str:
    """Return the text itself when it is Unicode."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            f"text with a lone surrogate at position {error.start}, which is not Unicode: "
            "pass item.encode('utf-8', 'surrogateescape'), or replace it"
        ) from None
    return value


def _zone(zone: tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if zone is UTC:
        return _UTC
    if type(zone) is timezone:
        offset = _OFFSET.pack(zone.utcoffset(None) // _MICROSECOND)
        # The only public way to tell a zone without a name from one that is named after its offset.
        arguments = zone.__getinitargs__()  # type: ignore[attr-defined]
        return b"o" + offset if len(arguments) == 1 else b"n" + offset + pack_str(arguments[1]).encode()
    if type(zone) is ZoneInfo:
        if zone.key is None or not _ZONE_KEY.fullmatch(zone.key):
            raise Refused("a zoneinfo without a usable key: pass ZoneInfo('Area/City')")
        return b"z" + zone.key.encode()
    name = qualified_name(type(zone))
    raise Refused(f"a time zone of type {name}: use zoneinfo.ZoneInfo or datetime.timezone")


def _pack_datetime(v: datetime) -> Ext:
    state = _DATETIME.pack(v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold)
    return Ext(DATETIME, state + _zone(v.tzinfo))


def _pack_time(v: time) -> Ext:
    return Ext(TIME, _TIME.pack(v.hour, v.minute, v.second, v.microsecond, v.fold) + _zone(v.tzinfo))


def _pack_uuid(v: uuid.UUID) -> Ext:
    safe = v.is_safe.value
    return Ext(UUID, v.bytes if safe is None else v.bytes + struct.pack("<b", safe))


def _pack_path(kind: bytes, v: PurePath) -> Ext:
    try:
        return Ext(PATH, kind + str(v).encode())
    except UnicodeEncodeError:
        raise Refused("a path that is not Unicode: pass os.fsencode(item)") from None


PACKERS: Final[dict[type, Callable[[Any], Any]]] = {
    bytearray: lambda v: Ext(BYTEARRAY, bytes(v)),
    datetime: _pack_datetime,
    date: lambda v: Ext(DATE, _DATE.pack(v.year, v.month, v.day)),
    time: _pack_time,
    timedelta: lambda v: Ext(TIMEDELTA, _TIMEDELTA.pack(v.days, v.seconds, v.microseconds)),
    Decimal: lambda v: Ext(DECIMAL, str(v).encode()),
    uuid.UUID: _pack_uuid,
    complex: lambda v: Ext(COMPLEX, _COMPLEX.pack(v.real, v.imag)),
    **{path: partial(_pack_path, kind) for kind, path in _PATHS.items()},
}
"""Exact type to the function that makes it something MessagePack can hold."""

# --------------------------------------------------------------------------- reading


def _unpack_int(data: memoryview) -> int:
    if not 0 < len(data) <= MAX_INT_BYTES:
        raise ValueError(f"an integer of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _read_zone(data: memoryview) -> tzinfo | None:
    if not data:
        return None
    if data == _UTC:
        return UTC
    kind, rest = bytes(data[:1]), data[1:]
    if kind == b"z":
        key = str(rest, "ascii")
        if not _ZONE_KEY.fullmatch(key):
            raise ValueError("a time zone's key is malformed")
        try:
            return ZoneInfo(key)
        except (OSError, LookupError, ValueError):
            raise ValueError(f"time zone {key!r} is unknown on this machine; pip install tzdata") from None
    offset = timedelta(microseconds=_OFFSET.unpack(rest[: _OFFSET.size])[0])
    name = rest[_OFFSET.size :]
    if kind == b"n":
        return timezone(offset, str(name, "utf-8"))
    if kind == b"o" and not name:
        return timezone(offset)
    raise ValueError("a time zone is malformed")


def _unpack_datetime(data: memoryview) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold = _DATETIME.unpack(data[: _DATETIME.size])
    zone = _read_zone(data[_DATETIME.size :])
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _unpack_time(data: memoryview) -> time:
    hour, minute, second, microsecond, fold = _TIME.unpack(data[: _TIME.size])
    return time(hour, minute, second, microsecond, _read_zone(data[_TIME.size :]), fold=fold)


def _unpack_timedelta(data: memoryview) -> timedelta:
    return timedelta(*_TIMEDELTA.unpack(data))


def _unpack_decimal(data: memoryview) -> Decimal:
    text = str(data, "ascii")
    value = Decimal(text)
    if str(value) != text:  # also where the caller's context lets malformed text pass as NaN
        raise ValueError("a decimal number is malformed")
    return value


def _unpack_uuid(data: memoryview) -> uuid.UUID:
    if len(data) == 16:
        return uuid.UUID(bytes=bytes(data))
    return uuid.UUID(bytes=bytes(data[:16]), is_safe=uuid.SafeUUID(*struct.unpack("<b", data[16:])))


def _unpack_path(data: memoryview) -> PurePath:
    path, text = _PATHS.get(bytes(data[:1])), str(data[1:], "utf-8")
    if path is None:
        raise ValueError("a path is malformed")
    try:
        value = path(text)
    except NotImplementedError:
        raise ValueError(f"a {path.__name__} cannot be made on this system; pass str(item)") from None
    if str(value) != text:
        raise ValueError("a path is malformed")
    return value


UNPACKERS: Final[dict[int, Callable[[memoryview], Any]]] = {
    INT: _unpack_int,
    BYTEARRAY: bytearray,
    DATETIME: _unpack_datetime,
    DATE: lambda data: date(*_DATE.unpack(data)),
    TIME: _unpack_time,
    TIMEDELTA: _unpack_timedelta,
    DECIMAL: _unpack_decimal,
    UUID: _unpack_uuid,
    COMPLEX: lambda data: complex(*_COMPLEX.unpack(data)),
    PATH: _unpack_path,
}
"""Code of an extension without parts to the function that reads it."""
