"""Runs whose items have weights: batches cut by weight, heavy items first, and a weight that adds up.

Item `i` weighs what `ledgers.weight` says: 1, 1/4, 4, 1/2, 2, 3/2, 8, and again from the start.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from itertools import accumulate

import pytest

from tests.integration.ledgers import Run, page_of, spans, weigh, weight
from toolkit.errors import LedgerCorrupt, LedgerError, RunStateError
from toolkit.ledger import NOBODY, Claim, FailedItem, Ledger, weigh_page


def taken(run: Run, batches: int) -> list[list[int]]:
    """Indexes of so many batches, each executed at once."""
    found = []
    for _ in range(batches):
        claim = run.claim()
        found.append(list(claim.indexes()))
        run.commit(claim)
    return found


def left(run: Run) -> float:
    return float(run.head("weight_left"))


def waiting(run: Run) -> float:
    """The weight that nobody holds, summed item by item."""
    return sum(weight(i) for r in run.ready() for i in range(r.start, r.stop))


# --------------------------------------------------------------------------- batches


def test_heavy_items_begin_before_the_others_of_every_page(ledger: Ledger) -> None:
    run = Run(ledger, 12, page=4, weight_size=4)
    assert taken(run, 4) == [[6], [2], [9], [7, 3, 8, 0, 1]]  # those of 4 and more, and what single items are left of
    assert taken(run, 2) == [[4, 5, 10], [11]]  # then the others in the order of the input
    assert (run.status().state, left(run)) == ("finished", 0)
    assert run.results() == {i: f"r{i}" for i in range(12)}
    run.check()


def test_a_batch_takes_items_while_their_weight_stays_within_its_size(ledger: Ledger) -> None:
    run = Run(ledger, weight_size=2.75)
    run.append(14, close=True, heavy=99)
    claims = [run.claim() for _ in range(4)]
    assert [spans(c) for c in claims] == [[(0, 2)], [(2, 3)], [(3, 4), (4, 5)], [(5, 6)]]
    assert [c.weighed.weight for c in claims if c.weighed] == [1.25, 4, 2.5, 1.5]  # the third item alone is too heavy
    assert [(c.weighed.size, c.weighed.limit, c.asked) for c in claims if c.weighed] == [
        (2.75, 2.75, 2), (2.75, 2.75, 1), (2.75, 2.75, 2), (2.75, 2.75, 1),
    ]  # fmt: skip
    run.check()


def test_a_heavy_item_of_a_later_page_overtakes_the_light_ones_that_wait(ledger: Ledger) -> None:
    run = Run(ledger, 4, close=False, weight_size=4)
    assert taken(run, 1) == [[2]]
    assert ledger.append(run.run_id, weigh(page_of(4, 8), 4), expected=4, close=True) == (8, 1)  # one of four was taken
    assert taken(run, 1) == [[6]]
    run.check()


def test_without_any_knowledge_a_batch_is_one_item_and_then_follows_the_worker(ledger: Ledger) -> None:
    run = Run(ledger, 70, page=70, weight_size=0, auto=True, known_workers=2)
    first = run.claim(want=0, floor=0)
    assert (spans(first), first.weighed and first.weighed.size) == ([(13, 14)], 8)
    second = run.claim(want=24, floor=0, unit_s=0.25)
    assert second.weighed
    assert (list(second.indexes()), second.weighed.weight) == ([20, 27, 34], 24)
    assert (second.weighed.last_size, second.weighed.unit_s) == (24, 0.25)
    third = run.claim(want=0, floor=0)  # a worker that knows nothing yet follows the latest one
    assert third.weighed
    assert (third.weighed.size, third.weighed.unit_s) == (24, 0.25)
    assert run.status().item_s == 0


def test_batches_shrink_with_the_weight_that_is_left(ledger: Ledger) -> None:
    run = Run(ledger, 14, page=14, weight_size=16, auto=True, known_workers=2)
    claim = run.claim(floor=0.5)
    assert claim.weighed
    assert (claim.weighed.size, claim.weighed.limit) == (16, 34.5 / 4)  # half an equal share of two workers
    for _ in range(9):
        claim = run.claim(floor=0.5)
    assert claim.weighed
    assert claim.weighed.limit == max(0.5, (claim.weighed.left + claim.weighed.weight) / (2 * claim.active)) < 2
    run.command("HSET", "head", "weight_left", 2.0)
    claim = run.claim(floor=1.5)
    assert claim.weighed
    assert (claim.weighed.limit, claim.weighed.left) == (1.5, 2 - claim.weighed.weight)  # and no further than the floor


def test_where_no_item_is_left_no_weight_is_left_either(ledger: Ledger) -> None:
    run = Run(ledger, weight_size=0.15)
    weights = [0.3, 0.5, 0.1]
    sums = list(accumulate(weights))
    assert sums[2] - (sums[1] - sums[0]) - sums[0] - (sums[2] - sums[1]) > 0  # binary fractions leave something
    ledger.append(run.run_id, weigh_page(page_of(0, 3), weights, [0, 1, 2]), expected=0, close=True)
    assert taken(run, 3) == [[1], [0], [2]]
    assert left(run) == 0


def test_no_more_ranges_are_gathered_than_in_other_runs(ledger: Ledger) -> None:
    run = Run(ledger, 210, page=210, weight_size=1000)
    run_of = run.claim()
    assert len(run_of.ranges) == 64
    assert {weight(r.start) for r in run_of.ranges if len(r) == 1} == {8, 4}


def test_the_size_of_a_running_run_can_be_changed_by_fractions(ledger: Ledger) -> None:
    run = Run(ledger, weight_size=1)
    run.append(14, close=True, heavy=99)
    ledger.update(run.run_id, batch_size=1.25, detail="smaller")
    assert taken(run, 1) == [[0, 1]]
    assert (run.head("weight_size"), run.head("batch_size")) == ("1.25", "4")
    ledger.update(run.run_id, batch_size=0, auto=True)
    claim = run.claim(want=6.5, floor=0)
    assert claim.weighed
    assert claim.weighed.size == 6.5


# --------------------------------------------------------------------------- what comes back


def test_what_is_given_back_comes_where_its_weight_belongs(ledger: Ledger) -> None:
    run = Run(ledger, weight_size=4)
    run.append(14, close=True, heavy=2)
    heaviest, second = run.claim(), run.claim()
    assert (spans(heaviest), spans(second)) == ([(13, 14)], [(6, 7)])
    run.commit(heaviest, failed=[FailedItem(0, "retry")])
    run.commit(second, 0)
    assert taken(run, 2) == [[13], [6]]  # before everything lighter
    assert left(run) == waiting(run)
    run.check()


def test_a_retry_that_waits_weighs_nothing_until_it_is_due(ledger: Ledger) -> None:
    run = Run(ledger, 14, weight_size=4)
    run.commit(run.claim(), failed=[FailedItem(0, "retry", 60.0)])
    assert left(run) == waiting(run) == 26.5
    run.make_due()
    run.sweep()
    assert left(run) == waiting(run) == 34.5
    assert taken(run, 1) == [[13]]
    run.check()


def test_a_batch_whose_process_died_tells_its_weight_and_comes_back(ledger: Ledger) -> None:
    run = Run(ledger, weight_size=2.75)
    run.append(14, close=True, heavy=99)
    run.lose(run.claim(), NOBODY)
    claim = run.claim()
    assert spans(claim) == [(0, 2)]
    run.lose(claim)
    rows = [(row["weight_asked"], row["weight"], row["asked"]) for row in run.rows()]
    assert rows == [(2.75, 1.25, 2), (2.75, 1.25, 2)]
    assert left(run) == waiting(run) == 34.5
    assert spans(run.claim()) == [(0, 1)]  # a half of it, alone
    run.check()


def test_dead_letters_go_back_to_work_by_weight(ledger: Ledger) -> None:
    run = Run(ledger, 14, weight_size=100, release=True)
    run.die(6, 9)
    assert (run.status().state, left(run)) == ("finished", 0)
    assert run.ledger.retry_dead(run.run_id, [6, 9]) == 2
    assert left(run) == 12
    ledger.update(run.run_id, batch_size=1)
    assert taken(run, 2) == [[6], [9]]
    assert run.status().state == "finished"
    assert run.command("EXISTS", "pages") == 0
    run.check()


def test_a_cancelled_run_has_no_weight_left_and_keeps_only_its_dead_letters(ledger: Ledger) -> None:
    run = Run(ledger, 14, weight_size=8, release=True)
    run.die(13)
    ledger.steer(run.run_id, "cancel")
    assert (run.status().state, run.counts(), left(run)) == ("cancelled", (0, 1, 13, 0), 0)
    assert run.command("HKEYS", "pages") == [b"n12", b"12"]
    assert [letter.item for letter in run.reader.dead_letters()] == [13]
    run.check()


# --------------------------------------------------------------------------- calls that come twice


def test_claim_and_append_repeated_change_nothing(ledger: Ledger) -> None:
    run = Run(ledger, 4, close=False, weight_size=0, auto=True)
    ask = run.ask(want=3.5, floor=0, unit_s=0.5)
    first, before = ledger.claim(run.run_id, ask), run.everything()
    again = ledger.claim(run.run_id, ask)
    assert isinstance(again, Claim)
    assert again == replace(first, spawn=False)
    assert ledger.append(run.run_id, weigh(page_of(0, 4), 4), expected=0) == (4, 1)
    assert run.everything() == before


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("weights", "alone"),
    [
        ([1.0] * 3, []), ([1.0] * 5, []), ([], [0]), ([0.0] * 4, []), ([float("nan")] * 4, []), ([1e308] * 4, []),
        ([-1.0] * 4, []), ([1.0] * 4, [4]), ([1.0] * 4, [2, 2]), ([1.0] * 4, [2, 1]),
    ],
)  # fmt: skip
def test_a_page_with_bad_weights_is_refused_whole(ledger: Ledger, weights: list[float], alone: list[int]) -> None:
    run = Run(ledger, weight_size=1)
    before, page = run.everything(), weigh_page(page_of(0, 4), weights, alone)
    with pytest.raises(LedgerError, match="bad weights"):
        ledger.append(run.run_id, page, expected=0)
    assert run.everything() == before
    with pytest.raises(LedgerError, match="bad weights"):
        ledger.append(run.run_id, replace(weigh(page_of(0, 4), 4), alone=b"\0\0\0"), expected=0)
    assert run.everything() == before


def test_weights_go_with_runs_that_have_them(ledger: Ledger) -> None:
    plain, weighted = Run(ledger), Run(ledger, weight_size=1)
    with pytest.raises(LedgerError, match="bad weights"):
        ledger.append(plain.run_id, weigh(page_of(0, 4), 4), expected=0)
    with pytest.raises(LedgerError, match="bad weights"):
        ledger.append(weighted.run_id, page_of(0, 4), expected=0)
    assert plain.status().submitted == weighted.status().submitted == 0
    ledger.append(weighted.run_id, None, expected=0, close=True)
    with pytest.raises(RunStateError, match="finished at 0 items"):
        ledger.append(weighted.run_id, weigh(page_of(0, 4), 4), expected=0)


# --------------------------------------------------------------------------- what does not parse


def test_weights_that_are_gone_or_too_short_are_named(ledger: Ledger) -> None:
    run = Run(ledger, 8, page=8, weight_size=4)
    run.command("HSET", "pages", "w0", weigh(page_of(0, 8), 4).weights[:56])  # the heaviest item, 6, still has its own
    assert spans(run.claim()) == [(6, 7)]
    run.command("HDEL", "pages", "w0")
    with pytest.raises(LedgerCorrupt, match=f"{run.run_id}}}:pages, field w0 does not parse: 'missing'"):
        run.claim()
    run.command("HSET", "pages", "w0", b"\0" * 16)
    with pytest.raises(LedgerCorrupt, match="pages, field w0 does not parse: 'too short'"):
        run.claim()


def test_a_claim_whose_weights_do_not_parse_is_named(ledger: Ledger) -> None:
    run = Run(ledger, 8, weight_size=4)
    claim = run.claim()
    stored, weights = run.command("HGET", "claims", claim.claim_id), struct.pack("<ddd", 4, 4, 8)
    assert weights in stored
    for bad in ((math.nan, 4, 8), (4, math.nan, 8), (4, 4, math.nan), (0, 4, 8), (4, 4, 0)):
        run.command("HSET", "claims", claim.claim_id, stored.replace(weights, struct.pack("<ddd", *bad)))
        with pytest.raises(LedgerCorrupt, match=f"{run.run_id}}}:claims"):
            run.commit(claim)


def test_a_head_or_a_key_spoiled_is_named(ledger: Ledger) -> None:
    for field in ("weight_left", "weight_last", "weight_s", "weight_size"):
        run = Run(ledger, 8, weight_size=4)
        run.command("HSET", "head", field, "much")
        with pytest.raises(LedgerCorrupt, match=f"{run.run_id}}}:head, field {field} does not parse: 'much'"):
            run.claim()
    run = Run(ledger, 8, weight_size=4)
    run.command("DEL", "ready")
    run.command("RPUSH", "ready", "0:8:0:0:0")
    with pytest.raises(LedgerCorrupt, match=f"{run.run_id}}}:ready does not parse: 'a list, expected: zset'"):
        run.claim()
