"""What a watcher learns of a run by looking again and again: pace, time left with its interval, history."""

from __future__ import annotations

import math
import random
from bisect import bisect
from dataclasses import replace

import pytest

from tests.unit.notebook_samples import NOON, ended, event, status, trend
from toolkit.notebook.trend import MOST, SLICES, Trend
from toolkit.records import RunState, RunStatus


def at(seconds: float, done: int, **changes: object) -> RunStatus:
    """A run of a million items, so long after its first claim."""
    start = {"submitted": 1_000_000, "started_at": NOON, "at": NOON + seconds, "ok": done, "dead": 0, "skipped": 0}
    return status(**{**start, **changes})


def watched(*looks: tuple[float, int]) -> Trend:
    seen = Trend()
    for seconds, done in looks:
        seen = seen.add(at(seconds, done))
    return seen


def test_an_even_pace_is_told_with_a_narrow_interval():
    seen = watched(*((i / 4, 25 * i) for i in range(1, 400)))
    left = seen.time_left(at(99.75, 9975))
    assert seen.pace == pytest.approx(100.0)
    assert left.best == pytest.approx((1_000_000 - 9975) / 100)
    assert left.low <= left.best <= left.high
    assert left.high - left.low < 0.01 * left.best


def test_pace_follows_a_run_that_became_slower():
    seen = watched(*((i, 100 * i) for i in range(1, 51)), *((i, 5000 + 10 * (i - 50)) for i in range(51, 151)))
    assert seen.pace == pytest.approx(10.0)


def test_interval_holds_the_truth_in_about_nine_of_ten_runs():
    """Two workers, batches of 20 items of random length, looked at twice a second; half-way the end is foretold."""
    luck, held, runs = random.Random(7), 0, 200
    for _ in range(runs):
        ends, clock = [], [0.0, 0.0]
        while len(ends) < 400:
            worker = clock.index(min(clock))
            clock[worker] += luck.gammavariate(1.0, 0.4)
            ends.append(clock[worker])
        ends.sort()
        half, whole = ends[199], ends[-1]
        looks = [i / 2 for i in range(1, int(2 * half))]
        seen = Trend()
        for moment in looks:
            seen = seen.add(at(moment, 20 * bisect(ends, moment), submitted=8000))
        left = seen.time_left(at(looks[-1], seen.samples[-1][1], submitted=8000))
        held += left.low <= whole - looks[-1] <= left.high
    assert 0.84 < held / runs < 0.97


def test_too_little_was_seen_for_an_interval():
    seen = watched((1.0, 10), (3.0, 30))
    left = seen.time_left(at(3.0, 30))
    assert left.best == pytest.approx(99997.0)
    assert math.isnan(left.low)


def test_nothing_is_promised_while_paused_open_or_at_a_standstill():
    seen = watched(*((i, 100) for i in range(1, 100)))
    assert seen.time_left(at(99, 100)) is None
    steady = watched(*((i, i) for i in range(1, 100)))
    assert steady.time_left(at(99, 99, state=RunState.PAUSED)) is None
    assert steady.time_left(at(99, 99, closed=False)) is None
    assert steady.time_left(ended()).best == 0.0


def test_samples_stay_few_and_even_however_long_the_run():
    seen = watched(*((i / 4, i) for i in range(1, 40_000)))
    gaps = [b[0] - a[0] for a, b in zip(seen.samples[:-1], seen.samples[1:-1], strict=False)]
    assert SLICES < len(seen.samples) <= MOST + 1
    assert max(gaps) < 4 * min(gaps)
    assert seen.samples[0] == (NOON, 0)
    assert seen.samples[-1] == (NOON + 39_999 / 4, 39_999)
    assert seen.pace == pytest.approx(4.0)


def test_history_line_shows_where_it_was_fast():
    seen = watched(*((i, 10 * i) for i in range(1, 25)), *((i, 240 + 80 * (i - 24)) for i in range(25, 49)))
    line = seen.history()
    assert len(line) == 24
    assert line[0] == "▂"
    assert line[-1] == "█"
    assert Trend().history() == ""
    assert set(watched((1, 0), (5, 0)).history()) == {"▁"}


def test_dead_letters_sent_back_begin_the_history_anew():
    seen = watched((1.0, 10), (5.0, 90), (6.0, 40), (9.0, 70))
    assert seen.samples[0] == (NOON + 6, 40)
    assert seen.pace == pytest.approx(10.0)


def test_events_tell_what_was_before():
    happened = [
        event("created", NOON - 60), event("progress", NOON + 2, 20), replace(event("item_dead"), counters=None),
        event("progress", NOON + 4, 40),
    ]  # fmt: skip
    seen = Trend.of_events(happened, started_at=NOON).add(at(6, 60))
    assert seen.samples == ((NOON, 0), (NOON + 2, 20), (NOON + 4, 40), (NOON + 6, 60))
    assert Trend.of_events([], NOON) == Trend()


def test_an_end_without_looks_is_an_average():
    seen = Trend().add(ended())
    assert seen.span_s == 55.0
    assert trend(status()).pace == pytest.approx(20.0, rel=0.02)
