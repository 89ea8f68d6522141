"""`PeakMemoryRegressor`: what is hardly ever exceeded, and never falls with the batch size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from toolkit.tuning import PeakMemoryRegressor

Array = NDArray[np.float64]

MB = 1e6
GRID = np.geomspace(1, 1e5, 400)[:, None]


def peaks(sizes: Array, seed: int, spread: float = 0.05) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray((60 * MB + 0.5 * MB * sizes) * np.exp(np.abs(rng.normal(0, spread, len(sizes)))))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 5, 40, 400]))
def test_it_never_falls_with_the_batch_size(seed: int, n: int) -> None:
    # Given peaks that have nothing to do with the batch size, or even fall with it.
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1.0, 3, 10, 30, 100, 1000], n)
    y = np.exp(rng.normal(18, 1, n)) / sizes ** rng.choice([0.0, 0.5])
    found = PeakMemoryRegressor().fit(sizes[:, None], y).predict(GRID)
    assert (np.diff(found) >= -1e-9 * found[:-1]).all()
    assert (found > 0).all()


@pytest.mark.parametrize("quantile", [0.9, 0.99])
@pytest.mark.parametrize(("n", "tolerance"), [(8, 2.5), (1000, 1.2)])  # eight rows know little of a skewed tail
def test_the_quantile_is_hardly_ever_exceeded(quantile: float, n: int, tolerance: float) -> None:
    above = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sizes, new = rng.uniform(1, 500, n), rng.uniform(1, 500, 500)
        model = PeakMemoryRegressor(quantile).fit(sizes[:, None], peaks(sizes, seed))
        above.append((peaks(new, seed + 1000) > model.predict(new[:, None])).mean())
    assert np.mean(above) <= tolerance * (1 - quantile)


def test_it_is_not_far_above_either() -> None:
    sizes = np.random.default_rng(0).uniform(1, 500, 1000)
    found = PeakMemoryRegressor().fit(sizes[:, None], peaks(sizes, 1)).predict([[100.0], [1000.0]])
    np.testing.assert_allclose(found, [110 * MB * 1.14, 560 * MB * 1.14], rtol=0.05)


def test_base_and_slope_are_found() -> None:
    sizes = np.array([1.0, 10, 100, 1000, 2000])
    model = PeakMemoryRegressor().fit(sizes[:, None], 60 * MB + 0.5 * MB * sizes)
    assert model.base_bytes_ == pytest.approx(60 * MB, rel=0.02)
    assert model.per_unit_bytes_ == pytest.approx(0.5 * MB, rel=0.02)


def test_a_step_in_the_middle_is_lifted_over() -> None:
    # Given a buffer that is allocated whole from 100 items on.
    rng = np.random.default_rng(2)
    sizes = rng.uniform(1, 400, 2000)
    y = (50 * MB + 400 * MB * (sizes > 100)) * np.exp(rng.normal(0, 0.02, 2000))
    model = PeakMemoryRegressor(0.95).fit(sizes[:, None], y)
    assert (y > model.predict(sizes[:, None])).mean() <= 0.05
    assert model.predict([[110.0]])[0] >= 450 * MB


def test_the_unit_of_memory_changes_nothing() -> None:
    sizes = np.random.default_rng(3).uniform(1, 500, 60)
    y = peaks(sizes, 4)
    ours = PeakMemoryRegressor().fit(sizes[:, None], y).predict(GRID)
    np.testing.assert_allclose(PeakMemoryRegressor().fit(sizes[:, None], y / 2**20).predict(GRID), ours / 2**20)


def test_bad_rows_are_flagged() -> None:
    sizes = np.array([[1.0], [2.0], [np.nan], [4.0], [8.0], [-1.0], [16.0]])
    with pytest.warns(UserWarning, match="3 of 7 rows were left out"):
        model = PeakMemoryRegressor().fit(sizes, [1.0, 2, 3, np.nan, 8, 9, 16])
    assert list(model.flagged_) == [2, 3, 5]


def test_what_it_cannot_use_says_why() -> None:
    with pytest.raises(ValueError, match=r"quantile=1\.0"):
        PeakMemoryRegressor(1.0).fit([[1.0], [2.0], [3.0]], [1.0, 2, 3])
    with pytest.raises(ValueError, match=r"2 usable rows of 3.*the first bad one is row 1"):
        PeakMemoryRegressor().fit([[1.0], [2.0], [3.0]], [1.0, 0, 3])
    with pytest.raises(ValueError, match="row 0, column 0 is inf"):
        PeakMemoryRegressor().fit([[1.0], [2.0], [3.0]], [1.0, 2, 3]).predict([[np.inf]])
