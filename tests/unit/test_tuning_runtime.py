"""`RuntimeRegressor`: keeps scikit-learn's contract, extrapolates, knows its errors, and says what it leaves out."""

from __future__ import annotations

import pickle
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from toolkit.tuning import PeakMemoryRegressor, RuntimeRegressor

Array = NDArray[np.float64]

WORKERS = np.array([1.0, 2, 3, 4, 6, 8, 12, 16, 24, 32])


def exceptions(estimator: BaseEstimator) -> dict[str, str]:
    return {
        "check_estimators_nan_inf": "rows with NaN are flagged and left out when fitting, only `predict` refuses them"
    }


@pytest.mark.filterwarnings("ignore:.*rows were left out:UserWarning")  # targets of the checks follow no law
@parametrize_with_checks([RuntimeRegressor(), PeakMemoryRegressor()], expected_failed_checks=exceptions)
def test_the_contract_of_scikit_learn(estimator: BaseEstimator, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def amdahl(workers: Array, items: Array | float = 1.0) -> Array:
    return np.asarray(5 + 100 * items / workers)


def usl(workers: Array, items: Array) -> Array:
    return np.asarray(items * (1 + 0.05 * (workers - 1) + 0.002 * workers * (workers - 1)) / workers)


def measured(truth: Array, noise: float, seed: int) -> Array:
    return truth * np.exp(np.random.default_rng(seed).normal(0, noise, len(truth)))


# --------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize(("most", "at"), [(8.0, 16.0), (16.0, 64.0)])
def test_it_extrapolates_by_structure(most: float, at: float) -> None:
    workers = WORKERS[most >= WORKERS][:, None]
    model = RuntimeRegressor().fit(workers, amdahl(workers[:, 0]))
    assert model.predict([[at]])[0] == pytest.approx(amdahl(np.array([at]))[0], rel=0.12)


def test_sizes_and_contention_are_learnt_from_thirty_rows() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"workers": rng.choice(WORKERS, 30), "n_items": rng.choice([100.0, 300, 1000, 3000], 30)})
    truth = usl(frame["workers"].to_numpy(), frame["n_items"].to_numpy())
    model = RuntimeRegressor(size=("n_items",)).fit(frame, measured(truth, 0.02, 1))
    asked = pd.DataFrame({"workers": [5.0, 10.0, 32.0], "n_items": [500.0, 6000.0, 200.0]})
    off = model.predict(asked) / usl(asked["workers"].to_numpy(), asked["n_items"].to_numpy()) - 1
    assert np.abs(off).max() < 0.08
    assert model.error_ < 0.06 < model.baseline_error_


def test_a_cliff_that_no_term_describes_is_followed_near_the_data() -> None:
    workers = np.repeat(WORKERS, 2)[:, None]
    truth = np.where(workers[:, 0] < 5, 400 / workers[:, 0], 100 / workers[:, 0])
    model = RuntimeRegressor().fit(workers, measured(truth, 0.01, 2))
    off = model.predict(WORKERS[:, None]) / np.where(WORKERS < 5, 400 / WORKERS, 100 / WORKERS) - 1
    assert np.abs(off).max() < 0.05


def test_three_rows_are_enough() -> None:
    model = RuntimeRegressor().fit([[2.0], [4.0], [8.0]], [50.0, 26.0, 14.0])
    assert 26 > model.predict([[6.0]])[0] > 14
    low, high = model.predict_interval([[6.0]])[0]
    assert low < model.predict([[6.0]])[0] < high


def test_many_rows_become_few_cells() -> None:
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.uniform(1, 32, 20_000), rng.uniform(10, 1000, 20_000)])
    truth = amdahl(x[:, 0], x[:, 1])
    model = RuntimeRegressor(size=("n_items",)).fit(x, measured(truth, 0.1, 4))
    assert model.n_cells_ <= 600
    assert np.abs(model.predict(x[:300]) / truth[:300] - 1).mean() < 0.01


# --------------------------------------------------------------------------- properties

drawn = st.integers(0, 10_000)


def some(seed: int, n: int = 9) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.choice(WORKERS, n), rng.choice([10.0, 20, 50, 100], n)])
    return x, measured(amdahl(x[:, 0], x[:, 1]), 0.05, seed)


