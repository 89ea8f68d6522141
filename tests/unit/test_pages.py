"""Items on their way to a worker and results on their way back: pages, slices, outputs."""

from __future__ import annotations

import copy
import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import codec
from toolkit.errors import EncodeError, LedgerCorrupt
from toolkit.ledger import pages as module
from toolkit.ledger.pages import Page, PageCache, make_pages, pack_output, unpack_output

LIMIT = 1024 * 1024

plain = st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.binary(max_size=8) | st.booleans() | st.none()
values = plain | st.lists(plain, max_size=3) | st.dictionaries(st.text(max_size=3), plain, max_size=2)
Wanted = list[tuple[int, int]]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few items a page, so that small examples have many pages."""
    monkeypatch.setattr(module, "PAGE_ITEMS", 5)
    monkeypatch.setattr(module, "PAGE_SCALARS", 5)
    monkeypatch.setattr(module, "PAGE_BYTES", 60)


@st.composite
def disjoint_ranges(draw: st.DrawFn, n: int) -> Wanted:
    """Some parts of ``0 .. n``, in any order."""
    cuts = sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=7)))
    parts = list(itertools.pairwise(cuts))
    kept = draw(st.lists(st.sampled_from(parts), unique=True, min_size=1, max_size=len(parts)))
    return draw(st.permutations(kept))


def served(pages: Sequence[Page], wanted: Wanted, have: int) -> list[tuple[int, bytes, bytes]]:
    """What the ledger sends: each page where a range first touches it, the one that the worker has without content."""
    touched = dict.fromkeys(p.start for a, b in wanted for p in pages if p.start < b and p.stop > a)
    by_start = {p.start: p for p in pages}
    return [(s, b"", b"") if s == have else (s, by_start[s].items, by_start[s].keys) for s in touched]


# --------------------------------------------------------------------------- pages


def test_pages_are_consecutive_and_hold_the_items(small_pages: None) -> None:
    pages = list(make_pages(range(13), start=100, max_item_bytes=LIMIT))
    assert [(p.start, p.stop) for p in pages] == [(100, 105), (105, 110), (110, 113)]
    assert [codec.decode_page(p.items) for p in pages] == [list(range(5)), list(range(5, 10)), list(range(10, 13))]
    assert {p.keys for p in pages} == {b""}


def test_large_items_make_smaller_pages(small_pages: None) -> None:
    items = [1, "x" * 40, "y" * 40, 2, "z" * 500, 3]
    pages = list(make_pages(items, max_item_bytes=LIMIT))
    assert [value for p in pages for value in codec.decode_page(p.items)] == items
    assert [p.start for p in pages] + [6] == [0] + [p.stop for p in pages]
    for page in pages:
        whole = sum(len(codec.encode(value)) for value in codec.decode_page(page.items))
        assert whole <= 60 or page.stop - page.start == 1


def test_numbers_of_a_sequence_share_larger_pages_than_what_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_ITEMS", 5)
    monkeypatch.setattr(module, "PAGE_SCALARS", 15)
    numbers = [*range(16), 0.5, "text", b"bytes", None, True, *range(9)]
    mixed = [*numbers[:20], [], *numbers[21:]]

    def starts(items: Any) -> list[int]:
        pages = list(make_pages(items, max_item_bytes=LIMIT))
        assert [value for p in pages for value in codec.decode_page(p.items)] == list(items)
        return [p.start for p in pages]

    assert starts(numbers) == [0, 15]
    assert starts(range(16)) == [0, 15]
    assert starts(mixed) == [0, 15, 20, 25]
    stream = make_pages(iter(numbers), max_item_bytes=LIMIT)
    assert [page.start for page in stream] == [0, 5, 10, 15, 20, 25]


def test_no_items_make_no_page() -> None:
    assert list(make_pages([], max_item_bytes=LIMIT)) == []


def test_an_endless_stream_is_read_page_by_page() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    stream = make_pages(endless(), max_item_bytes=LIMIT)
    assert [next(stream).stop, next(stream).stop] == [module.PAGE_ITEMS, 2 * module.PAGE_ITEMS]
    assert read == 2 * module.PAGE_ITEMS


@pytest.mark.parametrize("bad", [0, 4, 5, 12])
def test_an_item_that_cannot_be_stored_is_named_by_its_index(small_pages: None, bad: int) -> None:
    items: list[Any] = list(range(13))
    items[bad] = object()
    with pytest.raises(EncodeError) as caught:
        list(make_pages(items, start=1000, max_item_bytes=LIMIT))
    assert caught.value.index == 1000 + bad


@pytest.mark.parametrize("bad", [0, 6])
def test_an_item_or_key_that_is_too_large_is_named_by_its_index(small_pages: None, bad: int) -> None:
    items = ["x" * 300 if i == bad else "x" for i in range(9)]
    with pytest.raises(EncodeError) as caught:
        list(make_pages(items, max_item_bytes=200))
    assert caught.value.index == bad
    with pytest.raises(EncodeError) as caught:
        list(make_pages(items, key=lambda item: item * 10, max_item_bytes=LIMIT))
    assert caught.value.index == bad


# --------------------------------------------------------------------------- slices


@settings(deadline=None)  # a busy machine is no failure
@given(data=st.data(), items=st.lists(values, min_size=1, max_size=30), keyed=st.booleans())
def test_a_worker_gets_the_items_and_keys_of_any_ranges(data: st.DataObject, items: list[Any], keyed: bool) -> None:
    names = [f"key {i}" for i in range(len(items))]
    submitted, stream = copy.deepcopy(items), iter(names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_ITEMS", 5)
        patch.setattr(module, "PAGE_SCALARS", 15)
        patch.setattr(module, "PAGE_BYTES", 60)
        pages = list(make_pages(items, key=(lambda _item: next(stream)) if keyed else None, max_item_bytes=LIMIT))
    cache = PageCache()
    for _ in range(data.draw(st.integers(1, 4))):
        wanted = data.draw(disjoint_ranges(len(items)))
        sent = served(pages, wanted, cache.have)
        got, got_keys, size = cache.slice(sent, wanted)
        indexes = [i for a, b in wanted for i in range(a, b)]
        assert got == [submitted[i] for i in indexes]
        assert got_keys == ([names[i] for i in indexes] if keyed else None)
        assert 0 <= size <= sum(len(p.items) for p in pages)
        assert cache.have == max(start for start, _, _ in sent)
        for value in got:
            spoil(value)
        assert [cache.original(i) for i in indexes] == [submitted[i] for i in indexes]


def spoil(value: Any) -> None:
    """Change a value in place, as user code may."""
    if isinstance(value, list):
        value.append("changed")
    elif isinstance(value, dict):
        value["changed"] = True


def test_ranges_in_any_order_over_pages_named_in_any_order() -> None:
    pages = [Page(a, a + 4, codec.encode_page(list(range(a, a + 4)))) for a in (0, 4, 8)]
    wanted = [(10, 12), (2, 9), (0, 1)]
    sent = served(pages, wanted, have=-1)
    assert [start for start, _, _ in sent] == [8, 0, 4]
    assert PageCache().slice(sent, wanted)[0] == [10, 11, 2, 3, 4, 5, 6, 7, 8, 0]


def test_input_bytes_are_the_share_of_the_pages() -> None:
    page = codec.encode_page(list(range(10)))
    _, _, size = PageCache().slice([(0, page, b"")], [(0, 5)])
    assert size == len(page) // 2


def test_an_empty_cache_has_nothing() -> None:
    assert PageCache().have == -1
    assert PageCache().slice([], []) == ([], None, 0)


def test_a_page_that_is_not_kept_cannot_be_left_out() -> None:
    cache = PageCache()
    with pytest.raises(LedgerCorrupt, match="page 4 was asked for as known"):
        cache.slice([(4, b"", b"")], [(4, 5)])


@pytest.mark.parametrize("wanted", [[(3, 6)], [(7, 8)], [(0, 4), (4, 5)]])
def test_pages_that_do_not_hold_the_ranges_are_corrupt(wanted: Wanted) -> None:
    page = codec.encode_page([0, 1, 2, 3])
    with pytest.raises(LedgerCorrupt, match="pages hold"):
        PageCache().slice([(0, page, b"")], wanted)


# --------------------------------------------------------------------------- outputs

indexes = st.integers(0, 2**63)


@settings(deadline=None)  # a busy machine is no failure
@given(ranges=st.lists(st.tuples(indexes, indexes), max_size=20), page=st.binary(max_size=50))
def test_outputs_read_back(ranges: Wanted, page: bytes) -> None:
    assert unpack_output(pack_output(ranges, page)) == (ranges, page)


@settings(deadline=None)  # a busy machine is no failure
@given(ranges=st.lists(st.tuples(indexes, indexes), min_size=1, max_size=5), data=st.data())
def test_an_output_cut_short_is_corrupt(ranges: Wanted, data: st.DataObject) -> None:
    whole = pack_output(ranges, b"")
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(LedgerCorrupt, match="outputs does not parse"):
        unpack_output(whole[:cut])


def test_an_output_that_promises_too_many_ranges_is_corrupt() -> None:
    with pytest.raises(LedgerCorrupt):
        unpack_output(struct.pack("<IQQ", 2**32 - 1, 0, 1))
