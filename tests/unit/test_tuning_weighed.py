"""Advice for items with weights: the model per unit of weight, the answer in weight."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

from toolkit.errors import InvalidInput
from toolkit.notebook.heat import HeatGrid, setting
from toolkit.tuning import Recommendation, Recommender, Workload, simulate_runs
from toolkit.tuning.weighed import Weighed, weigh

SETTINGS = ((10, 1), (100, 2), (10, 4), (100, 4), (30, 2), (30, 1), (200, 4))


@cache
def counted() -> pd.DataFrame:
    """Runs whose items all cost the same, and a batch as much as ten of them."""
    return simulate_runs(Workload(per_item_s=2e-3, per_batch_s=0.02, item_sigma=0.2), 3000, SETTINGS, seed=3)


def weighted(unit: float) -> pd.DataFrame:
    """The same rows as if ten of those items had been one item of ten units."""
    frame = counted()
    return frame.assign(
        weight=frame["items"] * unit, weight_asked=frame["batch_size"] * unit,
        items=np.maximum(1, frame["items"] // 10), batch_size=np.maximum(1, frame["items"] // 10),
    )  # fmt: skip


def rows(unit: float) -> Weighed:
    found = weigh(weighted(unit))
    assert found is not None
    return found


def advice(unit: float, **options: object) -> Recommendation:
    found = rows(unit)
    model = Recommender(draws=40, replicates=16).fit(found.frame)
    return found.recommend(model, "demo.task", 500, **options)  # type: ignore[arg-type]


@cache
def plain(n_items: int) -> Recommendation:
    return Recommender(draws=40, replicates=16).fit(counted()).recommend(n_items=n_items)


@pytest.mark.parametrize("unit", [1.0, 0.05, 2e6])
def test_the_answer_is_that_of_the_units_told_in_weight(unit: float) -> None:
    found = rows(unit)
    assert found.unit == pytest.approx(unit)
    assert found.frame["items"].tolist() == counted()["items"].tolist()
    asked = advice(unit, weights=[10 * unit, 10 * unit])
    expected = plain(5000)
    assert (asked.n_items, asked.weight_unit) == (500, pytest.approx(unit))
    assert asked.batch_size == pytest.approx(expected.batch_size * unit)
    assert (asked.workers, asked.makespan_s) == (expected.workers, pytest.approx(expected.makespan_s))
    assert asked.grid["batch_size"].tolist() == pytest.approx((expected.grid["batch_size"] * unit).tolist())
    assert asked.baseline["batch_size"] == pytest.approx(expected.baseline["batch_size"] * unit)
    assert asked.kwargs() == {"batch_size": asked.batch_size, "max_workers": asked.workers}


def test_it_says_that_sizes_are_weights_and_what_is_left_out() -> None:
    text = str(advice(0.05))
    assert " by weight with " in text
    assert "pass weight= to client.map as well" in text
    before = counted().assign(weight=0.0, weight_asked=0.0, run_id="before")
    before["claimed_at"] -= pd.Timedelta(days=1)
    found = weigh(pd.concat([before, weighted(0.05)], ignore_index=True))
    assert found is not None
    assert found.left_out == len(before)
    assert len(found.frame) == len(counted())
    assert f"{len(before):,} batches of runs without weights are left out" in found._says(1.0)


def test_without_weights_in_the_latest_run_items_are_counted() -> None:
    assert weigh(counted()) is None
    assert weigh(counted().drop(columns=["weight"], errors="ignore")) is None
    assert weigh(weighted(1.0).head(0)) is None
    after = counted().assign(weight=0.0, weight_asked=0.0, run_id="after")
    after["claimed_at"] += pd.Timedelta(days=1)
    assert weigh(pd.concat([weighted(1.0), after], ignore_index=True)) is None


def test_whole_weights_keep_whole_units() -> None:
    frame = weighted(1.0)
    found = weigh(frame.assign(items=(frame["weight"] / 3).clip(lower=1).astype(int)))
    assert found is not None
    assert found.unit == 1


def test_the_setting_in_use_is_given_in_weight_and_what_makes_no_sense_is_refused() -> None:
    asked = advice(0.05, current={"batch_size": 0.5, "workers": 2})
    expected = Recommender(draws=40, replicates=16).fit(counted())
    units = round(500 * rows(0.05).per_item / 0.05)
    assert asked.saving == expected.recommend(n_items=units, current={"batch_size": 10, "workers": 2}).saving
    for weights in ([], [1.0, -1.0], [np.nan]):
        with pytest.raises(InvalidInput, match="weights: expected positive numbers"):
            advice(1.0, weights=weights)
    with pytest.raises(InvalidInput, match="n_items=0"):
        rows(1.0).recommend(Recommender(), "demo.task", 0)


def test_it_is_saved_and_drawn_in_weight() -> None:
    asked = advice(0.05)
    again = Recommendation.from_dict(asked.to_dict())
    assert again == asked
    pd.testing.assert_frame_equal(again.grid, asked.grid)
    grid = HeatGrid.from_recommendation(asked)
    assert grid.recommended == (asked.batch_size, asked.workers)
    assert asked.batch_size in grid.batch_sizes
    assert setting(0.25, 2) == "batch size 0.25 with 2 workers"
    assert setting(12_345, 1) == setting(12_345.2, 1) == "batch size 12,345 with 1 worker"
