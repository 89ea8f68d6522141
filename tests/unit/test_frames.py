"""Frames have the declared columns, order and dtypes, empty or full, and hold what was recorded untouched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import frames
from toolkit.errors import InvalidInput, LedgerCorrupt
from toolkit.frames import Column, RunInfo, schema
from toolkit.records import (
    CATEGORIES,
    FLAG_BATCHED,
    FLAG_CUT_OFF,
    FLAG_FIRST,
    FLAG_TAIL,
    METRIC_FIELDS,
    METRIC_ROW,
    OUTCOMES,
    DeadLetter,
    NodeInfo,
    RunSpec,
    RunState,
    RunStatus,
    WorkerIdentity,
)

RUN = RunInfo("run-000001", "docs.ocr", "first", 4)
OTHER = RunInfo("run-000002", "docs.split", "", 0)
ZOE = WorkerIdentity("host-a", "zoe@host-a", 17, "abc", "0.1.0")
HOSTILE = "<img src=x onerror=alert(1)>\u202e'; DROP TABLE\x00"


def row(**values: float) -> bytes:
    """Pack one metric row; what is not given is 0."""
    return METRIC_ROW.pack(*(values.get(name, 0) for name, _ in METRIC_FIELDS))


def status(**values: Any) -> RunStatus:
    """Build the status of a finished run of 10 items."""
    counters = dict.fromkeys(("remaining", "ready", "delayed", "claimed", "skipped", "active", "lost", "generation"), 0)
    plain = {
        "run_id": "run-000001", "name": "first", "task": "docs.ocr", "state": RunState.FINISHED, "closed": True,
        "submitted": 10, "ok": 9, "dead": 1, "retried": 2, "batches": 3, "known_workers": 2, "batch_size": 5,
        "auto": True, "max_workers": 0, "item_s": 0.5, "created_at": 1_700_000_000.0, "started_at": 1_700_000_001.0,
        "finished_at": 1_700_000_004.5, "at": 1_700_000_009.0,
    }  # fmt: skip
    return RunStatus(**(counters | plain | values))


def letter(index: int, **values: Any) -> DeadLetter:
    plain = DeadLetter(index, None, {"a": 1}, "ValueError", "no", "Traceback", "fatal", 4, "zoe/17", "", 1.5)
    return replace(plain, **values)


NODE = NodeInfo("zoe@a", "a", 7, 4, 2, ("celery", "slow"), ("docs.ocr",), "0.1.0", 1, "3.11", True, 1.0, 2.0)
EVENT = ("1700000000123-4", {"event": "finished", "ok": "9", "dead": "1", "retried": "2", "submitted": "10"})

BUILDERS: list[tuple[str, tuple[Column, ...], Callable[[], pd.DataFrame], Callable[[], pd.DataFrame]]] = [
    (
        "metrics",
        frames.METRICS,
        lambda: frames.metrics_frame(RUN, b"", {}),
        lambda: frames.metrics_frame(RUN, row(claimed_at=1.0, worker=3) * 2, {3: ZOE.encode()}),
    ),
    (
        "runs",
        frames.RUNS,
        lambda: frames.runs_frame([]),
        lambda: frames.runs_frame([(RunSpec("run-000001", "t"), status())]),
    ),
    (
        "items",
        frames.ITEMS,
        lambda: frames.items_frame("run-000001", 0, [], {}, "running"),
        lambda: frames.items_frame("run-000001", 3, [(0, 1)], {1: letter(1)}, "running", ["a", None, (1,)]),
    ),
    ("workers", frames.WORKERS, lambda: frames.workers_frame([]), lambda: frames.workers_frame([NODE, NODE])),
    (
        "dead letters",
        frames.DEAD_LETTERS,
        lambda: frames.dead_letters_frame("run-000001", "t", []),
        lambda: frames.dead_letters_frame("run-000001", "t", [letter(1), letter(2, key="k")]),
    ),
    (
        "events",
        frames.EVENTS,
        lambda: frames.events_frame("run-000001", []),
        lambda: frames.events_frame("run-000001", [EVENT, EVENT]),
    ),
]


@pytest.mark.parametrize(
    ("columns", "without_rows", "with_rows"), [b[1:] for b in BUILDERS], ids=[b[0] for b in BUILDERS]
)
def test_the_schema_is_the_declared_one_empty_and_full(
    columns: tuple[Column, ...], without_rows: Any, with_rows: Any
) -> None:
    for frame, rows in ((frames.empty(columns), False), (without_rows(), False), (with_rows(), True)):
        assert list(frame.columns) == [c.name for c in columns]
        assert [str(d) for d in frame.dtypes] == [c.dtype for c in columns]
        assert bool(len(frame)) is rows
        assert isinstance(frame.index, pd.RangeIndex)
        for column in columns:
            if column.dtype == "category":
                categories = frame[column.name].cat.categories
                assert categories.dtype == object  # the same on pandas 2 and 3, so that frames of both can be stacked
                assert not column.categories or tuple(categories) == column.categories


@pytest.mark.parametrize("columns", [b[1] for b in BUILDERS], ids=[b[0] for b in BUILDERS])
def test_every_column_is_documented(columns: tuple[Column, ...]) -> None:
    text = frames.describe(columns)
    assert len(text.splitlines()) == len(columns) + 2
    assert len({c.name for c in columns}) == len(columns)
    for column in columns:
        assert f"| `{column.name}` | {column.dtype} | {column.unit} | {column.doc} |" in text
        assert column.doc


def test_names_say_the_unit() -> None:
    units = {c.name: c.unit for c in (*frames.METRICS, *frames.EVENTS)}
    assert (units["service_s"], units["item_sumsq_s2"], units["peak_rss_bytes"]) == ("s", "s²", "bytes")
    assert (units["claimed_at"], units["at"], units["items"], units["task"]) == ("UTC", "UTC", "", "")


# --------------------------------------------------------------------------- metric rows


def test_the_numpy_record_is_the_packed_row() -> None:
    dtype = frames.row_dtype()
    assert dtype.itemsize == METRIC_ROW.size
    assert dtype.names == tuple(name for name, _ in METRIC_FIELDS)
    numbers = tuple(range(1, len(METRIC_FIELDS) + 1))
    assert np.frombuffer(METRIC_ROW.pack(*numbers), dtype)[0].tolist() == numbers


def test_a_row_is_read_field_by_field() -> None:
    values = {name: number for number, (name, _) in enumerate(METRIC_FIELDS, 1)}
    values |= {
        "flags": FLAG_FIRST | FLAG_CUT_OFF,
        "outcome": 1,
        "category": 3,
        "worker": 9,
        "claimed_at": 1_700_000_000.25,
    }
    frame = frames.metrics_frame(RUN, row(**values), {9: ZOE.encode()})
    found = frame.iloc[0]
    renamed = {"batch_size": "asked"}
    derived = {
        "run_id": "run-000001", "task": "docs.ocr", "name": "first", "code_version": "abc", "host": "host-a",
        "node": "zoe@host-a", "worker": "zoe@host-a/17", "batch": 0, "failed": values["retried"] + values["dead"],
        "outcome": "partial", "error_category": "timeout",
        "claimed_at": pd.Timestamp("2023-11-14 22:13:20.25", tz="UTC"),
        "peak_rss_bytes": values["peak_rss_kib"] * 1024, "max_workers": 4, "first_in_process": True, "tail": False,
        "cut_off": True, "batched": False,
    }  # fmt: skip
    for column in frames.METRICS:
        expected = derived.get(column.name, values.get(renamed.get(column.name, column.name)))
        assert found[column.name] == expected, column.name


_LARGEST = {"B": 255, "H": 65_535, "I": 2**32 - 1, "Q": 2**63 - 1, "f": 3.4e38, "d": 1.7e9}


def test_extreme_values_are_kept() -> None:
    largest = row(**{name: _LARGEST[code] for name, code in METRIC_FIELDS})
    frame = frames.metrics_frame(RUN, largest + row(), {})
    top, bottom = frame.iloc[0], frame.iloc[1]
    assert (top["first_index"], top["items"], top["attempt"]) == (2**63 - 1, 2**32 - 1, 65_535)
    assert top["peak_rss_bytes"] == (2**32 - 1) * 1024
    assert top["failed"] == 2 * (2**32 - 1)
    assert top["service_s"] == float(np.float32(3.4e38))
    assert (bottom["first_index"], bottom["items"], bottom["service_s"]) == (0, 0, 0.0)
    assert pd.isna(bottom["claimed_at"])
    assert pd.isna(top["outcome"])  # a code of a later version has no name here
    assert pd.isna(top["error_category"])


def test_idle_and_other_nan_stay_nan() -> None:
    frame = frames.metrics_frame(RUN, row(idle_s=math.nan, service_s=math.inf) + row(idle_s=0.5), {})
    assert np.isnan(frame["idle_s"][0])
    assert frame["idle_s"][1] == 0.5
    assert frame["service_s"][0] == math.inf


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -5.0, 0.0, 1e300, 9.3e12])
def test_an_impossible_moment_is_missing(seconds: float) -> None:
    assert pd.isna(frames.metrics_frame(RUN, row(claimed_at=seconds), {})["claimed_at"][0])


@given(st.integers(1, 4_000_000_000_000_000))
def test_a_moment_of_this_century_is_exact_to_the_microsecond(micros: int) -> None:
    found = frames.metrics_frame(RUN, row(claimed_at=micros / 1e6), {})["claimed_at"].astype("int64")[0]
    assert found == micros


@pytest.mark.parametrize("flag", [FLAG_FIRST, FLAG_TAIL, FLAG_CUT_OFF, FLAG_BATCHED])
def test_each_flag_is_one_column(flag: int) -> None:
    names = {FLAG_FIRST: "first_in_process", FLAG_TAIL: "tail", FLAG_CUT_OFF: "cut_off", FLAG_BATCHED: "batched"}
    frame = frames.metrics_frame(RUN, row(flags=flag | 0xFFF0), {})
    assert [name for name in names.values() if frame[name][0]] == [names[flag]]


def test_rows_come_in_segments_cut_anywhere() -> None:
    data = b"".join(row(first_index=n) for n in range(10_000))
    whole = frames.metrics_frame(RUN, data, {})
    parts = frames.metrics_frame(RUN, [data[:1000], b"", data[1000:]], {})
    pd.testing.assert_frame_equal(whole, parts)
    assert whole["first_index"].tolist() == whole["batch"].tolist() == list(range(10_000))


@pytest.mark.parametrize("data", [row()[:-1], row() + b"x", b"x"])
def test_half_a_row_names_the_run(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="run-000001"):
        frames.metrics_frame(RUN, data, {})


def test_an_index_that_no_run_can_have_names_the_run() -> None:
    with pytest.raises(LedgerCorrupt, match="run-000001"):
        frames.metrics_frame(RUN, row(first_index=2**63), {})


def test_workers_are_told_apart_by_code() -> None:
    adam = replace(ZOE, node="adam@host-b", host="host-b", pid=3)
    rows = row(worker=5) + row(worker=65_535) + row(worker=5) + row(worker=7)
    frame = frames.metrics_frame(RUN, rows, {5: ZOE.encode(), 65_535: adam.encode(), 9: "never\tseen"})
    assert frame["worker"].tolist() == ["zoe@host-a/17", "adam@host-b/3", "zoe@host-a/17", ""]
    assert frame["host"].tolist() == ["host-a", "host-b", "host-a", ""]
    assert list(frame["node"].cat.categories) == ["zoe@host-a", "", "adam@host-b"]


@pytest.mark.parametrize("text", ["", "host", "host\tnode\tno number\tcode", "\t\t\t\t\t\t", "h\tn\t" + "9" * 5000])
def test_a_malformed_identity_does_not_hide_the_rows(text: str) -> None:
    frame = frames.metrics_frame(RUN, row(worker=1, items=3), {1: text})
    assert frame["items"].tolist() == [3]
    assert frame["worker"].tolist() == [""] or frame["worker"].tolist() == ["node/0"]


def test_hostile_text_passes_through_as_data() -> None:
    identity = WorkerIdentity(HOSTILE, HOSTILE, 1, HOSTILE, "0.1.0")
    run = RunInfo("run-000001", HOSTILE, HOSTILE, 0)
    found = frames.metrics_frame(run, row(), {0: identity.encode()}).iloc[0]
    for name in ("task", "name", "host", "node", "code_version"):
        assert found[name] == HOSTILE
    dead = frames.dead_letters_frame("run-000001", HOSTILE, [letter(0, message=HOSTILE, logs=HOSTILE, key=HOSTILE)])
    assert dead.loc[0, ["task", "message", "logs", "key"]].tolist() == [HOSTILE] * 4


# --------------------------------------------------------------------------- stacking


def test_stacked_metrics_keep_categories_and_schema() -> None:
    first = frames.metrics_frame(RUN, row(worker=1) * 2, {1: ZOE.encode()})
    second = frames.metrics_frame(OTHER, row(outcome=3), {})
    stacked = frames.concat_metrics([first, frames.empty(frames.METRICS), second])
    assert [str(d) for d in stacked.dtypes] == [c.dtype for c in frames.METRICS]
    assert stacked["run_id"].tolist() == ["run-000001", "run-000001", "run-000002"]
    assert list(stacked["worker"].cat.categories) == ["zoe@host-a/17", ""]
    assert stacked["worker"].cat.categories.dtype == object, "as in a frame of one run"
    assert tuple(stacked["outcome"].cat.categories) == OUTCOMES
    assert stacked["outcome"].tolist() == ["ok", "ok", "lost"]
    assert stacked["batch"].tolist() == [0, 1, 0]
    assert stacked.index.tolist() == [0, 1, 2]


def test_nothing_stacked_is_the_empty_frame() -> None:
    for nothing in ([], [frames.empty(frames.METRICS)]):
        pd.testing.assert_frame_equal(frames.concat_metrics(nothing), frames.empty(frames.METRICS))


def test_one_frame_stacked_is_itself() -> None:
    frame = frames.metrics_frame(RUN, row() * 3, {})
    pd.testing.assert_frame_equal(frames.concat_metrics([frame]), frame)
    assert frames.concat_metrics([frame[frame["batch"] > 0]]).index.tolist() == [0, 1]


def test_a_frame_whose_text_was_read_from_a_file_can_be_stacked() -> None:
    frame = frames.metrics_frame(RUN, row(), {})
    foreign = frame.assign(
        run_id=pd.Categorical(["run-000009"], categories=pd.Index(["run-000009"], dtype="string")),
        task=pd.Series(["t"], dtype="string"),
        claimed_at=frame["claimed_at"].astype("datetime64[ns, UTC]"),
        items=pd.Series([1], dtype="int32"),
    )
    stacked = frames.concat_metrics([frame, foreign])
    assert [str(d) for d in stacked.dtypes] == [c.dtype for c in frames.METRICS]
    assert stacked["run_id"].tolist() == ["run-000001", "run-000009"]
    assert stacked["task"].tolist() == ["docs.ocr", "t"]


def test_stacked_dead_letters_keep_the_schema() -> None:
    parts = [frames.dead_letters_frame(f"run-00000{n}", "t", [letter(n)]) for n in (1, 2)]
    stacked = frames.concat_dead_letters(parts)
    assert [str(d) for d in stacked.dtypes] == [c.dtype for c in frames.DEAD_LETTERS]
    assert stacked["index"].tolist() == [1, 2]


# --------------------------------------------------------------------------- runs


def test_a_run_is_one_row() -> None:
    spec = RunSpec(
        "run-000001", "docs.ocr", priority="high", queue="slow", tags={"b": "é", "a": "1"}, code_version="abc"
    )
    found = frames.runs_frame([(spec, status())]).iloc[0]
    assert json.loads(found["tags"]) == {"a": "1", "b": "é"}
    assert "é" in found["tags"]  # as the user wrote it
    assert (found["state"], found["priority"], found["queue"], found["code_version"]) == (
        "finished",
        "high",
        "slow",
        "abc",
    )
    assert found["makespan_s"] == 3.5
    assert found["created_at"] == pd.Timestamp("2023-11-14 22:13:20", tz="UTC")
    for name in ("submitted", "ok", "dead", "skipped", "retried", "batches", "lost", "batch_size", "known_workers"):
        assert found[name] == getattr(status(), name)


@pytest.mark.parametrize("times", [{"started_at": 0.0, "finished_at": 0.0}, {"finished_at": 0.0}, {"started_at": 0.0}])
def test_before_its_end_a_run_has_no_makespan(times: dict[str, float]) -> None:
    found = frames.runs_frame([(RunSpec("run-000001", "t"), status(state=RunState.RUNNING, **times))]).iloc[0]
    assert np.isnan(found["makespan_s"])
    assert all(pd.isna(found[name]) for name in times)


@pytest.mark.parametrize("state", list(RunState))
def test_every_state_of_a_run_is_a_category(state: RunState) -> None:
    frame = frames.runs_frame([(RunSpec("run-000001", "t"), status(state=state))])
    assert frame["state"].tolist() == [str(state)]


# --------------------------------------------------------------------------- items


def test_items_say_how_they_stand() -> None:
    dead = {3: letter(3, category="timeout", error_type="x.Late", attempts=2)}
    frame = frames.items_frame("run-000001", 6, [(0, 2), (5, 6)], dead, "running", list("abcdef"))
    assert frame["state"].tolist() == ["ok", "ok", "pending", "dead", "pending", "ok"]
    assert frame["index"].tolist() == list(range(6))
    assert frame["key"].tolist() == list("abcdef")
    assert set(frame["run_id"]) == {"run-000001"}
    assert frame["attempts"].isna().tolist() == [True, True, True, False, True, True]
    assert (frame["attempts"][3], frame["error_category"][3], frame["error_type"][3]) == (2, "timeout", "x.Late")
    assert frame["error_category"].tolist()[:3] == ["", "", ""]
    assert frame["error_type"][0] is None


@pytest.mark.parametrize(
    ("state", "expected"), [("cancelled", "skipped"), ("finished", "skipped"), ("paused", "pending")]
)
def test_what_did_not_end_in_an_ended_run_was_skipped(state: str, expected: str) -> None:
    assert frames.items_frame("run-000001", 1, [], {}, state)["state"].tolist() == [expected]


def test_items_appended_after_the_status_was_taken_are_left_out() -> None:
    late = {1: letter(1), 2: letter(2), 900: letter(900)}
    frame = frames.items_frame("run-000001", 2, [(0, 5)], late, "running", ["a", "b", "c"])
    assert frame["state"].tolist() == ["ok", "dead"]
    assert frame["key"].tolist() == ["a", "b"]


def test_items_without_keys_or_with_too_few_have_none() -> None:
    assert frames.items_frame("run-000001", 2, [], {}, "running")["key"].tolist() == [None, None]
    assert frames.items_frame("run-000001", 2, [], {}, "running", ["a"])["key"].tolist() == ["a", None]


# --------------------------------------------------------------------------- objects in cells


@pytest.mark.parametrize(
    "item",
    [
        [1, 2],
        (),
        {"a": 1},
        {1},
        None,
        "x",
        b"x",
        1.5,
        np.arange(2),
        np.arange(4).reshape(2, 2),
        np.array(5),
        np.float64(1),
    ],
    ids=repr,
)
def test_any_item_fits_into_a_cell(item: Any) -> None:
    frame = frames.dead_letters_frame("run-000001", "t", [letter(0, item=item, key=item), letter(1, item=item)])
    assert frame["item"].dtype == object
    assert frame["item"].iloc[0] is item
    assert frame["item"].iloc[1] is item
    assert frame["key"].iloc[0] is item


def test_a_category_of_a_later_version_is_missing() -> None:
    frame = frames.dead_letters_frame("run-000001", "t", [letter(0, category="cosmic_ray"), letter(1)])
    assert frame["category"].isna().tolist() == [True, False]
    assert tuple(frame["category"].cat.categories) == CATEGORIES
    items = frames.items_frame("run-000001", 1, [], {0: letter(0, category="cosmic_ray")}, "running")
    assert items["error_category"].isna().tolist() == [True]


# --------------------------------------------------------------------------- workers and events


def test_a_node_is_one_row() -> None:
    found = frames.workers_frame([NODE]).iloc[0]
    assert (found["queues"], found["n_tasks"], found["workers"], found["functions"]) == ("celery,slow", 1, 4, True)
    assert found["seen_at"] == pd.Timestamp("1970-01-01 00:00:02", tz="UTC")


def test_events_carry_the_counters_so_far() -> None:
    frame = frames.events_frame("run-000001", [("5-0", {"event": "created"}), EVENT])
    assert frame["event"].tolist() == ["created", "finished"]
    assert frame["at"][1] == pd.Timestamp("2023-11-14 22:13:20.123", tz="UTC")
    assert frame.loc[1, ["submitted", "ok", "dead", "retried"]].tolist() == [10, 9, 1, 2]
    assert frame.loc[0, ["submitted", "ok", "dead", "retried"]].isna().all()
    assert frame["detail"].tolist() == ["", ""]


@pytest.mark.parametrize("text", ["", "-1", "²", "x", "9" * 30, "1.0"])
def test_a_counter_that_is_none_is_missing(text: str) -> None:
    frame = frames.events_frame("run-000001", [("5-0", {"event": "x", "ok": text})])
    assert frame["ok"].isna().tolist() == [True]


# --------------------------------------------------------------------------- moments of the user


def test_a_moment_without_a_zone_is_utc() -> None:
    assert frames.timestamp("1970-01-01 00:00:05") == frames.timestamp("1970-01-01T01:00:05+01:00") == 5.0


@pytest.mark.parametrize("moment", [1_795_960_545.5, np.float64(1_795_960_545.5), "2026-11-29 13:55:45.5"])
def test_a_number_is_seconds_since_1970(moment: Any) -> None:
    """As `RunStatus.created_at` and time.time() say it; pandas alone would read nanoseconds, and so 1970."""
    assert frames.timestamp(moment) == 1_795_960_545.5


@pytest.mark.parametrize("moment", ["never", "NaT", object(), "now", " Today", -1, 1_795_960_545_500, math.nan, True])
def test_no_moment_is_refused(moment: Any) -> None:
    with pytest.raises(InvalidInput, match="is not a date"):
        frames.timestamp(moment)


def test_a_constant_column_is_spread() -> None:
    column = (Column("a", "int64", "x"), Column("b", "object", "x"), Column("c", "bool", "x"))
    frame = schema.build(column, {"a": 3, "b": "x", "c": True}, 2)
    assert frame.to_dict("list") == {"a": [3, 3], "b": ["x", "x"], "c": [True, True]}
