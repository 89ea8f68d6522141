"""What trying larger batches may cost inside a run, told as workers whose costs are known."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from toolkit.execution.sizing import Controller
from toolkit.execution.tapering import taken
from toolkit.execution.trials import SHARE, Trials

Seconds = Callable[[int], float]


def thrashing(size: int) -> float:
    """Items of 5 ms, three times that in batches that no longer fit into a cache."""
    return 5e-3 * size * (3.0 if size > 16 else 1.0)


def play(seconds: Seconds, n_items: int, workers: int) -> tuple[list[tuple[int, float]], float]:
    """Batches of a run under the controller, as (size, seconds), and the worker seconds they took."""
    controllers = [Controller() for _ in range(workers)]
    waiting = [(0.0, worker, 0, 0.0) for worker in range(workers)]  # when, who, and the batch that ends then
    remaining, last, hint, done = n_items, 0, 0.0, []
    while waiting:
        now, worker, size, took = heapq.heappop(waiting)
        if size:
            controllers[worker].observe(size, took, 1e-4)
            hint = took / size if not hint else hint + 0.2 * (took / size - hint)
            done.append((size, took))
        if remaining:
            size = int(taken(controllers[worker].propose(hint, last, remaining, workers), remaining, workers))
            remaining, last = remaining - size, size
            heapq.heappush(waiting, (now + seconds(size), worker, size, seconds(size)))
    return done, sum(took for _, took in done)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_trials_of_larger_batches_cost_a_bounded_share_of_the_run(workers: int) -> None:
    done, total = play(thrashing, 20_000, workers)
    lost = sum(took - 5e-3 * size for size, took in done if size > 16)
    assert any(size > 16 for size, _ in done)  # it tried
    assert lost <= SHARE * total


def test_a_trial_that_is_clearly_worse_is_not_repeated_at_once() -> None:
    done, _ = play(thrashing, 20_000, 1)
    sizes = [size for size, _ in done]
    first = next(i for i, size in enumerate(sizes) if size > 16)
    assert all(size <= 16 for size in sizes[first + 1 : first + 5])


def test_an_unlucky_trial_holds_growth_back_for_some_batches_only() -> None:
    trials = Trials()
    trials.start(1, 0.02)
    for size, took in ((1, 0.01), (16, 0.5)):  # 31 ms an item instead of 10: one of them was long
        trials.observe(size, took)
    sizes = []
    for _ in range(14):
        size = int(trials.bounded(16.0, 0.0, 0.01, 1e6))
        trials.observe(size, 0.01 * size)
        sizes.append(size)
    assert sizes == [1, 1, 1, 1, 4, 8, 11, 13, 13, 13, 13, 13, 13, 13]
    assert trials.bounded(16.0, 0.0, 0.01, 1e6) == 13  # it holds what it has for eight batches
    trials.observe(13, 0.13)
    trials.observe(13, 0.13)
    assert trials.bounded(16.0, 0.0, 0.01, 1e6) == 16


def test_each_bad_trial_is_followed_by_a_longer_wait() -> None:
    trials = Trials()
    trials.start(4, 0.04)
    trials.observe(4, 0.04)
    waits = []
    for _ in range(3):
        trials.observe(16, 0.8)
        waits.append(0)
        while trials.bounded(16.0, 0.0, 0.01, 1e6) <= 4:
            trials.observe(4, 0.04)
            waits[-1] += 1
    assert waits == [4, 8, 16]
    assert trials.lost_s == pytest.approx(3 * (0.8 - 0.16))


def test_who_lost_enough_tries_no_more() -> None:
    trials = Trials()
    trials.start(4, 0.04)
    trials.observe(4, 0.04)
    trials.observe(16, 0.8)
    for _ in range(4):
        trials.observe(4, 0.04)
    assert trials.bounded(5.0, 0.0, 0.01, 500.0) == 4.0  # 0.64 s lost of 6 s
    assert trials.bounded(5.0, 0.0, 0.01, 5_000.0) == 5.0


def test_a_trial_is_no_larger_than_what_is_left_to_lose() -> None:
    trials = Trials()
    trials.start(1, 0.01)
    trials.observe(1, 0.01)
    # 100 items of 10 ms are left: a tenth of 1.02 s may be lost, and a trial may take twice what is predicted.
    assert trials.bounded(64.0, 0.0, 0.01, 100.0) == pytest.approx(0.1 * 1.02 / 0.01)
    assert trials.bounded(64.0, 0.0, 0.01, 10_000.0) == 64.0
    assert trials.bounded(1.0, 0.0, 0.01, 1.0) == 1.0


def test_where_fixed_costs_rule_larger_batches_are_no_risk() -> None:
    trials = Trials()
    trials.start(1, 2.0)
    trials.observe(16, 2.3)
    assert trials.bounded(256.0, 2.0, 0.02, 500.0) == 256.0


def test_heavy_tailed_items_do_not_keep_batches_small() -> None:
    rng = random.Random(7)

    def seconds(size: int) -> float:
        return 0.01 + sum(rng.lognormvariate(-8.6, 1.5) for _ in range(size))

    done, _ = play(seconds, 50_000, 2)
    assert sorted(size for size, _ in done)[len(done) // 2] > 64


def test_one_item_more_is_the_smallest_trial_that_there_is() -> None:
    # items of 1.5 s, of which this worker will have seven: two at once may lose too much
    whole, weighed = Trials(), Trials(whole=False)
    for trials in (whole, weighed):
        trials.start(1, 1.5)
        trials.observe(1, 1.5)
    assert whole.bounded(4.0, 0.0, 1.5, 7.0) == 2.0
    assert weighed.bounded(4.0, 0.0, 1.5, 7.0) == 1.5
