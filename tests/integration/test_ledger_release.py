"""What a run keeps: pages until their items ended, dead letters until somebody decides, and bounded bookkeeping."""

from __future__ import annotations

import random

import pytest

from tests.integration.ledgers import LETTER, Run, page_of
from toolkit.errors import RunStateError
from toolkit.ledger import NOBODY, Claim, FailedItem, Ledger, Range, keys

CLOSED_KEPT = 4096


def pages(run: Run) -> list[int]:
    """Starts of the pages that are stored, in every form in which they are."""
    starts = [int(x) for x in run.command("ZRANGE", "page_index", 0, -1)]
    fields = {x.decode() for x in run.command("HKEYS", "pages")}
    counted = ["n"] if run.sizes["release"] else []
    assert {f for f in fields if not f.startswith("k")} == {f"{c}{s}" for s in starts for c in ["", *counted]}
    assert {int(f[1:]) for f in fields if f.startswith("k")} <= set(starts)
    return starts


def dead(*positions: int) -> list[FailedItem]:
    return [FailedItem(p, "dead", letter=LETTER) for p in positions]


# --------------------------------------------------------------------------- pages


def test_a_page_goes_when_the_last_of_its_items_ended(ledger: Ledger) -> None:
    run = Run(ledger, 12, page=4, batch_size=3, release=True, close=False)
    one, two, three = run.claim(), run.claim(), run.claim()
    run.commit(two)  # 3, 4, 5
    assert pages(run) == [0, 4, 8]
    run.commit(one)  # 0, 1, 2
    assert pages(run) == [4, 8]
    run.commit(three, 2)  # 6, 7
    assert pages(run) == [8]
    assert ledger.append(run.run_id, page_of(8, 12), expected=8) == (12, 9)  # a late repetition brings nothing back
    assert pages(run) == [8]
    with pytest.raises(RunStateError, match="item 5 is not stored any more"):
        run.reader.item(5)
    assert run.reader.item(9)[0] == 9
    run.check()


def test_keys_of_items_go_with_their_page(ledger: Ledger) -> None:
    run = Run(ledger, release=True, batch_size=4)
    ledger.append(run.run_id, page_of(0, 4, keyed=True), expected=0)
    ledger.append(run.run_id, page_of(4, 8, keyed=True), expected=4, close=True)
    run.commit(run.claim())
    assert {x.decode() for x in run.command("HKEYS", "pages")} == {"4", "k4", "n4"}
    assert run.reader.item_keys() == [None] * 4 + ["k4", "k5", "k6", "k7"]


