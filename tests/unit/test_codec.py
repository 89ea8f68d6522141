"""What the codec refuses and how it says so, its limits, its pages."""

from __future__ import annotations

import collections
import dataclasses
import enum
import fractions
import io
import os
import pathlib
import subprocess
import sys
import tracemalloc
import types
import zlib
from datetime import UTC, datetime, tzinfo
from decimal import InvalidOperation, localcontext
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pytest

from toolkit import codec
from toolkit.codec import decoding, encoding
from toolkit.errors import EncodeError, InvalidInput, LedgerCorrupt

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Page:
    path: str


class Struct(msgspec.Struct):
    x: int


class Text(str):
    __slots__ = ()


class Celsius(np.float64):
    pass


class OddZone(tzinfo):
    pass


REFUSED: list[tuple[Any, str]] = [
    (Colour.RED, "pass item.value"),
    (Point(1, 2), "item._asdict()"),
    (Page("a.pdf"), "dataclasses.asdict(item)"),
    (Struct(1), "msgspec.to_builtins(item)"),
    (Text("a"), "pass str(item)"),
    (collections.OrderedDict(a=1), "pass dict(item)"),
    (collections.Counter("a"), "pass dict(item)"),
    (types.MappingProxyType({}), "pass dict(item)"),
    (collections.deque([1]), "pass list(item)"),
    (range(3), "pass list(item)"),
    (iter([1]), "pass list(item)"),
    ({}.keys(), "pass list(item)"),
    (memoryview(b"a"), "pass bytes(item)"),
    (list(os.scandir("tests"))[0], "pass os.fspath(item)"),  # noqa: RUF015 - an iterator left open is a warning
    (pathlib.Path("a\udc80"), "pass os.fsencode(item)"),
    (io.BytesIO(b"a"), "store it and pass a path"),
    (ValueError("x"), "pass str(item)"),
    (int, "pass its name"),
    (len, "pass its name"),
    (fractions.Fraction(1, 3), "pass plain data"),
    (object(), "pass plain data"),
    (pd.Timestamp("2020-01-01"), "item.to_pydatetime()"),
    (pd.Timedelta("1s"), "item.to_pytimedelta()"),
    (pd.NaT, "pass None"),
    (pd.NA, "pass None"),
    (pd.DataFrame({"a": [1]}), "store it and pass a path"),
    (pd.Series([1]), "item.to_numpy()"),
    (pd.RangeIndex(3), "item.to_numpy()"),
    (pd.Categorical(["a"]), "store it and pass a path"),
    (next(pd.DataFrame({"a": [1]}).itertuples()), "pass item._asdict() or tuple(item)"),
    (np.ma.array([1]), "item.filled()"),
    (np.zeros((1, 1)).view(np.matrix), "numpy.asarray(item)"),
    (np.zeros(1, [("a", "i4")]).view(np.recarray), "numpy.asarray(item)"),
    (np.zeros(1, [("a", "i4")]).view(np.recarray)[0], "pass a dict"),
    (np.array([object()]), "item.tolist()"),
    (np.zeros(1, [("a", "O")]), "item.tolist()"),
    (np.longdouble(1), "astype('float64')"),
    (Celsius(1), "pass float(item)"),
    (np.zeros(1, "f8").astype(np.dtype("f8", metadata={"unit": "s"})), "metadata"),
    (np.zeros(1, np.dtypes.StringDType()), "item.astype"),
    (datetime(2020, 1, 1, tzinfo=OddZone()), "zoneinfo.ZoneInfo"),
    ("a\ud800", "lone surrogate at position 1"),
    (np.str_("\udc00"), "lone surrogate"),
    (1 << 8192, "8,193 bits"),
    ({(1, 2): 3}, "list of pairs"),
    ({Colour.RED: 3}, "list of pairs"),
    ({np.int64(1): 3}, "list of pairs"),
    ({"\ud800": 3}, "lone surrogate"),
]


