"""The recorded history in ``data/``: it is what its README says, and a recommender learns from it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from toolkit import Recommender
from toolkit.frames import METRICS

DATA = Path(__file__).parents[2] / "data"
PARAGRAPHS = 26_420


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    return pd.read_parquet(DATA / "demo_metrics.parquet")


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return pd.read_parquet(DATA / "demo_runs.parquet")


def test_every_run_is_whole(metrics: pd.DataFrame, runs: pd.DataFrame) -> None:
    assert list(metrics.columns) == [column.name for column in METRICS]
    assert metrics.groupby("run_id", observed=True)["ok"].sum().eq(PARAGRAPHS).all()
    assert set(runs["run_id"]) == set(metrics["run_id"])
    assert runs["state"].eq("finished").all()


def test_it_names_no_machine(metrics: pd.DataFrame) -> None:
    assert set(metrics["host"]) == {"host"}
    assert set(metrics["node"]) == {"node"}
    assert metrics["worker"].astype(str).str.fullmatch(r"worker-\d+").all()


@pytest.mark.parametrize("task", ["find_mentions", "classify_paragraphs"])
def test_left_out_runs_are_predicted(task: str, metrics: pd.DataFrame, runs: pd.DataFrame) -> None:
    name = f"toolkit.demo.tasks:{task}"
    advice = Recommender().fit(metrics, runs=runs).recommend(task=name, n_items=PARAGRAPHS)
    assert advice.refused is None
    assert advice.coverage_method == "model"
    low, high = advice.intervals["makespan_s"]
    fastest = runs.loc[runs["task"] == name, "makespan_s"].min()
    assert low <= 1.1 * fastest
    assert low < advice.makespan_s < high


@pytest.mark.parametrize("task", ["find_mentions", "classify_paragraphs"])
def test_intervals_are_narrow(task: str, metrics: pd.DataFrame, runs: pd.DataFrame) -> None:
    advice = Recommender().fit(metrics, runs=runs).recommend(task=f"toolkit.demo.tasks:{task}", n_items=PARAGRAPHS)
    low, high = advice.intervals["makespan_s"]
    assert high - low <= 0.3 * advice.makespan_s
