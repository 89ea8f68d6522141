"""Batched tasks: one call for all items, and what becomes of them when it goes wrong."""

from __future__ import annotations

import array
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import codec
from toolkit.errors import BatchError
from toolkit.execution import ItemContext, Part, Runner, States, current_item, task
from toolkit.execution.failures import MAX_TRACEBACK_BYTES, SHARED_BYTES
from toolkit.execution.parts import MAX_OUTPUT_BYTES
from toolkit.records import RunSpec

RETRY = {"retry_names": ("OSError",), "max_attempts": 3, "backoff_s": 2.0}


def never(position: int) -> bool:
    return False


def execute(fn: Any, items: Sequence[Any], attempts: Any = 1, **options: Any) -> list[Part]:
    fields = {"batched": True} | options.pop("fields", {})
    made = task(fn, batched=True, setup=options.pop("setup", None))
    runner = Runner(made, RunSpec("run-000001", "task", **fields), {}, states=States(), uniform=lambda: 0.5)
    how = {"on_item": never} | options
    return list(runner.run(items, range(100, 100 + len(items)), attempts, **how))


def results(parts: list[Part]) -> list[Any]:
    return [value for part in parts if part.output is not None for value in codec.decode_page(part.output)]


# --------------------------------------------------------------------------- in and out


def test_one_call_gets_all_items():
    calls: list[list[int]] = []

    def fn(items: list[int]) -> list[int]:
        calls.append(items)
        return [i * 2 for i in items]

    (part,) = execute(fn, (1, 2, 3))
    assert calls == [[1, 2, 3]]
    assert results([part]) == [2, 4, 6]
    assert (part.start, part.stop, part.n_ok, part.last, part.stopped, part.bisect) == (0, 3, 3, True, False, False)


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        deque([1, 2, 3]),
        array.array("q", [1, 2, 3]),
        np.array([1, 2, 3]),
        pd.Series([1, 2, 3], index=["a", "b", "c"]),
        pd.Index([1, 2, 3]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_sequence_of_the_right_length_will_do(returned: Any):
    found = results(execute(lambda items: returned, [0, 0, 0]))
    assert found == [1, 2, 3]
    assert [type(a) for a in found] == [type(a) for a in list(returned)]


def test_rows_of_an_array_are_results():
    found = results(execute(lambda items: np.eye(2), [0, 0]))
    assert [row.tolist() for row in found] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1, 2], "got 3 items and returned 2 results"),
        ([1, 2, 3, 4], "got 3 items and returned 4 results"),
        (None, "does it return at all"),
        ("abc", "not str"),
        (b"abc", "not bytes"),
        ({0: 1, 1: 2, 2: 3}, "not dict"),
        ({1, 2, 3}, "not set"),
        (iter([1, 2, 3]), "not list_iterator"),
        (7, "not int"),
        (np.array(5), "not ndarray"),
        (pd.DataFrame({"a": [1], "b": [2], "c": [3]}), "to_dict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_fails_every_item_for_good(returned: Any, message: str):
    (part,) = execute(lambda items: returned, [0, 0, 0], fields={"retry_names": ("ValueError", "Exception")})
    assert not part.bisect
    assert [(f.position, f.retry, f.category) for f in part.failures] == [(i, False, "fatal") for i in range(3)]
    assert all(message in f.message for f in part.failures)


def test_a_function_that_empties_its_list_still_owes_all_results():
    def fn(items: list[int]) -> list[int]:
        found = []
        while items:
            found.append(items.pop(0) + 1)
        return found

    items = [1, 2, 3]
    assert results(execute(fn, items)) == [2, 3, 4]
    assert items == [1, 2, 3]


def test_setup_and_an_empty_batch():
    assert results(execute(lambda items, state: [state] * len(items), [1, 2], setup=lambda: 7)) == [7, 7]
    (part,) = execute(lambda items: pytest.fail("called"), [])
    assert (part.start, part.stop, part.last) == (0, 0, True)


def test_a_batch_may_be_stopped_before_its_call_only():
    asked: list[int] = []

    def on_item(position: int) -> bool:
        asked.append(position)
        return True

    (part,) = execute(lambda items: pytest.fail("called"), [1, 2], on_item=on_item)
    assert asked == [0]
    assert (part.stop, part.stopped, part.last) == (0, True, True)


def test_user_code_sees_the_items_of_its_call():
    seen: list[ItemContext | None] = []

    def fn(items: list[str]) -> list[str]:
        seen.append(current_item())
        return items

    made = Runner(task(fn, batched=True), RunSpec("run-000001", "task", batched=True), {}, states=States())
    list(made.run(["x", "y"], range(5, 7), [1, 2], ["a", "b"], on_item=never))
    assert seen == [ItemContext("run-000001", 5, "a", 2, range(5, 7), ["a", "b"])]


def test_large_output_of_one_call_comes_in_several_parts():
    size = MAX_OUTPUT_BYTES // 4
    parts = execute(lambda items: [bytes([i]) * size for i in items], range(20), fields={"max_result_bytes": 1 << 24})
    assert len(parts) > 2
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
    assert [p.last for p in parts] == [False] * (len(parts) - 1) + [True]
    assert results(parts) == [bytes([i]) * size for i in range(20)]


def test_stats_share_the_call_between_items(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]

    def fn(items: list[int]) -> list[int]:
        now[0] += 8.0
        return items

    monkeypatch.setattr("toolkit.execution.runner.perf_counter", lambda: now[0])
    (part,) = execute(fn, range(4))
    stats = part.stats
    assert (stats.service_s, stats.item_sum_s, stats.item_sumsq_s2, stats.item_max_s) == (8.0, 8.0, 16.0, 2.0)


# --------------------------------------------------------------------------- errors


def test_a_retryable_error_retries_the_batch_together():
    def fn(items: list[int]) -> list[int]:
        raise ConnectionError("away")

    (part,) = execute(fn, [1, 2, 3], [1, 3, 2], fields=RETRY)
    assert not part.bisect
    assert [f.retry for f in part.failures] == [True, False, True]
    assert [f.category for f in part.failures] == ["retryable"] * 3
    assert part.failures[0].delay_s == part.failures[2].delay_s > 0
    assert part.failures[1].delay_s == 0
    assert part.n_ok == 0


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(1)])
def test_any_other_error_splits_the_batch(error: BaseException):
    def fn(items: list[int]) -> list[int]:
        raise error

    (part,) = execute(fn, [1, 2, 3], fields=RETRY)
    assert (part.start, part.stop, part.n_ok, part.failures, part.last) == (0, 3, 0, (), True)
    assert part.bisect
    assert part.cause is not None
    assert part.cause.category == ("out_of_memory" if isinstance(error, MemoryError) else "fatal")
    assert "in fn" in part.cause.traceback_text


