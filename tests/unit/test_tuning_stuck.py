"""A run that ended with a stuck batch tells of luck, not of its setting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolkit.execution.sizing import Controller
from toolkit.execution.tapering import Proposal
from toolkit.tuning import Recommender, Workload, simulate_runs
from toolkit.tuning.learning import _stuck


def test_what_the_batches_of_a_run_do_not_explain_was_a_stuck_one() -> None:
    # given three runs: as expected, all batches twice as long, and twice as long though its batches were as expected
    runs: list[Any] = [SimpleNamespace(spent_s=seconds) for seconds in (10.0, 20.0, 10.0)]
    residual, expected, usual = np.log([1.0, 2.0, 2.0]), np.full(3, 10.0), np.full(3, 0.05**2)

    # then
    assert _stuck(runs, residual, expected, usual) == pytest.approx([0.0, 0.0, np.log(2.0)])
    # where runs usually end as unevenly, it is no news
    assert not _stuck(runs, residual, expected, np.full(3, 0.4**2)).any()


def test_a_stuck_run_counts_by_what_its_batches_took_together() -> None:
    # given heavy-tailed items, the longest of which held up the ends of the first run and of the last
    work = Workload(per_item_s=0.05, per_batch_s=0.02, item_sigma=1.5)
    frame = simulate_runs(work, 1_000, [(1, 8), (9, 8), (58, 4), (8, 2), (65, 8)], seed=10_003, warm=False)

    model = Recommender().fit(frame).models_[work.name]

    # then their long items are in the level of the work, and the backtest says how long these runs were all the same
    counted, off = model.effects.residual, model.backtest.model
    assert (counted[[0, 4]] > 0.1).all()
    assert (counted[[0, 4]] < 0.4).all()
    assert (off[[0, 4]][np.isfinite(off[[0, 4]])] > 0.4).all()
    assert not model.effects.runs.extra.any()


def test_runs_that_were_all_cut_off_in_part_tell_what_batches_take() -> None:
    # given runs whose makespans say nothing of their settings, because many of their batches were cut off
    work = Workload(per_item_s=0.05, per_batch_s=0.02, item_sigma=0.5)
    frame = simulate_runs(work, 1_000, [(1, 8), (9, 8), (58, 4), (8, 2), (65, 8)], seed=3)
    frame["cut_off"] = np.random.default_rng(0).random(len(frame)) < 0.3

    model = Recommender().fit(frame)
    advice = model.recommend(n_items=4_000, max_workers=8)

    # then there is advice from the others, which says that nothing could be checked
    assert not any(run.judged for run in model.models_[work.name].history.runs)
    assert advice.makespan_s == pytest.approx(26.0, rel=0.1)
    assert any("no prediction could be checked" in reason for reason in advice.reasons)
    assert any("cut off" in reason for reason in advice.reasons)
    assert model.backtest().empty


def test_batches_of_a_single_worker_do_not_taper() -> None:
    controller = Controller()
    for items in (1, 16, 64):
        controller.observe(items, 0.1 + 0.01 * items, 1e-3)

    alone, shared = (controller.propose(0.0, 64, 80, workers) for workers in (1, 8))

    assert alone == Proposal(80, 80)
    assert shared.want < 80
