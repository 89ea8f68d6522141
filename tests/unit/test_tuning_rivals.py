"""What the data leave open widens intervals: other structures, wild batches, settings beyond what was measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from toolkit.tuning import Recommender, Workload, simulate_runs
from toolkit.tuning.beyond import rate
from toolkit.tuning.effects import Points, RunEffects, fit_effects
from toolkit.tuning.grids import predict_settings
from toolkit.tuning.history import Array, Cells
from toolkit.tuning.model import TaskModel
from toolkit.tuning.rivals import Rivals
from toolkit.tuning.selection import Structure
from toolkit.tuning.structure import Costs
from toolkit.tuning.variation import Variation
from toolkit.tuning.wildness import wildness

LEVELS = (0.05, 0.95)


def points(sizes: list[float], apart: Array | None = None) -> Points:
    n = len(sizes)
    setting = np.stack([np.log(sizes), np.zeros(n)], axis=1)
    return Points(np.ones((n, 1)), setting, np.arange(n, dtype=np.float64), np.zeros(n), np.zeros(n), apart)


def effects(apart: Array | None = None, belief: Array | None = None, batch_sd: float = 0.1) -> RunEffects:
    residual = np.array([0.01, -0.01, 0.0, 0.02, -0.02, 0.0])
    runs = points([2.0, 4.0, 8.0, 16.0, 8.0, 4.0], apart)
    return fit_effects(runs, residual, np.array([[0.01]]), belief, batch_sd)


def width(known: RunEffects, asked: Points) -> float:
    low, high = known.quantiles(asked, np.zeros(1), LEVELS)
    return float(high[0] - low[0])


# --------------------------------------------------------------------------- structures


def test_structures_that_agree_with_the_runs_and_not_beyond_them_widen_the_answer_there() -> None:
    known = effects(np.zeros((2, 6)), np.array([0.6, 0.4]))
    here, beyond = points([8.0], np.zeros((2, 1))), points([8.0], np.array([[0.0], [0.5]]))
    assert width(known, here) == pytest.approx(width(effects(), points([8.0])))
    assert width(known, beyond) > 0.45
    # What is predicted is the median: the word of the more probable one, however far the other is off.
    assert abs(known.shift(beyond)[0] - known.shift(here)[0]) < 0.05
    turned = effects(np.zeros((2, 6)), np.array([0.4, 0.6]))
    assert known.shift(here)[0] + 0.45 < turned.shift(beyond)[0] < known.shift(here)[0] + 0.55


def test_a_structure_that_is_off_everywhere_is_corrected_by_the_runs() -> None:
    known = effects(np.array([[0.0] * 6, [0.3] * 6]), np.array([0.5, 0.5]))
    everywhere = points([8.0], np.array([[0.0], [0.3]]))
    # Its coefficients may be wrong by a tenth, so the runs take back nearly all of it, and none of it unasked.
    assert abs(known.shift(everywhere)[0] - effects().shift(points([8.0]))[0]) < 0.03


def costs(per_item_s: float, free: float = 0.0) -> Costs:
    return Costs("none", np.array([[0.1, per_item_s, 0.0, 0.0]]), np.zeros((1, 0)), np.zeros((1, 2)), free)


def test_rivals_are_the_probable_candidates_with_the_chosen_one_first() -> None:
    tried = {
        ("none", 0.0): (5.0, costs(0.1)),
        ("usl", 0.0): (5.0, costs(0.2)),
        ("none", 8.0): (4.0, costs(0.3, 8.0)),
        ("none", 16.0): (4.0, costs(0.4, 16.0)),
        ("saturation:2", 0.0): (-9.0, costs(0.5)),
        ("serial", 0.0): (9.0, costs(0.6)),
    }
    chosen = costs(0.1)
    found = Rivals.of(Structure("none", 0.0, value=5.0, tried=tried), chosen, np.zeros(3))
    assert found.costs[0] is chosen
    assert sorted(one.base[0, 1] for one in found.costs) == [0.1, 0.2, 0.3, 0.4]
    assert found.belief.sum() == pytest.approx(1.0)
    assert found.belief[0] == pytest.approx(found.belief[1])
    # The two points at which a threshold was tried share its belief, and it is thought of beside both contentions.
    assert found.belief[2] == pytest.approx(2 * found.belief[0] * np.exp(-1.0) / 2)


def test_a_threshold_beside_other_contentions_is_a_rival_where_it_was_tried() -> None:
    # given a threshold that explains far more than none, tried at two points, at one of them with another contention
    tried = {
        ("none", 0.0): (0.0, costs(0.1)),
        ("usl", 0.0): (9.0, costs(0.2)),
        ("usl", 8.0): (20.0, costs(0.3, 8.0)),
        ("usl", 16.0): (20.0, costs(0.4, 16.0)),
        ("saturation:2", 8.0): (20.0, costs(0.5, 8.0)),
    }

    # when
    found = Rivals.of(Structure("usl", 8.0, value=20.0, tried=tried), costs(0.3, 8.0), np.zeros(3))

    # then it counts as much as both points together
    assert [one.base[0, 1] for one in found.costs] == [0.3, 0.5, 0.4]
    assert found.belief == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_what_whole_makespans_could_not_decide_stays_a_rival() -> None:
    alone = Rivals((costs(0.1), costs(0.2)), np.array([0.5, 0.5]), np.zeros(3))
    assert alone.beside(costs(0.3), 0.5).belief == pytest.approx([0.4, 0.4, 0.2])
    assert alone.beside(costs(0.3), 1e-4) is alone

    # given items that take longer and longer: in these runs that looks like a lock as much as like no contention
    work = Workload(per_item_s=0.06, per_batch_s=0.05, drift=3.0)
    runs = simulate_runs(work, 1_000, [(1, 8), (9, 8), (58, 4), (8, 2), (65, 8)], seed=10_003, warm=False)

    # when
    found = Recommender().fit(runs).models_[work.name].rivals

    # then
    assert {"none", "serial"} <= {one.kind for one in found.costs}


def test_rivals_say_how_far_apart_they_are() -> None:
    cells = Cells(
        run=np.array([0, 1]), items=np.array([10.0, 20.0]), busy=np.ones(2), first=np.zeros(2), cold=np.zeros(2),
        host=np.zeros(2, dtype=np.int64), n=np.array([3.0, 1.0]), mean_s=np.ones(2), variance=np.zeros(2),
    )  # fmt: skip
    two = Rivals((costs(0.1), costs(0.2)), np.array([0.5, 0.5]), np.zeros(3))
    assert two.of_runs(cells, 2)[0] == pytest.approx([0.0, 0.0])
    assert two.of_runs(cells, 2)[1] == pytest.approx(np.log([2.1 / 1.1, 4.1 / 2.1]))
    at = (np.array([100]), np.array([20]), np.array([2]))
    assert two.of_settings(*at, cold=0.0)[:, 0] == pytest.approx([0.0, np.log(4.1 / 2.1)])


# --------------------------------------------------------------------------- batches and runs


def cells_of(work: Workload, size: int, n_items: int) -> tuple[Cells, Array]:
    model = Recommender().fit(simulate_runs(work, n_items, [(size, 2), (size, 2)], seed=3)).models_[work.name]
    return model.history.cells, model.costs.cell_s(model.history.cells)[0]


def test_sums_of_heavy_tailed_items_vary_more_than_the_usual_batch_shows() -> None:
    calm, predicted = cells_of(Workload(per_item_s=0.01, item_sigma=0.3), 5, 3_000)
    variance = Variation(0.02**2, 0.3**2)
    assert wildness(calm, predicted, variance) == pytest.approx(1.0, abs=0.2)
    heavy = replace(calm, variance=calm.variance * 6.0)
    assert wildness(heavy, predicted, variance) == pytest.approx(6.0, rel=0.2)


def test_a_handful_of_batches_tells_little() -> None:
    few, predicted = cells_of(Workload(per_item_s=0.01, item_sigma=0.3), 5, 20)
    assert wildness(few, predicted, Variation(0.02**2, 0.3**2)) > 1.1


def test_runs_are_thought_to_differ_where_batches_do() -> None:
    assert width(effects(batch_sd=0.02), points([8.0])) < width(effects(batch_sd=0.2), points([8.0]))


# --------------------------------------------------------------------------- beyond the data


@cache
def model() -> TaskModel:
    work = Workload(per_item_s=2e-3, per_batch_s=0.05)
    settings = [(4, 1), (40, 2), (4, 2), (20, 1), (40, 1)]
    return Recommender().fit(simulate_runs(work, 1_000, settings)).models_[work.name]


def test_the_interval_grows_with_the_distance_from_what_was_measured() -> None:
    size = np.array([10, 40, 160, 640])
    found = predict_settings(model(), np.full(4, 4_000), size, np.full(4, 2))
    wide = np.log(found.high_s / found.low_s)
    assert wide[1] < 1.5 * wide[0]
    assert wide[1] < wide[2] < wide[3]
    assert wide[3] > 3.0 * wide[1]


def test_what_the_largest_batches_denied_before_they_may_deny_again() -> None:
    # Given: batches cost the same up to 16 items, and more from there on: the small ones alone promised otherwise.
    bent = Workload(name="bent", per_item_s=2e-3, per_batch_s=0.05, free_items=16.0)
    settings = [(2, 1), (8, 2), (60, 2), (4, 2), (8, 1), (60, 1)]
    even = replace(bent, name="even", free_items=0.0)
    surprised, confirmed = (
        Recommender().fit(simulate_runs(work, 1_000, settings)).models_[work.name].beyond_size[1]
        for work in (bent, even)
    )
    assert confirmed < 0.04
    assert surprised > 4.0 * confirmed


def test_a_trial_denies_what_it_would_have_seen() -> None:
    distance = np.full(2, 2.0)
    sharp, vague = (rate(np.array([0.01, -0.01]), np.full(2, sd**2), distance) for sd in (0.02, 0.4))
    assert sharp < 0.03
    assert vague > 0.08
    assert rate(np.array([0.4, 0.4]), np.full(2, 0.02**2), distance) == pytest.approx(0.2, rel=0.3)


def test_sizes_that_are_alike_say_nothing_of_larger_ones() -> None:
    work = Workload(per_item_s=2e-3, per_batch_s=0.05)
    found = Recommender().fit(simulate_runs(work, 500, [(20, 1), (24, 2), (20, 2)])).models_[work.name]
    assert found.beyond_size == (0.29, 0.29)
