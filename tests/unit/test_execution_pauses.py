"""A rule that pauses: nothing is charged, and the batch ends at that item."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.errors import BatchError
from toolkit.execution import Part, Runner, task
from toolkit.records import Retry, RunSpec

RULES = Retry(max_attempts=1, on=(), pause=(PermissionError,))


def parts(fn: Any, items: list[int], **options: Any) -> list[Part]:
    made = task(fn, **options)
    spec = RunSpec("run-000001", "t", batched=made.batched, **RunSpec.of_retry(RULES))
    return list(Runner(made, spec, {}).run(items, range(len(items)), 1, on_item=lambda _: False))


def locked(item: int) -> int:
    if item == 2:
        raise PermissionError("locked")
    return item


def test_the_batch_stops_at_the_item_and_the_rest_is_given_back():
    (part,) = parts(locked, [0, 1, 2, 3, 4])
    assert (part.start, part.stop, part.n_ok, part.last, part.stopped) == (0, 3, 2, True, True)
    (failure,) = part.failures
    assert (failure.position, failure.retry, failure.charged, failure.pause) == (2, True, False, True)


def test_a_batched_call_goes_back_as_a_whole():
    def many(items: list[int]) -> list[int]:
        return [locked(item) for item in items]

    (part,) = parts(many, [1, 2, 3], batched=True)
    assert (part.n_ok, part.bisect) == (0, False)
    assert [(f.retry, f.charged, f.pause) for f in part.failures] == [(True, False, True)] * 3


def test_so_does_a_batch_whose_setup_failed():
    def setup() -> None:
        raise PermissionError("no database")

    (part,) = parts(lambda item, _state: item, [1, 2], setup=setup)
    assert [(f.retry, f.charged, f.pause) for f in part.failures] == [(True, False, True)] * 2
    assert part.failures[0].reason(1).startswith("PermissionError: setup failed: no database")


@pytest.mark.parametrize("attempt", [1, 7])
def test_neighbours_of_an_item_that_a_batch_error_names_are_not_charged(attempt: int):
    def many(items: list[int]) -> list[int]:
        raise BatchError({1: ValueError("bad")})

    spec = RunSpec("run-000001", "t", batched=True, **RunSpec.of_retry(RULES))
    runner = Runner(task(many, batched=True), spec, {})
    (part,) = runner.run([0, 1, 2], range(3), attempt, on_item=lambda _: False)
    assert [(f.retry, f.charged) for f in part.failures] == [(True, False), (False, True), (True, False)]
