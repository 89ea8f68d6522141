"""How finished work is accounted: commit, in parts or whole, with failures, and the end of a run."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.ledgers import LETTER, Run, items_of, metric_row, spans
from toolkit import codec
from toolkit.errors import LedgerCorrupt, LedgerError
from toolkit.ledger import Claim, FailedItem, Ledger, NoClaim, Range, keys, library, reading
from toolkit.records import METRIC_ROW, RunState


def dead(*positions: int) -> list[FailedItem]:
    return [FailedItem(p, "dead", letter=LETTER) for p in positions]


def retry(*positions: int, delay_s: float = 0.0) -> list[FailedItem]:
    return [FailedItem(p, "retry", delay_s) for p in positions]


# --------------------------------------------------------------------------- whole and in parts


def test_a_commit_accounts_items_results_and_its_metric_row(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    committed = run.commit(run.claim())
    assert (committed.accepted, committed.state, committed.left, committed.claim) == (True, "running", 4, None)
    status = run.status()
    assert (status.ok, status.claimed, status.active, status.batches, status.remaining) == (4, 0, 0, 1, 4)
    assert run.results() == {i: f"r{i}" for i in range(4)}
    assert [row["ok"] for row in run.rows()] == [4]
    run.check()


def test_a_commit_repeated_is_accounted_once(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    progress = run.progress(run.claim(), failed=[*dead(1), *retry(2, delay_s=60)])
    first = ledger.commit(run.run_id, progress)
    before = run.everything()
    assert ledger.commit(run.run_id, progress) == first
    assert run.everything() == before
    run.check()


def test_a_claim_is_committed_in_parts(ledger: Ledger) -> None:
    run = Run(ledger, 9, batch_size=9)
    claim = run.claim()
    run.expire(claim)
    assert run.commit(claim, 3, last=False).accepted
    assert run.sweep().expired == 0  # a part renews the lease
    assert run.commit(claim, 5, start=3, last=False, failed=dead(4)).accepted
    status = run.status()
    assert (status.ok, status.dead, status.claimed, status.active, status.batches) == (4, 1, 4, 1, 0)
    run.check()
    assert run.commit(claim, start=5, failed=retry(8)).state == "running"
    assert run.counts() == (7, 1, 0, 1)
    assert run.ready() == [Range(8, 9, 1)]
    assert sorted(run.results()) == [0, 1, 2, 3, 5, 6, 7]
    run.check()


def test_a_claim_repeated_after_a_part_brings_only_the_pages_of_its_rest(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=8)
    run.commit(run.claim(), failed=retry(1))
    ask = run.ask()
    claim = ledger.claim(run.run_id, ask)
    assert [start for start, _, _ in claim.pages] == [0, 8]
    run.commit(claim, 1, last=False)
    again = ledger.claim(run.run_id, ask)
    assert (again.offset, again.ranges) == (1, claim.ranges)
    assert [start for start, _, _ in again.pages] == [8]


def test_the_batch_that_a_commit_takes_sees_what_the_commit_said(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=4)
    following = run.commit(run.claim(), item_s=0.125, ask=run.ask()).claim
    assert isinstance(following, Claim)
    assert following.item_s == 0.125
    answer = run.commit(following, pause="enough", ask=run.ask())
    assert (answer.accepted, answer.state) == (True, "paused")
    assert isinstance(answer.claim, NoClaim)
    assert run.counts() == (8, 0, 0, 4)
    run.check()


def test_a_pause_unless_items_ended_well_looks_at_all_of_them(ledger: Ledger) -> None:
    hopeless: dict[str, Any] = {"pause": "none can be stored", "unless_ok": True}
    bad = [FailedItem(at, "dead", letter=LETTER) for at in range(4)]
    # Given a worker none of whose items ended well, then another one's results keep the run going
    run = Run(ledger, 16, batch_size=4)
    first, second = run.claim(), run.claim("w2")
    run.commit(first)
    assert run.commit(second, failed=bad, **hopeless).state == "running"
    # And so do its own, those of the same commit too; where there are none the run pauses
    own = Run(ledger, 16, batch_size=4)
    assert own.commit(own.claim(), failed=bad[1:], **hopeless).state == "running"
    none = Run(ledger, 16, batch_size=4)
    assert none.commit(none.claim(), failed=bad, **hopeless).state == "paused"
    assert none.status().reason == "none can be stored"


def test_an_empty_part_repeated_takes_the_next_batch_once(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=4)
    claim, ask = run.claim(), run.ask()
    first = run.commit(claim, 0, last=False, ask=ask).claim
    assert isinstance(first, Claim)
    assert run.commit(claim, 0, last=False, ask=ask).claim == first
    assert (run.status().claimed, run.status().active) == (8, 2)
    run.check()


def test_a_batch_taken_beside_a_part_of_as_many_items_is_claimed_as_well(ledger: Ledger) -> None:
    # given a claim whose items are committed as a part, so that the claim lives on
    run = Run(ledger, 8, batch_size=4)
    claim = run.claim()
    # when that commit takes another batch of as many items
    following = run.commit(claim, 4, last=False, ask=run.ask()).claim
    # then they are counted as claimed, the committed ones no more
    assert isinstance(following, Claim)
    assert int(run.head("claimed")) == len(following) == 4
    run.check()


def test_a_part_repeated_is_accounted_once_while_the_claim_lives_and_after(ledger: Ledger) -> None:
    run = Run(ledger, 9, batch_size=9)
    claim = run.claim()
    parts = [
        run.progress(claim, 3, last=False, failed=retry(0)),
        run.progress(claim, 5, start=3, last=False, failed=dead(4)),
        run.progress(claim, 9, start=5),
    ]
    for n, part in enumerate(parts):
        assert ledger.commit(run.run_id, part).accepted
        before = run.everything("leases")
        for earlier in parts[: n + 1]:
            assert ledger.commit(run.run_id, earlier).accepted
        assert run.everything("leases") == before
    run.check()


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (3, 5), (2, 1), (2, 7)])
@pytest.mark.parametrize("last", [False, True])
def test_a_part_that_does_not_follow_is_refused(ledger: Ledger, start: int, stop: int, last: bool) -> None:
    run = Run(ledger, 6, batch_size=6)
    claim = run.claim()
    run.commit(claim, 2, last=False)
    before = run.everything()
    accepted = run.commit(claim, stop, start=start, last=last).accepted
    assert accepted == (not last and stop <= 2)  # only what is accounted already may be said again
    assert run.everything() == before


def test_a_claim_taken_away_accounts_nothing_more(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    claim = run.claim()
    run.commit(claim, 2, last=False)
    run.lose(claim)
    before = run.everything()
    assert not run.commit(claim, start=2).accepted
    assert not run.commit(replace(claim, claim_id=bytes(16))).accepted  # never heard of
    assert run.everything() == before
    assert run.counts() == (2, 0, 0, 6)


def test_results_are_not_stored_where_there_are_none(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.commit(run.claim(), failed=dead(0, 1, 2, 3))
    assert list(run.reader.outputs()) == []
    assert run.counts() == (0, 4, 0, 0)


# --------------------------------------------------------------------------- giving back


def test_what_was_not_done_goes_back_in_front_and_in_order(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=4)
    run.commit(run.claim(), failed=retry(0, 2))
    claim = run.claim()
    assert spans(claim) == [(0, 1), (2, 3), (4, 6)]
    later = run.claim()
    run.commit(later, 2)
    run.commit(claim, 1)
    assert run.ready() == [Range(2, 3, 1), Range(4, 6), Range(8, 10)]
    assert run.counts() == (5, 0, 0, 7)
    run.check()


def test_split_gives_back_halves_that_stay_alone(ledger: Ledger) -> None:
    run = Run(ledger, 14, batch_size=7)
    run.commit(run.claim(), 2, split=True)
    assert run.ready() == [Range(2, 4, alone=True), Range(4, 7, alone=True)]
    run.commit(run.claim(), 0, split=True)
    assert run.ready() == [Range(2, 3, alone=True), Range(3, 4, alone=True), Range(4, 7, alone=True)]
    run.commit(run.claim(), 0, split=True)  # a single one cannot be split
    assert run.ready()[0] == Range(2, 3, alone=True)
    run.check()


def test_split_cuts_through_the_middle_of_several_ranges(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=6)
    run.commit(run.claim(), failed=retry(1, 3))
    claim = run.claim()
    assert spans(claim) == [(1, 2), (3, 4), (6, 8)]
    run.commit(claim, 0, split=True)
    assert run.ready() == [
        Range(1, 2, 1, alone=True), Range(3, 4, 1, alone=True), Range(6, 8, alone=True),
    ]  # fmt: skip
    run.check()


# --------------------------------------------------------------------------- failures


def test_each_kind_of_failure_has_its_own_effect(ledger: Ledger) -> None:
    run = Run(ledger, 6, batch_size=6)
    claim = run.claim()
    run.commit(claim, failed=[FailedItem(0, "retry"), FailedItem(2, "again"), FailedItem(5, "dead", letter=LETTER)])
    assert run.ready() == [Range(0, 1, 1), Range(2, 3, 0)]
    assert run.counts() == (3, 1, 0, 2)
    assert run.status().retried == 1
    (letter,) = run.reader.dead_letters()
    assert (letter.index, letter.item, letter.key, letter.message) == (5, 5, None, "bad item")
    assert run.claim().attempts() == [2, 1]
    run.check()


def test_positions_count_from_the_start_of_the_claim_across_parts_and_ranges(ledger: Ledger) -> None:
    run = Run(ledger, 12, batch_size=4)
    run.commit(run.claim(), failed=retry(1, 3))
    claim = run.claim()
    assert list(claim.indexes()) == [1, 3, 4, 5]
    run.commit(claim, 1, last=False)
    run.commit(claim, start=1, failed=[*retry(1), *dead(3)])
    assert run.ready() == [Range(3, 4, 2)]
    assert run.reader.dead_indexes() == [5]
    assert sorted(run.results()) == [0, 1, 2, 4]
    run.check()


def test_a_delayed_retry_waits_until_it_is_due_and_a_sweep_promotes_it(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    claim = run.claim()
    assert run.commit(claim, failed=[*retry(1), *retry(2, delay_s=30)]).left == 1
    assert run.ready() == [Range(1, 2, 1)]
    assert run.delayed() == [Range(2, 3, 1)]
    due = float(run.command("ZSCORE", "delayed", "2:3:1:0:0"))
    assert due >= claim.at * 1000 + 30_000
    before = run.everything("swept_at")
    assert run.sweep().delayed == 1
    assert run.everything("swept_at") == before
    run.make_due()
    swept = run.sweep()
    assert (swept.delayed, swept.left) == (0, 2)
    assert run.claim().ranges == (Range(1, 2, 1), Range(2, 3, 1))
    run.check()


def test_attempts_are_counted_over_many_tries(ledger: Ledger) -> None:
    run = Run(ledger, 3)
    for attempt in range(1, 5):
        claim = run.claim()
        assert claim.attempts() == [attempt] * 3
        run.commit(claim, failed=retry(0, 1, 2))
    run.commit(run.claim(), failed=[FailedItem(p, "again") for p in range(3)])
    assert run.claim().attempts() == [5, 5, 5]
    assert run.status().retried == 12


@pytest.mark.parametrize(
    "failures",
    [
        [(1, "retry", 0), (1, "dead", 0)],  # twice
        [(3, "retry", 0), (2, "retry", 0)],  # not ascending
        [(4, "retry", 0)],  # not executed
        [(0, "retry", 0)],  # accounted by an earlier part
        [(2, "retry", 0), (99, "retry", 0)],
        [(2, "explode", 0)],
        [(2, "", 0)],
        [(2, "retry", "soon")],
        [(2, "retry", 0, "bad luck")],  # no such category
        [(2, "retry", 0, "")],
        [("two", "retry", 0)],
        [(-1, "retry", 0)],
    ],
)
def test_a_bad_list_of_failures_leaves_everything_as_it_was(ledger: Ledger, failures: list[tuple[object, ...]]) -> None:
    run = Run(ledger, 6, batch_size=6)
    claim = run.claim()
    run.commit(claim, 1, last=False)
    before = run.everything()
    flat = [value for failure in failures for value in (*(*failure, "fatal")[:4], LETTER)]
    with pytest.raises(LedgerError, match="bad failure list"):
        ledger.connection.call(
            "commit", keys.of_run(run.run_id), claim.claim_id, 1, 4, 1, 0, "0.5", metric_row(), b"out", "", 0, len(failures),  # noqa: E501
            *flat, *run.ask().arguments(),
        )  # fmt: skip
    assert run.everything() == before
    run.commit(claim, start=1)
    run.check()


def test_a_short_list_of_failures_leaves_everything_as_it_was(ledger: Ledger) -> None:
    run = Run(ledger, 6, batch_size=6)
    claim = run.claim()
    before = run.everything()
    with pytest.raises(LedgerError):
        ledger.connection.call(
            "commit",
            keys.of_run(run.run_id),
            claim.claim_id,
            0,
            4,
            1,
            0,
            "",
            b"",
            b"",
            "",
            0,
            2,
            0,
            "dead",
            0,
            "fatal",
            LETTER,
        )
    assert run.everything() == before


@pytest.mark.parametrize("letter", [b"\xc1", codec.encode([1]), codec.encode({"item": 1}), codec.encode("item")])
def test_a_dead_letter_that_does_not_parse_is_named(ledger: Ledger, letter: bytes) -> None:
    run = Run(ledger, 4)
    run.commit(run.claim(), failed=[FailedItem(2, "dead", letter=letter)])
    with pytest.raises(LedgerCorrupt, match=f"{run.run_id}: key dead, field 2"):
        run.reader.dead_letters()


# --------------------------------------------------------------------------- commit and claim in one call


def test_a_commit_may_take_the_next_batch(ledger: Ledger) -> None:
    run = Run(ledger, 10, known_workers=3)
    ask = run.ask(new_ticket="t")
    progress = run.progress(run.claim())
    first = ledger.commit(run.run_id, progress, ask)
    assert isinstance(first.claim, Claim)
    assert (spans(first.claim), items_of(first.claim)) == ([(4, 8)], [4, 5, 6, 7])
    assert (first.left, first.claim.active, first.claim.spawn) == (2, 1, True)
    before = run.everything()
    again = ledger.commit(run.run_id, progress, ask)
    assert again == first._replace(claim=replace(first.claim, spawn=False))
    assert run.everything() == before
    run.check()


def test_a_worker_whose_claim_was_taken_away_still_gets_a_batch(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    claim = run.claim()
    run.lose(claim, blamed=0)
    committed = run.commit(claim, ask=run.ask())
    assert not committed.accepted
    assert committed.claim.ranges == (Range(0, 1, 1, 1, True),)
    run.check()


def test_the_last_commit_ends_the_run_and_says_so(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    committed = run.commit(run.claim(), ask=run.ask())
    assert (committed.state, committed.left, committed.claim) == ("finished", 0, NoClaim("empty", 0))
    assert run.refusal().reason == "finished"


# --------------------------------------------------------------------------- the end


def test_a_run_finishes_once_when_its_last_batch_ends(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    one, two = run.claim("w1"), run.claim("w2")
    assert run.commit(two).state == "running"
    assert run.commit(one, 3, last=False).state == "running"
    assert run.commit(one, start=3).state == "finished"
    before = run.everything()
    assert run.commit(one, start=3).state == "finished"
    assert run.everything() == before
    assert run.head("finals") == "1"
    assert run.events("finished") == ["finished"]
    status = run.status()
    assert 0 < status.started_at <= status.finished_at <= status.at
    run.check()


def test_an_open_input_or_a_waiting_retry_keeps_a_run_going(ledger: Ledger) -> None:
    run = Run(ledger, 4, close=False)
    assert run.commit(run.claim()).state == "running"
    run = Run(ledger, 4)
    assert run.commit(run.claim(), failed=retry(0, delay_s=60)).state == "running"
    assert run.sweep().state == "running"
    run.make_due()
    run.sweep()
    assert run.commit(run.claim()).state == "finished"
    run.check()


def test_dead_letters_do_not_keep_a_run_going(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    assert run.commit(run.claim(), failed=dead(0, 3)).state == "finished"
    assert run.counts() == (2, 2, 0, 0)


def test_cancel_waits_for_live_claims_and_skips_all_the_rest(ledger: Ledger) -> None:
    run = Run(ledger, 24, batch_size=4)
    run.commit(run.claim(), failed=[*dead(0), *retry(1, delay_s=60), *retry(2)])
    one, two = run.claim(), run.claim()  # the first has gathered item 2
    run.commit(one, 1, last=False)
    assert ledger.steer(run.run_id, "cancel") == "cancelling"
    assert run.commit(two, 2).state == "cancelling"
    assert run.sweep().state == "cancelling"
    run.check()
    committed = run.commit(one, 3, start=1, failed=retry(2), ask=run.ask())
    assert (committed.state, committed.claim.reason) == ("cancelled", "cancelling")
    status = run.status()
    assert (status.ok, status.dead, status.skipped, status.remaining) == (1 + 2 + 2, 1, 18, 0)
    assert (status.ready, status.delayed, status.claimed, status.closed) == (0, 0, 0, True)
    assert (run.ready(), run.delayed()) == ([], [])
    assert run.events("cancel", "cancelled", "finished") == ["cancel", "cancelled"]
    run.check()


def test_the_end_sets_an_expiry_on_every_key(ledger: Ledger) -> None:
    run = Run(ledger, 8, retention_s=3600, known_workers=3)
    run.commit(run.claim(new_ticket="t"), failed=[*dead(0), *retry(1, delay_s=60)])
    assert lifetimes(run) == {-1}
    run.make_due()
    run.sweep()
    run.commit(run.claim())
    run.commit(run.claim())
    assert run.status().state is RunState.FINISHED
    assert lifetimes(run) == {-1}  # a dead letter stays until somebody decides
    assert ledger.drop_dead(run.run_id, [0]) == 1
    assert all(3_000_000 < left <= 3_600_000 for left in lifetimes(run))
    ledger.drop_dead(run.run_id, [0, 1])
    run.sweep()
    run.refusal()
    assert -1 not in lifetimes(run)  # what comes later brings no key to life for ever


def test_a_run_without_retention_stays(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.commit(run.claim())
    assert run.status().state is RunState.FINISHED
    assert lifetimes(run) == {-1}


def test_metric_rows_fill_segment_after_segment(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (library, reading):
        monkeypatch.setattr(module, "METRIC_SEGMENT_ROWS", 3)
    for cached in (library._body, library.prefix):
        cached.cache_clear()
    try:
        with closing(Ledger(ledger.connection.address)) as small:
            run = Run(small, 7, batch_size=1, retention_s=3600)
            for n in range(7):
                claim = run.claim()
                if n == 4:
                    run.lose(claim)  # one row is the server's own
                    claim = run.claim()
                run.commit(claim)
            assert [row["items"] for row in run.rows()] == [1] * 8
            segments = [keys.metrics_segment(run.run_id, s) for s in range(4)]
            sizes = [small.connection.command("STRLEN", key) // METRIC_ROW.size for key in segments]
            assert sizes == [3, 3, 2, 0]
            assert run.reader.metric_rows(first=7)[1] == 8
            assert -1 not in lifetimes(run)
            run.reader.delete()
            assert small.connection.command("EXISTS", *segments, *keys.of_run(run.run_id)) == 0
    finally:
        monkeypatch.undo()
        for cached in (library._body, library.prefix):
            cached.cache_clear()


def test_a_bounded_number_of_closed_claims_is_remembered(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    for at in range(0, 5000, 1000):
        run.command("ZADD", "closed", *(x for n in range(at, at + 1000) for x in (n, f"old{n:04}")))
    run.command("HSET", "head", "rows", 63)  # it is seen to after every 64 rows
    claim = run.claim()
    run.commit(claim)
    assert run.command("ZCARD", "closed") == 4096
    assert run.command("ZSCORE", "closed", "old0904") is None
    assert run.command("ZSCORE", "closed", "old0905") is not None
    assert run.command("ZSCORE", "closed", claim.claim_id) is not None


def lifetimes(run: Run) -> set[int]:
    """Milliseconds that each key of the run has left, -1 for ever."""
    command = run.ledger.connection.command
    every = [*keys.of_run(run.run_id), *(keys.metrics_segment(run.run_id, s) for s in range(4))]
    return {left for key in every if (left := command("PTTL", key)) != -2}


def test_a_commit_is_counted_though_the_batch_it_asks_for_cannot_be_read(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    claim = run.claim()
    run.command("HSET", "head", "page_items", 0)
    run.command("ZREM", "page_index", 4)
    run.command("ZREM", "page_index", 0)
    with pytest.raises(LedgerCorrupt, match="page_index does not parse"):
        run.commit(claim, ask=run.ask())
    status = run.status()
    assert (status.ok, status.claimed, status.batches, status.active) == (4, 0, 1, 0)
    assert run.commit(claim).accepted, "said once more, since its answer was lost"
    assert run.status().ok == 4


@pytest.mark.parametrize("refused", ["paused", "busy", "empty"])
def test_a_commit_is_counted_though_no_batch_follows(ledger: Ledger, refused: str) -> None:
    run = Run(ledger, 4 if refused == "empty" else 12, max_workers=1 if refused == "busy" else 0, close=False)
    claim = run.claim()
    if refused == "busy":
        run.ledger.update(run.run_id, max_workers=2)
        run.claim("w2")
        run.ledger.update(run.run_id, max_workers=1)
    if refused == "paused":
        run.ledger.steer(run.run_id, "pause")
    answer = run.commit(claim, ask=run.ask()).claim
    assert isinstance(answer, NoClaim)
    assert answer.reason == refused
    status = run.status()
    assert (status.ok, status.batches) == (4, 1)
    assert status.claimed == (4 if refused == "busy" else 0)


def test_who_commits_and_goes_on_is_the_same_worker(ledger: Ledger) -> None:
    run = Run(ledger, 16)
    run.claim("w1")
    mine = run.claim("w2")
    following = run.commit(mine, ask=run.ask("w2")).claim
    assert isinstance(following, Claim)
    assert following.worker == mine.worker == 2
