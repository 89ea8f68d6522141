"""Which runs are meant: what a user may ask for, and what is said about the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.data import make
from toolkit import frames
from toolkit.client.feed import MetricsFeed
from toolkit.client.selecting import Known, Selection
from toolkit.errors import InvalidInput, UnknownTask
from toolkit.ledger import Connection
from toolkit.records import RunState
from toolkit.settings import ServerAddress


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ({"since": "never"}, "since: 'never' is not a date"),
        ({"until": 1j}, "until: .*is not a date"),
        ({"since": "2024-01-02", "until": "2024-01-01"}, "until='2024-01-01' is not after since='2024-01-02'"),
        ({"since": "2024-01-02", "until": "2024-01-02"}, "is not after"),
        ({"tags": "night"}, "tags='night': expected labels"),
        ({"tags": {"night": 7}}, "tags={'night': 7}: expected labels"),
        ({"tags": ["night"]}, "expected labels"),
        ({"states": "done"}, "states='done': expected some of running, paused"),
        ({"states": ["finished", "done"]}, "expected some of"),
        ({"states": []}, "names no state"),
        ({"states": 7}, "states=7: expected some of"),
    ],
)
def test_a_filter_that_is_none_says_what_is_expected(which: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Selection.parse(**which)


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(UnknownTask, match="int is no task"):
        Selection.parse(7)


@pytest.mark.parametrize(
    "states", ["finished", ["finished"], {"finished", "paused"}, RunState.FINISHED, (RunState.FINISHED,)]
)
def test_states_come_as_text_or_as_words(states: Any) -> None:
    assert RunState.FINISHED in Selection.parse(states=states).states


WHICH: list[tuple[dict[str, Any], bool]] = [
    ({}, True), ({"task": make.SPEC.task}, True), ({"task": "other"}, False), ({"states": "finished"}, True),
    ({"states": "running"}, False), ({"tags": {"night": "7"}}, True), ({"tags": {"night": "8"}}, False),
    ({"tags": {"night": "7", "x": "y"}}, False), ({"tags": {}}, True), ({"since": "2023-11-14T22:13:20.25Z"}, True),
    ({"since": "2023-11-14T22:13:20.251Z"}, False), ({"until": "2023-11-14T22:13:20.25Z"}, False),
    ({"until": "2023-11-14T22:13:20.251Z"}, True),
]  # fmt: skip


@pytest.mark.parametrize(("which", "meant"), WHICH, ids=str)
def test_a_run_on_the_server_and_its_row_are_chosen_alike(which: dict[str, Any], meant: bool) -> None:
    chosen = Selection.parse(**which)
    assert chosen.matches(make.SPEC, make.STATUS) is meant
    assert chosen.mask(frames.runs_frame([(make.SPEC, make.STATUS)])) == [meant]


@pytest.mark.parametrize("cursor", [7, {"run": -1}, {"run": "1"}, {1: 1}, {"run": True}])
def test_a_cursor_that_is_none_is_refused(cursor: Any) -> None:
    def none() -> Iterable[Known]:
        return []

    with pytest.raises(InvalidInput, match=r"cursor=.*expected what the attribute"):
        MetricsFeed(none, Connection(ServerAddress("unix:///nowhere")), cursor)
