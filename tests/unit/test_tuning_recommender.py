"""The estimator on workloads whose best setting is known: regret, coverage, contract, saving and loading."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from toolkit.errors import TuningError
from toolkit.tuning import Recommender, Workload, simulate_makespans, simulate_run, simulate_runs
from toolkit.tuning.grids import predict_settings

Settings = tuple[tuple[int, int], ...]
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """A workload, a designed history, and the question."""

    work: Workload
    n_items: int
    settings: Settings
    most: int


UP_TO_4: Settings = ((5, 1), (50, 2), (400, 4), (5, 4), (50, 1), (400, 2), (20, 4), (150, 4))
UP_TO_8: Settings = ((10, 1), (100, 2), (10, 4), (100, 8), (30, 6), (30, 1), (200, 4), (10, 8))
CASES = {
    "tiny items": Case(Workload(per_item_s=5e-5, cores=4), 20_000, UP_TO_4, 4),
    "fixed cost": Case(Workload(per_item_s=1e-3, per_batch_s=0.1, item_sigma=0.3), 4_000, UP_TO_4, 4),
    "contention": Case(Workload(per_item_s=5e-3, per_batch_s=0.02, sigma=0.08, kappa=0.02), 4_000, UP_TO_8, 8),
    "more is slower": Case(Workload(per_item_s=5e-3, per_batch_s=0.02, sigma=0.05, kappa=0.05), 4_000, UP_TO_8, 8),
    "lognormal": Case(Workload(per_item_s=0.05, per_batch_s=0.02, item_sigma=1.5), 2_000, UP_TO_8, 8),
    "two cores": Case(Workload(per_item_s=2e-3, per_batch_s=0.01, cores=2, item_sigma=0.5), 3_000, UP_TO_4, 4),
    "warm-up": Case(Workload(per_item_s=0.02, per_batch_s=0.02, item_sigma=0.3, warm_s=8.0), 3_000, UP_TO_4, 4),
    "noisy runs": Case(Workload(per_item_s=1e-3, per_batch_s=0.02, cores=2, run_sigma=0.05), 4_000, UP_TO_4, 4),
    "few items": Case(
        Workload(per_item_s=1.0, per_batch_s=0.5, item_sigma=0.3), 23,
        ((1, 4), (2, 2), (4, 4), (6, 1), (2, 4), (6, 2), (1, 2), (3, 4)), 4,
    ),
}  # fmt: skip


def played(case: Case, settings: Sequence[tuple[int, int]], runs: int) -> list[list[float]]:
    """Makespans of each setting in the same few runs of warm workers, all played together."""
    warm = replace(case.work, warm_s=0.0)
    return simulate_makespans(warm, case.n_items, settings, seeds=range(900, 900 + runs)).tolist()


@cache
def truth(case: Case, size: int, workers: int) -> list[float]:
    return played(case, [(size, workers)], 6)[0]


@cache
def oracle(name: str) -> float:
    """The best mean makespan of all settings, by trying them."""
    case = CASES[name]
    sizes = {round(b) for b in np.geomspace(1, case.n_items, 20)}
    sizes |= {-(-case.n_items // (w * m)) for w in range(1, case.most + 1) for m in range(1, 5)}
    settings = [(b, w) for b in sizes for w in range(1, case.most + 1) if case.n_items / b <= 400]
    once = dict(zip(settings, played(case, settings, 1), strict=True))
    best = sorted(once, key=once.__getitem__)[:8]
    return float(np.mean(played(case, best, 6), axis=1).min())


@cache
def fitted(name: str, seed: int = 0) -> Recommender:
    case = CASES[name]
    return Recommender().fit(simulate_runs(case.work, case.n_items, case.settings, seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_the_recommended_setting_is_nearly_the_best(name: str, seed: int) -> None:
    case = CASES[name]
    advice = fitted(name, seed).recommend(n_items=case.n_items, max_workers=case.most)
    assert advice.refused is None
    assert np.mean(truth(case, advice.batch_size, advice.workers)) <= 1.10 * oracle(name)


def test_intervals_cover_what_happens() -> None:
    inside, widths = [], []
    for name, case in CASES.items():
        for seed in SEEDS:
            advice = fitted(name, seed).recommend(n_items=case.n_items, max_workers=case.most)
            low, high = advice.intervals["makespan_s"]
            inside += [low <= x <= high for x in truth(case, advice.batch_size, advice.workers)]
            widths.append((high - low) / advice.makespan_s)
    assert np.mean(inside) >= 0.9
    assert np.median(widths) <= 0.3


def test_with_twenty_runs_intervals_are_conformal() -> None:
    case = CASES["noisy runs"]
    settings = ((5, 1), (50, 2), (20, 2), (100, 1), (400, 2), (20, 1), (50, 1), (150, 2), (8, 2), (30, 2)) * 2
    covered, methods = [], set()
    for seed in range(3):
        model = Recommender().fit(simulate_runs(case.work, case.n_items, settings, seed=seed))
        advice = model.recommend(n_items=case.n_items)
        methods.add(advice.coverage_method)
        low, high = advice.intervals["makespan_s"]
        # six runs, the same ones for each model, could not tell 0.83 from 1
        covered += [low <= x <= high for x in played(case, [(advice.batch_size, advice.workers)], 60)[0]]
    assert methods == {"conformal"}
    assert np.mean(covered) >= 0.85


def test_grid_predictions_are_those_of_predict() -> None:
    case = CASES["two cores"]
    model = fitted("two cores")
    grid = model.recommend(n_items=case.n_items, max_workers=4).grid
    assert len(grid) == grid["batch_size"].nunique() * grid["workers"].nunique()
    np.testing.assert_array_equal(model.predict(grid.assign(n_items=case.n_items)), grid["makespan_s"])
    low, high = model.predict_interval(grid.assign(n_items=case.n_items))
    assert (low < grid["makespan_s"]).all()
    assert (high > grid["makespan_s"]).all()


def test_prediction_is_right_away_from_the_data() -> None:
    """Another number of items, sizes in between, and 3 workers that were never measured."""
    case = CASES["two cores"]
    grid = pd.DataFrame([(6_000, 30, 2), (1_000, 10, 4), (3_000, 75, 3)], columns=["n_items", "batch_size", "workers"])
    expected = [np.mean(truth(replace(case, n_items=n), b, w)) for n, b, w in grid.itertuples(index=False)]
    np.testing.assert_allclose(fitted("two cores").predict(grid), expected, rtol=0.08)


def test_the_model_beats_throughput_on_left_out_runs() -> None:
    table = fitted("contention").backtest()
    assert list(table.columns) == ["run_id", "measured_s", "predicted_s", "error", "baseline_error"]
    assert len(table) == 8
    assert table["error"].abs().mean() < 0.1
    assert table["error"].abs().mean() < 0.5 * table["baseline_error"].abs().mean()
    np.testing.assert_allclose(table["measured_s"] / table["predicted_s"] - 1, table["error"])


def test_score_is_minus_the_mean_error() -> None:
    case = CASES["two cores"]
    model = fitted("two cores")
    fresh = simulate_runs(case.work, case.n_items, [(30, 2), (60, 4)], seed=77)
    assert -0.08 < model.score(fresh) < 0
    assert model.score(fresh.assign(service_s=3 * fresh["service_s"])) < -0.2
    with pytest.raises(TuningError, match="at least one complete run"):
        model.score(fresh.iloc[:0])


# --------------------------------------------------------------------------- the scikit-learn contract


@pytest.mark.parametrize(
    "check",
    [
        check_parameters_default_constructible,
        check_no_attributes_set_in_init,
        check_get_params_invariance,
        check_set_params,
    ],
)
def test_common_checks(check: object) -> None:
    check("Recommender", Recommender())  # type: ignore[operator]


def test_it_clones_without_what_was_learned() -> None:
    copy = clone(fitted("two cores").set_params(draws=200))
    assert not hasattr(copy, "models_")
    assert copy.get_params() == {"draws": 200, "replicates": 64, "random_state": 0}


def test_fit_returns_itself_and_forgets_the_past() -> None:
    case = CASES["two cores"]
    model = Recommender()
    assert model.fit(simulate_runs(replace(case.work, name="a"), 500, case.settings[:4])) is model
    model.fit(simulate_runs(replace(case.work, name="b"), 500, case.settings[:4]))
    assert model.tasks_ == ("b",)


@pytest.mark.parametrize("ask", ["predict", "recommend", "score", "backtest", "to_dict"])
def test_nothing_is_answered_before_fit(ask: str) -> None:
    frame = pd.DataFrame({"n_items": [1], "batch_size": [1], "workers": [1]})
    arguments = {"predict": [frame], "score": [frame]}.get(ask, [])
    with pytest.raises(NotFittedError):
        getattr(Recommender(), ask)(*arguments, **({"n_items": 1} if ask == "recommend" else {}))


def test_the_frame_is_not_changed() -> None:
    frame = simulate_runs(Workload(), 500, [(5, 2), (50, 1)])
    before = frame.copy(deep=True)
    Recommender().fit(frame)
    pd.testing.assert_frame_equal(frame, before)


# --------------------------------------------------------------------------- saving, adding


def test_a_saved_model_predicts_identically(tmp_path: Path) -> None:
    case = CASES["lognormal"]
    model = fitted("lognormal")
    again = Recommender.load(model.save(tmp_path / "model.json"))
    ours, theirs = (m.recommend(n_items=case.n_items, max_workers=8) for m in (model, again))
    pd.testing.assert_frame_equal(ours.grid, theirs.grid, check_exact=True)
    assert ours == theirs
    assert again.get_params() == model.get_params()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not JSON"),
        ("[]", "no saved Recommender"),
        ('{"format": "other"}', "no saved Recommender"),
        ('{"format": "toolkit.recommender", "version": 99}', "version 99"),
        ('{"format": "toolkit.recommender", "version": 1}', "no saved Recommender"),
        ('{"format": "toolkit.recommender", "version": 1, "parameters": {"x": 1}, "histories": []}', "no saved"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(TuningError, match=message):
        Recommender.load(path)


def test_a_saved_model_is_plain_json_without_nan(tmp_path: Path) -> None:
    text = fitted("two cores").save(tmp_path / "model.json").read_text()
    assert json.loads(text)["version"] == 1
    assert "NaN" not in text


def test_learning_in_parts_comes_close_to_learning_at_once() -> None:
    case = CASES["two cores"]
    frame = simulate_runs(case.work, case.n_items, case.settings)
    early = frame["run_id"].isin([f"simulated-{i:04d}" for i in range(4)])
    parts = Recommender().partial_fit(frame[early]).partial_fit(frame[~early])
    grid = pd.DataFrame([(3_000, 50, 2), (3_000, 400, 4)], columns=["n_items", "batch_size", "workers"])
    np.testing.assert_allclose(parts.predict(grid), fitted("two cores").predict(grid), rtol=0.02)
    assert len(parts.backtest()) == 8


def test_makespans_of_the_ledger_count_where_given() -> None:
    frame = simulate_runs(Workload(), 500, [(5, 2), (50, 1), (20, 2), (100, 2)])
    runs = pd.DataFrame({"run_id": frame["run_id"].unique(), "makespan_s": [9.0, 8.0, np.nan, 6.0]})
    measured = Recommender().fit(frame, runs=runs).backtest()["measured_s"].tolist()
    assert measured[0] == 9.0
    assert measured[2] < 1.0


# --------------------------------------------------------------------------- several tasks


def two_tasks() -> pd.DataFrame:
    frames = [
        simulate_run(Workload(name=name, per_item_s=item_s), 400, size, workers, ordinal=i)
        for name, item_s in (("fast", 1e-4), ("slow", 1e-2))
        for i, (size, workers) in enumerate([(2, 2), (40, 1), (10, 2), (100, 2)])
    ]
    return pd.concat(
        [
            f.astype({"run_id": str, "task": str}).assign(run_id=f["task"].astype(str) + f["run_id"].astype(str))
            for f in frames
        ]
    )


def test_each_task_has_its_own_model() -> None:
    model = Recommender().fit(two_tasks())
    grid = pd.DataFrame({"n_items": 400, "batch_size": 20, "workers": 2, "task": ["slow", "fast", "slow"]})
    slow, fast, again = model.predict(grid)
    assert slow == again == pytest.approx(2.0, rel=0.1)
    assert fast < 0.1
    assert model.recommend("slow", n_items=400).task == "slow"


def test_with_several_tasks_one_must_be_named() -> None:
    model = Recommender().fit(two_tasks())
    with pytest.raises(TuningError, match="fast, slow"):
        model.recommend(n_items=400)
    with pytest.raises(TuningError, match="'typo'"):
        model.recommend("typo", n_items=400)


@pytest.mark.parametrize(
    "grid",
    [
        pd.DataFrame({"n_items": [1], "workers": [1]}),
        pd.DataFrame({"n_items": [1], "batch_size": [0], "workers": [1]}),
    ],
)
def test_a_wrong_grid_is_refused(grid: pd.DataFrame) -> None:
    with pytest.raises(TuningError):
        fitted("two cores").predict(grid)


def test_an_empty_grid_is_fine() -> None:
    grid = pd.DataFrame({"n_items": [], "batch_size": [], "workers": []}, dtype="int64")
    assert fitted("two cores").predict(grid).shape == (0,)


def test_settings_outside_of_the_data_are_less_certain() -> None:
    model = fitted("two cores").models_["demo.task"]
    ints = [np.array(v, dtype=np.int64) for v in ([3_000, 3_000], [100, 3_000], [2, 2])]
    found = predict_settings(model, *ints)
    assert found.extrapolated.tolist() == [False, True]
    width = np.log(found.high_s / found.low_s)
    assert width[1] > width[0]


# --------------------------------------------------------------------------- what loading it costs


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import toolkit.tuning", {"numpy", "pandas", "sklearn", "scipy"}),
        ("from toolkit.tuning import replan", {"pandas", "sklearn", "scipy"}),
        ("import toolkit.tuning.recommendation", {"sklearn", "scipy"}),
    ],
)
def test_imports_are_as_cheap_as_promised(statement: str, absent: set[str]) -> None:
    code = f"{statement}; import sys; print(sorted({absent!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
