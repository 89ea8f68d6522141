"""What happens when processes, nodes or the server die: leases and the sweep."""

from __future__ import annotations

import pytest

from tests.integration.ledgers import Run
from toolkit.ledger import NOBODY, TICKET_EXPIRY_S, Contact, FailedItem, Ledger, Range, Renewed, Swept

# --------------------------------------------------------------------------- leases


def test_renewal_keeps_a_claim_alive_and_tells_which_are_gone(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    one, two, three = run.claim(), run.claim(), run.claim()
    run.expire(one, two)
    assert ledger.renew(run.run_id, 5, [one.claim_id]) == Renewed("running")
    assert run.status().known_workers == 5
    assert run.sweep(known_workers=5).expired == 1  # `two` was not renewed
    gone = {two.claim_id, bytes(16)}
    assert ledger.renew(run.run_id, 5, [one.claim_id, *gone, three.claim_id]) == Renewed(
        "running", gone=frozenset(gone)
    )
    assert run.status().active == 2
    run.check()


def test_renewal_tells_of_pause_and_cancel(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    claim = run.claim()
    ledger.steer(run.run_id, "pause")
    assert ledger.renew(run.run_id, 1, [claim.claim_id]) == Renewed("paused")
    ledger.steer(run.run_id, "cancel")
    assert ledger.renew(run.run_id, 1, [claim.claim_id]) == Renewed("cancelling")


def test_what_still_runs_of_a_cancelled_run_is_killed_once_its_grace_is_over(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    claim = run.claim()

    def renewed() -> Renewed:
        return ledger.renew(run.run_id, 1, [claim.claim_id])

    assert renewed() == Renewed("running")
    ledger.steer(run.run_id, "pause", grace_s=0.0)
    assert renewed() == Renewed("paused")  # only a cancel kills
    ledger.steer(run.run_id, "cancel")
    assert renewed() == Renewed("cancelling")  # without a grace time never
    before = run.status().at
    ledger.steer(run.run_id, "cancel", grace_s=3600.0)  # the user became impatient
    assert before + 3599 < int(run.head("terminate_at")) / 1000 < before + 3660
    assert renewed() == Renewed("cancelling")
    ledger.steer(run.run_id, "cancel")
    assert int(run.head("terminate_at")) > 0
    ledger.steer(run.run_id, "cancel", grace_s=0.0)
    assert renewed() == Renewed("cancelling", terminate=True)
    assert run.events("cancel") == ["cancel"]
    assert run.lose(claim, NOBODY) == "cancelled"
    assert renewed() == Renewed("cancelled", gone=frozenset([claim.claim_id]))
    assert run.counts() == (0, 0, 12, 0)
    run.check()


def test_a_lease_lives_as_long_as_the_run_says(ledger: Ledger) -> None:
    run = Run(ledger, 8, lease_s=2.5)
    claim = run.claim()
    assert run.reader.claims()[claim.claim_id].lease_ms == round(claim.at * 1000) + 2500


# --------------------------------------------------------------------------- the sweep


def test_a_sweep_takes_away_what_expired_and_nothing_else(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    run.command("HINCRBY", "head", "created_at", 60_000)  # too young for a sample of its progress, however slow this is
    one, two = run.claim(), run.claim()
    before = run.everything("swept_at")
    assert run.sweep() == Swept("running", left=4, active=2, expired=0, delayed=0, tickets=0)
    assert run.everything("swept_at") == before
    run.expire(one)
    assert run.sweep() == Swept("running", left=8, active=1, expired=1, delayed=0, tickets=0)
    assert run.ready() == [Range(0, 2, alone=True), Range(2, 4, alone=True)]
    before = run.everything("swept_at")
    assert run.sweep().expired == 0
    assert run.everything("swept_at") == before
    assert run.commit(two).accepted
    assert not run.commit(one).accepted
    run.check()


def test_claims_of_workers_known_to_be_dead_expire_at_once(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    one, two, three = run.claim("w1"), run.claim("w2"), run.claim("w3")
    swept = ledger.sweep(
        run.run_id, known_workers=1, idle_workers=0, lease_s=10.0, dead_workers=[one.worker, three.worker, 99]
    )
    assert (swept.expired, swept.active) == (2, 1)
    assert run.commit(two).accepted
    assert not run.commit(one).accepted
    run.last_swept(3600)  # a grace for leases is none for the dead
    four = run.claim("w1")
    swept = ledger.sweep(run.run_id, known_workers=1, idle_workers=0, lease_s=10.0, dead_workers=[four.worker])
    assert (swept.expired, swept.active) == (1, 0)
    run.check()


def test_whole_nodes_that_die_bury_an_item_later(ledger: Ledger) -> None:
    run = Run(ledger, 1)
    for suspicion in range(1, 5):
        claim = run.claim()
        run.expire(claim)
        assert run.sweep().state == "running"
        assert run.ready() == [Range(0, 1, suspicion, suspicion, alone=True)]
    run.expire(run.claim())
    assert run.sweep().state == "finished"
    (letter,) = run.reader.dead_letters()
    assert (letter.index, letter.item, letter.error_type, letter.category) == (0, 0, "WorkerLost", "worker_lost")
    run.check()


@pytest.mark.parametrize("seconds_ago", [6.0, 3600.0, -60.0])
def test_leases_get_one_more_term_after_nobody_swept(ledger: Ledger, seconds_ago: float) -> None:
    run = Run(ledger, 8, lease_s=10.0)
    claims = run.claim(), run.claim()
    run.sweep()
    run.expire(*claims)
    run.last_swept(seconds_ago)  # half a lease is 5 s; the clock may also have been set back
    assert run.sweep().expired == 0
    run.expire(claims[0])
    assert run.sweep().expired == 1  # the grace is given once
    assert run.commit(claims[1]).accepted
    run.check()


def test_a_first_sweep_that_comes_late_is_graceful_too(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    claim = run.claim()
    run.expire(claim)
    created = int(run.head("created_at"))
    assert int(run.head("swept_at")) >= created
    run.last_swept(60)
    assert run.sweep().expired == 0
    assert run.commit(claim).accepted


def test_recent_sweeps_grant_nothing(ledger: Ledger) -> None:
    run = Run(ledger, 8, lease_s=1000.0)
    claim = run.claim()
    run.last_swept(400)
    run.expire(claim)
    assert run.sweep().expired == 1


@pytest.mark.parametrize(
    ("since_ago", "seen_ago", "taken"),
    [
        (7.0, 1.0, 1),  # in touch since before the last sweep: only the sweeper was away
        (5.9, 1.0, 0),  # since after it: the server may have been away in between
        (7.0, 5.5, 0),  # and perhaps is back just now, unnoticed
        (1e6, 3.0, 1),
    ],
)
def test_a_sweeper_in_touch_with_the_server_all_the_while_grants_nothing(
    ledger: Ledger, since_ago: float, seen_ago: float, taken: int
) -> None:
    run = Run(ledger, 8, lease_s=10.0)
    run.expire(run.claim())
    run.last_swept(6.0)
    now = run.status().at
    assert run.sweep(contact=Contact(now - since_ago, now - seen_ago)).expired == taken
    run.check()


def test_contact_for_a_whole_lease_is_enough_however_long_nobody_swept(ledger: Ledger) -> None:
    run = Run(ledger, 8, lease_s=10.0)
    claims = run.claim(), run.claim()
    run.expire(*claims)
    run.last_swept(3600)
    now = run.status().at
    assert run.sweep(contact=Contact(now - 5.0, now)).expired == 0
    run.expire(*claims)
    run.last_swept(3600)
    assert run.sweep(contact=Contact(now - 11.0, now)).expired == 2


def test_contact_vouches_for_nothing_once_the_clock_was_set_back(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.expire(run.claim())
    run.last_swept(-60)
    now = run.status().at
    assert run.sweep(contact=Contact(now - 100, now)).expired == 0


def test_a_clock_set_back_lets_retries_and_tickets_wait_no_longer(ledger: Ledger) -> None:
    # given a retry and a ticket of a server whose clock is ahead by 1,000 s
    run = Run(ledger, 8)
    run.commit(run.claim(), failed=[FailedItem(1, "retry", 30.0)])
    assert ledger.register_tickets(run.run_id, ["sent"]) == 1
    (retry,) = run.command("ZRANGE", "delayed", 0, -1)
    due = float(run.command("ZSCORE", "delayed", retry))
    run.command("ZADD", "delayed", due + 1_000_000, retry)
    run.command("ZINCRBY", "tickets", 1_000_000, "sent")
    # when it is set back, as the next sweep finds
    run.last_swept(-1000)
    assert run.sweep(known_workers=1).tickets == 1  # what was sent counts as lost
    assert run.tickets() == set()
    # then the retry is due when it was to be
    assert due <= float(run.command("ZSCORE", "delayed", retry)) < due + 500_000
    now = float(run.command("ZSCORE", "delayed", retry))
    assert run.sweep(known_workers=1).delayed == 1
    assert float(run.command("ZSCORE", "delayed", retry)) == now
    # and tickets sent from now on count
    ledger.register_tickets(run.run_id, ["new"])
    assert run.sweep(known_workers=1).tickets == 0
    assert run.tickets() == {"new"}
    run.check()


def test_a_clock_set_back_lets_a_cancelled_run_end_no_later(ledger: Ledger) -> None:
    # given a run that was cancelled with a grace of ten seconds, by a clock that is ahead by 1,000 s
    run = Run(ledger, 8)
    claim = run.claim()
    ledger.steer(run.run_id, "cancel", grace_s=1010.0)
    # when it is set back, then what still runs is killed after those ten seconds
    run.last_swept(-1000)
    run.sweep(known_workers=1)
    assert 5 < int(run.head("terminate_at")) / 1000 - run.status().at <= 10.5
    # and at once where they are over by then
    run.last_swept(-1000)
    run.sweep(known_workers=1)
    assert ledger.renew(run.run_id, 1, [claim.claim_id]).terminate


def test_a_run_cancelled_after_the_clock_was_set_back_keeps_its_grace(ledger: Ledger) -> None:
    # given a clock that was set back by 1,000 s since the latest sweep
    run = Run(ledger, 8)
    claim = run.claim()
    run.last_swept(-1000)
    # when the run is cancelled with a grace of ten seconds, then these count from now
    ledger.steer(run.run_id, "cancel", grace_s=10.0)
    run.sweep(known_workers=1)
    assert not ledger.renew(run.run_id, 1, [claim.claim_id]).terminate
    assert 5 < int(run.head("terminate_at")) / 1000 - run.status().at <= 10.5


def test_a_clock_set_back_moves_all_of_very_many_retries(ledger: Ledger) -> None:
    run, n = Run(ledger, 8), 12_345
    later = int(run.status().at * 1000) + 3_000_000
    run.command("ZADD", "delayed", *(x for i in range(n) for x in (later + i // 3, f"retry {i}")))
    run.last_swept(-1000)
    run.sweep()
    flat = run.command("ZRANGE", "delayed", 0, -1, "WITHSCORES")
    due = dict(flat) if isinstance(flat[0], list | tuple) else dict(zip(flat[::2], flat[1::2], strict=True))
    by = {later + i // 3 - int(float(due[f"retry {i}".encode()])) for i in range(n)}
    assert len(by) == 1
    assert 900_000 < by.pop() <= 1_000_000


def test_a_break_in_the_servers_time_ends_the_contact() -> None:
    contact = Contact().heard(1000.0)
    assert contact == Contact(1000.0, 1000.0)
    assert (contact := contact.heard(1002.0)) == Contact(1000.0, 1002.0)
    assert contact.heard(1004.1) == Contact(1004.1, 1004.1)  # away, asleep, or the clock was set
    assert contact.heard(1001.9) == Contact(1001.9, 1001.9)


def test_a_sweep_says_when_the_next_lease_ends(ledger: Ledger) -> None:
    run = Run(ledger, 8, lease_s=10.0)
    assert run.sweep().due_s is None
    first = run.claim()
    later = run.claim()
    run.lease_until(later.claim_id, int((run.status().at + 100) * 1000))
    due_s = run.sweep().due_s
    assert due_s is not None
    assert 0 < due_s <= 10
    run.expire(first)
    run.last_swept(3600)
    assert (after := run.sweep().due_s) is not None
    assert due_s <= after <= 10  # one more lease for both


def test_a_sweep_is_bounded_and_goes_on_next_time(ledger: Ledger) -> None:
    run = Run(ledger, 120, page=120, batch_size=1)
    claims = [run.claim() for _ in range(120)]
    for ended, claim in enumerate(reversed(claims), 1):
        run.lease_until(claim.claim_id, ended)
    swept = run.sweep()
    assert (swept.expired, swept.due_s) == (100, 0)
    assert run.reader.claims().keys() == {claim.claim_id for claim in claims[:20]}  # those that ended last
    assert [run.sweep().expired for _ in range(2)] == [20, 0]
    run.check()


def test_a_sweep_finishes_what_was_left_undone(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    claim = run.claim()
    run.commit(claim, 4, last=False)
    run.expire(claim)
    assert run.sweep().state == "finished"
    before = run.everything("swept_at")
    assert run.sweep().state == "finished"
    assert run.everything("swept_at") == before
    run.check()


def test_a_cancelled_run_ends_when_its_last_lease_expires(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    claim = run.claim()
    ledger.steer(run.run_id, "cancel")
    run.expire(claim)
    assert run.sweep().state == "cancelled"
    assert run.counts() == (0, 0, 12, 0)
    assert run.events("cancelled") == ["cancelled"]
    run.check()


@pytest.mark.parametrize(
    ("known", "cap", "claims", "outstanding", "wanted"),
    [
        (4, 0, 0, 0, 4),
        (4, 0, 1, 1, 2),
        (4, 2, 1, 0, 1),
        (4, 0, 2, 3, 0),
        (0, 0, 0, 0, 1),  # nobody reports yet, one ticket waits for the first
        (0, 5, 0, 0, 1),
        (9, 0, 0, 0, 6),  # no more than there are items left
    ],
)
def test_a_sweep_counts_missing_tickets(
    ledger: Ledger, known: int, cap: int, claims: int, outstanding: int, wanted: int
) -> None:  # fmt: skip
    run = Run(ledger, 6, batch_size=1, max_workers=cap)
    for _ in range(claims):
        run.claim()
    ledger.register_tickets(run.run_id, [f"t{n}" for n in range(outstanding)])
    assert run.sweep(known_workers=known).tickets == wanted
    assert run.status().known_workers == known
    ledger.steer(run.run_id, "pause")
    assert run.sweep(known_workers=known).tickets == 0


def test_tickets_that_are_late_while_workers_idle_count_as_lost(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=1)
    ledger.register_tickets(run.run_id, ["late", "expired"])
    now = run.status().at * 1000
    run.command("ZADD", "tickets", "XX", int(now + TICKET_EXPIRY_S * 1000 - 2500), "late")
    run.command("ZADD", "tickets", "XX", 1, "expired")
    ledger.register_tickets(run.run_id, ["new"])
    run.command("ZADD", "tickets", "XX", int(now + TICKET_EXPIRY_S * 1000 + 60_000), "new")
    assert run.sweep(known_workers=4).tickets == 2
    assert run.tickets() == {"late", "new"}
    assert run.sweep(known_workers=4, idle_workers=1).tickets == 3
    assert run.tickets() == {"new"}


def test_a_ticket_on_its_way_for_less_than_two_seconds_is_not_late(ledger: Ledger) -> None:
    run = Run(ledger, 8, batch_size=1)
    for _ in range(20):  # until the machine lets it all happen within those two seconds
        ledger.register_tickets(run.run_id, ["fresh"])
        begun = run.status().at
        wanted = run.sweep(known_workers=4, idle_workers=1).tickets
        if run.status().at - begun < 1.5:
            break
    assert (wanted, run.tickets()) == (3, {"fresh"})


def test_a_paused_run_still_promotes_retries_and_expires_leases(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.commit(run.claim(), failed=[FailedItem(0, "retry", 60)])
    claim = run.claim()
    ledger.steer(run.run_id, "pause")
    run.make_due()
    run.expire(claim)
    assert run.sweep() == Swept("paused", left=5, active=0, expired=1, delayed=0, tickets=0)
    run.check()
