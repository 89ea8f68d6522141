"""What runs share and hosts do not: how sure predictions are, which structure is found, and which runs would teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from toolkit.errors import InvalidInput, TuningError
from toolkit.tuning import Recommender, Workload, simulate_run, simulate_runs
from toolkit.tuning.clean import clean
from toolkit.tuning.effects import Points, RunEffects, fit_effects, leave_out
from toolkit.tuning.hosts import Hosts
from toolkit.tuning.learning import disturbance
from toolkit.tuning.model import TaskModel
from toolkit.tuning.simulate import simulate_makespan


def runs_at(sizes: list[float], workers: list[float], luck: float = 0.0) -> Points:
    setting = np.log(np.array([sizes, workers], dtype=np.float64).T)
    n = len(setting)
    return Points(np.ones((n, 1)), setting, np.arange(n, dtype=np.float64), np.zeros(n), np.full(n, luck))


def effects_of(residual: list[float], luck: float = 0.0) -> RunEffects:
    n = len(residual)
    points = runs_at([10.0 * 2 ** (i % 4) for i in range(n)], [1.0 + i % 2 for i in range(n)], luck)
    return fit_effects(points, np.array(residual), np.array([[0.2**2]]))


def width(effects: RunEffects, luck: float = 0.0) -> float:
    low, high = effects.quantiles(runs_at([20.0], [2.0], luck), np.zeros(1), (0.05, 0.95))
    return float(high[0] - low[0])


def test_runs_that_agree_make_narrow_intervals_and_others_wide_ones() -> None:
    rng = np.random.default_rng(0)
    calm, wild = effects_of([0.0] * 12), effects_of((0.15 * rng.standard_normal(12)).tolist())
    assert width(calm) < 0.06
    assert 0.3 < width(wild) < 0.9
    assert calm.noise_sd < 0.03 < wild.noise_sd


def test_nothing_seen_is_neither_certain_nor_shifted() -> None:
    nothing = fit_effects(runs_at([], []), np.zeros(0), np.array([[0.2**2]]))
    assert nothing.shift(runs_at([5.0], [1.0]))[0] == 0.0
    assert width(nothing) > 0.3


def test_what_all_runs_are_off_by_is_expected_again() -> None:
    assert effects_of([0.1] * 8).shift(runs_at([20.0], [2.0]))[0] == pytest.approx(0.1, abs=0.02)


def test_later_runs_count_more_where_the_machine_drifts() -> None:
    drifting = effects_of([0.0] * 10 + [0.3] * 6)
    order = Points(np.ones((1, 1)), np.log([[20.0, 2.0]]), np.array([16.0]), np.zeros(1), np.zeros(1))
    assert drifting.shift(order)[0] > 0.2
    assert drifting.drift_sd > 0.05


def test_one_disturbed_run_moves_little() -> None:
    disturbed = effects_of([0.0, 0.01, -0.01, 0.0, 0.5, 0.01, 0.0, -0.01, 0.0, 0.01])
    assert abs(disturbed.shift(runs_at([80.0], [2.0]))[0]) < 0.05
    assert width(disturbed) < 0.35


def test_runs_tell_how_much_of_the_luck_there_is() -> None:
    # Given: batches vary so that runs that draw anew would differ by 15 %.
    rng = np.random.default_rng(1)
    luck = 0.15**2
    alike, drawn, heavy = (effects_of((sd * rng.standard_normal(12)).tolist(), luck) for sd in (0.01, 0.15, 0.3))
    # Then: runs of the same items are told from those of new ones, and these from heavy tails.
    assert width(alike, luck) < 0.3
    assert 0.35 < width(drawn, luck) < 0.75
    assert width(heavy, luck) > 0.75
    assert alike.noise_sd < 0.03


def test_items_that_no_run_had_are_drawn_anew() -> None:
    """Given runs that took the same time again, as runs of the same items do, though their batches vary."""
    alike = effects_of([0.0] * 12, 0.15**2)
    seen = runs_at([20.0], [2.0], 0.15**2)
    sd = [
        float(np.ptp(alike.quantiles(replace(seen, anew=anew), np.zeros(1), (0.05, 0.95)))) / 3.29
        for anew in (None, np.zeros(1), np.full(1, 0.75), np.ones(1))
    ]
    assert sd[0] == sd[1] < 0.1 < sd[2] < sd[3]
    assert sd[3] == pytest.approx(0.15, rel=0.1)


def test_a_run_is_predicted_from_the_others_only() -> None:
    residual = np.array([0.0, 0.01, 0.0, -0.01, 0.0, 0.4])
    effects = effects_of(residual.tolist())
    expected, sd = leave_out(effects, 5, residual)
    again, _ = leave_out(effects, 5, np.r_[residual[:5], -9.0])
    assert expected == again
    assert abs(expected) < 0.1 < 5 * sd


# --------------------------------------------------------------------------- structures


def learn(work: Workload, settings: list[tuple[int, int]], n_items: int = 1_000) -> tuple[Recommender, TaskModel]:
    model = Recommender().fit(simulate_runs(work, n_items, settings))
    return model, model.models_[work.name]


SPREAD = [(1, 8), (4, 8), (15, 4), (5, 2), (20, 8), (10, 1)]


def test_a_rate_limit_is_found_and_more_workers_are_not_asked_for() -> None:
    work = Workload(per_item_s=0.2, per_batch_s=0.05, item_sigma=0.3, rate=20.0)
    model, found = learn(work, SPREAD)
    assert found.costs.kind == "serial"
    assert found.costs.held[0, 1] == pytest.approx(1 / 20.0, rel=0.15)
    asked = pd.DataFrame({"n_items": [1_000], "batch_size": [10], "workers": [8]})
    assert model.predict(asked)[0] == pytest.approx(50.0, rel=0.06)
    assert "shared resource" in model.recommend(n_items=1_000, max_workers=8).binds


def test_batches_of_a_fixed_cost_are_not_taken_for_a_shared_resource() -> None:
    """Given four runs that luck makes look as if they shared something, when makespans repeat it, it counts once."""
    work = Workload(per_item_s=0.02, per_batch_s=2.0, item_sigma=0.2, sigma=5e-3)
    frame = simulate_runs(work, 1_000, [(1, 8), (7, 8), (77, 4), (10, 2), (71, 8)], seed=10_125, warm=False)
    advice = Recommender().fit(frame).recommend(n_items=4_000, max_workers=8)
    assert (advice.batch_size, advice.workers) == (500, 8)


def test_a_threshold_that_would_make_small_batches_the_cheapest_needs_proof() -> None:
    """Given items of uneven size, when a threshold fits them, it is doubted: a large batch could be cut in two."""
    work = Workload(per_item_s=1e-3, per_batch_s=0.02, per_byte_s=1e-8, payload_bytes=1e6, payload_sigma=1.0)
    frame = simulate_runs(work, 1_000, [(1, 8), (10, 8), (52, 4), (7, 2), (83, 8)], seed=10_139, warm=False)
    assert Recommender().fit(frame).recommend(n_items=4_000, max_workers=8).batch_size > 30


def test_a_lock_bounds_what_workers_do_together() -> None:
    work = Workload(per_item_s=0.02, per_batch_s=0.01, item_sigma=0.3, lock_batch_s=0.02, lock_item_s=2e-3)
    _, found = learn(work, [(1, 8), (4, 8), (15, 4), (5, 2), (30, 8), (8, 1)], 2_000)
    assert found.costs.kind == "serial"
    assert found.costs.held[0, 0] == pytest.approx(0.02, rel=0.25)


def test_the_ends_of_runs_alone_do_not_prove_that_workers_disturb_each_other() -> None:
    """Given runs of four workers that only wait, when sixteen are asked about, chance at the ends is not multiplied."""
    work = Workload(per_item_s=0.05, per_batch_s=2e-3)
    frame = simulate_runs(work, 1_000, [(1, 4), (4, 4), (13, 4), (40, 4)], seed=20_001, warm=False)
    asked = pd.DataFrame({"n_items": [1_000], "batch_size": [5], "workers": [16]})
    true_s = simulate_makespan(work, 1_000, 5, 16)
    assert Recommender().fit(frame).predict(asked)[0] == pytest.approx(true_s, rel=0.02)


def test_items_below_a_threshold_cost_nothing() -> None:
    work = Workload(per_item_s=1e-3, per_batch_s=0.06, free_items=64.0, run_sigma=0.005)
    _, found = learn(work, [(4, 2), (16, 2), (40, 1), (120, 2), (250, 2), (500, 1), (300, 1), (8, 1)], 4_000)
    assert float(np.max(found.costs.free)) == pytest.approx(64.0, rel=0.35)
    without = Workload(per_item_s=1e-3, per_batch_s=0.06, run_sigma=0.005)
    _, found = learn(without, [(4, 2), (16, 2), (40, 1), (120, 2), (250, 2), (500, 1), (300, 1), (8, 1)], 4_000)
    assert float(np.max(found.costs.free)) < 10.0


def test_two_batch_sizes_and_a_heavy_last_item_tell_of_no_threshold() -> None:
    # Later items take longer, and each run ends with one of them alone: it costs as much as a batch of four.
    work = Workload(per_item_s=4.5e-4, per_batch_s=1e-4, gap_s=1.8e-3, drift=8.0)
    _, found = learn(work, 2 * [(4, 1), (64, 2), (4, 2), (64, 1)], 1_921)
    assert float(np.max(found.costs.free)) == 0.0


def test_a_slow_host_is_found_said_and_planned_with() -> None:
    work = Workload(per_item_s=0.03, per_batch_s=0.05, item_sigma=0.3, speeds=(0.25, 1.0, 1.0, 1.0))
    model, found = learn(work, [(1, 4), (8, 4), (30, 4), (10, 2), (60, 4)])
    assert sorted(found.hosts.slowdown.tolist()) == pytest.approx([1.0, 4.0], rel=0.1)
    advice = model.recommend(n_items=4_000, max_workers=4)
    assert any("times as long" in reason for reason in advice.reasons)
    truth = np.mean([simulate_makespan(work, 4_000, advice.batch_size, 4, seed=50 + i) for i in range(4)])
    assert advice.makespan_s == pytest.approx(truth, rel=0.12)


def test_workers_are_spread_over_hosts_as_before() -> None:
    hosts = Hosts(("a", "b"), np.array([1.0, 3.0]), {8: (6, 2), 2: (1, 1)})
    assert hosts.factors(8).tolist() == [3.0, 3.0] + [1.0] * 6
    assert hosts.factors(4).sum() == pytest.approx(3.0 + 3.0)
    assert hosts.factors(1).tolist() == [3.0]  # where it may be either, nothing is promised
    assert Hosts(("a",), np.ones(1), {}).factors(3).tolist() == [1.0, 1.0, 1.0]


# --------------------------------------------------------------------------- experiments

WORK = Workload(per_item_s=2e-3, per_batch_s=0.02, item_sigma=0.4, cores=4)


def test_experiments_stay_within_their_budget_and_teach() -> None:
    frame = simulate_runs(WORK, 1_000, [(5, 2), (50, 2), (20, 4)])
    model = Recommender().fit(frame)
    found = model.suggest_experiments(10.0, n_items=4_000)
    assert list(found.columns) == ["batch_size", "workers", "n_items", "cost_worker_s", "gain"]
    assert len(found) >= 1
    assert found["cost_worker_s"].sum() <= 10.0
    assert found["gain"].between(0.0, 1.0).all()
    assert model.suggest_experiments(1e-6, n_items=4_000).empty
    # What it suggests is worth running: the interval of the advice narrows.
    first = found.iloc[0]
    run = simulate_run(WORK, int(first["n_items"]), int(first["batch_size"]), int(first["workers"]), ordinal=9)
    before, after = model.recommend(n_items=4_000), Recommender().fit(pd.concat([frame, run]))
    low, high = before.intervals["makespan_s"]
    new_low, new_high = after.recommend(n_items=4_000).intervals["makespan_s"]
    assert np.log(new_high / new_low) < np.log(high / low)


def test_senseless_experiments_are_refused() -> None:
    model = Recommender().fit(simulate_runs(WORK, 500, [(5, 2), (50, 2)]))
    with pytest.raises(InvalidInput, match="budget_worker_s"):
        model.suggest_experiments(0.0, n_items=10)
    with pytest.raises(TuningError, match="'other'"):
        model.suggest_experiments(1.0, n_items=10, task="other")


def test_a_run_with_less_of_a_processor_than_others_of_as_many_workers_was_disturbed() -> None:
    (run,) = clean(simulate_run(Workload(), 10, 5, 1))["demo.task"].runs
    shares = {(8, 0): 0.5, (4, 0): 0.9, (4, 1): 0.3, (2, 0): 0.89, (2, 1): 0.0, (1, 0): 0.95}
    runs = [replace(run, workers=workers, spent_s=10.0, cpu_s=10.0 * share) for (workers, _), share in shares.items()]
    # Eight are not compared with fewer; of a share of nothing, nothing is known.
    np.testing.assert_allclose(disturbance(runs), [0.0, 0.0, np.log(0.9 / 0.3), 0.0, 0.0, 0.0], rtol=1e-12)