@settings(max_examples=8, deadline=None)
@given(drawn, st.sampled_from([1e-6, 1e3, 6e4]))
def test_the_unit_of_time_changes_nothing(seed: int, factor: float) -> None:
    x, y = some(seed)
    model, other = RuntimeRegressor(size=("n",)), RuntimeRegressor(size=("n",))
    ours, theirs = model.fit(x, y).predict_interval(x * 1.5), other.fit(x, y * factor).predict_interval(x * 1.5)
    np.testing.assert_allclose(theirs / factor, ours, rtol=1e-6)


@settings(max_examples=8, deadline=None)
@given(drawn)
def test_the_order_of_rows_changes_nothing(seed: int) -> None:
    x, y = some(seed)
    order = np.random.default_rng(seed).permutation(len(y))
    model = RuntimeRegressor(size=("n",)).fit(x, y).predict(x * 1.5)
    other = RuntimeRegressor(size=("n",)).fit(x[order], y[order]).predict(x * 1.5)
    np.testing.assert_allclose(other, model, rtol=1e-6)


@settings(max_examples=8, deadline=None)
@given(drawn)
def test_a_row_written_twice_changes_nothing_and_is_flagged(seed: int) -> None:
    x, y = some(seed)
    once = RuntimeRegressor(size=("n",)).fit(x, y)
    with pytest.warns(UserWarning, match="copy of another row"):
        twice = RuntimeRegressor(size=("n",)).fit(np.vstack([x, x[:2]]), np.append(y, y[:2]))
    np.testing.assert_allclose(twice.predict(x * 1.5), once.predict(x * 1.5), rtol=1e-9)
    assert list(twice.flagged_["row"]) == [len(y), len(y) + 1]


def test_what_a_coarse_clock_measures_twice_is_no_copy() -> None:
    model = RuntimeRegressor().fit([[1.0], [1.0], [2.0], [2.0], [4.0]], [0.12, 0.12, 0.06, 0.07, 0.03])
    assert model.flagged_.empty


def test_the_seed_decides() -> None:
    x, y = some(5, n=300)
    ours, again = (RuntimeRegressor(size=("n",), random_state=1).fit(x, y).predict(x) for _ in range(2))
    np.testing.assert_array_equal(ours, again)


# --------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("n", [6, 20])
def test_intervals_cover_new_measurements(n: int) -> None:
    inside = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        x, new = (np.column_stack([rng.choice(WORKERS, k), rng.choice([10.0, 20, 50, 100], k)]) for k in (n, 50))
        model = RuntimeRegressor(size=("n",)).fit(x, measured(amdahl(*x.T), 0.05, seed))
        low, high = model.predict_interval(new).T
        y = measured(amdahl(*new.T), 0.05, 1000 + seed)
        inside.append(((low <= y) & (y <= high)).mean())
    assert 0.82 < np.mean(inside) < 0.99


def test_intervals_cover_where_settings_have_many_rows() -> None:
    rng = np.random.default_rng(6)

    def rows(n: int) -> tuple[Array, Array]:
        x = rng.choice(WORKERS[:4], n)[:, None]
        return x, amdahl(x[:, 0]) * np.exp(0.1 * rng.laplace(size=n))

    model = RuntimeRegressor().fit(*rows(5_000))
    x, y = rows(5_000)
    for coverage in (0.5, 0.9):
        low, high = model.predict_interval(x, coverage).T
        assert ((low <= y) & (y <= high)).mean() == pytest.approx(coverage, abs=0.025)


def test_intervals_are_wider_where_repeats_differ_more() -> None:
    rng = np.random.default_rng(7)
    x = np.repeat([1.0, 32.0], 50)[:, None]
    y = amdahl(x[:, 0]) * np.exp(np.where(x[:, 0] > 1, 0.3, 0.02) * rng.normal(size=100))
    calm, wild = RuntimeRegressor().fit(x, y).predict_interval([[1.0], [32.0]])
    assert wild[1] / wild[0] > 1.5 * calm[1] / calm[0]


