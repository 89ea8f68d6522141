"""The batch size controller, told as simulated workers with costs that are known."""

from __future__ import annotations

import heapq
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from toolkit.execution.sizing import Controller
from toolkit.execution.tapering import Limits, Proposal, taken

ItemCost = Callable[[random.Random, float], float]


@dataclass
class World:
    """Workers that share items, with known costs; `item` gets the share of the run that is done."""

    item: ItemCost
    per_batch_s: float = 0.0
    gap_s: float = 0.0005
    warm_s: float = 0.0
    workers: int = 2
    seed: int = 1
    one_by_one: bool = False  # the durations of items are known, as they are but for batched tasks
    sizes: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    busy_items_s: float = 0.0
    makespan_s: float = 0.0

    def run(self, n_items: int) -> World:
        rng = random.Random(self.seed)
        controllers = [Controller() for _ in range(self.workers)]
        fresh = [True] * self.workers
        free = [(0.0, i) for i in range(self.workers)]
        remaining, last_batch, hint = n_items, 0, 0.0
        while remaining:
            now, worker = heapq.heappop(free)
            proposal = controllers[worker].propose(hint, last_batch, remaining, self.workers)
            items = taken(proposal, remaining, self.workers)
            work = sum(self.item(rng, 1 - remaining / n_items) for _ in range(items))
            service = self.per_batch_s + work + (self.warm_s if fresh[worker] else 0.0)
            fresh[worker] = False
            remaining -= items
            controllers[worker].observe(items, service, self.gap_s, work if self.one_by_one else None)
            last_batch = items
            hint = service / items if not hint else hint + 0.2 * (service / items - hint)
            self.sizes.append(items)
            self.durations.append(service)
            self.busy_items_s += work
            self.makespan_s = max(self.makespan_s, now + self.gap_s + service)
            heapq.heappush(free, (now + self.gap_s + service, worker))
        return self

    @property
    def overhead(self) -> float:
        """Share of the workers' time that was not spent on items, idle ends included."""
        return 1 - self.busy_items_s / (self.workers * self.makespan_s)


def constant(seconds: float) -> ItemCost:
    return lambda rng, done: seconds


def lognormal(mean_s: float, sigma: float) -> ItemCost:
    mu = math.log(mean_s) - sigma * sigma / 2
    return lambda rng, done: rng.lognormvariate(mu, sigma)


def test_knowing_nothing_it_takes_one_item() -> None:
    assert Controller().propose(0.0, 0, 1_000_000, 8) == Proposal(1, 1)


