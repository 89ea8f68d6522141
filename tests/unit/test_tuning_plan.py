"""Re-planning a run that is under way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from toolkit.tuning import Workload, replan, simulate_run
from toolkit.tuning.plan import Row
from toolkit.tuning.simulate import simulate_makespan


def probes(work: Workload, sizes: tuple[int, ...], workers: int, seed: int = 0) -> list[Row]:
    """What a run's first batches of growing size would report."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = [(1, 5.0, workers, math.nan, True) for _ in range(workers)]
    for size in sizes:
        rows += [(size, work.work_s(size, rng), workers, work.gap_s, False) for _ in range(workers)]
    return rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "work",
    [
        Workload(per_item_s=1e-4),
        Workload(per_item_s=1e-3, per_batch_s=0.05),
        Workload(per_item_s=1e-2, item_sigma=0.8),
        Workload(per_item_s=1e-3, per_batch_s=0.1, item_sigma=0.5),
    ],
    ids=["tiny", "fixed cost", "lognormal", "both"],
)
def test_the_planned_size_is_nearly_the_best(work: Workload, seed: int) -> None:
    plan = replan(probes(work, (1, 4, 16, 64, 64), 4, seed), remaining=5_000, workers=4)
    assert plan is not None
    assert plan.confident
    took = simulate_makespan(work, 5_000, plan.batch_size, 4)
    assert took <= 1.10 * min(simulate_makespan(work, 5_000, b, 4) for b in (8, 20, 50, 125, 200, 256))
    assert plan.predicted_s == pytest.approx(took, rel=0.2)


def test_a_real_run_teaches_too() -> None:
    work = Workload(per_item_s=1e-3, per_batch_s=0.02)
    rows: list[Row] = []
    for i, size in enumerate((2, 40)):
        f = simulate_run(work, 200, size, 2, ordinal=i, warm=True)
        rows += list(
            zip(f["items"], f["service_s"], f["active_claims"], f["idle_s"], f["first_in_process"], strict=True)
        )
    plan = replan(rows, remaining=10_000, workers=2)
    assert plan is not None
    # As far as a batch that takes four times as long as the longest seen.
    assert 160 <= plan.batch_size <= 4 * 40 + 3 * 20 + 3
    assert "20" in plan.reasons[0]


def test_a_larger_batch_than_any_before_is_tried_only_where_it_may_cost_little() -> None:
    work = Workload(per_item_s=0.01, per_batch_s=0.02)
    rows = probes(work, (1, 4, 16, 16), 4)
    plans = [replan(rows, remaining=left, workers=4) for left in (1_000, 100_000)]
    near, far = (plan.batch_size for plan in plans if plan is not None)
    # A tenth of each worker's 250 items may be lost by a batch of twice the predicted seconds.
    assert 16 <= near <= 28
    assert far > 40


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(1, 0.1, 2, 0.0, False)] * 5,
        [(10, 0.1, 2, 0.0, False)] * 50,  # one size
        [(10, 0.1, 2, 0.0, False)] * 50 + [(20, 0.2, 2, 0.0, False)] * 50,  # sizes too near each other
        [(b, 0.1 * b, 2, 0.0, True) for b in (1, 10, 100)] * 10,  # nothing but first batches
        [(b, math.nan, 2, 0.0, False) for b in (1, 10, 100)] * 10,
        [(0, 0.1, 2, 0.0, False)] * 20,
    ],
)
def test_it_is_silent_where_the_rows_cannot_tell(rows: list[Row]) -> None:
    plan = replan(rows, remaining=1_000, workers=2)
    assert plan is None or not plan.confident


@pytest.mark.parametrize(("remaining", "workers"), [(0, 2), (100, 0), (-5, 2)])
def test_without_work_or_workers_there_is_no_plan(remaining: int, workers: int) -> None:
    assert replan(probes(Workload(), (1, 16, 64), 4), remaining=remaining, workers=workers) is None


def test_where_only_batches_cost_each_worker_gets_few() -> None:
    plan = replan([(b, 0.1, 2, 0.0, False) for b in (1, 10, 1000)] * 10, remaining=1_000, workers=2)
    assert plan is not None
    assert plan.batch_size >= 500


def test_the_last_round_is_left_to_tapering_where_a_batch_costs_seconds() -> None:
    """Given workers at work, when few items remain, batches are not cut to what each would get if all were free."""
    rows: list[Row] = [(b, 2.0 + 0.02 * b, 8, 0.0005, False) for b in (1, 9, 49, 240)] * 4
    plan = replan(rows, remaining=500, workers=8)
    assert plan is not None
    assert plan.batch_size >= 240  # not 63; of 400 a fifth would be fixed cost


def test_the_first_in_the_last_round_may_take_a_little_more_than_an_equal_part() -> None:
    """Given one round to come, what workers think of an equal part differs: none of them is cut short of it."""
    rows: list[Row] = [(b, 2.0 + 0.02 * b, 8, 0.0005, False) for b in (9, 49)] * 8
    plan = replan(rows, remaining=3_528, workers=8)
    assert plan is not None
    assert 1.1 * 441 < plan.batch_size < 1.3 * 441


def test_a_gap_makes_batches_longer_while_enough_remain() -> None:
    rows = probes(Workload(per_item_s=1e-4, gap_s=0.002), (1, 16, 256, 2_000), 2)
    many, few = (replan(rows, remaining=n, workers=2) for n in (200_000, 4_000))
    assert many is not None
    assert few is not None
    assert 3_000 <= many.batch_size <= 4_000  # up to 0.4 s, of which the gap is half a percent
    assert few.batch_size <= 1_000


def test_wild_rows_are_not_believed() -> None:
    rng = np.random.default_rng(0)
    rows: list[Row] = [(int(b), float(rng.lognormal(0, 2.5)), 2, 0.0, False) for b in rng.choice([1, 10, 100], 12)]
    plan = replan(rows, remaining=1_000, workers=2)
    assert plan is None or not plan.confident


def test_one_stuck_batch_moves_little() -> None:
    work = Workload(per_item_s=1e-3, per_batch_s=0.05)
    rows = probes(work, (1, 4, 16, 64, 64), 4)
    calm = replan(rows, remaining=5_000, workers=4)
    rows.append((16, 60.0, 4, 0.0005, False))
    stuck = replan(rows, remaining=5_000, workers=4)
    assert calm is not None
    assert stuck is not None
    assert stuck.batch_size == pytest.approx(calm.batch_size, rel=0.3)
    assert stuck.predicted_s == pytest.approx(calm.predicted_s, rel=0.3)


def test_batches_that_ran_alone_do_not_count_for_all_workers() -> None:
    crowded = probes(Workload(per_item_s=3e-3), (1, 4, 16, 64), 4)
    alone = [(b, s / 3, 1, g, f) for b, s, _, g, f in crowded] * 3
    plan = replan(crowded + alone, remaining=5_000, workers=4)
    assert plan is not None
    assert plan.predicted_s == pytest.approx(5_000 * 3e-3 / 4, rel=0.1)


def test_a_plan_never_exceeds_what_remains() -> None:
    plan = replan(probes(Workload(per_batch_s=5.0), (1, 16, 64), 4), remaining=3, workers=4)
    assert plan is not None
    assert 1 <= plan.batch_size <= 3


def test_unknown_gaps_are_no_obstacle() -> None:
    rows = [(b, s, a, math.nan, f) for b, s, a, _, f in probes(Workload(), (1, 16, 64), 4)]
    assert replan(rows, remaining=1_000, workers=4) is not None
