"""Costs with known truth are found again; the solver is exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from toolkit.frames import concat_metrics
from toolkit.tuning.clean import clean
from toolkit.tuning.learning import fit_task
from toolkit.tuning.model import Options, TaskModel
from toolkit.tuning.nonneg import solve_nonneg, weighted_nonneg
from toolkit.tuning.simulate import Workload, simulate_runs
from toolkit.tuning.structure import Costs, contention_basis
from toolkit.tuning.variation import Variation, fit_variation

DESIGN = [(10, 1), (100, 2), (10, 4), (100, 8), (30, 6), (30, 1), (200, 4), (10, 8)]


def learn(work: Workload, n_items: int, settings: list[tuple[int, int]], **options: bool) -> TaskModel:
    return fit_task(clean(simulate_runs(work, n_items, settings, **options))[work.name], Options())


@pytest.mark.parametrize("seed", range(5))
def test_the_solver_agrees_with_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    design, target = rng.normal(size=(40, 5)), rng.normal(size=40)
    ours = solve_nonneg((design.T @ design)[None], (design.T @ target)[None])[0]
    np.testing.assert_allclose(ours, nnls(design, target)[0], atol=1e-9)


def test_many_weightings_are_many_problems() -> None:
    rng = np.random.default_rng(0)
    design, target, weights = rng.random((30, 3)), rng.random(30), rng.random((4, 30))
    ridge = np.full((1, 3), 1e-12)
    together = weighted_nonneg(design[None], target[None], weights, ridge)
    for i, w in enumerate(weights):
        root = np.sqrt(w)
        np.testing.assert_allclose(together[i], nnls(design * root[:, None], target * root)[0], atol=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_the_solver_bears_coefficients_of_any_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-5, 5, 4)
    design, target = rng.random((12, 4)) * scale, rng.normal(size=12) + 0.5
    ours = solve_nonneg((design.T @ design)[None], (design.T @ target)[None])[0]
    np.testing.assert_allclose(ours * scale, nnls(design / scale, target)[0], atol=1e-8)


def test_batch_and_item_costs_are_found() -> None:
    model = learn(
        Workload(per_item_s=2e-3, per_batch_s=0.05, item_sigma=0.3), 2000, [(5, 2), (20, 2), (100, 2), (400, 2)]
    )
    per_batch, per_item = model.costs.base[0, :2]
    assert per_batch == pytest.approx(0.05, rel=0.05)
    assert per_item == pytest.approx(2e-3, rel=0.05)
    low, high = model.checks.per_batch_s
    assert low < high
    assert low < per_batch < high


def test_warm_up_is_told_from_work() -> None:
    model = learn(
        Workload(per_item_s=2e-3, per_batch_s=0.01, warm_s=3.0), 1000, [(5, 2), (100, 2), (20, 2)], warm=False
    )
    assert model.costs.base[0, 2:].sum() == pytest.approx(3.0, rel=0.1)
    assert model.costs.base[0, 1] == pytest.approx(2e-3, rel=0.05)
    assert model.cold == 0.0


def test_contention_of_the_usl_is_found() -> None:
    work = Workload(per_item_s=5e-3, per_batch_s=0.02, sigma=0.08, kappa=0.02)
    model = learn(work, 4000, DESIGN)
    assert model.costs.kind == "usl"
    for w in (1, 2, 4, 8):
        found = float(model.costs.contention(np.array([float(w)]))[0, 0])
        assert found == pytest.approx(work.slowdown(w), rel=0.08)


def test_four_workers_on_two_cores_are_no_faster_than_two() -> None:
    model = learn(
        Workload(per_item_s=2e-3, per_batch_s=0.01, cores=2),
        3000,
        [(5, 1), (50, 2), (400, 4), (5, 4), (50, 1), (20, 3)],
    )
    assert model.costs.kind == "saturation:2"
    factors = model.costs.contention(np.array([1.0, 2.0, 3.0, 4.0]))[0]
    np.testing.assert_allclose(factors, [1.0, 1.0, 1.5, 2.0], rtol=0.05)


def test_workers_that_do_not_disturb_each_other_show_no_contention() -> None:
    model = learn(Workload(per_item_s=5e-3), 2000, DESIGN)
    assert float(model.costs.contention(np.array([8.0]))[0, 0]) == pytest.approx(1.0, abs=0.03)


def test_one_slow_batch_moves_little() -> None:
    frame = simulate_runs(Workload(per_item_s=2e-3, per_batch_s=0.02), 2000, [(5, 2), (20, 2), (100, 2), (400, 2)])
    clear = fit_task(clean(frame)["demo.task"], Options()).costs.base[0, :2]
    frame.loc[frame.index[-2], "service_s"] = 60.0
    np.testing.assert_allclose(fit_task(clean(frame)["demo.task"], Options()).costs.base[0, :2], clear, rtol=0.15)


def test_variation_of_items_averages_out_and_that_of_batches_does_not() -> None:
    work = Workload(per_item_s=1e-2, item_sigma=1.0, batch_sigma=0.1)
    settings = {1: 2000, 10: 4000, 100: 20_000}  # batch size: items, hundreds of batches of each
    runs = [
        concat_metrics([simulate_runs(work, n, [(size, 2)], seed=seed) for size, n in settings.items()])
        for seed in range(4)
    ]
    found = [fit_variation(clean(frame)["demo.task"].cells) for frame in runs]
    batch, item = np.median([(one.batch, one.item) for one in found], axis=0)
    assert batch == pytest.approx(0.01, rel=0.5)
    assert item == pytest.approx(np.e - 1, rel=0.4)


@pytest.mark.parametrize("fixed_s", [0.0, 0.5])
def test_the_fixed_cost_of_a_batch_does_not_vary(fixed_s: float) -> None:
    # Given: equal parts of items that vary much, with and without a fixed cost as of ten items.
    work = Workload(per_item_s=0.05, per_batch_s=fixed_s, item_kind="exponential")
    frame = simulate_runs(work, 3_000, [(1, 2), (4, 2), (16, 2), (64, 2)])
    cells = clean(frame)["demo.task"].cells
    costs = Costs("none", np.array([[fixed_s, 0.05, 0.0, 0.0]]), np.zeros((1, 0)), np.zeros((1, 2)))
    # When the split of the costs is known, then all of the variation is found to be the items'.
    found = fit_variation(cells, costs)
    assert found.item == pytest.approx(1.0, rel=0.25)
    assert found.batch < 0.01
    size = np.array([1.0, 16.0])
    share = 0.05 * size / (fixed_s + 0.05 * size)
    np.testing.assert_allclose(found.of(size), share**2 / size, rtol=0.3)


def test_a_split_of_costs_that_variances_deny_is_not_used() -> None:
    frame = simulate_runs(Workload(per_item_s=0.05, item_kind="exponential"), 3_000, [(1, 2), (4, 2), (16, 2), (64, 2)])
    wrong = Costs("none", np.array([[5.0, 0.05, 0.0, 0.0]]), np.zeros((1, 0)), np.zeros((1, 2)))
    assert fit_variation(clean(frame)["demo.task"].cells, wrong).fixed == 0.0


def test_items_that_cost_nothing_vary_nothing() -> None:
    assert Variation(0.01, 1.0, fixed=20.0, free=8.0).of(np.array([8.0]))[0] == pytest.approx(0.01)
    assert Variation(0.0, 1.0, fixed=20.0, free=8.0).of(np.array([28.0]))[0] == pytest.approx(20.0 / 40.0**2)


def test_uncertainty_shrinks_with_runs() -> None:
    work = Workload(per_item_s=2e-3, per_batch_s=0.02, run_sigma=0.05)
    few, many = (learn(work, 1000, [(5, 2), (100, 2), (20, 2)] * k).checks.per_item_s for k in (1, 6))
    assert many[1] - many[0] < few[1] - few[0]


def test_an_unknown_contention_is_refused() -> None:
    with pytest.raises(ValueError, match="contention kind"):
        contention_basis("magic", np.ones(3))


def test_a_run_of_which_only_cut_off_batches_are_left_does_not_spoil_the_choice_of_contention() -> None:
    frame = simulate_runs(
        Workload(per_item_s=0.01, per_batch_s=0.02), 300, [(10, 1), (40, 1), (10, 2), (40, 2), (5, 2)]
    )
    killed = frame["run_id"].unique()[2]
    frame["cut_off"] = frame["run_id"] == killed
    (history,) = clean(frame).values()
    assert np.isfinite(list(fit_task(history, Options()).structure.evidence.values())).all()
