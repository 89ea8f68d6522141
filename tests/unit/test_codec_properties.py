"""Whatever goes in comes out, of the same type all the way down; whatever bytes come in, the error is typed."""

from __future__ import annotations

import math
import pathlib
import uuid
import zlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit import codec
from toolkit.errors import LedgerCorrupt


def same(left: Any, right: Any) -> bool:
    """Whether two values are alike in type, value, order, sign of zero and NaN, at every depth."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left.items(), right.items(), strict=True))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and sorted(map(_picture, left)) == sorted(map(_picture, right))
    if isinstance(left, np.ndarray | np.generic) and not isinstance(left, np.str_ | np.bytes_):
        return (
            left.dtype == right.dtype
            and repr(left.dtype) == repr(right.dtype)
            and left.shape == right.shape
            and _bits(left) == _bits(right)
        )
    return _picture(left) == _picture(right)


def _bits(array: Any) -> Any:
    """Bytes of an array; of its fields where it has some, because the padding between them means nothing."""
    if array.dtype.names is None:
        return array.tobytes()
    return [_bits(array[name]) for name in array.dtype.names]


def _picture(value: Any) -> Any:
    """Text in which nothing that matters is lost."""
    if isinstance(value, datetime | time):
        return repr((value.replace(tzinfo=None), value.fold, value.tzinfo))
    if isinstance(value, np.str_ | np.bytes_):  # numpy prints neither the trailing zeros nor the length
        return f"{type(value).__name__} {list(value)} {len(value)}"
    if isinstance(value, uuid.UUID):
        return repr((value, value.is_safe))
    if isinstance(value, tuple | frozenset):
        return repr((type(value), sorted(map(_picture, value), key=str)))
    return f"{type(value).__name__} {value!r}"


zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+9"]).map(ZoneInfo),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5)),
)
moments = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.sampled_from([0, 1])
)
clocks = st.builds(lambda t, zone, fold: t.replace(tzinfo=zone, fold=fold), st.times(), zones, st.sampled_from([0, 1]))
keys = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**80), 2**80), st.floats(), st.text(), st.binary()
)
hashable_leaves = st.one_of(
    keys,
    moments,
    clocks,
    st.dates(),
    st.timedeltas(),
    st.decimals().filter(lambda number: not number.is_snan()),  # it has no hash
    st.uuids(),
    st.complex_numbers(),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.int64, st.integers(-(2**63), 2**63 - 1)),
)
number_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(sizes=(64, 128)),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
    hnp.byte_string_dtypes(max_len=5),
    hnp.unicode_string_dtypes(max_len=5),
)
dtypes = st.one_of(number_dtypes, hnp.array_dtypes(number_dtypes, max_size=3, allow_subarrays=True))
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
scalars_of_numpy = hnp.arrays(number_dtypes, 1).map(lambda array: array[0])
leaves = st.one_of(hashable_leaves, st.binary().map(bytearray), arrays, scalars_of_numpy)
hashables = st.recursive(
    hashable_leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.lists(inner, max_size=3).map(frozenset)),
    max_leaves=5,
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(hashables, max_size=3),
        st.frozensets(hashables, max_size=3),
    ),
    max_leaves=12,
)

EXACT = [
    None,
    True,
    0,
    -1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    2**8191 - 1,
    -(2**8191) + 1,
    -0.0,
    math.inf,
    math.nan,
    "",
    "\x00\u2028\U0001f600",
    b"",
    bytearray(b"\x00"),
    {1: "int", 1.5: "float", None: "none", b"1": "bytes", "1": "str", 2**70: [2**70, (2**70,)]},
    {True: 1},
    {2: 0, 1: 0},
    (),
    ((), [()], {"a": ()}),
    {frozenset({(1, 2.0)}), True},
    datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    datetime.min,
    datetime.max.replace(tzinfo=UTC),
    datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=-3, microseconds=7))),
    datetime(2020, 1, 1, tzinfo=timezone(timedelta(0), "UTC")),
    time(23, 59, 59, 999999, fold=1),
    date.max,
    timedelta.min,
    timedelta.max,
    Decimal("-0E+7"),
    Decimal("1.10"),
    Decimal("sNaN12"),
    uuid.UUID(int=7, is_safe=uuid.SafeUUID.unsafe),
    uuid.UUID(int=7),
    complex(-0.0, math.nan),
    pathlib.Path("/a/../b é.pdf"),
    pathlib.Path(),
    [pathlib.PurePosixPath("a//b"), pathlib.PureWindowsPath("C:/a")],
    np.float64(-0.0),
    np.str_("a\x00"),
    np.bytes_(b"a\x00"),
    np.datetime64("NaT"),
    np.datetime64("2020-01-01T00:00:25", "25s"),
    np.timedelta64(3, "ns"),
    np.bool_(True),
    np.void(b"ab\x00"),
    np.array(5),
    np.zeros((3, 0, 2), ">f4"),
    np.zeros((0, 10**6)),
    np.zeros(2, "V0"),
    np.array(["é", ""], ">U3"),
    np.zeros(2, np.dtype([("a", "i1"), ("b", ">f8", (2, 1))], align=True)),
    np.zeros(2, np.dtype({"names": ["x"], "formats": ["<i2"], "offsets": [3], "titles": ["X"], "itemsize": 9})),
    np.zeros(1, [("a", [("b", "M8[us]")])])[0],
]


@pytest.mark.parametrize("value", EXACT, ids=lambda value: repr(value)[:30])
def test_edges_round_trip(value: Any) -> None:
    assert same(codec.decode(codec.encode(value)), value)
    assert same(codec.decode_page(codec.encode_page([0, value, value])), [0, value, value])


@given(values)
def test_a_value_round_trips(value: Any) -> None:
    assert same(codec.decode(codec.encode(value)), value)


@given(st.lists(values, max_size=6))
def test_a_page_round_trips(page: list[Any]) -> None:
    assert same(codec.decode_page(codec.encode_page(page)), page)


@given(st.lists(st.one_of(values, st.binary(max_size=3000)), max_size=12), st.integers(1, 4000))
def test_pages_of_limited_size_hold_the_values_in_order(items: list[Any], page_bytes: int) -> None:
    pages = codec.encode_pages(items, page_bytes=page_bytes)
    decoded = [codec.decode_page(page) for _, page in pages]
    assert [count for count, _ in pages] == [len(part) for part in decoded]
    assert all(decoded)
    sizes = [sum(len(codec.encode(value)) for value in part) for part in decoded]
    assert all(size <= page_bytes or len(part) == 1 for size, part in zip(sizes, decoded, strict=True))
    assert same([value for part in decoded for value in part], items)


def test_the_bits_of_nan_are_kept() -> None:
    payload = np.array([0x7FF8_0000_0000_00AB], "u8").view("f8")
    assert codec.decode(codec.encode(payload)).view("u8")[0] == 0x7FF8_0000_0000_00AB
    assert codec.decode(codec.encode(payload[0])).view("u8") == 0x7FF8_0000_0000_00AB


def _refuse_or_read(decode: Any, data: bytes) -> None:
    try:
        value = decode(data)
    except LedgerCorrupt:
        return
    assert same(value, value)  # what was read can be looked at, at every depth


@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_a_typed_error(data: bytes) -> None:
    _refuse_or_read(codec.decode, data)
    _refuse_or_read(codec.decode_page, data)
    _refuse_or_read(codec.decode_page, b"\x01" + data)
    _refuse_or_read(codec.decode_page, b"\x02" + zlib.compress(data, 1))


@given(st.integers(-128, 127), st.binary(max_size=60))
def test_any_extension_gives_a_value_or_a_typed_error(code: int, payload: bytes) -> None:
    _refuse_or_read(codec.decode, b"\xc7" + bytes([len(payload), code % 256]) + payload)


@given(values, st.data())
def test_mutated_bytes_give_a_value_or_a_typed_error(value: Any, data: st.DataObject) -> None:
    mutated = bytearray(codec.encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated)))
        mutated[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    _refuse_or_read(codec.decode, bytes(mutated))


@given(
    st.recursive(
        st.one_of(
            st.none(), st.integers(-3, 2**33), st.booleans(), st.sampled_from(["<f8", "|O", "U", "<U1", "|V0", "<m8"])
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.fixed_dictionaries(
                {
                    "names": st.lists(st.text(max_size=2)),
                    "formats": inner,
                    "offsets": st.lists(inner),
                    "titles": inner,
                    "itemsize": inner,
                    "aligned": inner,
                }
            ),
        ),
        max_leaves=6,
    ),
    st.binary(max_size=32),
)
def test_a_hostile_array_header_gives_a_value_or_a_typed_error(header: Any, elements: bytes) -> None:
    packed = msgspec.msgpack.encode(header)
    payload = len(packed).to_bytes(2, "little") + packed + elements
    for code in (20, 21):
        _refuse_or_read(codec.decode, msgspec.msgpack.encode(msgspec.msgpack.Ext(code, payload)))
