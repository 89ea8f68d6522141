"""How a run comes to be and gets its items: create, append, close."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.integration.ledgers import Run, new_run_id, page_of
from toolkit import codec
from toolkit.errors import InvalidInput, RunNotFound, RunStateError
from toolkit.ledger import Ledger, keys
from toolkit.records import RunSpec, RunState


def test_a_new_run_is_empty_and_running(ledger: Ledger) -> None:
    run = Run(ledger, batch_size=7, max_workers=3, known_workers=2)
    status = run.status()
    assert (status.state, status.closed, status.submitted, status.remaining, status.done) == ("running", False, 0, 0, 0)
    assert (status.batch_size, status.auto, status.max_workers, status.known_workers) == (7, False, 3, 2)
    assert status.created_at > 0
    assert (status.started_at, status.finished_at, status.generation) == (0, 0, 0)
    assert run.events() == ["created"]


def test_what_was_asked_for_reads_back(ledger: Ledger) -> None:
    spec = RunSpec(
        new_run_id(), "shop.price", tags={"who": "Zoë"}, retry_names=("OSError",), sys_path=("/a", "/b"), lease_s=2.5,
        retention_s=60.0, item_time_limit_s=0.25,
    )  # fmt: skip
    ledger.create(spec, function=b"\x00code", kwargs=b"\xffkw", batch_size=0, auto=True, max_workers=0)
    assert ledger.spec(spec.run_id) == spec
    assert ledger.function(spec.run_id) == (b"\x00code", b"\xffkw")


def test_create_repeated_changes_nothing(ledger: Ledger) -> None:
    run = Run(ledger, 5)
    before = run.everything()
    ledger.create(run.spec, **run.sizes)
    assert run.everything() == before


def test_another_run_cannot_take_the_same_id(ledger: Ledger) -> None:
    run = Run(ledger, 5)
    before = run.everything()
    with pytest.raises(RunStateError, match="exists already"):
        ledger.create(replace(run.spec, task="other.task"), **run.sizes)
    assert run.everything() == before


@pytest.mark.parametrize("run_id", ["", "short", "UPPERCASE", "with space", "brace}brace", "x" * 65, "new\nline"])
def test_no_key_is_built_from_a_malformed_id(ledger: Ledger, run_id: str) -> None:
    with pytest.raises(InvalidInput, match="run id"):
        ledger.status(run_id)
    with pytest.raises(InvalidInput, match="run id"):
        ledger.create(RunSpec(run_id, "t"), batch_size=1, auto=False, max_workers=0)


def test_pages_pile_up_until_the_input_is_closed(ledger: Ledger) -> None:
    run = Run(ledger)
    assert ledger.append(run.run_id, page_of(0, 3), expected=0) == (3, 0)
    assert ledger.append(run.run_id, page_of(3, 5, keyed=True), expected=3, close=True) == (5, 0)
    status = run.status()
    assert (status.submitted, status.remaining, status.closed) == (5, 5, True)
    assert run.reader.item(2) == (2, None)
    assert run.reader.item(4) == (4, "k4")
    run.check()


@pytest.mark.parametrize("close", [False, True])
def test_append_repeated_has_no_second_effect_and_the_same_answer(ledger: Ledger, close: bool) -> None:
    run = Run(ledger, 4, close=False)
    assert ledger.append(run.run_id, page_of(4, 6), expected=4, close=close) == (6, 0)
    before = run.everything()
    assert ledger.append(run.run_id, page_of(4, 6), expected=4, close=close) == (6, 0)
    assert run.everything() == before


def test_a_repetition_has_the_same_items_and_keys(ledger: Ledger) -> None:
    run, page = Run(ledger), page_of(0, 4)
    keyed = replace(page, keys=codec.encode_page(list("abcd")))
    for close in (False, True):
        for _ in range(2):
            ledger.append(run.run_id, keyed, expected=0, close=close)
        for other in (
            page,
            replace(keyed, items=page_of(4, 8).items),
            replace(keyed, keys=codec.encode_page(["x"] * 4)),
        ):
            with pytest.raises(RunStateError, match="conflict"):
                ledger.append(run.run_id, other, expected=0, close=close)
        if not close:
            run = Run(ledger)
    cut = Run(ledger)
    for start, stop in ((0, 2), (2, 3)):
        ledger.append(cut.run_id, page_of(start, stop), expected=start)
    with pytest.raises(RunStateError, match="conflict"):  # its pages are cut otherwise
        ledger.append(cut.run_id, page_of(1, 3), expected=1)


def test_a_repetition_of_a_page_that_is_gone_is_told_by_the_digest(ledger: Ledger) -> None:
    run = Run(ledger, release=True)
    ledger.append(run.run_id, page_of(0, 4), expected=0, digest="aa")
    run.commit(run.claim())
    for digest in ("aa", ""):  # the same again, and one that says nothing
        assert ledger.append(run.run_id, page_of(0, 4), expected=0, digest=digest) == (4, 4)
    for page, expected in ((page_of(0, 4), 0), (None, 4)):
        ledger.append(run.run_id, None, expected=4, close=True, digest="aa")
        with pytest.raises(RunStateError, match="conflict"):
            ledger.append(run.run_id, page, expected=expected, close=True, digest="bb")


def test_items_go_only_behind_those_that_the_run_holds(ledger: Ledger) -> None:
    run = Run(ledger)
    ledger.append(run.run_id, page_of(0, 2), expected=0, digest="aa")
    for page in (page_of(2, 4), None):
        with pytest.raises(InvalidInput, match="other items before item 2"):
            ledger.append(run.run_id, page, expected=2, close=page is None, digest="cc", before="bb")
    ledger.append(run.run_id, page_of(2, 4), expected=2, digest="cc", before="aa")
    # A page whose digest nobody knows leaves none that the next could be compared with
    ledger.append(run.run_id, page_of(4, 6), expected=4)
    assert ledger.append(run.run_id, page_of(6, 8), expected=6, digest="ee", before="dd") == (8, 0)
    ledger.append(run.run_id, None, expected=8, close=True, digest="ee", before="ee")
    assert ledger.input_digest(run.run_id) == "ee"


@pytest.mark.parametrize("expected", [0, 3, 5, 8])
def test_a_page_that_does_not_follow_is_refused(ledger: Ledger, expected: int) -> None:
    run = Run(ledger, 4, close=False)
    before = run.everything()
    with pytest.raises(RunStateError, match="conflict at 4 items"):
        ledger.append(run.run_id, page_of(expected, expected + 2), expected=expected)
    assert run.everything() == before


def test_a_repeated_page_cannot_close_what_its_first_copy_left_open(ledger: Ledger) -> None:
    run = Run(ledger, 4, close=False)
    before = run.everything()
    with pytest.raises(RunStateError, match="conflict"):
        ledger.append(run.run_id, page_of(0, 4), expected=0, close=True)
    assert run.everything() == before


def test_nothing_follows_the_end_of_the_input(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    before = run.everything()
    with pytest.raises(RunStateError, match="closed at 4 items"):
        ledger.append(run.run_id, page_of(4, 6), expected=4)
    assert run.everything() == before


def test_close_alone_may_be_repeated(ledger: Ledger) -> None:
    run = Run(ledger, 4, close=False)
    assert ledger.append(run.run_id, None, expected=4, close=True) == (4, 0)
    before = run.everything()
    assert ledger.append(run.run_id, None, expected=4, close=True) == (4, 0)
    assert run.everything() == before
    assert run.status().closed


def test_an_empty_run_finishes_when_it_is_closed(ledger: Ledger) -> None:
    run = Run(ledger)
    assert ledger.append(run.run_id, None, expected=0, close=True) == (0, 0)
    assert run.status().state is RunState.FINISHED
    assert ledger.append(run.run_id, None, expected=0, close=True) == (0, 0)
    assert run.events() == ["created", "finished"]
    run.check()


def test_a_run_whose_items_ended_early_finishes_when_it_is_closed(ledger: Ledger) -> None:
    run = Run(ledger, 3, close=False)
    assert run.commit(run.claim()).state == "running"
    ledger.append(run.run_id, None, expected=3, close=True)
    assert run.status().state is RunState.FINISHED
    assert run.status().finished_at > 0
    run.check()


def test_a_paused_run_takes_items_and_a_cancelled_one_does_not(ledger: Ledger) -> None:
    run = Run(ledger, 3, close=False)
    ledger.steer(run.run_id, "pause")
    assert ledger.append(run.run_id, page_of(3, 5), expected=3) == (5, 0)
    run.ledger.steer(run.run_id, "cancel")
    before = run.everything()
    with pytest.raises(RunStateError, match="cancelled at 5 items"):
        ledger.append(run.run_id, page_of(5, 6), expected=5)
    assert run.everything() == before


def test_an_unknown_run_is_named_in_every_answer(ledger: Ledger) -> None:
    run_id = new_run_id()
    with pytest.raises(RunNotFound, match=run_id):
        ledger.append(run_id, page_of(0, 1), expected=0)
    with pytest.raises(RunNotFound, match=run_id):
        ledger.status(run_id)
    with pytest.raises(RunNotFound, match=run_id):
        ledger.spec(run_id)
    with pytest.raises(RunNotFound, match=run_id):
        ledger.steer(run_id, "cancel")
    with pytest.raises(RunNotFound, match=run_id):
        ledger.update(run_id, batch_size=1)
    with pytest.raises(RunNotFound, match=run_id):
        ledger.retry_dead(run_id, [0])
    with pytest.raises(RunNotFound, match=run_id):
        ledger.drop_dead(run_id, [0])
    stored = ledger.connection.command("EXISTS", *keys.of_run(run_id))
    assert stored == 0


def test_a_worker_is_told_that_a_run_is_gone_and_leaves_no_trace_of_it(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    claim = run.claim()
    run.reader.delete()
    assert run.refusal().reason == "norun"
    committed = run.commit(claim, ask=run.ask())
    assert (committed.accepted, committed.state) == (False, "norun")
    assert ledger.renew(run.run_id, 1, [claim.claim_id]).state == "norun"
    assert run.lose(claim) == "norun"
    assert run.sweep().state == "norun"
    assert ledger.register_tickets(run.run_id, ["t"]) == 0
    assert ledger.connection.command("EXISTS", *keys.of_run(run.run_id)) == 0
