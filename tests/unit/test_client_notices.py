"""What somebody who waits is told about a run that stands still."""

from __future__ import annotations

import pytest

from tests.unit.notebook_samples import NOON, status
from toolkit.client.notices import IDLE_S, STARVED_S, Notices
from toolkit.records import RunState, RunStatus


def starved(submitted: int, after_s: float) -> RunStatus:
    return status(closed=False, submitted=submitted, ok=submitted, remaining=0, delayed=0, claimed=0, dead=0, active=0,
                  at=NOON + after_s)  # fmt: skip


def test_a_pause_is_told_once_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices()
    for state in (RunState.PAUSED, RunState.PAUSED, RunState.RUNNING, RunState.PAUSED):
        notices.look(status(state=state, reason="the tank is empty"))
    assert capsys.readouterr().err.count("is paused: the tank is empty") == 2


def test_a_run_whose_submitter_may_be_gone_is_told_once_for_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices()
    # Given a run that has done all that it has, and a submitter that may only be slow
    notices.look(starved(100, 0.0))
    notices.look(starved(100, STARVED_S - 1))
    assert capsys.readouterr().err == ""
    # When that lasts, then it is said once, and how to go on
    for after_s in (STARVED_S, STARVED_S + 1, 10 * STARVED_S):
        notices.look(starved(100, after_s))
    said = capsys.readouterr().err
    assert said.count("all 100 items so far are done, and its input is not complete") == 1
    assert "run_id='r7f3c-29ab41'" in said
    # When more came and it stands still anew, then it is said anew
    notices.look(starved(200, 11 * STARVED_S))
    assert capsys.readouterr().err == ""
    notices.look(starved(200, 12 * STARVED_S))
    assert "all 200 items" in capsys.readouterr().err


def test_who_submits_the_rest_himself_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices(lambda: True)
    notices.look(starved(100, 0.0))
    notices.look(starved(100, 10 * STARVED_S))
    assert capsys.readouterr().err == ""


def idle(after_s: float, **values: int) -> RunStatus:
    return status(submitted=100, ok=40, dead=0, delayed=0, **{"remaining": 60, "claimed": 0, "active": 0} | values,
                  at=NOON + after_s)  # fmt: skip


def test_work_that_no_worker_takes_is_told_once_each_time_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices(why_idle=lambda status: f"nobody takes {status.remaining} items")
    # Given a run with work, of which nobody executes anything for a while
    for after_s in (0.0, IDLE_S - 1):
        notices.look(idle(after_s))
    assert capsys.readouterr().err == ""
    # When that lasts, then it is said once
    for after_s in (IDLE_S, IDLE_S + 1, 10 * IDLE_S):
        notices.look(idle(after_s))
    assert capsys.readouterr().err.count("nobody takes 60 items") == 1
    # When it was taken for a while and stands still anew, then it is said anew
    notices.look(idle(11 * IDLE_S, remaining=50, claimed=10, active=1))
    for after_s in (12 * IDLE_S, 13 * IDLE_S):
        notices.look(idle(after_s, remaining=50))
    assert capsys.readouterr().err.count("nobody takes 50 items") == 1


def test_a_run_whose_items_all_wait_for_a_retry_is_not_idle(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices(why_idle=lambda status: "nobody takes it")
    for after_s in (0.0, 2 * IDLE_S):
        notices.look(idle(after_s, remaining=0, ready=0))
    assert capsys.readouterr().err == ""
