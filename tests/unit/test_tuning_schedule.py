"""Makespans of schedules that can be checked by hand, and against the event simulation."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest

from toolkit.tuning.schedule import EqualTiming, Plans, Timing, analytic_s, equal_splits, simulate
from toolkit.tuning.simulate import Workload, simulate_makespan, simulate_makespans, simulate_run


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def constant(plans: Plans, item_s: float, batch_s: float = 0.0, variance: float = 0.0) -> Timing:
    tail = np.where(plans.tail > 0, batch_s + item_s * plans.tail, 0.0)
    body = batch_s + item_s * plans.body_items
    zero = np.zeros(len(plans))
    alone = np.ones((len(plans), int(plans.workers.max()) + 1))
    return Timing(body, tail, np.full_like(tail, variance), alone, zero, zero, np.ones_like(alone))


def makespan(n_items: int, size: int, workers: int, item_s: float = 1.0, batch_s: float = 0.0) -> float:
    plans = Plans.equal(ints(n_items), ints(size), ints(workers))
    return float(simulate(plans, constant(plans, item_s, batch_s), 1, 0)[0, 0])


@pytest.mark.parametrize(
    ("n_items", "size", "workers", "expected"),
    [
        (12, 4, 3, 4.0),  # one round
        (12, 4, 2, 8.0),  # three batches on two workers
        (10, 4, 3, 4.0),  # the last one is smaller
        (9, 4, 2, 5.0),  # and runs alone after a full one
        (5, 1, 8, 1.0),  # more workers than batches
        (1, 100, 4, 1.0),
        (7, 7, 1, 7.0),
    ],
)
def test_small_schedules(n_items: int, size: int, workers: int, expected: float) -> None:
    assert makespan(n_items, min(size, n_items), workers) == pytest.approx(expected)


def test_many_batches_keep_all_workers_busy() -> None:
    assert makespan(100_000, 10, 4, item_s=1e-3) == pytest.approx(25.0, rel=0.002)


def test_the_batches_before_the_last_ones_are_neither_lost_nor_doubled() -> None:
    plans = Plans.equal(ints(300), ints(1), ints(2))
    assert plans.body_count.sum() == 44
    assert 149.8 < simulate(plans, constant(plans, 1.0), 64, 0).mean() < 150.4


def test_it_is_list_scheduling() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 50, 200)
    plans = Plans.recorded([()], [tuple(int(s) for s in sizes)], [5])
    free = [0.0] * 5
    for size in sizes:
        heapq.heapreplace(free, free[0] + 0.1 + 0.01 * size)
    assert simulate(plans, constant(plans, 0.01, 0.1), 1, 0)[0, 0] == pytest.approx(max(free))


def test_a_plan_does_not_depend_on_its_neighbours() -> None:
    alone = Plans.equal(ints(1000), ints(10), ints(4))
    among = Plans.equal(ints(1000, 50, 9000), ints(10, 50, 3), ints(4, 1, 13))
    a = simulate(alone, constant(alone, 0.01, variance=0.3), 16, 7)[0]
    b = simulate(among, constant(among, 0.01, variance=0.3), 16, 7)[0]
    np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 7, 60, 250])
@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_both_forms_agree_with_the_event_simulation(size: int, workers: int, sigma: float) -> None:
    work = Workload(per_item_s=0.01, per_batch_s=0.02, item_sigma=sigma, run_sigma=0.0, gap_s=0.0, stagger_s=0.0)
    n_items = 2000
    truth = simulate_makespans(work, n_items, [(size, workers)], seeds=range(8)).mean()
    plans = Plans.equal(ints(n_items), ints(size), ints(workers))
    variance = work.batch_sigma**2 + np.expm1(sigma**2) * (0.01 * size / (0.02 + 0.01 * size)) ** 2 / size
    simulated = simulate(plans, constant(plans, 0.01, 0.02, variance), 64, 0).mean()
    assert simulated == pytest.approx(truth, rel=0.05)
    last = (n_items - 1) % size + 1
    seconds = [np.array([0.02 + 0.01 * b]) for b in (size, size, last)]
    timing = EqualTiming(*seconds, np.array([variance]), np.zeros(1))
    screened = analytic_s(ints(n_items), ints(size), ints(workers), timing)
    assert screened[0] == pytest.approx(truth, rel=0.12)


@pytest.mark.parametrize("workers", [2, 3, 4, 7])
@pytest.mark.parametrize("size", [3, 40, 130, 400])
def test_workers_that_share_cores_end_as_in_the_event_simulation(size: int, workers: int) -> None:
    work = Workload(per_item_s=0.01, cores=2, kappa=0.01, batch_sigma=0.0, run_sigma=0.0, gap_s=0.0, stagger_s=0.0)
    plans = Plans.equal(ints(1200), ints(size), ints(workers))
    slowdown = np.array([[1.0, *(work.slowdown(k) for k in range(1, int(plans.workers[0]) + 1))]])
    found = simulate(plans, replace(constant(plans, 0.01), contention=slowdown), 8, 0).mean()
    assert found == pytest.approx(simulate_makespan(work, 1200, size, workers), rel=0.01)


def test_equal_splits_give_each_worker_as_many_batches() -> None:
    for size in equal_splits(1000, 7):
        assert -(-1000 // size) <= 7 * 8
    assert equal_splits(1000, 4, 2) == [125, 250]
    assert equal_splits(3, 8) == [1]


def test_the_event_simulation_shares_cores() -> None:
    work = Workload(per_item_s=0.01, cores=2, batch_sigma=0.0, run_sigma=0.0, gap_s=0.0, stagger_s=0.0)
    two, four = (simulate_makespan(work, 400, 10, w) for w in (2, 4))
    assert two == pytest.approx(2.0)
    assert four == pytest.approx(2.0)


def test_a_simulated_frame_accounts_for_every_item() -> None:
    frame = simulate_run(Workload(), 1003, 10, 4)
    assert frame["items"].sum() == 1003
    covered = sorted(zip(frame["first_index"], frame["items"], strict=True))
    assert all(start == at for (start, _), at in zip(covered, np.cumsum([0, *(n for _, n in covered)]), strict=False))
    assert frame["first_in_process"].sum() == 4