@pytest.mark.parametrize(
    ("item", "per_batch_s", "n_items", "bound"),
    [
        pytest.param(constant(50e-6), 0.0, 200_000, 0.03, id="tiny items"),
        pytest.param(constant(5e-3), 0.0, 4_000, 0.03, id="5 ms items"),
        pytest.param(constant(1.0), 0.0, 40, 0.01, id="1 s items"),
        pytest.param(constant(1e-4), 0.05, 200_000, 0.10, id="50 ms a batch"),
        pytest.param(constant(1e-3), 0.1, 40_000, 0.10, id="100 ms a batch"),
        pytest.param(lognormal(5e-3, 1.0), 0.0, 8_000, 0.05, id="lognormal"),
        pytest.param(lognormal(5e-3, 2.0), 0.0, 8_000, 0.10, id="heavy tail"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_time_goes_to_items(item: ItemCost, per_batch_s: float, n_items: int, bound: float, seed: int) -> None:
    world = World(item, per_batch_s=per_batch_s, seed=seed).run(n_items)
    assert sum(world.sizes) == n_items
    assert world.overhead <= bound


@pytest.mark.parametrize("per_batch_s", [2.0, 20.0])
def test_a_fixed_cost_of_seconds_does_not_keep_batches_small(per_batch_s: float) -> None:
    """Given batches that take long whatever they hold, when a few items more are tried, the fixed cost is found."""
    world = World(constant(0.02), per_batch_s=per_batch_s, workers=8).run(4_000)
    assert len(world.sizes) < 80
    assert max(world.sizes[:16]) <= 10  # tried first: a fiftieth of a worker's part


@pytest.mark.parametrize(("service_s", "second"), [(1.5, 2), (2.5, 1)])
def test_a_second_batch_holds_another_number_of_items_unless_it_would_take_long(service_s: float, second: int) -> None:
    """Given few items of a second or two each, when the second batch is asked for, it tells more than the first did."""
    controller = Controller()
    controller.observe(1, service_s, 0.0005)
    assert controller.propose(0.0, 1, 56, 8).want == second


def test_what_remains_is_shared_in_one_round_where_a_batch_costs_seconds() -> None:
    """Given workers that all took 49 items before, when the next one asks, it takes an equal part of what remained."""
    controller, left = Controller(), 3_700
    for items in (1, 9, 49):
        controller.observe(items, 2.0 + 0.02 * items, 0.0005)
    assert controller.per_item_s == pytest.approx(0.02, rel=0.5)  # 49 items took less than five times 9: a fixed cost
    floor = controller.propose(0.0, 49, left, 8).floor
    assert floor == pytest.approx(
        1.03 * (left - 7 * 49 / 2) / 8, rel=0.01
    )  # a little more, so that nothing is left over


def test_heavy_tailed_items_are_not_taken_for_a_fixed_cost() -> None:
    """Given long items in the first small batches, when these say what the items took, no worker swallows the rest."""
    for seed in range(30):
        world = World(lognormal(20e-3, 1.2), gap_s=0.002, workers=8, seed=seed, one_by_one=True).run(400)
        assert max(world.sizes) <= 13  # a fourth of an equal share
        assert world.makespan_s < 1.5 * world.busy_items_s / 8 + max(world.durations)


def test_a_fixed_cost_beside_the_items_is_measured() -> None:
    controller = Controller()
    for size in (1, 16, 16, 16):
        controller.observe(size, 0.05 + 1e-4 * size, 0.0005, 1e-4 * size)
    assert controller.per_batch_s == pytest.approx(0.05)
    assert controller.per_item_s == pytest.approx(1e-4)
    assert controller.propose(0.0, 16, 10_000_000, 2).want == 256  # it grows at once, as far as one step may


def test_a_real_fixed_cost_is_told_from_slow_items() -> None:
    controller = Controller()
    controller.observe(1, 0.0501, 0.0005)
    size = 1
    for _ in range(8):
        size = controller.propose(0.0, size, 10_000_000, 2).want
        controller.observe(size, 0.05 + 1e-4 * size, 0.0005)
    assert controller.per_batch_s == pytest.approx(0.05, rel=0.15)
    assert controller.per_item_s == pytest.approx(1e-4, rel=0.15)
    assert (controller.per_batch_s + 0.0005) / (controller.per_batch_s + 0.0005 + 1e-4 * size) <= 0.06


def test_no_fixed_cost_is_seen_where_there_is_none() -> None:
    controller = Controller()
    rng = random.Random(7)
    size = 1
    durations = []
    for _ in range(60):
        durations.append(sum(rng.lognormvariate(math.log(2e-3), 0.5) for _ in range(size)))
        controller.observe(size, durations[-1], 0.0005)
        size = controller.propose(0.0, size, 10_000_000, 2).want
    assert 0.08 < sorted(durations[10:])[25] < 0.4
    assert controller.per_item_s == pytest.approx(2e-3 * math.exp(0.125), rel=0.25)


def test_the_first_batch_of_a_process_is_not_believed() -> None:
    world = World(constant(1e-3), warm_s=2.0).run(20_000)
    assert world.sizes[0] == 1
    # Beside the 2 s of imports, each worker needs a few small batches to learn, and no more.
    assert world.makespan_s < 2.0 + 20_000 * 1e-3 / 2 * 1.05
    assert len(world.sizes) < 300


def test_imports_in_the_first_batch_are_forgotten_at_once() -> None:
    controller = Controller()
    controller.observe(1, 2.0, 0.0005)
    controller.observe(1, 0.001, 0.0005)
    assert controller.per_item_s == pytest.approx(0.001)


def test_items_that_become_slow_get_smaller_batches_at_once() -> None:
    controller = Controller()
    for size in (1, 16, 150, *[150] * 30):
        controller.observe(size, 1e-3 * size, 0.0005)
    size = 150
    for _ in range(3):
        controller.observe(size, 50e-3 * size, 0.0005)
        size = controller.propose(0.0, size, 1_000_000, 2).want
    assert size <= 6


def test_a_step_in_item_cost_is_followed() -> None:
    world = World(lambda rng, done: 1e-3 if done < 0.5 else 20e-3).run(40_000)
    late = world.durations[-len(world.durations) // 3 : -20]
    assert max(world.durations) < 5.0
    assert sorted(late)[len(late) // 2] < 0.5
    assert world.overhead < 0.03


def test_slow_drift_is_followed() -> None:
    world = World(lambda rng, done: 1e-3 * (1 + 9 * done)).run(40_000)
    assert max(world.durations[5:]) < 0.5
    assert world.overhead < 0.02


def test_items_that_become_cheap_get_larger_batches() -> None:
    world = World(lambda rng, done: 20e-3 if done < 0.2 else 0.1e-3).run(50_000)
    assert max(world.sizes) > 500
    assert world.overhead < 0.03


def test_one_outlier_moves_little() -> None:
    controller = Controller()
    for size in (1, 16, 150, 150, 150, 150, 150, 150):
        controller.observe(size, 1e-3 * size, 0.0005)
    before = controller.propose(1e-3, 150, 1_000_000, 2).want
    controller.observe(150, 15.0, 0.0005)
    assert controller.propose(1e-3, 150, 1_000_000, 2).want > before / 3


def test_growth_while_probing_is_bounded() -> None:
    controller = Controller()
    size = 1
    for _ in range(6):
        controller.observe(size, 1e-7 * size, 0.0)
        grown = controller.propose(0.0, size, 10**9, 1).want
        assert grown <= 16 * size
        size = grown
    assert size > 10_000


def test_four_batches_a_worker_remain() -> None:
    controller = Controller()
    for size in (1, 16, 256, 1500):
        controller.observe(size, 1e-4 * size, 0.0005)
    assert controller.propose(0.0, 1500, 4_000, 8).want == 125


@pytest.mark.parametrize(("gap_s", "batch_s"), [(0.0005, 0.15), (0.0015, 0.3), (0.02, 0.5)])
def test_a_gap_makes_batches_longer_within_reason(gap_s: float, batch_s: float) -> None:
    """Given items of 50 us, batches take what makes the gap before them half a percent, up to half a second."""
    world = World(constant(5e-5), gap_s=gap_s, one_by_one=True).run(400_000)
    assert max(world.durations) == pytest.approx(batch_s, rel=0.15)
    assert world.makespan_s * 2 <= 1.06 * world.busy_items_s + 20 * gap_s


def test_tapering_stops_at_5_ms_of_work() -> None:
    controller = Controller()
    for size in (1, 16, 150, 150):
        controller.observe(size, 1e-3 * size, 0.0002)
    proposal = controller.propose(0.0, 150, 40, 8)
    assert proposal.floor == pytest.approx(5, abs=1)
    assert taken(proposal, 40, 8) == proposal.floor


def test_a_new_process_follows_the_others() -> None:
    assert Controller().propose(1e-3, 150, 1_000_000, 2).want == 150
    assert Controller().propose(1.0, 1000, 1_000_000, 2).want == 1
    assert Controller().propose(1e-3, 1, 1_000_000, 2).want == 4


@pytest.mark.parametrize(("items", "service_s"), [(0, 1.0), (-3, 1.0), (5, math.nan), (5, math.inf), (5, -1.0)])
def test_nonsense_is_not_learned(items: int, service_s: float) -> None:
    controller = Controller()
    controller.observe(items, service_s, 0.0)
    assert controller.propose(0.0, 0, 100, 2) == Proposal(1, 1)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_a_proposal_is_usable(seed: int) -> None:
    rng = random.Random(seed)
    controller = Controller(Limits())
    for _ in range(300):
        size = rng.choice([1, 2, 17, 1000, 10**6])
        controller.observe(size, rng.choice([0.0, 1e-9, 1e-3, 1.0, 1e4]), rng.choice([0.0, math.nan, 1e-3, 100.0]))
        remaining = rng.choice([0, 1, 5, 10**3, 10**9])
        hint = rng.choice([0.0, 1e-6, 1.0])
        proposal = controller.propose(hint, rng.choice([0, 1, 500]), remaining, rng.choice([0, 1, 64]))
        assert 1 <= proposal.floor <= proposal.want <= max(1, remaining)
        assert 0 <= controller.per_batch_s < math.inf
        assert 0 <= controller.per_item_s < math.inf


# --------------------------------------------------------------------------- in weight


def weighed_world(per_weight_s: float, unit: float, seed: int) -> tuple[float, float]:
    """Makespan in ideal ones of heavy-tailed items, the heaviest first, and the median seconds of a batch."""
    rng, workers = random.Random(seed), 4
    seconds = sorted((rng.lognormvariate(-5.5, 1.2) for _ in range(2000)), reverse=True)
    waiting = [s / per_weight_s * unit for s in seconds][::-1]
    controllers = [Controller(whole=False) for _ in range(workers)]
    free, left, last, hint, durations, end = [(0.0, i) for i in range(workers)], sum(waiting), 0.0, 0.0, [], 0.0
    while waiting:
        now, worker = heapq.heappop(free)
        proposal = controllers[worker].propose(hint, last, left, workers)
        assert 0 <= proposal.floor <= proposal.want
        limit = min(proposal.want or last, max(proposal.floor, left / (2 * workers)))
        weight = waiting.pop()
        while waiting and weight + waiting[-1] <= limit:
            weight += waiting.pop()
        service = 0.0002 + weight / unit * per_weight_s
        left, last, hint = left - weight, proposal.want or weight, service / weight
        controllers[worker].observe(weight, service, 0.0005)
        durations.append(service)
        end = max(end, now + 0.0005 + service)
        heapq.heappush(free, (now + 0.0005 + service, worker))
    return end / (sum(seconds) / workers), sorted(durations)[len(durations) // 2]


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e12])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_whatever_unit_weighed_batches_take_their_time_and_end_together(unit: float, seed: int) -> None:
    times_ideal, median_s = weighed_world(3e-3, unit, seed)
    assert times_ideal < 1.03
    assert 0.02 < median_s < 0.3


def test_knowing_nothing_of_weight_it_asks_for_nothing_certain() -> None:
    controller = Controller(whole=False)
    assert controller.propose(0.0, 0.0, 1e6, 8) == Proposal(0, 0)
    controller.observe(0.0, 1.0, 0.0)
    assert controller.propose(0.0, 0.0, 1e6, 8) == Proposal(0, 0)
    # The others take 0.1 s a batch; up to 0.15 s is as good.
    assert controller.propose(2.0, 0.05, 1e6, 8).want == pytest.approx(0.075)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_a_proposal_of_weight_is_usable(seed: int) -> None:
    rng = random.Random(seed)
    controller = Controller(whole=False)
    for _ in range(300):
        size = rng.choice([1e-12, 1e-3, 2.5, 1e3, 1e15])
        controller.observe(size, rng.choice([0.0, 1e-9, 1e-3, 1.0, 1e4]), rng.choice([0.0, math.nan, 1e-3, 100.0]))
        remaining = rng.choice([0.0, 1e-12, 5.5, 1e18])
        proposal = controller.propose(rng.choice([0.0, 1e-6, 1e9]), rng.choice([0.0, 1e-9, 500.0]), remaining, 8)
        assert 0 <= proposal.floor <= proposal.want <= remaining
        assert 0 <= controller.per_batch_s < math.inf
        assert 0 <= controller.per_item_s < math.inf


def test_workers_need_no_numpy_for_it() -> None:
    code = "import sys, toolkit.execution.sizing; print(sorted({'numpy', 'pandas', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
