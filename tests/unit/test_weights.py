"""Weights of items: what is refused, and which items of a page begin first."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pytest

from toolkit.client.arguments import Size
from toolkit.client.intake import stored_bytes
from toolkit.client.weights import HEAVY, MOST_ALONE, Weights, check_weight, heavy
from toolkit.errors import InvalidInput
from toolkit.ledger import PAGE_ITEMS, Page, draw_pages, make_pages

LIMIT = 1 << 20


def laid(weight: Any, items: Any, workers: int = 8, **options: Any) -> list[Page]:
    weights, rest = Weights(weight, items), iter(items)
    pages = draw_pages(weights.beside(lambda _: list(islice(rest, PAGE_ITEMS))), max_item_bytes=LIMIT, **options)
    return [weights.lay(page, workers) for page in pages]


def sums(page: Page) -> list[float]:
    return list(struct.unpack(f"<{page.stop - page.start}d", page.weights))


def alone(page: Page) -> list[int]:
    return list(struct.unpack(f"<{len(page.alone) // 4}I", page.alone))


@pytest.mark.parametrize(
    "weight",
    [
        lambda item: item, [1, 2.5, 4], (1, 2.5, 4), np.array([1, 2.5, 4], dtype="float32"),
        {1: 0, 2.5: 0, 4: 0}.keys(),
        pd.Series([1, 2.5, 4], index=[7, 8, 9]), [np.int64(1), np.float32(2.5), Fraction(4)], np.float64,
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_weights_are_laid_beside_their_items(weight: Any, stream: bool) -> None:
    items = [1, 2.5, 4]
    (page,) = laid(weight, iter(items) if stream else items)
    assert sums(page) == [1, 3.5, 7.5]


@pytest.mark.parametrize("stream", [False, True])
def test_each_page_has_the_weights_of_its_own_items(stream: bool) -> None:
    n = 3 * 1024 + 5
    items = iter(range(n)) if stream else range(n)
    pages = laid(lambda i: i + 1, items)
    assert [sums(page)[0] for page in pages] == [page.start + 1 for page in pages] == [1, 1025, 2049, 3073]
    assert sums(pages[-1])[-1] == sum(range(3073, n + 1))


def test_a_chunk_that_becomes_several_pages_is_weighed_once() -> None:
    items = ["x" * 700_000, "y" * 700_000, "z"]
    pages = laid(iter([1.0, 2.0, 3.0]), iter(items))
    assert [(page.start, sums(page)) for page in pages] == [(0, [1]), (1, [2, 5])]


# --------------------------------------------------------------------------- what begins first


def test_of_a_list_the_heavy_items_of_all_pages_are_named_by_the_whole_weight() -> None:
    weights = [1.0] * 4096
    weights[5], weights[3000], weights[4000] = 40.0, 20.0, 10.0
    assert 10 < sum(weights) / 8 / HEAVY < 20
    assert sum(weights) / 2 / HEAVY > 40
    assert [alone(page) for page in laid(weights, range(4096), workers=8)] == [[5], [], [3000 - 2048], []]
    assert [alone(page) for page in laid(weights, range(4096), workers=2)] == [[], [], [], []]


def test_of_a_stream_they_are_named_by_the_weight_so_far() -> None:
    weights = [1.0] * 4096
    weights[5] = weights[3000] = 5.0
    first, *_, third, _ = laid(iter(weights), iter(range(4096)))
    assert alone(first) == [5]  # 5 of 1,028 is more than a thirty-second of a share; of 3,080 it is not
    assert alone(third) == []


def test_no_item_but_the_heaviest_of_a_page_begin_first() -> None:
    weights = [float(1 + at % 100) for at in range(1000)]
    found = heavy(weights, 1.0, 8)
    assert found == sorted(found)
    assert len(found) == MOST_ALONE
    assert min(weights[at] for at in found) >= max(w for at, w in enumerate(weights) if at not in set(found))


def test_with_no_worker_known_some_are_expected() -> None:
    weights = [1.0] * 1000 + [5.0]
    (page,) = laid(weights, range(1001), workers=0)
    assert alone(page) == [1000]
    assert alone(laid(weights, range(1001), workers=2)[0]) == []


def test_the_window_of_a_stream_counts_what_weights_take() -> None:
    plain, (weighed,) = next(iter(make_pages(range(64), max_item_bytes=LIMIT))), laid([1.0] * 64, range(64))
    assert stored_bytes(weighed) >= stored_bytes(plain) + 8 * 64 + 64 * 160


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "item 1,007 is missing"), (math.nan, "item 1,007 is NaN"), (0, "item 1,007 is 0, which is not above 0"),
        (-2.5, "item 1,007 is -2.5, which is not above 0"), (math.inf, "item 1,007 is inf, which is infinite"),
        (10**400, "infinite"), (1e16, "not from 1e-12 to 1e.15; choose another unit"), (1e-13, "choose another unit"),
        (True, "item 1,007 is True: expected a positive number"), ("3", "expected a positive number"),
        (Decimal(3), "expected a positive number"), ([3], "expected a positive number"), (1j, "a positive number"),
    ],
)  # fmt: skip
def test_what_is_no_weight_is_named(value: Any, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        check_weight(value, 1007)


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        ([1, 2], "ends before the items: item 2 has none"),
        ([1, 2, 3, 4], "weight has more values than the 3 items"),
        (np.array([1, np.nan, 3]), "item 1 is NaN"),
        (pd.Series([1, None, 3]), "item 1 is NaN"),
        (np.ones((3, 1)), "of 2 dimensions"),
        (pd.DataFrame({"pages": [1, 2, 3]}), "of 2 dimensions"),
        ("123", "weight is a str: expected a function of an item, or a sequence"),
        ({0: 1}, "weight is a dict"), ({1, 2, 3}, "weight is a set"), (3, "weight is a int"),
        (lambda item: {"a": 1}[item], "item 1 is missing: the function raised KeyError: 'b'"),
        (lambda item: None, "item 0 is missing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_weights_that_do_not_fit_the_items_are_refused(weight: Any, why: str, stream: bool) -> None:
    items = ["a", "b", "c"]
    with pytest.raises(InvalidInput, match=why):
        laid(weight, iter(items) if stream else items)


def test_of_a_sequence_all_weights_are_checked_before_anything_is_drawn() -> None:
    with pytest.raises(InvalidInput, match="item 4,999"):
        Weights([1.0] * 4999 + [-1.0], range(5000))


def test_a_batch_size_is_a_weight_where_items_have_one() -> None:
    assert Size.parse(2.5, 3, weighted=True) == Size(0, False, 3, 2.5)
    assert Size.parse(7, "auto", weighted=True) == Size(0, False, 0, 7.0)
    assert Size.parse("auto", "auto", weighted=True) == Size(0, True, 0, 0.0)
    for bad in (0, -1.0, math.nan, math.inf, True, "much", None, 1e31):
        with pytest.raises(InvalidInput, match=r"the weight of a batch, a number above 0"):
            Size.parse(bad, "auto", weighted=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="a whole number"):
        Size.parse(2.5, "auto")
