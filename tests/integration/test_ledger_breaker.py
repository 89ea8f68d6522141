"""Errors by category, and the breaker that pauses a run when too many of its latest items fail alike."""

from __future__ import annotations

import random

import pytest

from tests.integration.ledger_model import Held, Model
from tests.integration.ledgers import LETTER, Run
from toolkit.ledger import Ask, Claim, Committed, FailedItem, Ledger, NoClaim, Range
from toolkit.records import CATEGORIES


def failing(n: int, category: str = "retryable", kind: str = "retry") -> list[FailedItem]:
    return [FailedItem(at, kind, 0.0, category, LETTER if kind == "dead" else b"") for at in range(n)]


def latest(run: Run) -> list[int | None]:
    """What the breaker remembers: executed items, then failed ones by category."""
    found = run.command("HMGET", "head", "recent", *(f"recent:{c}" for c in CATEGORIES[1:]))
    return [None if x is None else int(x) for x in found]


# --------------------------------------------------------------------------- counting


def test_errors_are_counted_by_category(ledger: Ledger) -> None:
    run = Run(ledger, 48, page=20, batch_size=8)
    assert run.status().errors == {}
    slow, killed, unknown = run.claim(), run.claim(), run.claim()
    run.commit(run.claim(), failed=[*failing(2), *(FailedItem(at, "dead", letter=LETTER) for at in (3, 5))])
    run.commit(run.claim(), failed=failing(3, "out_of_memory"))
    run.commit(run.claim(), failed=failing(4, "bad_payload", "again"))  # not by their own fault
    run.lose(slow, blamed=0, category="timeout", limit=3)
    run.lose(killed, blamed=0)
    run.lose(unknown)
    assert run.status().errors == {
        "retryable": 2, "fatal": 2, "timeout": 1, "worker_lost": 1, "out_of_memory": 3,
    }  # fmt: skip
    assert latest(run) == [None] * len(CATEGORIES)  # there is no breaker
    assert run.status().state == "running"
    run.check()


