"""A run id given again: the same items go on with the run, other items are refused, however many they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.integration.ledgers import new_run_id
from toolkit.client.arguments import Size
from toolkit.client.drawing import Source
from toolkit.client.intake import Intake
from toolkit.client.submit import Submission
from toolkit.errors import InvalidInput, RunStateError
from toolkit.ledger import Ledger, Page, Registry, make_pages
from toolkit.records import RunSpec

ITEMS = list(range(3000))  # three pages
OTHER = [*ITEMS[:-1], -1]


def spec_of(**values: Any) -> RunSpec:
    run_id = new_run_id()
    return RunSpec(run_id, "tests.task", queue=run_id, **values)


def submit(ledger: Ledger, spec: RunSpec, items: Iterable[Any] | Source, *, resumes: bool, key: Any = None) -> int:
    size = Size(1000, auto=False, max_workers=0)
    submission = Submission(ledger, Registry(ledger.connection), spec, size, lambda _: None, resumes=resumes)
    return submission.write(items, key, None, b"", b"")


def submit_stream(ledger: Ledger, spec: RunSpec, items: Iterable[Any], *, resumes: bool) -> int:
    source = Source(items, "tests-draw")
    source.start()
    return submit(ledger, spec, source, resumes=resumes)


def page(items: list[Any], start: int = 0, key: Any = None) -> Page:
    (made,) = make_pages(items, start=start, key=key, max_item_bytes=1000)
    return made


def test_a_complete_run_takes_the_same_items_and_no_others(ledger: Ledger) -> None:
    spec = spec_of()
    assert submit(ledger, spec, ITEMS, resumes=False) == 3000
    for again in (ITEMS, iter(ITEMS)):
        assert submit(ledger, spec, again, resumes=True) == 3000
    for other in (OTHER, iter(OTHER)):
        with pytest.raises(InvalidInput, match=r"holds other items, as many as are given; choose another run_id"):
            submit(ledger, spec, other, resumes=True)
    with pytest.raises(InvalidInput, match="holds other items"):
        submit(ledger, spec, ITEMS, resumes=True, key=str)
    with pytest.raises(InvalidInput, match=r"3,000 items, and 2,999 are given"):
        submit(ledger, spec, ITEMS[:-1], resumes=True)
    for longer in (iter([*ITEMS, 1]), iter(ITEMS * 1000)):
        with pytest.raises(InvalidInput, match=r"3,000 items, and [\d,]+ or more are given"):
            submit(ledger, spec, longer, resumes=True)
    status = ledger.status(spec.run_id)
    assert (str(status.state), status.submitted) == ("running", 3000)


def test_items_that_are_gone_from_the_server_are_compared_too(ledger: Ledger) -> None:
    spec = spec_of(keep_results=False)
    submit(ledger, spec, iter(ITEMS), resumes=False)
    ledger.connection.command("DEL", f"{{tk:{spec.run_id}}}:pages", f"{{tk:{spec.run_id}}}:page_index")
    assert submit(ledger, spec, ITEMS, resumes=True) == 3000
    with pytest.raises(InvalidInput, match="holds other items"):
        submit(ledger, spec, OTHER, resumes=True)


def interrupted(
    ledger: Ledger, spec: RunSpec, cuts: list[int], kept: set[int] | None = None, taken: int | None = None,
    items: list[int] = ITEMS,
) -> None:  # fmt: skip
    """Leave an open run of `items`, cut at `cuts`, of which only the pages that begin at `kept` are stored."""
    release = not spec.keep_results
    ledger.create(spec, batch_size=1, auto=False, max_workers=0, release=release)
    intake = Intake(ledger, spec, lambda: None, stream=True)
    for start, stop in pairwise([0, *cuts]):
        intake.put(page(items[start:stop], start))
        if kept is not None and start not in kept:
            name = f"{{tk:{spec.run_id}}}"
            ledger.connection.command("HDEL", f"{name}:pages", start, f"n{start}")
            ledger.connection.command("ZREM", f"{name}:page_index", start)
    if release:
        ledger.connection.command("HSET", f"{{tk:{spec.run_id}}}:head", "cursor", cuts[-1] if taken is None else taken)


CUTS = [7, 20, 1100, 1102, 1500]


@pytest.mark.parametrize("kept", [None, {20}, {0}, {1102}, set()], ids=["all", "middle", "first", "last", "none"])
@pytest.mark.parametrize("given", [list, iter], ids=["list", "stream"])
def test_a_submission_goes_on_whatever_pages_are_left_of_it(
    ledger: Ledger, given: Callable[[list[int]], Iterable[int]], kept: set[int] | None
) -> None:
    spec = spec_of(keep_results=kept is None)
    interrupted(ledger, spec, CUTS, kept)
    assert submit(ledger, spec, given(ITEMS), resumes=True) == 3000
    assert submit(ledger, spec, given(ITEMS), resumes=True) == 3000  # with pages of two submissions, and closed
    status = ledger.status(spec.run_id)
    assert (status.submitted, status.closed) == (3000, True)


@pytest.mark.parametrize("taken", [0, 1200, 12_000])
def test_a_quick_stream_goes_on_behind_large_pages_that_nobody_has_taken(ledger: Ledger, taken: int) -> None:
    # given pages as a quick stream of numbers has them, the last ones not taken, and those that ended gone
    spec, given = spec_of(keep_results=False), list(range(12_500))
    starts = [0, 1024, 9216]
    kept = {a for a, b in pairwise([*starts, 12_000]) if b > taken}
    interrupted(ledger, spec, [*starts[1:], 12_000], kept, taken, given)
    # when all of it is given again, then it goes on
    assert submit_stream(ledger, spec, iter(given), resumes=True) == 12_500


@pytest.mark.parametrize("kept", [None, {20}, set()], ids=["all", "middle", "none"])
@pytest.mark.parametrize("given", [list, iter], ids=["list", "stream"])
@pytest.mark.parametrize("other", [[-1, *ITEMS[1:]], [*ITEMS[:1499], -1, *ITEMS[1500:]], [-1, *ITEMS[1:1500]]],
                         ids=["first", "last of those stored", "no more than stored"])  # fmt: skip
def test_other_items_do_not_go_on_with_it_though_its_pages_are_gone(
    ledger: Ledger, given: Callable[[list[int]], Iterable[int]], other: list[int], kept: set[int] | None
) -> None:
    spec = spec_of(keep_results=kept is None)
    interrupted(ledger, spec, CUTS, kept)
    with pytest.raises(InvalidInput, match=r"holds (other items|something else).*choose another run_id"):
        submit(ledger, spec, given(other), resumes=True)
    status = ledger.status(spec.run_id)
    assert (str(status.state), status.submitted, status.closed) == ("running", 1500, False)


@pytest.mark.parametrize("stop", [1499, 1500])
def test_a_source_that_fails_before_anything_is_new_leaves_the_run_to_be_gone_on_with(
    ledger: Ledger, stop: int
) -> None:
    def failing() -> Iterator[int]:
        yield from ITEMS[:stop]
        raise OSError("no route to postgresql://bob:hunter2@db.example/x")

    spec = spec_of()
    interrupted(ledger, spec, CUTS)
    with pytest.raises(OSError, match="no route") as caught:
        submit_stream(ledger, spec, failing(), resumes=True)
    assert caught.value.__notes__ == [f"run {spec.run_id} is as it was before; the same call goes on with it"]
    assert ledger.status(spec.run_id).state == "running"
    assert submit(ledger, spec, iter(ITEMS), resumes=True) == 3000


def test_a_run_is_cancelled_without_the_passwords_of_what_failed(ledger: Ledger) -> None:
    def failing() -> Iterator[int]:
        yield from ITEMS
        raise OSError("no route to postgresql://bob:hunter2@db.example/x")

    spec = spec_of()
    with pytest.raises(OSError, match="no route"):
        submit_stream(ledger, spec, failing(), resumes=False)
    status = ledger.status(spec.run_id)
    assert (str(status.state), status.reason) == (
        "cancelled", "submission failed: OSError: no route to postgresql://bob:***@db.example/x",
    )  # fmt: skip


def test_an_open_run_stored_without_a_digest_is_compared_page_by_page(ledger: Ledger) -> None:
    spec = spec_of(keep_results=False)
    interrupted(ledger, spec, CUTS, {20})
    ledger.connection.command("HDEL", f"{{tk:{spec.run_id}}}:head", "digest")
    with pytest.raises(InvalidInput, match="holds something else as items 20 to"):
        submit(ledger, spec, iter([*ITEMS[:30], -1, *ITEMS[31:]]), resumes=True)


def test_of_a_run_stored_without_a_digest_the_items_are_counted(ledger: Ledger) -> None:
    spec = spec_of()
    submit(ledger, spec, ITEMS, resumes=False)
    ledger.connection.command("HDEL", f"{{tk:{spec.run_id}}}:head", "digest")
    assert submit(ledger, spec, OTHER, resumes=True) == 3000
    with pytest.raises(InvalidInput, match=r"2,999 are given"):
        submit(ledger, spec, iter(ITEMS[:-1]), resumes=True)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [(page([1, 2, 3]), page([1, 2, 4])), (page([1, 2]), page([1, 2], key=str))],
    ids=["items", "keys"],
)
def test_of_two_submitters_at_a_time_the_one_with_other_items_is_told(
    ledger: Ledger, first: Page, second: Page, close: bool
) -> None:
    spec = spec_of()
    for _ in range(2):  # both find no run, and both create it
        ledger.create(spec, batch_size=1, auto=False, max_workers=0)
    one, same, other = (Intake(ledger, spec, lambda: None, stream=False) for _ in range(3))
    for intake in (one, same):
        intake.put(first, close=close)
    with pytest.raises(InvalidInput, match="holds something else as items 0 to"):
        other.put(second, close=close)
    assert other.foreign
    with pytest.raises(RunStateError, match="conflict"):
        ledger.append(spec.run_id, second, expected=0, close=close)
    status = ledger.status(spec.run_id)
    assert (str(status.state), status.submitted, status.closed) == ("running", first.stop, close)
