"""Who pays when a process dies: blame, time-outs, halving, and the metric row of the lost batch."""

from __future__ import annotations

import math

import pytest

from tests.integration.ledgers import LETTER, Run, spans
from toolkit.ledger import NOBODY, Claim, FailedItem, Ledger, NoClaim, Range
from toolkit.records import CATEGORIES, FLAG_CUT_OFF, METRIC_NAMES, OUTCOMES

# --------------------------------------------------------------------------- blame


def test_blame_hits_the_item_alone(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=8)
    assert run.lose(run.claim(), blamed=3) == "running"
    assert run.ready() == [Range(0, 3), Range(3, 4, 1, 1, alone=True), Range(4, 8)]
    status = run.status()
    assert (status.lost, status.active, status.claimed, status.retried, status.batches) == (1, 0, 0, 0, 1)
    run.check()


@pytest.mark.parametrize(
    ("blamed", "expected"),
    [
        (0, [Range(1, 2, 2, 1, True), Range(3, 4, 1), Range(8, 10)]),
        (1, [Range(1, 2, 1), Range(3, 4, 2, 1, True), Range(8, 10)]),
        (2, [Range(1, 2, 1), Range(3, 4, 1), Range(8, 9, 1, 1, True), Range(9, 10)]),
        (3, [Range(1, 2, 1), Range(3, 4, 1), Range(8, 9), Range(9, 10, 1, 1, True)]),
    ],
)
def test_blame_is_exact_in_a_gathered_batch(ledger: Ledger, blamed: int, expected: list[Range]) -> None:
    run = Run(ledger, 12, batch_size=8)
    run.commit(run.claim(), failed=[FailedItem(1, "retry"), FailedItem(3, "retry")])
    ledger.update(run.run_id, batch_size=4)
    claim = run.claim()
    assert spans(claim) == [(1, 2), (3, 4), (8, 10)]
    run.lose(claim, blamed)
    assert run.ready() == expected
    run.check()


def test_blame_counts_from_the_start_of_the_claim_and_spares_what_was_committed(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=8)
    claim = run.claim()
    run.commit(claim, 3, last=False)
    run.lose(claim, blamed=5)
    assert run.ready() == [Range(3, 5), Range(5, 6, 1, 1, alone=True), Range(6, 8)]
    assert run.counts() == (3, 0, 0, 5)
    run.check()


@pytest.mark.parametrize("blamed", [-1, 2, 8, 99])
def test_blame_outside_of_what_is_open_is_no_blame(ledger: Ledger, blamed: int) -> None:
    run = Run(ledger, 8, batch_size=8)
    claim = run.claim()
    run.commit(claim, 3, last=False)
    run.lose(claim, blamed)
    assert run.ready() == [Range(3, 5, alone=True), Range(5, 8, alone=True)]
    run.check()