def test_a_run_that_keeps_its_results_keeps_its_pages(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.commit(run.claim())
    run.commit(run.claim())
    assert pages(run) == [0, 4]


def test_one_commit_may_end_several_pages_and_parts_of_others(ledger: Ledger) -> None:
    run = Run(ledger, 20, page=3, batch_size=20, release=True)
    claim = run.claim()
    run.commit(claim, 2, last=False)
    assert pages(run)[0] == 0
    run.commit(claim, 13, start=2, last=False)
    assert pages(run) == [12, 15, 18]
    run.lose(claim, NOBODY)
    assert pages(run) == [12, 15, 18]
    assert run.ready() == [Range(13, 20)]
    assert run.commit(run.claim()).state == "finished"
    assert pages(run) == []
    run.check()


@pytest.mark.parametrize("kind", ["retry", "again", "dead"])
def test_what_failed_keeps_its_page(ledger: Ledger, kind: str) -> None:
    run = Run(ledger, 8, batch_size=8, release=True)
    run.commit(run.claim(), failed=[FailedItem(5, kind, letter=LETTER)])
    assert pages(run) == [4]
    if kind != "dead":
        assert run.commit(run.claim()).state == "finished"
        assert pages(run) == []
    run.check()


def test_a_dead_letter_keeps_its_page_until_it_is_dropped(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=8, release=True)
    assert run.commit(run.claim(), failed=dead(1, 2, 6)).state == "finished"
    assert [letter.item for letter in run.reader.dead_letters()] == [1, 2, 6]
    ledger.drop_dead(run.run_id, [1])
    assert pages(run) == [0, 4]
    assert ledger.retry_dead(run.run_id, [6]) == 1
    assert pages(run) == [0, 4]
    run.commit(run.claim())
    assert pages(run) == [0]
    ledger.drop_dead(run.run_id, [2])
    assert pages(run) == []
    run.check()


def test_an_item_buried_by_its_deaths_keeps_its_page(ledger: Ledger) -> None:
    run = Run(ledger, 4, page=2, batch_size=1, release=True)
    for _ in range(3):
        run.lose(run.claim())
    assert run.reader.dead_indexes() == [0]
    assert pages(run) == [0, 2]
    run.commit(run.claim())
    assert pages(run) == [0, 2]


def test_a_cancelled_run_keeps_only_the_pages_of_its_dead_letters(ledger: Ledger) -> None:
    run = Run(ledger, 16, batch_size=8, release=True)
    run.commit(run.claim(), failed=dead(1, 2, 6))
    ledger.steer(run.run_id, "cancel")
    assert run.counts() == (5, 3, 8, 0)
    assert pages(run) == [0, 4]
    assert [letter.item for letter in run.reader.dead_letters()] == [1, 2, 6]
    ledger.drop_dead(run.run_id, [6])
    assert pages(run) == [0]
    ledger.drop_dead(run.run_id, [2])
    assert pages(run) == [0]
    ledger.drop_dead(run.run_id, [1])
    assert pages(run) == []
    run.check()


def test_a_cancelled_run_keeps_the_keys_of_its_dead_letters(ledger: Ledger) -> None:
    run = Run(ledger, release=True, batch_size=4)
    ledger.append(run.run_id, page_of(0, 4, keyed=True), expected=0)
    ledger.append(run.run_id, page_of(4, 8, keyed=True), expected=4)
    run.commit(run.claim())
    run.commit(run.claim(), failed=dead(1, 3))
    ledger.append(run.run_id, page_of(8, 12, keyed=True), expected=8)
    ledger.steer(run.run_id, "cancel")
    assert pages(run) == [4]
    assert [(letter.item, letter.key) for letter in run.reader.dead_letters()] == [(5, "k5"), (7, "k7")]


def test_random_runs_keep_exactly_what_is_needed(ledger: Ledger) -> None:
    """Pages of every size, gathered batches, several at a time: checked after each commit."""
    chance = random.Random(7)
    for _ in range(15):
        run = Run(ledger, 40, page=chance.randint(1, 9), batch_size=chance.randint(1, 12), release=True)
        over, held = set[int](), list[Claim]()
        while run.status().state == "running":
            claim = ledger.claim(run.run_id, run.ask())
            held += [claim] if isinstance(claim, Claim) else []
            claim = held.pop(chance.randrange(len(held)))
            stop = chance.randint(0, len(claim))
            bad = [p for p in range(stop) if chance.random() < 0.2]
            kinds = [chance.choice(["retry", "again", "dead"]) for _ in bad]
            failed = [FailedItem(p, kind, letter=LETTER) for p, kind in zip(bad, kinds, strict=True)]
            run.commit(claim, stop, failed=failed)
            over |= {i for p, i in enumerate(claim.indexes()[:stop]) if p not in bad}
            needed = {i // run.page * run.page for i in set(range(40)) - over}
            assert pages(run) == sorted(needed)
        run.check()


# --------------------------------------------------------------------------- bounded bookkeeping


def test_nothing_but_rows_grows_with_the_number_of_claims(ledger: Ledger) -> None:
    """Thousands of claims that give all back, are lost, part done, or committed with the next claim."""
    run = Run(ledger, 64, page=16, batch_size=4, known_workers=3)
    command = ledger.connection.command
    names = [name for name in keys._NAMES if name not in ("metrics", "events")]

    def sizes() -> dict[str, int]:
        return {name: int(command("MEMORY", "USAGE", keys.of(run.run_id, name), "SAMPLES", 0) or 0) for name in names}

    def work(rounds: int) -> None:
        claim = run.claim(new_ticket="t")
        for n in range(rounds):
            if n % 50 == 49:
                run.lose(claim, NOBODY)
                claim = run.claim()
            else:
                failed = [FailedItem(0, "again")] if n % 2 else []
                answer = run.commit(claim, len(failed), row=b"", failed=failed, ask=run.ask(new_ticket=f"t{n % 7}"))
                assert isinstance(answer.claim, Claim)
                claim = answer.claim
        run.commit(claim, 0, row=b"")

    work(CLOSED_KEPT + 200)
    before = sizes()
    assert run.command("ZCARD", "closed") == CLOSED_KEPT
    work(1500)
    after = sizes()
    assert run.command("ZCARD", "closed") == CLOSED_KEPT
    for name in names:
        assert after[name] <= before[name] * 1.05 + 256, name
    assert command("XLEN", keys.of(run.run_id, "events")) <= 10_500
    run.check()


def test_claim_ids_that_are_remembered_never_live_again(ledger: Ledger) -> None:
    run = Run(ledger, 64, page=16, batch_size=1)
    asks = [run.ask() for _ in range(30)]
    for n, ask in enumerate(asks):
        claim = ledger.claim(run.run_id, ask)
        assert isinstance(claim, Claim)
        run.lose(claim, NOBODY) if n % 2 else run.commit(claim)
    before = run.everything()
    for ask in asks:
        assert not isinstance(ledger.claim(run.run_id, ask), Claim)
    assert run.everything() == before