def test_an_item_that_fails_alone_is_dead():
    def fn(items: list[int]) -> list[int]:
        raise ValueError("x")

    (part,) = execute(fn, [1])
    assert not part.bisect
    assert [(f.position, f.retry, f.category) for f in part.failures] == [(0, False, "fatal")]


def test_splitting_ends_with_the_poison_alone():
    """Play the ledger: split what is to be split until nothing is left."""

    def fn(items: list[int]) -> list[int]:
        if 13 in items or 40 in items:
            raise ValueError("poison")
        return [-i for i in items]

    waiting, ok, dead, calls = [list(range(50))], [], [], 0
    while waiting:
        items, calls = waiting.pop(), calls + 1
        (part,) = execute(fn, items)
        if part.bisect:
            middle = len(items) // 2
            waiting += [items[:middle], items[middle:]]
        ok += results([part])
        dead += [items[f.position] for f in part.failures]
    assert sorted(dead) == [13, 40]
    assert sorted(ok) == sorted(-i for i in range(50) if i not in (13, 40))
    assert calls < 30


def test_a_batch_error_fails_the_items_it_names():
    def fn(items: list[int]) -> list[int]:
        raise BatchError({1: ValueError("bad"), np.int64(2): OSError("away")})

    (part,) = execute(fn, [1, 2, 3, 4], [1, 1, 3, 9], fields=RETRY)
    assert not part.bisect
    assert [(f.position, f.retry, f.category) for f in part.failures] == [
        (0, True, "retryable"),
        (1, False, "fatal"),
        (2, False, "retryable"),
        (3, True, "retryable"),  # whatever its attempt: it has done nothing
    ]
    assert [f.delay_s for f in part.failures] == [0.0] * 4
    assert (part.failures[1].error_type, part.failures[1].message) == ("ValueError", "bad")
    assert "carries" not in part.failures[1].message
    assert "this one runs again" in part.failures[0].message


@settings(deadline=None)
@given(n=st.integers(1, 12), named=st.sets(st.integers(-3, 15), max_size=6))
def test_a_batch_error_accounts_for_every_item(n: int, named: set[int]):
    def fn(items: list[int]) -> list[int]:
        raise BatchError(dict.fromkeys(named, ValueError("bad")))

    (part,) = execute(fn, range(n))
    if named and all(0 <= i < n for i in named):
        assert {f.position for f in part.failures if not f.retry} == named
        assert len(part.failures) == n
    elif n > 1:  # names nobody, or somebody who is not there: it tells nothing
        assert part.bisect
    else:
        assert [f.retry for f in part.failures] == [False]


@pytest.mark.parametrize("errors", [{"a": ValueError()}, {None: ValueError()}, {1.5: ValueError()}])
def test_a_batch_error_with_keys_that_are_no_positions_tells_nothing(errors: Any):
    def fn(items: list[int]) -> list[int]:
        raise BatchError(errors)

    (part,) = execute(fn, [1, 2])
    assert part.bisect


def test_a_batch_error_may_hold_something_else_than_an_exception():
    def fn(items: list[int]) -> list[int]:
        raise BatchError({0: "no text on page 3"})

    (part,) = execute(fn, [1])
    assert [(f.error_type, f.message, f.retry) for f in part.failures] == [("str", "no text on page 3", False)]


def test_results_of_a_batch_that_cannot_be_stored_fail_alone():
    (part,) = execute(lambda items: [1, object(), 3], [0, 0, 0])
    assert results([part]) == [1, 3]
    assert [(f.position, f.category) for f in part.failures] == [(1, "bad_payload")]


def test_the_texts_of_one_error_for_many_items_stay_small():
    def fn(items: list[int]) -> list[int]:
        raise OSError("x" * 100_000)

    n = 5000
    (part,) = execute(fn, range(n), fields=RETRY)
    assert len(part.failures) == n
    assert sum(len(f.traceback_text) for f in part.failures) <= max(SHARED_BYTES, 512 * n)
    assert sum(len(f.message) for f in part.failures) <= max(SHARED_BYTES, 512 * n)
    (alone,) = execute(fn, [1], fields=RETRY)
    assert 4000 < len(alone.failures[0].traceback_text.encode()) <= MAX_TRACEBACK_BYTES
