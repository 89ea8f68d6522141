"""The demo, as ``make demo`` runs it: real workers, real text, from the first run to the report."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from toolkit import frames
from toolkit.cluster import LocalCluster
from toolkit.cluster.nodes import default_workers
from toolkit.demo import record

TASKS = ("find_mentions", "classify_paragraphs")


@dataclass(frozen=True)
class Finished:
    """A demo that ended: its exit code, what it printed, where its files and its cluster are."""

    code: int
    out: str
    err: str
    folder: Path
    state: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Run the quick demo once, on a cluster of its own, which is stopped afterwards."""
    folder = tmp_path_factory.mktemp("demo")
    state = Path(tempfile.mkdtemp(prefix="tk-demo-"))  # short, for the server's socket
    try:
        done = subprocess.run(
            [sys.executable, "-m", "toolkit.demo", "--quick", "--report", "out.html", "--record", "history"],
            cwd=folder,
            env={**os.environ, "TOOLKIT_STATE_DIR": str(state), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )
        yield Finished(done.returncode, done.stdout, done.stderr, folder, state)
    finally:
        LocalCluster(state_dir=state).stop()
        shutil.rmtree(state, ignore_errors=True)


def test_it_ends_well_and_complains_about_nothing(demo):
    assert demo.code == 0, demo.out + demo.err
    assert "Error" not in demo.err
    assert "Warning" not in demo.err


@pytest.mark.parametrize("task", TASKS)
def test_it_compares_prediction_and_measurement(demo, task):
    _, _, section = demo.out.partition(f"\n{task}, 1,500 items\n")
    section = section.partition("\n\n")[0]
    # Runs this short on a busy machine need not earn a recommendation; then it says so, and still tries its prediction.
    assert re.search(
        r"(?m)^  (recommended|no recommendation: .+\n  meanwhile, not recommended): "
        r"batch size [\d,]+ with \d+ workers?$",
        section,
    ), demo.out
    assert re.search(
        r"predicted [\d.]+ m?s \(90 % interval [\d.]+ m?s to [\d.]+ m?s\), "
        r"measured [\d.]+ m?s: (inside|OUTSIDE) the interval, [+-][\d.]+ %",
        section,
    ), demo.out


def test_it_says_what_the_tasks_found(demo):
    assert re.search(r"found [\d,]+ mentions \(", demo.out)
    assert "classified 1,500 paragraphs" in demo.out


def test_it_writes_reports_that_stand_alone(demo):
    for name, task in zip(("out-find_mentions.html", "out.html"), TASKS, strict=True):
        page = (demo.folder / name).read_text(encoding="utf-8")
        assert task in page
        assert "<script" not in page


def test_it_records_the_metrics_that_it_learned_from(demo):
    metrics = pd.read_parquet(demo.folder / "history" / record.FILES["metrics"])
    runs = pd.read_parquet(demo.folder / "history" / record.FILES["runs"])
    assert list(metrics.columns) == list(frames.empty(frames.METRICS).columns)
    assert set(metrics["task"]) == {f"toolkit.demo.tasks:{task}" for task in TASKS}
    assert set(metrics["run_id"]) == set(runs["run_id"])
    assert metrics.groupby("run_id", observed=True)["ok"].sum().eq(1_500).all()
    assert set(metrics["host"]) == {"host"}


def test_it_leaves_the_cluster_as_it_was(demo):
    """A new cluster has one worker per processor; the demo scales up for itself only."""
    cluster = LocalCluster(state_dir=demo.state)
    assert cluster.workers == default_workers()