@pytest.mark.parametrize(("value", "hint"), REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": (v,)}], ids=["bare", "list", "dict"])
def test_what_would_change_is_refused_with_a_hint(value: Any, hint: str, wrap: Any) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode(wrap(value))
    assert hint in str(caught.value)
    assert isinstance(caught.value, InvalidInput)


def test_the_error_names_index_and_path() -> None:
    items = [{"rows": [1, 2]}, {"rows": [1, 2, {"at": [object()]}]}]
    with pytest.raises(EncodeError) as caught:
        codec.encode_page(items, first_index=70)
    assert (caught.value.index, caught.value.path) == (71, "['rows'][2]['at'][0]")
    assert str(caught.value).startswith("item 71 at value['rows'][2]['at'][0]: object cannot be stored")


def test_a_single_value_has_no_index() -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode((0, {2**80: "\ud800"}))
    assert (caught.value.index, caught.value.path) == (None, f"[1][{2**80}]")


@pytest.mark.parametrize("bad", ["\ud800", 1 << 8192, object(), [object()]], ids=["text", "int", "object", "nested"])
def test_one_bad_scalar_in_a_page_of_good_ones_is_found(bad: Any) -> None:
    items: list[Any] = [*range(500), bad, *range(500)]
    with pytest.raises(EncodeError, match="item 1500"):
        codec.encode_page(items, first_index=1000)


def test_the_path_of_an_unprintable_or_long_key_is_short() -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode({"k" * 1000: object(), 1: 2})
    assert len(caught.value.path) < 60
    with pytest.raises(EncodeError, match=r"\[an int\]"):
        codec.encode({1 << 20_000: object()})


def test_messages_hold_no_content() -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode([Text("secret")])
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------------- limits


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("leaf", [0, (0,)], ids=["plain", "walked"])
def test_depth_has_a_limit(leaf: Any) -> None:
    allowed = codec.MAX_DEPTH - isinstance(leaf, tuple)
    value = _nested(allowed)
    inner = value
    while inner:
        inner = inner[0]
    inner.append(leaf)
    assert codec.decode(codec.encode(value)) == value
    assert codec.decode_page(codec.encode_page([value])) == [value]
    with pytest.raises(EncodeError, match="nested deeper than 64 levels"):
        codec.encode([value])
    with pytest.raises(EncodeError, match="item 1 at value"):
        codec.encode_page([value, [value]])


def test_a_value_that_contains_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_ELEMENTS", 10_000)  # what doubles at each level ends at this limit instead
    chain: list[Any] = []
    chain.append(chain)
    bush: dict[str, Any] = {}
    bush.update(a=bush, b=[bush])
    with pytest.raises(EncodeError, match="contains itself"):
        codec.encode(chain)
    with pytest.raises(EncodeError, match=r"contains itself|elements"):
        codec.encode(bush)


@pytest.mark.parametrize("value", [[[0] * 60, [0] * 41], {"a": (0,) * 100}], ids=["plain", "walked"])
def test_elements_have_a_limit(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    data = codec.encode(value)
    monkeypatch.setattr(encoding, "MAX_ELEMENTS", 100)
    monkeypatch.setattr(decoding, "MAX_ELEMENTS", 100)
    with pytest.raises(EncodeError, match="more than 100 elements"):
        codec.encode(value)
    with pytest.raises(LedgerCorrupt, match="more than 100 elements"):
        codec.decode(data)


def test_the_limit_of_elements_is_one_for_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_ELEMENTS", 100)
    page = [[0] * 90, (0,) * 90]
    assert codec.decode_page(codec.encode_page(page)) == page


def test_size_has_a_limit_for_each_item() -> None:
    items = [b"a" * 10, b"b" * 200, b"c"]
    assert codec.decode_page(codec.encode_page(items, 0, 202)) == items
    with pytest.raises(EncodeError, match=r"item 6: 0\.0 MB encoded.*store it and pass a path, or raise the limit"):
        codec.encode_page(items, 5, 201)


def test_many_small_items_may_exceed_the_limit_of_one() -> None:
    items = ["x" * 50] * 100
    assert codec.decode_page(codec.encode_page(items, 0, 60)) == items


def test_no_setting_lifts_the_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_VALUE_BYTES", 100)
    for call in (codec.encode, lambda value: codec.encode_page([value], 3, 10**9)):
        with pytest.raises(EncodeError, match=r"store it and pass a path$"):
            call(b"a" * 200)


def test_a_page_that_is_too_large_is_refused_and_cut_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_PAGE_BYTES", 1000)
    items = [bytes(400)] * 4
    with pytest.raises(EncodeError, match="put fewer in a page"):
        codec.encode_page(items)
    assert [count for count, _ in codec.encode_pages(items, page_bytes=1000)] == [2, 2]
    assert codec.encode_pages([]) == []


def test_a_broadcast_array_is_refused_before_it_is_copied() -> None:
    with pytest.raises(EncodeError, match="store it and pass a path"):
        codec.encode(np.broadcast_to(np.float64(0), (10**10,)))


# --------------------------------------------------------------------------- pages


@pytest.mark.parametrize(
    ("values", "kind"),
    [([], 1), (list(range(1024)), 1), (["text " * 20] * 1024, 2), ([np.random.default_rng(0).bytes(60_000)], 1)],
    ids=["empty", "small", "large", "noise"],
)
def test_a_page_is_compressed_where_that_pays(values: list[Any], kind: int) -> None:
    page = codec.encode_page(values)
    assert page[0] == kind
    assert codec.decode_page(page) == values


def test_a_page_is_read_from_any_buffer() -> None:
    page = codec.encode_page([1, "a"])
    assert codec.decode_page(bytearray(page)) == codec.decode_page(memoryview(page)) == [1, "a"]


def test_values_may_be_any_sequence() -> None:
    assert codec.decode_page(codec.encode_page((1, (2,)))) == [1, (2,)]
    assert codec.decode_page(codec.encode_page(range(3))) == [0, 1, 2]


@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
def test_both_ways_of_writing_a_page_agree(count: int) -> None:
    assert encoding._join([b"\x07"] * count) == msgspec.msgpack.encode([7] * count)


def test_arrays_come_back_writable_and_apart() -> None:
    array = np.arange(6.0).reshape(2, 3).T
    first, second = codec.decode_page(codec.encode_page([array, array]))
    first[0, 0] = 99
    assert (second == array).all()
    assert first.flags.aligned


# --------------------------------------------------------------------------- hostile bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x00\x90",
        b"\x03\x90",
        b"\x01\x05",
        b"\x01\x91",
        b"\x01\x90\x90",
        b"\x02junk",
        b"\x02" + zlib.compress(b"\x90")[:-1],
        b"\x02" + zlib.compress(b"\x90") + b"x",
    ],
)
def test_what_is_no_page_gives_a_typed_error(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="a stored page does not decode"):
        codec.decode_page(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\xa2\xff\xff",
        b"\xd4\x63a",
        b"\x81\x91\x01\x02",  # a tuple as a key
        b"\x81\x90\x02",
        b"\xd6\xff\x00",
        b"\x91" * 65 + b"\x00",
        b"\x91" * 100_000,
        b"\xc7\x02\x02\x91" * 3,
        b"\xd4\x0b" + b"x",
        b"\xc7\x0a\x07" + bytes(10),
    ],
)
def test_what_is_no_value_gives_a_typed_error(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="a stored value does not decode"):
        codec.decode(data)


