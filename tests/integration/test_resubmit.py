"""A run id given again: the same items go on with the run, other items are refused, however many they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.integration.ledgers import new_run_id
from toolkit.client.arguments import Size
from toolkit.client.intake import Intake
from toolkit.client.submit import Submission
from toolkit.errors import InvalidInput, RunStateError
from toolkit.ledger import Ledger, Page, Registry, make_pages
from toolkit.records import RunSpec
from toolkit.settings import ServerAddress

ITEMS = list(range(3000))  # three pages
OTHER = [*ITEMS[:-1], -1]


@pytest.fixture
def ledger(address: ServerAddress) -> Iterator[Ledger]:
    with closing(Ledger(address)) as ledger:
        yield ledger


def spec_of(**values: Any) -> RunSpec:
    run_id = new_run_id()
    return RunSpec(run_id, "tests.task", queue=run_id, **values)


def submit(ledger: Ledger, spec: RunSpec, items: Iterable[Any], *, resumes: bool, key: Any = None) -> int:
    size = Size(1000, auto=False, max_workers=0)
    submission = Submission(ledger, Registry(ledger.connection), spec, size, lambda _: None, resumes=resumes)
    return submission.write(items, key, None, b"", b"")


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


def test_a_page_that_is_gone_is_told_by_the_digest_of_all(ledger: Ledger) -> None:
    spec = spec_of(keep_results=False)
    ledger.create(spec, batch_size=1, auto=False, max_workers=0, release=True)
    ledger.append(spec.run_id, page([1, 2]), expected=0, close=True, digest="aa")
    ledger.connection.command("DEL", f"{{tk:{spec.run_id}}}:pages")
    for digest in ("aa", ""):  # the same again, and one that says nothing
        assert ledger.append(spec.run_id, page([1, 2]), expected=0, close=True, digest=digest) == (2, 0)
    for last in (page([1, 2]), None):
        with pytest.raises(RunStateError, match="conflict"):
            ledger.append(spec.run_id, last, expected=0 if last else 2, close=True, digest="bb")
    kept = spec_of()
    ledger.create(kept, batch_size=1, auto=False, max_workers=0)
    ledger.append(kept.run_id, page([1, 2]), expected=0)
    ledger.append(kept.run_id, page([3], 2), expected=2)
    with pytest.raises(RunStateError, match="conflict"):  # its pages are cut otherwise
        ledger.append(kept.run_id, page([2, 3], 1), expected=1)
