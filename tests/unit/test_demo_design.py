"""The demo's small parts: settings, tables, arguments, verdicts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.evaluation import live, live_tasks
from toolkit.demo.design import Setting, alternate, studies, worker_counts, workers_needed
from toolkit.demo.flow import DEMO_ITEMS, GRID_TIMES, QUICK_ITEMS, Options
from toolkit.demo.grid import Judged, evaluate, spread
from toolkit.demo.record import anonymous
from toolkit.demo.summary import busy_hint
from toolkit.demo.table import seconds, text_table
from toolkit.errors import InvalidInput

MODEL = Path("model")


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_worker_counts_differ_and_stay_small(cores):
    counts = worker_counts(cores)
    assert counts[0] == 1
    assert sorted(set(counts)) == list(counts)
    assert counts[-1] <= 9


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("n_items", [100, 400, 1_500, 26_000])
def test_the_designed_set_tells_batch_cost_from_item_cost_and_contention(n_items, quick):
    for study in studies(range(n_items), MODEL, 2, quick=quick):
        sizes = {setting.batch_size for setting in study.settings}
        assert len(study.settings) == (4 if quick else 10)
        assert len(set(study.settings)) == (4 if quick else 9)  # one is measured twice: how much do equal runs differ?
        assert max(sizes) >= 4 * min(sizes)
        assert 5 * max(sizes) <= n_items
        assert {s.workers for s in study.settings} >= {1, 2}
        assert len(set(study.grid)) == 12
        assert study.most_workers <= 3


def test_too_few_items_are_refused():
    with pytest.raises(InvalidInput, match="100"):
        studies(range(99), MODEL, 2)


def test_there_are_workers_for_every_cell_that_is_measured():
    quick = studies(range(1_000), MODEL, 2, quick=True)
    assert workers_needed(quick, grid=False) == 2
    assert workers_needed(quick, grid=True) == 3  # its grid asks for more than its settings do


def test_studies_alternate():
    plan = studies(range(1_000), MODEL, 2)
    pairs = alternate(plan)
    assert len(pairs) == sum(len(study.settings) for study in plan)
    assert [study.label for study, _ in pairs[:4]] == ["find_mentions", "classify_paragraphs"] * 2


def test_a_table_aligns_numbers_right_and_text_left():
    rows = [{"task": "a", "n": 5, "s": 0.12345}, {"task": "long", "n": 12_000, "s": None}]
    assert text_table(rows, ["task", "n", "s"]).splitlines() == [
        "  task       n      s",
        "  ----  ------  -----",
        "  a          5  0.123",
        "  long  12,000",
    ]


def test_an_empty_table_has_its_header():
    assert text_table([], ["task", "n"]).splitlines() == ["  task  n", "  ----  -"]


@pytest.mark.parametrize(("value", "text"), [(0.0821, "82 ms"), (3.416, "3.42 s")])
def test_seconds(value, text):
    assert seconds(value) == text


def judged(**changes) -> Judged:
    facts = {
        "task": "t", "best": Setting(100, 2), "best_s": 1.0, "recommended": Setting(90, 2), "predicted_s": 1.0,
        "low_s": 0.9, "high_s": 1.15, "measured_s": 1.05,
    }  # fmt: skip
    return Judged(**(facts | changes))


def test_the_goal_is_met():
    assert judged().met
    assert judged().regret == pytest.approx(0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"best_s": 0.9},
        {"measured_s": 1.09, "high_s": 1.08},
        {"measured_s": 0.89},
        {"high_s": 1.25},
    ],
    ids=["slow", "above", "below", "wide"],
)
def test_the_goal_is_missed(changes):
    assert not judged(**changes).met
    assert judged(**changes).row()["goal"] == "MISSED"


def test_where_all_was_refused_the_goal_is_missed():
    said: list[str] = []
    assert evaluate(None, [], "session", said.append) is False
    assert "missed" in said[0]


def test_a_setting_reads_well():
    assert [str(Setting(1_200, 1)), str(Setting(40, 3))] == [
        "batch size 1,200 with 1 worker",
        "batch size 40 with 3 workers",
    ]


def rows(*shares: tuple[int, float]) -> list[dict]:
    return [{"workers": workers, "CPU %": share} for workers, share in shares]


def test_a_busy_machine_is_told_from_too_many_workers():
    assert "got 40 %" in (busy_hint(rows((1, 40.0), (2, 99.0))) or "")
    assert busy_hint(rows((1, 98.0), (3, 30.0))) is None
    assert busy_hint(rows((2, 30.0))) is None


def test_recorded_metrics_name_no_machine():
    frame = pd.DataFrame(
        {
            "host": pd.Categorical(["box.example", "box.example"]),
            "node": pd.Categorical(["local-1@box", "local-1@box"]),
            "worker": pd.Categorical(["local-1@box/12", "local-1@box/13"]),
            "items": [1, 2],
        }
    )
    changed = anonymous(frame)
    assert changed.drop(columns="items").to_numpy().tolist() == [
        ["host", "node", "worker-1"],
        ["host", "node", "worker-2"],
    ]
    assert frame["host"].iloc[0] == "box.example"


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (Options(), DEMO_ITEMS),
        (Options(quick=True), QUICK_ITEMS),
        (Options(grid=True), None),
        (Options(grid=True, items=500), 500),
        (Options(quick=True, items=0), 0),
    ],
)
def test_how_many_paragraphs(options, limit):
    assert options.limit() == limit


@pytest.mark.parametrize(
    ("options", "times"),
    [
        (Options(), 1),
        (Options(grid=True), GRID_TIMES),
        (Options(grid=True, items=500), 1),
        (Options(grid=True, quick=True), 1),
        (Options(grid=True, times=1), 1),
        (Options(items=500, times=4), 4),
    ],
)
def test_how_often_each_paragraph_is_taken(options, times):
    assert options.repeats() == times


def test_paragraphs_are_taken_once_at_least():
    with pytest.raises(InvalidInput, match="times=0"):
        Options(times=0).repeats()


def test_options_have_the_documented_defaults():
    assert Options() == Options(
        quick=False, grid=False, items=None, times=None, report=Path("report.html"), record=None
    )


def test_the_noise_of_a_grid_is_what_separates_the_repeats_of_its_middle_cell():
    quiet, usual, stolen = [2.0, 2.0, 2.1], [4.0, 5.0, 4.5], [3.0, 9.0, 3.0]
    assert spread([stolen, quiet, usual]) == pytest.approx(1.0 / 4.5)


def test_the_evaluation_on_real_workers_measures_ten_settings_and_twelve_cells_of_each_task(tmp_path: Path) -> None:
    for study in live.studies(tmp_path, 0.02):
        assert (len(study.settings), len(set(study.grid))) == (10, 12)
        assert max(s.batch_size for s in study.grid) * 5 <= len(study.items)
        assert live_tasks.__dict__[study.label] is study.task