def test_extensions_inside_extensions_have_a_limit() -> None:
    data = b"\x90"
    for _ in range(codec.MAX_DEPTH + 1):
        data = msgspec.msgpack.encode([msgspec.msgpack.Ext(2, data)])
    with pytest.raises(LedgerCorrupt, match="nested too deep"):
        codec.decode(data)
    assert codec.decode(codec.encode((1,))) == (1,)  # the count is back at zero


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("../../etc/passwd", "malformed"),
        ("/etc/localtime", "malformed"),
        ("a\x00b", "malformed"),
        ("", "malformed"),
        ("Europe", "unknown on this machine"),
        ("No/Such", "unknown on this machine"),
    ],
)
def test_a_hostile_time_zone_reads_no_file_outside_the_database(key: str, reason: str) -> None:
    payload = codec.encode(datetime(2020, 1, 1, tzinfo=UTC))[3:15] + b"z" + key.encode()
    with pytest.raises(LedgerCorrupt, match=f"time zone.*{reason}"):
        codec.decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(7, payload)))


def _numpy(code: int, spec: Any, elements: bytes) -> bytes:
    header = msgspec.msgpack.encode(spec)
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, len(header).to_bytes(2, "little") + header + elements))


@pytest.mark.parametrize(
    "data",
    [
        _numpy(21, ["|b1", [2]], b"\x01\x02"),
        _numpy(21, ["<U1", [1]], b"\x00\x00\x11\x00"),
        _numpy(21, [">U1", [1]], b"\x00\x11\x00\x00"),
        _numpy(21, ["|O", [1]], bytes(8)),
        _numpy(21, ["<f16", [1]], bytes(16)),
        _numpy(21, ["f8,f8", [1]], bytes(16)),
        _numpy(21, ["<f8", [-1]], bytes(8)),
        _numpy(21, ["<f8", [2]], bytes(8)),
        _numpy(21, ["<f8", [1] * 100], bytes(8)),
        _numpy(20, "<f8", bytes(16)),
        _numpy(20, "|b1", b"\x02"),
        _numpy(20, ["<f8", [1]], bytes(8)),
        _numpy(20, "U", b"\xff"),
    ],
)
def test_what_is_no_array_gives_a_typed_error(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="a stored value does not decode"):
        codec.decode(data)


