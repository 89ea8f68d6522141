"""How a worker gets a batch: which items, how many, and when none; and the tickets that bring workers."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise

import pytest

from tests.integration.ledgers import Run, items_of, page_of, spans
from toolkit.ledger import NOBODY, TICKET_EXPIRY_S, FailedItem, Ledger, NoClaim, Page, PageCache, Range


def failing(kind: str, *positions: int, delay_s: float = 0.0) -> list[FailedItem]:
    return [FailedItem(p, kind, delay_s) for p in positions]


# --------------------------------------------------------------------------- which items


def test_a_batch_crosses_pages(ledger: Ledger) -> None:
    run = Run(ledger, 10, page=4, batch_size=6)
    first, second = run.claim(), run.claim()
    assert (spans(first), items_of(first)) == ([(0, 6)], [0, 1, 2, 3, 4, 5])
    assert [start for start, _, _ in first.pages] == [0, 4]
    assert (spans(second), items_of(second)) == ([(6, 10)], [6, 7, 8, 9])
    assert [start for start, _, _ in second.pages] == [4, 8]
    assert (first.left, second.left) == (4, 0)
    assert (first.active, second.active) == (1, 2)
    run.check()


@pytest.mark.parametrize(
    "sizes", [(4, 4, 4, 2), (2, 4, 4), (4, 2, 4, 4), (4, 4, 2, 2, 4), (4, 4, 9), (1, 1, 1, 1, 9, 1)]
)
@pytest.mark.parametrize("batch_size", [1, 3, 12])
@pytest.mark.parametrize("release", [False, True])
def test_pages_are_found_whatever_their_sizes(
    ledger: Ledger, sizes: tuple[int, ...], batch_size: int, release: bool
) -> None:
    pages = list(pairwise([0, *accumulate(sizes)]))
    run = Run(ledger, release=release, batch_size=batch_size)
    for start, stop in pages:
        ledger.append(run.run_id, page_of(start, stop), expected=start, close=stop == sum(sizes))
    state = "running"
    while state == "running":
        claim = run.claim()
        first, last = claim.indexes()[0], claim.indexes()[-1]
        assert [start for start, _, _ in claim.pages] == [
            start for start, stop in pages if start <= last and stop > first
        ]
        assert items_of(claim) == list(claim.indexes())
        state = run.commit(claim).state
        assert run.reader.page_starts() == [start for start, stop in pages if not release or stop > last + 1]
    assert state == "finished"
    run.check()


def test_the_page_that_a_worker_keeps_is_not_sent_again(ledger: Ledger) -> None:
    run, cache = Run(ledger, 10, page=4, batch_size=6), PageCache()
    assert items_of(run.claim(have=cache.have), cache) == [0, 1, 2, 3, 4, 5]
    assert cache.have == 4
    claim = run.claim(have=cache.have)
    assert [(start, blob == b"") for start, blob, _ in claim.pages] == [(4, True), (8, False)]
    assert items_of(claim, cache) == [6, 7, 8, 9]


def test_a_range_across_pages_keeps_its_order_behind_one_on_its_last_page(ledger: Ledger) -> None:
    run = Run(ledger, 16, page=4, batch_size=6)
    run.commit(run.claim())
    ledger.update(run.run_id, batch_size=4)
    low, high = run.claim(), run.claim()
    run.commit(low, 0)  # 6..10 are given back
    run.commit(high, 0)  # 10..14 before them
    ledger.update(run.run_id, batch_size=8)
    claim = run.claim()
    assert spans(claim) == [(10, 14), (6, 10)]
    assert items_of(claim) == list(claim.indexes()) == [10, 11, 12, 13, 6, 7, 8, 9]


def test_a_claim_repeated_is_the_same_claim(ledger: Ledger) -> None:
    run = Run(ledger, 10, known_workers=4)
    ask = run.ask(new_ticket="t1")
    claim = ledger.claim(run.run_id, ask)
    assert claim.spawn
    before = run.everything()
    assert ledger.claim(run.run_id, ask) == replace(claim, spawn=False)
    assert run.everything() == before


def test_ready_ranges_come_first_and_are_gathered(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=4)
    run.commit(run.claim(), failed=failing("retry", 1, 3))
    claim = run.claim()
    assert claim.ranges == (Range(1, 2, 1), Range(3, 4, 1), Range(4, 6))
    assert (list(claim.indexes()), claim.attempts()) == ([1, 3, 4, 5], [2, 2, 1, 1])
    assert items_of(claim) == [1, 3, 4, 5]
    assert [start for start, _, _ in claim.pages] == [0, 4]  # each page once, though ranges share one
    run.check()


def test_at_most_64_ranges_are_gathered(ledger: Ledger) -> None:
    run = Run(ledger, 70, page=70, batch_size=70)
    run.commit(run.claim(), failed=failing("retry", *range(70)))
    claims = run.claim(), run.claim()
    assert [len(c.ranges) for c in claims] == [64, 6]
    assert [i for c in claims for i in c.indexes()] == list(range(70))
    run.check()


def test_a_ready_range_larger_than_the_batch_is_cut(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=8)
    run.commit(run.claim(), 1)
    ledger.update(run.run_id, batch_size=3)
    assert [spans(run.claim()) for _ in range(3)] == [[(1, 4)], [(4, 7)], [(7, 8)]]
    run.check()


def test_a_cut_range_brings_no_page_of_its_rest(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=12)
    run.lose(run.claim(), NOBODY)
    ledger.update(run.run_id, batch_size=4)
    assert [start for start, _, _ in run.claim().pages] == [0]
    run.check()


def test_halves_are_never_gathered(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=4)
    run.lose(run.claim())  # nobody is blamed: two halves, each alone
    ledger.update(run.run_id, batch_size=8)
    claims = [run.claim() for _ in range(3)]
    assert [c.ranges for c in claims] == [(Range(0, 2, alone=True),), (Range(2, 4, alone=True),), (Range(4, 8),)]
    run.check()


def test_gathering_stops_before_what_must_be_alone_and_goes_on_with_new_items(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=4)
    one, two = run.claim(), run.claim()
    run.lose(one)
    run.commit(two, 3)  # 7 is given back in front of the halves
    assert [c.ranges for c in (run.claim(), run.claim())] == [
        (Range(7, 8), Range(8, 11)), (Range(0, 2, alone=True),),
    ]  # fmt: skip
    run.check()


def test_a_half_larger_than_the_batch_is_cut_and_its_rest_stays_alone(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=8)
    run.lose(run.claim())
    ledger.update(run.run_id, batch_size=3)
    assert [run.claim().ranges[0] for _ in range(3)] == [
        Range(0, 3, alone=True), Range(3, 4, alone=True), Range(4, 7, alone=True),
    ]  # fmt: skip
    run.check()


def test_a_suspect_is_claimed_by_itself_even_after_a_retry(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=8)
    run.lose(run.claim(), blamed=2)
    first, suspect, rest = run.claim(), run.claim(), run.claim()
    assert [c.ranges for c in (first, suspect, rest)] == [(Range(0, 2),), (Range(2, 3, 1, 1, True),), (Range(3, 8),)]
    run.commit(first, failed=failing("retry", 0))
    run.commit(suspect, failed=failing("retry", 0))  # no longer cut out, still suspected
    assert run.ready() == [Range(0, 1, 1), Range(2, 3, 2, 1)]
    assert [run.claim().ranges for _ in range(2)] == [(Range(0, 1, 1),), (Range(2, 3, 2, 1),)]
    run.check()


def test_an_answer_holds_at_most_32_mib_of_pages(ledger: Ledger) -> None:
    def submitted(run: Run) -> Run:
        for i in range(5):
            ledger.append(run.run_id, Page(i, i + 1, bytes(12 << 20)), expected=i, close=i == 4)
        return run

    fresh = submitted(Run(ledger, batch_size=5))
    assert [len(fresh.claim()) for _ in range(2)] == [3, 2]
    fresh.check()
    fresh.reader.delete()
    again = submitted(Run(ledger, batch_size=1))
    for claim in [again.claim() for _ in range(4)]:
        again.commit(claim, 0)
    ledger.update(again.run_id, batch_size=5)
    assert [list(again.claim().indexes()) for _ in range(2)] == [[3, 2], [1, 0, 4]]
    again.check()
    again.reader.delete()


# --------------------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("items", "known", "cap", "floor", "expected"),
    [
        (100, 4, 0, 1, [10, 10, 10, 9, 7]),  # ceil(left / (2 workers)), at most the batch size
        (20, 4, 0, 1, [3, 3, 2, 2, 1]),  # the fifth claimer counts as a fifth worker
        (20, 4, 2, 1, [5, 4]),  # no more workers than the cap
        (20, 0, 0, 1, [10, 3, 2]),  # claimers count when no worker is known
        (20, 4, 0, 4, [4, 4, 4, 4, 4]),
        (7, 4, 0, 9, [7]),  # never more than there are
    ],
)
def test_automatic_sizes_taper(
    ledger: Ledger, items: int, known: int, cap: int, floor: int, expected: list[int]
) -> None:  # fmt: skip
    run = Run(ledger, items, page=50, batch_size=10, auto=True, known_workers=known, max_workers=cap)
    claims = [run.claim(floor=floor) for _ in expected]
    assert [len(c) for c in claims] == expected
    assert {c.asked for c in claims} == {10}
    run.check()


def test_a_fixed_size_does_not_taper(ledger: Ledger) -> None:
    run = Run(ledger, 11, batch_size=5, known_workers=8)
    assert [len(run.claim(want=1, floor=1)) for _ in range(3)] == [5, 5, 1]


def test_the_controller_s_wish_counts_only_where_the_run_has_no_size(ledger: Ledger) -> None:
    run = Run(ledger, 100, page=50, batch_size=0, auto=True, known_workers=1)
    assert [(len(c), c.asked, c.last_batch) for c in (run.claim(), run.claim(want=7), run.claim())] == [
        (1, 1, 1), (7, 7, 7), (7, 7, 7),  # no wish: as the latest claim of the run
    ]  # fmt: skip
    assert run.status().batch_size == 7
    ledger.update(run.run_id, batch_size=3)
    claim = run.claim(want=7)
    assert (len(claim), claim.batch_size) == (3, 3)


def test_a_claim_tells_what_the_controller_needs(ledger: Ledger) -> None:
    run = Run(ledger, 20, batch_size=4, max_workers=3, known_workers=2)
    run.commit(run.claim(), item_s=0.125)
    claim = run.claim()
    assert (claim.item_s, claim.known_workers, claim.max_workers, claim.last_batch) == (0.125, 2, 3, 4)
    assert run.status().item_s == 0.125
    run.commit(claim)
    assert run.claim().item_s == 0.125  # a commit that says nothing leaves it
    other = run.claim("w2")
    assert (claim.worker, other.worker) == (1, 2)
    assert {code: text.split("\t")[1] for code, text in run.reader.workers().items()} == {1: "w1", 2: "w2"}


# --------------------------------------------------------------------------- when none


def test_no_more_batches_at_a_time_than_the_cap(ledger: Ledger) -> None:
    run = Run(ledger, 20, max_workers=2)
    claims, ask = [run.claim(), run.claim()], run.ask()
    before = run.everything()
    assert ledger.claim(run.run_id, ask) == NoClaim("busy", 12)
    assert run.everything() == before
    run.commit(claims[0])
    assert spans(ledger.claim(run.run_id, ask)) == [(8, 12)]  # the same id may ask again


def test_empty_says_how_many_wait_for_a_retry(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    claim = run.claim()
    assert run.refusal() == NoClaim("empty", 0)
    run.commit(claim, failed=failing("retry", 0, 3, delay_s=60))
    before = run.everything()
    assert run.refusal() == NoClaim("empty", 2)
    assert run.everything() == before


@pytest.mark.parametrize("taken", [False, True])
def test_a_closed_claim_never_lives_again(ledger: Ledger, taken: bool) -> None:
    run = Run(ledger, 8)
    ask = run.ask()
    claim = ledger.claim(run.run_id, ask)
    if taken:
        run.lose(claim)
    else:
        run.commit(claim)
    before = run.everything()
    assert ledger.claim(run.run_id, ask) == NoClaim("gone", 0)
    assert run.everything() == before


def test_no_batch_of_a_run_that_does_not_run(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    held = run.claim()
    ledger.steer(run.run_id, "pause")
    assert run.refusal().reason == "paused"
    assert ledger.steer(run.run_id, "cancel") == "cancelling"
    assert run.refusal().reason == "cancelling"
    run.commit(held)
    assert run.refusal().reason == "cancelled"
    finished = Run(ledger, 4)
    finished.commit(finished.claim())
    assert finished.refusal().reason == "finished"


@pytest.mark.parametrize("verb", ["", "pause"])
def test_whoever_means_an_earlier_run_of_the_same_id_gets_nothing(ledger: Ledger, verb: str) -> None:
    run = Run(ledger, 12)
    ledger.register_tickets(run.run_id, ["a"])
    born = ledger.stored(run.run_id).born
    assert born == round(run.status().created_at * 1000)
    claim = run.claim(born=born)
    progress = run.progress(claim)
    if verb:
        ledger.steer(run.run_id, verb)
    before = run.everything()
    for other in (born - 1, born + 1):
        assert run.refusal(born=other, ticket="a", have=0) == NoClaim("other", 0)
    assert run.everything() == before  # its ticket is still to be served
    committed = ledger.commit(run.run_id, progress, run.ask(born=born - 1))
    assert (committed.accepted, committed.claim) == (True, NoClaim("other", 0))


def test_whoever_means_an_earlier_generation_gets_nothing_until_he_knows(ledger: Ledger) -> None:
    # Given a run whose dead letter was sent back to work after a worker had learnt of it
    run = Run(ledger, 3, batch_size=1)
    run.die(0)
    assert ledger.retry_dead(run.run_id, [0]) == 1
    ledger.register_tickets(run.run_id, ["a"])
    # When it claims, alone or with a commit, then it gets nothing, and its ticket is still to be served
    before = run.everything()
    assert run.refusal(generation=0, ticket="a", have=0) == NoClaim("anew", 3)
    assert run.everything() == before
    claim = run.claim(generation=1)
    committed = ledger.commit(run.run_id, run.progress(claim), run.ask(generation=0))
    assert (committed.accepted, committed.claim) == (True, NoClaim("anew", 2))
    # And a call that is repeated gets what it got, and who says nothing takes any
    again = (ask := run.ask())._replace(generation=0)
    assert ledger.claim(run.run_id, ask) == ledger.claim(run.run_id, again)
    # And where nothing is to be had, it is told why
    ledger.steer(run.run_id, "pause")
    assert run.refusal(generation=0).reason == "paused"


# --------------------------------------------------------------------------- tickets


def test_a_claim_that_sees_more_work_than_workers_spawns_one_ticket(ledger: Ledger) -> None:
    run = Run(ledger, 40, known_workers=3)
    first = run.claim(new_ticket="a")
    assert first.spawn
    expiry = run.command("ZSCORE", "tickets", "a")
    assert float(expiry) == round(first.at * 1000) + TICKET_EXPIRY_S * 1000
    second = run.claim(ticket="a", new_ticket="b")  # it arrived: one claim, one ticket out, one more wanted
    assert second.spawn
    assert run.tickets() == {"b"}
    third = run.claim(new_ticket="c")  # two claims and one ticket are enough for three workers
    assert not third.spawn
    assert run.tickets() == {"b"}
    run.check()


@pytest.mark.parametrize(
    ("known", "cap", "spawns"),
    [(4, 0, 3), (4, 2, 1), (2, 4, 1), (0, 3, 2), (0, 0, 0), (1, 0, 0)],
)
def test_as_many_tickets_as_workers_and_cap_allow(ledger: Ledger, known: int, cap: int, spawns: int) -> None:
    run = Run(ledger, 80, page=50, known_workers=known, max_workers=cap)
    spawned, ticket = 0, ""
    for n in range(8):
        claim = ledger.claim(run.run_id, run.ask(ticket=ticket, new_ticket=f"t{n}"))
        if isinstance(claim, NoClaim) or not claim.spawn:
            break
        spawned, ticket = spawned + 1, f"t{n}"
    assert spawned == spawns


def test_nothing_left_or_no_new_id_spawns_nothing(ledger: Ledger) -> None:
    run = Run(ledger, 8, known_workers=8)
    assert not run.claim().spawn
    assert not run.claim(new_ticket="t").spawn
    assert run.tickets() == set()


def test_a_ticket_that_never_arrives_is_forgotten_when_it_expires(ledger: Ledger) -> None:
    run = Run(ledger, 40, known_workers=2)
    assert run.claim(new_ticket="a").spawn
    assert not run.claim(new_ticket="b").spawn
    run = Run(ledger, 40, known_workers=2)
    ledger.register_tickets(run.run_id, ["a"])
    assert not run.claim(new_ticket="b").spawn
    run = Run(ledger, 40, known_workers=2)
    ledger.register_tickets(run.run_id, ["a"])
    run.command("ZADD", "tickets", "XX", 1, "a")
    assert run.claim(new_ticket="b").spawn
    assert run.tickets() == {"b"}


@pytest.mark.parametrize("verb", ["pause", ""])
def test_a_ticket_has_arrived_even_when_it_gets_nothing(ledger: Ledger, verb: str) -> None:
    run = Run(ledger, 4)
    run.claim()
    assert ledger.register_tickets(run.run_id, ["a", "b"]) == 2
    if verb:
        ledger.steer(run.run_id, verb)
    assert run.refusal(ticket="a").reason == ("paused" if verb else "empty")
    assert run.tickets() == {"b"}


@pytest.mark.parametrize(
    ("known", "cap", "claims", "outstanding", "taken"),
    [
        (2, 0, 1, 0, True),  # in the place of the worker that leaves
        (2, 0, 1, 1, False),  # somebody sent one in its place already
        (2, 0, 0, 1, True),
        (2, 0, 2, 0, False),
        (4, 2, 1, 1, False),
        (0, 3, 1, 1, True),  # nobody reports yet, up to the cap
        (0, 0, 0, 1, False),
        (9, 0, 3, 3, False),  # three items are left
    ],
)
def test_a_worker_that_leaves_sends_its_ticket_only_where_one_lacks(
    ledger: Ledger, known: int, cap: int, claims: int, outstanding: int, taken: bool
) -> None:  # fmt: skip
    run = Run(ledger, 6, batch_size=1, max_workers=cap, known_workers=known)
    for _ in range(claims):
        run.claim()
    ledger.register_tickets(run.run_id, [f"t{n}" for n in range(outstanding)])
    before = run.tickets()
    assert ledger.register_tickets(run.run_id, ["mine"], lacking=True) == taken
    assert ledger.register_tickets(run.run_id, ["mine"], lacking=True) == taken  # the answer was lost
    assert run.tickets() == before | ({"mine"} if taken else set())
    run.check()


def test_tickets_that_expired_are_no_tickets_to_a_worker_that_leaves(ledger: Ledger) -> None:
    run = Run(ledger, 6, batch_size=1, known_workers=1)
    ledger.register_tickets(run.run_id, ["old"])
    run.command("ZADD", "tickets", "XX", 1, "old")
    assert ledger.register_tickets(run.run_id, ["mine"], lacking=True) == 1
    assert run.tickets() == {"mine"}


def test_tickets_are_counted_once_and_only_while_the_run_runs(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    assert ledger.register_tickets(run.run_id, []) == 0
    assert ledger.register_tickets(run.run_id, ["a", "b"]) == 2
    assert ledger.register_tickets(run.run_id, ["a", "b"]) == 2
    assert run.tickets() == {"a", "b"}
    ledger.steer(run.run_id, "pause")
    assert ledger.register_tickets(run.run_id, ["c"]) == 0
    ledger.steer(run.run_id, "resume")
    run.commit(run.claim())
    assert run.tickets() == set()  # the end forgets them
    assert ledger.register_tickets(run.run_id, ["d"]) == 0
    assert run.tickets() == set()