def test_intervals_widen_away_from_the_data_and_with_coverage() -> None:
    x, y = some(8, n=12)
    model = RuntimeRegressor(size=("n",)).fit(x, y)
    wide = [model.predict_interval([[w, 50.0]], c)[0] for w, c in ((8.0, 0.9), (500.0, 0.9), (8.0, 0.99))]
    near, far, sure = (high / low for low, high in wide)
    assert far > near
    assert sure > near


# --------------------------------------------------------------------------- groups and censored rows


def test_groups_are_left_out_together() -> None:
    # Given five runs, each off by its own factor, with many settings in each.
    rng = np.random.default_rng(9)
    run = np.repeat(np.arange(5), 10)
    x = np.tile(WORKERS, 5)[:, None]
    y = amdahl(x[:, 0]) * np.exp(0.2 * rng.normal(size=5)[run] + 0.005 * rng.normal(size=50))
    by_run = RuntimeRegressor().fit(x, y, groups=run)
    # When all settings of a run are left out, its factor cannot be guessed; a sixth run lies in the interval.
    assert by_run.error_ > 0.08
    assert by_run.n_cells_ == 50
    low, high = by_run.predict_interval(WORKERS[:, None]).T
    assert (high / low).min() > 1.3


def test_the_names_of_groups_do_not_matter() -> None:
    x, y = some(10, n=12)
    names = np.array(list("aabbccddeeff"))
    ours = RuntimeRegressor(size=("n",)).fit(x, y, groups=names).predict(x)
    other = RuntimeRegressor(size=("n",)).fit(x, y, groups=[f"run {9 - ord(c)}" for c in names]).predict(x)
    np.testing.assert_allclose(ours, other, rtol=1e-8)


def test_cut_off_rows_raise_predictions() -> None:
    rng = np.random.default_rng(11)
    x = np.repeat(WORKERS[:5], 40)[:, None]
    full = amdahl(x[:, 0]) * np.exp(0.4 * rng.normal(size=200))
    limit = 1.2 * amdahl(x[:, 0])
    cut = full > limit
    y = np.minimum(full, limit)
    told = RuntimeRegressor().fit(x, y, censored=cut).predict(x)
    untold = RuntimeRegressor().fit(x, y).predict(x)
    truth = amdahl(x[:, 0])
    assert np.abs(np.log(told / truth)).mean() < 0.5 * np.abs(np.log(untold / truth)).mean()


# --------------------------------------------------------------------------- bad rows and bad questions

BAD = [
    ("missing or infinite feature", [np.nan, 10.0], 12.0),
    ("missing or infinite feature", [np.inf, 10.0], 12.0),
    ("negative feature", [-1.0, 10.0], 12.0),
    ("missing or infinite target", [4.0, 10.0], np.nan),
    ("target not positive", [4.0, 10.0], -3.0),
    ("target not positive", [4.0, 10.0], 0.0),
    ("off by a factor", [4.0, 50.0], 1e6),
]


@cache
def without_bad_rows() -> Array:
    x, y = some(12, n=15)
    return np.asarray(RuntimeRegressor(size=("n",)).fit(x, y).predict(x))


@pytest.mark.parametrize(("reason", "features", "target"), BAD)
def test_a_bad_row_is_flagged_and_left_out(reason: str, features: list[float], target: float) -> None:
    x, y = some(12, n=15)
    with pytest.warns(UserWarning, match=f"1 of 16 rows were left out .*{reason}.*first row 3"):
        model = RuntimeRegressor(size=("n",)).fit(np.insert(x, 3, features, axis=0), np.insert(y, 3, target))
    assert model.flagged_.to_dict("records")[0]["row"] == 3
    assert model.flagged_["reason"][0].startswith(reason)
    np.testing.assert_allclose(model.predict(x), without_bad_rows(), rtol=1e-6)


def test_a_tenth_of_the_rows_may_be_spoiled() -> None:
    rng = np.random.default_rng(13)
    x = np.column_stack([rng.choice(WORKERS, 60), rng.choice([10.0, 20, 50, 100], 60)])
    truth = amdahl(*x.T)
    y = measured(truth, 0.03, 14)
    y[::10] *= 100
    with pytest.warns(UserWarning, match="factor of 8"):
        model = RuntimeRegressor(size=("n",)).fit(x, y)
    assert set(model.flagged_["row"]) == set(range(0, 60, 10))
    assert np.abs(model.predict(x) / truth - 1).mean() < 0.03