@pytest.mark.parametrize("text", [b"1_0", b" 1", b"abc", b"", b"+1"])
def test_a_hostile_decimal_is_refused_whatever_the_context(text: bytes) -> None:
    with localcontext() as context:
        context.traps[InvalidOperation] = False
        with pytest.raises(LedgerCorrupt):
            codec.decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(11, text)))


@pytest.mark.parametrize("text", [b"", b"x", b"Xa", b"P", b"Pa//b", b"P\xff", b"Wa" if os.name != "nt" else b"Pa"])
def test_what_is_no_path_of_this_system_gives_a_typed_error(text: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="a stored value does not decode"):
        codec.decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(14, text)))


def _peak_bytes(data: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(LedgerCorrupt):
            codec.decode_page(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
@pytest.mark.parametrize("times", [1, 300])
def test_a_claimed_length_allocates_nothing(head: bytes, times: int) -> None:
    assert _peak_bytes(b"\x01" + (head + b"\x0f\xff\xff\xff") * times) < 1_000_000


def test_nested_lengths_do_not_multiply() -> None:
    size = 1_000_000
    heads = b"".join(b"\xdd" + (size - 5 * n).to_bytes(4, "big") for n in range(500))
    assert _peak_bytes(b"\x01" + heads + bytes(size - len(heads))) < 30_000_000


def test_a_claimed_shape_allocates_nothing() -> None:
    for spec in (["<f8", [10**12]], ["|V0", [10**12]], ["|V2000000000", [0]], ["<f8", [0, 10**12]]):
        assert _peak_bytes(b"\x01\x91" + _numpy(21, spec, b"")) < 1_000_000


def test_a_compression_bomb_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PAGE_BYTES", 1_000_000)
    bomb = b"\x02" + zlib.compress(bytes(50_000_000), 1)
    assert _peak_bytes(bomb) < 5_000_000


# --------------------------------------------------------------------------- cost of import


def test_importing_the_codec_loads_neither_numpy_nor_pandas() -> None:
    code = (
        "import sys; from toolkit import codec; codec.decode_page(codec.encode_page([1, {'a': (2,)}]));"
        "assert not {'numpy', 'pandas', 'pickle'} & set(sys.modules), sys.modules.keys();"
        "assert type(codec.decode(bytes.fromhex(sys.argv[1]))).__name__ == 'float64'"
    )
    subprocess.run([sys.executable, "-c", code, codec.encode(np.float64(1)).hex()], check=True, timeout=30)
