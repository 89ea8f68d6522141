"""Versions of a task's code, and different functions of one name: what advice is learned from, and what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from toolkit.tuning.clean import clean
from toolkit.tuning.simulate import Workload, simulate_runs
from toolkit.tuning.versions import one_version

FAST, SLOW = Workload(per_item_s=0.001), Workload(per_item_s=0.05)


def past(*versions: tuple[str, Workload, int]) -> pd.DataFrame:
    """Runs one after the other: so many of each version of the code."""
    frames = []
    for n, (version, work, runs) in enumerate(versions):
        frame = simulate_runs(work, 100, [(10, 2)] * runs, seed=n)
        frames.append(frame.assign(
            code_version=version, run_id=f"{n}-" + frame["run_id"].astype(str),
            claimed_at=frame["claimed_at"] + pd.Timedelta(days=n),
        ))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_versions_that_cost_about_the_same_are_used_together_and_it_is_said() -> None:
    found = one_version(past(("old", FAST, 3), ("new", FAST, 1)))
    assert (found.version, found.left_out, found.frame["run_id"].nunique()) == ("", 0, 4)
    assert "has only 1 run" in found.note
    assert "cost about the same, are used too" in found.note


def test_versions_whose_costs_clearly_differ_are_never_mixed() -> None:
    frame = past(("slow", SLOW, 4), ("fast", FAST, 2))
    found = one_version(frame)
    assert (found.version, set(found.frame["code_version"]), found.left_out) == ("fast", {"fast"}, 40)
    assert "40 batches of others are left out" in found.note
    history = next(iter(clean(frame).values()))
    assert (history.code_version, dict(history.dropped)) == ("fast", {"other code version": 40})


def test_of_several_others_those_that_differ_are_left_out() -> None:
    found = one_version(past(("a", SLOW, 2), ("b", FAST, 2), ("c", FAST, 1)))
    assert set(found.frame["code_version"]) == {"b", "c"}
    assert found.left_out == 20


@pytest.mark.parametrize("runs", [1, 4])
def test_the_version_that_is_asked_for_goes_before_the_latest(runs: int) -> None:
    found = one_version(past(("mine", SLOW, runs), ("latest", FAST, 4)), "mine")
    assert (found.version, set(found.frame["code_version"])) == ("mine", {"mine"})


def test_a_version_that_never_ran_is_advised_from_the_latest_and_it_is_said() -> None:
    found = one_version(past(("old", FAST, 3)), "new")
    assert len(found.frame) == 30
    assert found.note == "no run of this version of the code is recorded, only of others"


def test_one_version_needs_no_word_and_without_versions_all_rows_count() -> None:
    frame = past(("only", FAST, 2))
    assert one_version(frame).note == ""
    assert one_version(frame).version == "only"
    assert len(one_version(frame.assign(code_version="")).frame) == len(frame)
    assert len(one_version(frame.assign(code_version=np.nan)).frame) == len(frame)
    assert len(one_version(frame.drop(columns="code_version")).frame) == len(frame)
    assert len(one_version(frame.iloc[:0]).frame) == 0