def test_a_category_that_nobody_knows_counts_as_a_lost_worker(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.lose(run.claim(), blamed=1, category="gremlins")
    assert run.status().errors == {"worker_lost": 1}
    assert CATEGORIES[run.rows()[0]["category"]] == "worker_lost"


# --------------------------------------------------------------------------- the breaker


def test_the_breaker_pauses_with_a_reason_when_more_than_its_share_fails_alike(ledger: Ledger) -> None:
    run = Run(ledger, 100, page=50, batch_size=10, breaker=0.5, breaker_items=20)
    held = run.claim()
    assert run.commit(run.claim(), failed=failing(8)).state == "running"  # too few to tell
    assert run.commit(run.claim(), failed=failing(2)).state == "running"  # 10 of 20 are not more than half
    committed = run.commit(run.claim(), failed=failing(6), ask=run.ask())
    assert (committed.accepted, committed.state, committed.claim) == (True, "paused", NoClaim("paused", 0))
    reason = "16 of the latest 30 items failed with category retryable"
    assert (run.status().state, run.status().reason) == ("paused", reason)
    assert [f["detail"] for _, f in run.reader.events() if f["event"] == "pause"] == [reason]
    assert run.refusal().reason == "paused"
    assert run.commit(held, failed=failing(10)).state == "paused"  # live batches go on; one pause is enough
    assert run.events("pause") == ["pause"]
    assert run.status().reason == reason
    run.check()


def test_failures_of_different_categories_do_not_add_up(ledger: Ledger) -> None:
    run = Run(ledger, 100, page=50, batch_size=10, breaker=0.5, breaker_items=10)
    for category in CATEGORIES[1:5]:
        assert run.commit(run.claim(), failed=failing(5, category)).state == "running"
    assert run.commit(run.claim(), failed=failing(10, "fatal", "dead")).state == "running"  # 15 of 50
    assert run.commit(run.claim(), failed=failing(10, "bad_payload", "again")).state == "running"
    run.check()


def test_resume_forgets_what_failed_before(ledger: Ledger) -> None:
    run = Run(ledger, 100, page=50, batch_size=10, breaker=0.3, breaker_items=10)
    assert run.commit(run.claim(), failed=failing(4)).state == "paused"
    assert latest(run)[:2] == [10, 4]
    assert ledger.steer(run.run_id, "resume") == "running"
    assert latest(run) == [None] * len(CATEGORIES)
    assert run.status().reason == ""
    assert run.status().errors == {"retryable": 4}
    assert run.commit(run.claim(), 9, failed=failing(9)).state == "running"  # again too few to tell
    assert run.commit(run.claim(), 1).state == "running"
    assert latest(run)[:2] == [10, 9]


def test_a_commit_that_executed_nothing_does_not_count(ledger: Ledger) -> None:
    run = Run(ledger, 8, breaker=0.5)
    run.commit(run.claim(), 0)
    assert latest(run) == [None] * len(CATEGORIES)


def test_more_than_200_of_the_latest_items_are_halved(ledger: Ledger) -> None:
    run = Run(ledger, 801, page=801, batch_size=200, breaker=0.9)
    run.commit(run.claim(), failed=failing(7))
    assert latest(run)[:2] == [200, 7]
    run.commit(run.claim(), 1)
    assert latest(run)[:2] == [100, 3]


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_the_model_over_many_batches(ledger: Ledger, seed: int) -> None:
    """More than 200 latest items are halved, each category by itself."""
    chance = random.Random(seed)
    run = Run(ledger, 3000, page=500, batch_size=40, breaker=0.15, breaker_items=20)
    model = Model(40, auto=False, cap=0, known=0, breaker=0.15, breaker_items=20)
    model.submitted, model.cursor = 3000, 3000
    pauses = 0
    while isinstance(claim := ledger.claim(run.run_id, run.ask()), Claim):
        share = chance.choice([0.05, 0.2, 0.6])
        category = chance.choice(CATEGORIES[1:])
        failed = [
            FailedItem(at, "dead", 0.0, category if chance.random() < 0.8 else "fatal", LETTER)
            for at in range(len(claim)) if chance.random() < share
        ]  # fmt: skip
        model.state = "running"
        model.claims[claim.claim_id] = Held([*claim.ranges], claim.asked)
        progress = run.progress(claim, failed=failed)
        assert model.commit(progress)
        committed = ledger.commit(run.run_id, progress)
        assert [n or 0 for n in latest(run)] == [model.recent, *(model.recently[c] for c in CATEGORIES[1:])]
        if committed.state != "finished":
            assert (committed.state, run.status().reason) == (model.state, model.reason)
        if committed.state == "paused":
            pauses += 1
            assert ledger.steer(run.run_id, "resume") == model.steer("resume")
    assert pauses
    assert run.status().errors == dict(model.errors)
    run.check()


# --------------------------------------------------------------------------- a worker asks for a pause


def test_a_commit_may_pause_the_run_with_its_reason(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    committed = run.commit(run.claim(), failed=failing(1), ask=run.ask(), pause="QuotaExceeded: come back tomorrow")
    assert (committed.accepted, committed.state) == (True, "paused")
    assert isinstance(committed.claim, NoClaim)
    assert run.status().reason == "QuotaExceeded: come back tomorrow"
    assert run.events("pause") == ["pause"]
    assert ledger.steer(run.run_id, "resume") == "running"
    assert run.status().reason == ""
    run.check()


def test_a_pause_repeated_or_refused_pauses_nothing(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    one, two = run.claim(), run.claim()
    progress = run.progress(one, pause="once")
    ledger.commit(run.run_id, progress)
    ledger.steer(run.run_id, "resume")
    assert ledger.commit(run.run_id, progress).state == "running"  # repeated
    run.lose(two)
    assert run.commit(two, pause="from the grave").state == "running"  # taken away before
    ledger.steer(run.run_id, "cancel", "enough")
    assert run.status().reason == "enough"


def test_a_cancelled_run_is_not_paused(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    one, _two = run.claim(), run.claim()
    ledger.steer(run.run_id, "cancel", "enough")
    assert run.commit(one, pause="too late").state == "cancelling"
    assert run.status().reason == "enough"


def test_a_repeated_commit_tells_how_the_run_is_now(ledger: Ledger) -> None:
    """The next batch of the first call is still there, though the run was paused meanwhile."""
    run = Run(ledger, 12)
    progress, ask = run.progress(run.claim()), run.ask()
    first = ledger.commit(run.run_id, progress, ask)
    for verb, state in (("pause", "paused"), ("cancel", "cancelling")):
        ledger.steer(run.run_id, verb)
        again: Committed = ledger.commit(run.run_id, progress, ask)
        assert (again.accepted, again.state, again.left) == (True, state, first.left)
        assert isinstance(again.claim, Claim)
        assert again.claim.ranges == (Range(4, 8),)


def test_an_ask_of_a_worker_names_its_lease(ledger: Ledger) -> None:
    """A part that is accepted makes the lease whole again."""
    run = Run(ledger, 8, lease_s=1000.0)
    ask: Ask = run.ask()
    claim = ledger.claim(run.run_id, ask)
    assert isinstance(claim, Claim)
    run.expire(claim)
    run.commit(claim, 2, last=False)
    assert run.reader.claims()[ask.claim_id].lease_ms >= (claim.at + 999) * 1000
    assert run.sweep().expired == 0