def test_a_loss_repeated_counts_once(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    claim = run.claim()
    run.lose(claim, blamed=1)
    before = run.everything()
    assert run.lose(claim, blamed=1) == "running"
    assert run.lose(claim) == "running"
    assert run.everything() == before


def test_a_committed_claim_cannot_be_lost(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    claim = run.claim()
    run.commit(claim)
    before = run.everything()
    run.lose(claim, blamed=1)
    assert run.everything() == before


def test_the_third_suspicion_buries_an_item_with_the_letter_given(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.lose(run.claim(), blamed=2)
    assert run.commit(run.claim(), last=True).state == "running"  # 0 and 1
    suspect = run.claim()
    assert suspect.ranges == (Range(2, 3, 1, 1, True),)
    run.lose(suspect, blamed=0)
    suspect = run.claim()
    assert suspect.ranges == (Range(2, 3, 2, 2, True),)
    run.lose(suspect, blamed=0, letter=LETTER)
    (letter,) = run.reader.dead_letters()
    assert (letter.index, letter.item, letter.message) == (2, 2, "bad item")
    assert run.events("item_dead", "worker_lost") == ["worker_lost", "worker_lost", "item_dead", "worker_lost"]
    assert run.commit(run.claim()).state == "finished"
    assert run.counts() == (3, 1, 0, 0)
    run.check()


def test_a_burial_may_end_the_run(ledger: Ledger) -> None:
    run = Run(ledger, 1)
    assert [run.lose(run.claim()) for _ in range(3)] == ["running", "running", "finished"]
    run.check()


def test_a_time_out_costs_its_item_an_attempt_and_no_suspicion(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=8)
    slow = {"category": "timeout", "limit": 3, "letter": LETTER}
    run.lose(run.claim(), 5, **slow)
    assert run.ready() == [Range(0, 5), Range(5, 6, 1, alone=True), Range(6, 8)]
    status = run.status()
    assert (status.retried, status.lost, status.dead) == (1, 1, 0)
    row = run.rows()[0]
    assert (CATEGORIES[row["category"]], row["retried"], row["items"]) == ("timeout", 1, 8)
    run.commit(run.claim())
    run.lose(run.claim(), 0, **slow, delay_s=60.0)
    assert run.delayed() == [Range(5, 6, 2, alone=True)]
    run.commit(run.claim())
    run.make_due()
    run.sweep()
    assert run.lose(run.claim(), 0, **slow) == "finished"
    assert [letter.index for letter in run.reader.dead_letters()] == [5]
    assert (run.status().retried, run.rows()[-1]["dead"]) == (2, 1)
    assert [f["detail"] for _, f in run.reader.events() if f["event"] == "item_dead"] == ["5 timeout"]
    run.check()


def test_a_time_out_without_a_limit_takes_that_of_suspicions(ledger: Ledger) -> None:
    run = Run(ledger, 1)
    assert [run.lose(run.claim(), 0, category="timeout") for _ in range(3)] == ["running", "running", "finished"]


def test_a_limit_of_suspicions_may_be_given(ledger: Ledger) -> None:
    run = Run(ledger, 1)
    assert run.lose(run.claim(), 0, category="out_of_memory", limit=1) == "finished"


def test_nobody_is_to_blame_for_a_process_killed_on_purpose(ledger: Ledger) -> None:
    run = Run(ledger, 9, batch_size=8)
    claim = run.claim()
    run.commit(claim, 3, last=False)
    run.lose(claim, NOBODY)
    assert run.ready() == [Range(3, 8)]
    run.commit(run.claim(), failed=[FailedItem(1, "retry")])
    for _ in range(4):  # nor is one item alone
        run.lose(run.claim(), NOBODY)
    assert run.ready() == [Range(4, 5, 1)]
    assert run.status().errors == {"fatal": 1}
    run.check()


def test_a_gathered_batch_killed_on_purpose_comes_back_in_order(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=8)
    run.commit(run.claim(), failed=[FailedItem(1, "retry"), FailedItem(3, "retry")])
    claim = run.claim()
    run.lose(claim, NOBODY)
    assert run.ready() == [Range(1, 2, 1), Range(3, 4, 1), Range(8, 12)] == list(claim.ranges)
    run.check()


def test_blame_takes_the_suspicion_from_the_neighbours(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=8)
    run.lose(run.claim())
    run.lose(run.claim(), blamed=1)
    assert run.ready() == [Range(0, 1), Range(1, 2, 1, 1, True), Range(2, 4), Range(4, 8, alone=True)]
    run.check()


# --------------------------------------------------------------------------- halving


@pytest.mark.parametrize("bad", [0, 5, 10])
def test_without_blame_halving_finds_the_killer_and_no_other_item_suffers(ledger: Ledger, bad: int) -> None:
    run = Run(ledger, 11, batch_size=11)
    sizes = []
    while isinstance(claim := ledger.claim(run.run_id, run.ask()), Claim):
        if bad in claim.indexes():
            sizes.append(len(claim))
            run.lose(claim)
        else:
            assert set(claim.attempts()) == {1}
            run.commit(claim)
        run.check()
    assert claim == NoClaim("finished", 0)
    assert sizes[:2] in ([11, 5], [11, 6])
    assert sizes[-4:] == [2, 1, 1, 1] or sizes[-4:] == [3, 1, 1, 1]
    assert run.reader.dead_indexes() == [bad]
    assert sorted(run.results()) == [i for i in range(11) if i != bad]
    assert run.status().lost == len(sizes)


def test_a_lost_claim_with_everything_committed_gives_nothing_back(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    claim = run.claim()
    run.commit(claim, 4, last=False)
    assert run.lose(claim) == "finished"
    assert run.counts() == (4, 0, 0, 0)
    assert run.ready() == []
    run.check()


# --------------------------------------------------------------------------- its metric row


def test_a_lost_claim_leaves_a_metric_row(ledger: Ledger) -> None:
    run = Run(ledger, 20, batch_size=8)
    run.commit(run.claim(), failed=[FailedItem(2, "retry")])
    other, claim = run.claim("w2"), run.claim("w3")
    ledger.update(run.run_id, batch_size=5)
    failed = [FailedItem(1, "retry"), FailedItem(2, "dead", letter=LETTER), FailedItem(3, "again")]
    run.commit(other, 5, last=False, failed=failed)
    run.lose(other, blamed=6)
    row = run.rows()[1]
    assert tuple(row) == METRIC_NAMES
    assert row["flags"] == FLAG_CUT_OFF
    assert (OUTCOMES[row["outcome"]], CATEGORIES[row["category"]]) == ("lost", "worker_lost")
    assert run.reader.workers()[row["worker"]].split("\t")[1] == "w2"
    assert (row["first_index"], row["items"], row["asked"], row["attempt"], row["active_claims"]) == (2, 8, 8, 2, 1)
    assert (row["ok"], row["retried"], row["dead"]) == (2, 1, 1)  # of the part that was committed
    assert row["claimed_at"] == pytest.approx(other.at)
    assert row["service_s"] >= 0
    assert math.isnan(row["idle_s"])
    run.lose(claim)
    assert run.rows()[2]["active_claims"] == 2
    run.check()


def test_the_metric_row_counts_a_burial(ledger: Ledger) -> None:
    run = Run(ledger, 1)
    for _ in range(3):
        run.lose(run.claim())
    assert [(row["items"], row["ok"], row["dead"], row["attempt"]) for row in run.rows()] == [
        (1, 0, 0, 1), (1, 0, 0, 2), (1, 0, 1, 3),
    ]  # fmt: skip
