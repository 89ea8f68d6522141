"""Events of a run: replayed and followed live; the curve of its progress, whatever the cap has cut."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from tests.integration.ledgers import LETTER, Run
from toolkit.client import Run as Handle
from toolkit.client.events import follow
from toolkit.errors import InvalidInput, LedgerUnavailable, RunNotFound, WaitTimeout
from toolkit.ledger import FailedItem, Ledger, Registry
from toolkit.records import Counters, RunEvent, RunStatus
from toolkit.settings import LedgerSettings, ServerAddress


@pytest.fixture(scope="module")
def ledger(server: Any) -> Iterator[Ledger]:
    made = Ledger(server.address, LedgerSettings(retry_s=5.0))
    yield made
    made.close()


def handle(run: Run) -> Handle:
    return Handle(run.ledger, Registry(run.ledger.connection), run.spec, lambda _spec, n: n)


def kinds(events: Any) -> list[str]:
    return [event.kind for event in events]


def age(run: Run, seconds: float, *, sampled: bool = True) -> None:
    """Pretend that the run, and the latest sample of its counters, are so much older."""
    for field in ("created_at", *(("sampled",) if sampled else ())):
        value = run.command("HGET", "head", field)
        if value is not None:
            at, _, rest = value.decode().partition(":")
            moved = str(int(at) - int(seconds * 1000))
            run.command("HSET", "head", field, f"{moved}:{rest}" if rest else moved)


def row(frame: pd.DataFrame, at: int) -> dict[str, int]:
    return {name: int(frame[name].iloc[at]) for name in ("submitted", "ok", "dead", "skipped", "retried")}


def final_counters(run: Run) -> dict[str, int]:
    status = run.status()
    return {name: getattr(status, name) for name in ("submitted", "ok", "dead", "skipped", "retried")}


# --------------------------------------------------------------------------- replay


def test_events_are_records_with_the_counters_of_their_moment(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.die(1, 2)
    age(run, 1)
    run.sweep()
    run.commit(run.claim())
    events = list(handle(run).events())
    assert kinds(events) == ["created", "item_dead", "finished"]
    assert events[0].counters == Counters()
    assert events[-1].counters == Counters(submitted=8, ok=6, dead=2)
    assert events[-1].counters.done == 8
    assert events[1].detail == "2 more"
    assert [e.final for e in events] == [False, False, True]
    assert all(e.at.tzinfo is UTC and abs((e.at - datetime.now(UTC)).total_seconds()) < 60 for e in events)
    frame = handle(run).events_frame()
    assert frame["event"].tolist() == kinds(events)
    assert frame["skipped"].tolist() == [0, 0, 0]


def test_a_remark_has_no_counters_and_is_no_point_of_the_curve(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.commit(run.claim())
    ledger.note(run.run_id, "declined", "node x: \x1b[31mno")
    remark = list(handle(run).events())[-1]
    assert (remark.kind, remark.counters) == ("declined", None)
    assert "\x1b" not in remark.detail
    assert row(handle(run).progress_curve(), -1) == final_counters(run)
    assert handle(run).progress_curve()["submitted"].is_monotonic_increasing


def test_a_remark_on_a_run_that_is_gone_leaves_nothing(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.reader.delete()
    ledger.note(run.run_id, "declined", "too late")
    assert not run.command("EXISTS", "events")


@pytest.mark.parametrize("text", ["", "-1", "x", "9" * 30])
def test_a_counter_that_does_not_parse_makes_all_of_them_missing(text: str) -> None:
    fields = {"event": "e", "ok": text, "dead": "0", "skipped": "0", "retried": "0", "submitted": "1"}
    assert RunEvent.parse("5-0", fields).counters is None


def test_all_kept_events_are_read_also_beyond_one_answer(ledger: Ledger) -> None:
    """The cap is approximate: a stream may hold some more than it says, the final event among them."""
    run = Run(ledger, 4)
    pipe = ledger.connection.redis.pipeline(transaction=False)
    for i in range(10_060):
        pipe.execute_command("XADD", f"{{tk:{run.run_id}}}:events", "*", "event", "note", "detail", i)
    pipe.execute()
    run.commit(run.claim())
    events = list(handle(run).events())
    assert kinds(events[:1]) == ["created"] or len(events) >= 10_000
    assert kinds(events[-1:]) == ["finished"]
    assert len({e.event_id for e in events}) == len(events)
    assert len(handle(run).events_frame()) == len(events)


# --------------------------------------------------------------------------- samples


def test_the_sweep_samples_changed_counters_and_a_young_or_unchanged_run_not_at_all(ledger: Ledger) -> None:
    run = Run(ledger, 40)
    run.commit(run.claim())
    run.sweep()
    assert run.events("progress") == []  # created a moment ago
    age(run, 1)
    run.sweep()
    [sample] = [e for e in handle(run).events() if e.kind == "progress"]
    assert sample.counters == Counters(submitted=40, ok=4)
    age(run, 60)
    run.sweep()  # and nothing has changed since, however long ago
    assert len(run.events("progress")) == 1
    run.commit(run.claim())
    run.sweep()
    run.commit(run.claim())
    run.sweep()  # less than half a second later
    assert len(run.events("progress")) == 2
    age(run, 1)
    run.sweep()
    assert len(run.events("progress")) == 3
    run.check()


def test_samples_of_an_old_run_are_further_apart(ledger: Ledger) -> None:
    run = Run(ledger, 40)
    age(run, 7 * 86_400)
    run.commit(run.claim())
    run.sweep()
    assert len(run.events("progress")) == 1
    run.commit(run.claim())
    age(run, 600)  # a thousandth of a week is ten minutes and five seconds
    run.sweep()
    assert len(run.events("progress")) == 1
    age(run, 10)
    run.sweep()
    assert len(run.events("progress")) == 2


def test_a_run_that_ended_is_sampled_no_more(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.commit(run.claim())
    age(run, 5)
    run.sweep()
    assert run.events() == ["created", "finished"]


def test_a_spoilt_note_of_the_latest_sample_is_written_anew(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.commit(run.claim())
    age(run, 5)
    run.command("HSET", "head", "sampled", "nonsense")
    run.sweep()
    assert len(run.events("progress")) == 1
    assert run.head("sampled").endswith(":4 0 0 8 0")


# --------------------------------------------------------------------------- the curve


def work(run: Run, batches: int) -> None:
    """Commit batches with an item each that is tried again and one that dies, and sample in between."""
    for _ in range(batches):
        claim = run.claim()
        failed = [FailedItem(0, "dead", letter=LETTER)]
        if claim.attempts()[1] == 1:
            failed.append(FailedItem(1, "retry"))
        run.commit(claim, failed=failed)
        age(run, 2)
        run.sweep()


def test_the_curve_grows_from_nothing_to_the_final_counters(ledger: Ledger) -> None:
    run = Run(ledger, 40, page=40)
    began = run.status().created_at
    work(run, 5)
    frame = handle(run).progress_curve()
    assert list(frame.columns) == ["at", "ok", "dead", "retried", "submitted", "skipped"]
    assert row(frame, 0) == dict.fromkeys(("submitted", "ok", "dead", "skipped", "retried"), 0)
    assert row(frame, -1) == final_counters(run)
    while run.status().ready + run.status().remaining:
        run.commit(run.claim())
    frame, status = handle(run).progress_curve(), run.status()
    assert status.state.final
    assert row(frame, -1) == final_counters(run)
    assert frame["at"].is_monotonic_increasing
    for name in ("submitted", "ok", "retried", "dead"):
        assert frame[name].is_monotonic_increasing
    assert len(frame) >= 7  # five samples at least, the creation, the end
    assert abs(round(1000 * frame["at"].iloc[-1].timestamp()) - round(1000 * status.finished_at)) <= 1  # milliseconds
    assert frame["at"].iloc[0].timestamp() < began  # the test made the run older
    middle = frame[(frame["ok"] > 0) & (frame["ok"] < status.ok)]
    assert len(middle) >= 4


@pytest.mark.parametrize("keep", [0, 1, 3, 7])
def test_the_curve_is_exact_at_both_ends_whatever_the_cap_has_cut(ledger: Ledger, keep: int) -> None:
    run = Run(ledger, 40, page=40)
    work(run, 8)
    run.command("XTRIM", "events", "MAXLEN", keep)
    frame, status = handle(run).progress_curve(), run.status()
    assert row(frame, 0) == dict.fromkeys(("submitted", "ok", "dead", "skipped", "retried"), 0)
    assert frame["at"].iloc[0].timestamp() == pytest.approx(status.created_at, abs=0.001)
    assert row(frame, -1) == final_counters(run)
    assert frame["ok"].is_monotonic_increasing
    assert len(frame) <= keep + 2


def test_a_curve_shows_dead_letters_that_were_sent_back(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.die(0)
    ledger.retry_dead(run.run_id, [0])
    run.commit(run.claim())
    frame = handle(run).progress_curve()
    assert frame["dead"].tolist()[-2:] == [0, 0]
    assert frame["dead"].max() == 1
    assert row(frame, -1) == final_counters(run)


# --------------------------------------------------------------------------- follow


class Watcher:
    """Follows a run in a thread."""

    def __init__(self, run: Handle, timeout_s: float | None = 30.0) -> None:
        self.seen: list[RunEvent] = []
        self.error: BaseException | None = None
        self._events = run.events(follow=True, timeout_s=timeout_s)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            for event in self._events:
                self.seen.append(event)
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.error = error

    def until(self, *wanted: str) -> None:
        deadline = time.monotonic() + 20
        while kinds(self.seen) != list(wanted):
            assert time.monotonic() < deadline, (kinds(self.seen), self.error)
            time.sleep(0.005)

    def ended(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_followers_see_each_event_as_it_happens_and_end_with_the_run(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    first = Watcher(handle(run))
    first.until("created")
    ledger.steer(run.run_id, "pause", "lunch")
    first.until("created", "pause")
    late = Watcher(handle(run), timeout_s=None)
    late.until("created", "pause")
    ledger.steer(run.run_id, "resume")
    run.die(0)
    run.commit(run.claim())
    for watcher in (first, late):
        watcher.ended()
        assert watcher.error is None
        assert kinds(watcher.seen) == ["created", "pause", "resume", "finished"]
        assert watcher.seen[-1].counters == Counters(submitted=8, ok=7, dead=1)


def test_following_a_run_that_ended_replays_it(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.die(3)
    ledger.retry_dead(run.run_id, [3])
    run.commit(run.claim())
    followed = kinds(handle(run).events(follow=True, timeout_s=20))
    assert followed == ["created", "finished", "retry_dead", "finished"]


def test_a_run_whose_events_are_all_cut_is_followed_to_its_end(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    watcher = Watcher(handle(run))
    watcher.until("created")
    run.command("DEL", "events")
    run.commit(run.claim())
    run.command("DEL", "events")
    watcher.ended()
    assert watcher.error is None


def test_an_event_that_comes_just_before_the_state_is_looked_at_is_told(ledger: Ledger) -> None:
    run = Run(ledger, 4)

    def status() -> RunStatus:
        if not run.status().state.final:
            run.commit(run.claim())
        return run.status()

    assert kinds(follow(run.reader, status, 20, 5.0)) == ["created", "finished"]


def test_following_ends_with_an_error_after_its_time_or_when_the_run_is_gone(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    events = handle(run).events(follow=True, timeout_s=0.05)
    assert next(events).kind == "created"
    with pytest.raises(WaitTimeout, match="goes on"):
        next(events)
    watcher = Watcher(handle(run))
    watcher.until("created")
    run.reader.delete()
    watcher.ended()
    assert isinstance(watcher.error, RunNotFound)


def test_a_follower_that_leaves_gives_its_connection_back(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.status()
    pool = ledger.connection.redis.connection_pool
    idle = len(pool._available_connections)
    events = handle(run).events(follow=True)
    assert next(events).kind == "created"
    events.close()  # type: ignore[attr-defined]
    assert len(pool._available_connections) == idle


@pytest.mark.parametrize("options", [{"timeout_s": 1.0}, {"follow": True, "timeout_s": -1.0}])
def test_a_time_that_means_nothing_is_refused_at_once(ledger: Ledger, options: dict[str, Any]) -> None:
    run = Run(ledger, 4)
    with pytest.raises(InvalidInput, match="follow=True"):
        handle(run).events(**options)


def test_a_server_that_stays_away_is_an_error() -> None:
    ledger = Ledger(ServerAddress(f"unix:///nowhere-{secrets.token_hex(4)}.sock"), LedgerSettings(retry_s=0.2))
    run = Run(ledger, create=False)
    with pytest.raises(LedgerUnavailable):
        list(handle(run).events(follow=True))
    with pytest.raises(WaitTimeout):
        list(handle(run).events(follow=True, timeout_s=0.05))
