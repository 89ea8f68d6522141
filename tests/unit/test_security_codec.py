"""Hostile bytes in the ledger cost a typed error, and no more memory than the limits of the codec allow."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from toolkit import codec
from toolkit.codec import counting, limits
from toolkit.errors import EncodeError, LedgerCorrupt

ROOT = Path(__file__).parents[2]

BOMBS = {
    "empty lists": 'page(N, b"\\x90")',
    "empty dicts": 'page(N, b"\\x80")',
    "lists in lists": 'page(N // 2, b"\\x91\\x91")',
    "short texts": 'page(N // 3, b"\\xa2ab")',
    "empty tuples": 'page(N // 3, b"\\xc7\\x01\\x02\\x90")',
    "one long text": 'b"\\x02" + zlib.compress(b"\\x91\\xdb\\xff\\xff\\xff\\xff" + bytes(2 * N), 1)',
    "more than a page": 'b"\\x02" + zlib.compress(bytes(4 * N), 1)',
    "page in a page": 'b"\\x02" + zlib.compress(b"\\x02" + zlib.compress(bytes(4 * N), 1), 1)',
}

PROGRAM = """
import resource, sys, zlib
from toolkit import codec
from toolkit.errors import LedgerCorrupt
N = 60_000_000
def page(count, element):
    return b"\\x02" + zlib.compress(b"\\xdd" + count.to_bytes(4, "big") + element * count, 1)
for bomb in sys.argv[1:]:
    blob = eval(bomb)
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 700 * 2**20, resource.RLIM_INFINITY))
    for read in (codec.decode_page, codec.decode_each, codec.decode):
        try:
            read(blob)
        except LedgerCorrupt:
            continue
            continue
        assert read is codec.decode, bomb
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of a process's memory is Linux's")
def test_a_bomb_is_refused_within_a_fixed_memory() -> None:
    """Each page has at most a few hundred kilobytes, and would take gigabytes; 700 MiB are allowed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *BOMBS.values()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def count_by_decoding(value: Any) -> int:
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) + sum(map(count_by_decoding, value))
    if isinstance(value, dict):
        return len(value) + sum(map(count_by_decoding, value.values()))
    return 0


plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.integers(2**64, 2**70), st.floats(), st.text(),
        st.binary(max_size=300), st.uuids(), st.dates(), st.complex_numbers(), st.text(min_size=250, max_size=300),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=18),
    ),
    max_leaves=30,
)  # fmt: skip


@hypothesis_settings(deadline=None)
@given(plain)
def test_counting_by_heads_agrees_with_counting_values(value: Any) -> None:
    data = codec.encode([value])
    expected = count_by_decoding(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MAX_ELEMENTS", max(1, expected))
        counting.check_elements(data)
        if expected > 1:
            patch.setattr(limits, "MAX_ELEMENTS", expected - 1)
            if len(data) > expected - 1:
                with pytest.raises(ValueError, match="elements"):
                    counting.check_elements(data)


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=200))
def test_counting_any_bytes_ends_with_or_without_its_own_error(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MAX_ELEMENTS", 8)
        with suppress(ValueError):
            counting.check_elements(data)


def test_what_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ELEMENTS", 50)
    values = [[0] * 30, [0] * 30]
    with pytest.raises(EncodeError, match="item 7: the values of one page hold more than 50 elements"):
        codec.encode_page(values, 7)
    pages = codec.encode_pages(values, 7, page_bytes=40)
    assert [codec.decode_page(page) for _, page in pages] == [[[0] * 30], [[0] * 30]]


Reader = Callable[[bytes], Any]


@hypothesis_settings(deadline=None)
@given(plain, st.data())
def test_a_changed_page_gives_values_or_a_typed_error(value: Any, data: st.DataObject) -> None:
    mutated = bytearray(codec.encode_page([value, value]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    readers: tuple[Reader, ...] = (codec.decode_page, codec.decode_each)
    for read in readers:
        try:
            assert isinstance(read(bytes(mutated)), list)
        except LedgerCorrupt as error:
            assert len(str(error)) < 400  # noqa: PT017


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_compressed_bytes_give_values_or_a_typed_error(raw: bytes) -> None:
    for blob in (b"\x02" + zlib.compress(raw), b"\x01" + raw, b"\x02" + raw):
        try:
            assert isinstance(codec.decode_each(blob), list)
        except LedgerCorrupt:
            continue


@pytest.mark.parametrize("depth", [65, 200, 5_000, 1_000_000])
@pytest.mark.parametrize("kind", ["list", "dict", "tuple"])
def test_deep_nesting_is_refused_and_the_stack_survives(depth: int, kind: str) -> None:
    if kind == "tuple":
        depth = min(depth, 2000)
        data = b"\x90"
        for _ in range(depth):
            data = msgspec.msgpack.encode(msgspec.msgpack.Ext(2, b"\x91" + data))
    else:
        data = {"list": b"\x91", "dict": b"\x81\xa1k"}[kind] * depth + b"\xc0"
    with pytest.raises(LedgerCorrupt):
        codec.decode(data)
    with pytest.raises(LedgerCorrupt):
        codec.decode_page(b"\x01\x91" + data)
