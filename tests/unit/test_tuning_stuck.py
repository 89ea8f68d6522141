"""A run that ended with a stuck batch tells of luck, not of its setting."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.execution.sizing import Controller
from toolkit.execution.tapering import Proposal
from toolkit.tuning import Recommender, Workload, simulate_runs
from toolkit.tuning.learning import _ended


def test_of_how_runs_ended_what_luck_explains_is_left_out() -> None:
    # given runs that took 3 % longer than their batches explain, one a little more, one a little less, one was stuck
    longer = np.array([0.03, 0.05, 0.01, 0.70])

    # then what all took longer stays, and of what single ones did as much as their luck is not
    ended, stuck, left = _ended(longer, np.full(4, 0.05**2))
    assert ended == pytest.approx([0.0, 0.02, -0.02, 0.67], abs=2e-3)
    assert stuck == pytest.approx([0.0, 0.0, 0.0, 0.70])
    assert left[3] == 0.0
    assert (left[:3] < 0.02**2).all()
    # where there is no luck at the end, all of it tells of what comes
    assert np.abs(_ended(longer[:3], np.zeros(3))[0]).max() < 1e-6
    # where runs usually end as unevenly, a long one is no news
    assert not _ended(longer, np.full(4, 0.4**2))[1].any()


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