def test_good_rows_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RuntimeRegressor(size=("n",)).fit(*some(15, n=20))
    assert model.flagged_.empty
    assert list(model.flagged_) == ["row", "reason", "used"]


REFUSED = [
    ({"size": "n_items"}, "one text"),
    ({"scale": "nodes"}, "no column 'nodes'"),
    ({"scale": "workers", "size": ("workers",)}, "two meanings"),
    ({"scale": 7}, "no column 7"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_columns_that_are_not_there_are_named(options: dict[str, object], message: str) -> None:
    frame = pd.DataFrame({"workers": [1.0, 2, 3], "n_items": [1.0, 2, 3]})
    with pytest.raises(ValueError, match=message):
        RuntimeRegressor(**options).fit(frame, [3.0, 2, 1])  # type: ignore[arg-type]


def test_what_cannot_be_learnt_from_says_why() -> None:
    x = [[1.0], [2.0], [4.0]]
    with pytest.raises(ValueError, match=r"2 usable rows of 3.*target not positive: 1 \(first row 1\)"):
        RuntimeRegressor().fit(x, [1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match="every usable row is censored"):
        RuntimeRegressor().fit(x, [3.0, 2, 1], censored=[True] * 3)
    with pytest.raises(ValueError, match="one bool for each of the 3 rows"):
        RuntimeRegressor().fit(x, [3.0, 2, 1], censored=[1, 0, 0])
    with pytest.raises(ValueError, match="one label for each of the 3 rows"):
        RuntimeRegressor().fit(x, [3.0, 2, 1], groups=[1, 2])


def test_what_cannot_be_predicted_for_says_where() -> None:
    frame = pd.DataFrame({"workers": [1.0, 2, 4], "disk": [1.0, 1, 2]})
    model = RuntimeRegressor().fit(frame, [8.0, 4, 2])
    with pytest.raises(ValueError, match="row 1, column 'disk' is nan"):
        model.predict(pd.DataFrame({"workers": [1.0, 2], "disk": [1.0, np.nan]}))
    with pytest.raises(ValueError, match="coverage"):
        model.predict_interval(frame, 1.5)


# --------------------------------------------------------------------------- what it tells


def test_terms_have_units_and_shares() -> None:
    workers = WORKERS[:, None]
    told = RuntimeRegressor().fit(workers, amdahl(WORKERS)).explain()
    assert list(told) == ["term", "coefficient", "unit", "kind", "share"]
    assert told["share"][told["kind"] != "residual"].sum() == pytest.approx(1.0)
    first = told[told["kind"] == "sum"].iloc[0]  # powers, which stand beside, follow such a law only nearly
    assert (first["term"], first["unit"]) == ("1/workers", "target * workers")
    assert first["coefficient"] == pytest.approx(100, rel=0.05)
    assert told["coefficient"][told["term"] == "1"].iloc[0] == pytest.approx(5, rel=0.2)


def test_features_of_unknown_meaning_are_told_too() -> None:
    rng = np.random.default_rng(16)
    frame = pd.DataFrame({"workers": rng.choice(WORKERS, 25), "speed": rng.choice([1.0, 2, 4], 25)})
    y = measured(amdahl(frame["workers"].to_numpy()) / frame["speed"].to_numpy(), 0.01, 17)
    told = RuntimeRegressor().fit(frame, y).explain()
    factor = told[told["term"] == "speed ** g"]
    assert factor["coefficient"].to_numpy() == pytest.approx(-1.0, abs=0.15)


def test_it_survives_a_pickle() -> None:
    x, y = some(18)
    model = RuntimeRegressor(size=("n",)).fit(x, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))  # noqa: S301 - our own


def test_score_is_near_one_for_data_that_follow_a_law() -> None:
    x, y = some(19, n=30)
    assert RuntimeRegressor(size=("n",)).fit(x, y).score(x, y) > 0.98
