"""How a run begins: first batches that differ in size, and what workers learn from each other's."""

from __future__ import annotations

import pytest

from toolkit.execution.beginning import FIRST_MOST, first_size, ruling_cost
from toolkit.execution.sizing import Controller
from toolkit.transport.footprint import Footprint, footprint, unchanged

SHARE = 470.0  # items that remain for each worker


def costs(alpha: float, beta: float, *sizes: int) -> list[tuple[float, float]]:
    return [(items, alpha + beta * items) for items in sizes]


@pytest.mark.parametrize(
    ("taken", "remaining", "workers", "size"),
    [
        pytest.param(0, 4_000, 8, 1, id="the first claimer of a run"),
        pytest.param(1, 3_999, 8, FIRST_MOST, id="those after it"),
        pytest.param(1, 1_000_000, 2, FIRST_MOST, id="a large run"),
        pytest.param(1, 1_000, 8, 7, id="a sixteenth of a worker's part"),
        pytest.param(1, 63, 8, 1, id="few items"),
        pytest.param(5, 0, 0, 1, id="nothing left, nobody known"),
    ],
)
def test_a_first_batch_is_a_small_part_of_the_run(taken: int, remaining: int, workers: int, size: int) -> None:
    assert first_size(taken, remaining, workers) == size


def test_a_cost_of_seconds_shows_in_two_batches_of_different_sizes() -> None:
    found = ruling_cost(costs(2.0, 0.02, 1, 16), SHARE)
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((2.0, 0.02))


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([], id="none"),
        pytest.param(costs(2.0, 0.02, 16), id="one batch"),
        pytest.param(costs(2.0, 0.02, 16, 16, 17), id="one size"),
        pytest.param(costs(0.05, 0.03, 1, 16, 16), id="a cost that is small beside what is left"),
        pytest.param([(1, 1.7), *costs(0.0, 0.05, 16, 17, 18)], id="one long item"),
        pytest.param([(1, 0.5), (16, 2.2), (16, 0.4), (16, 0.9)], id="items of a heavy tail"),
    ],
)
def test_what_may_be_no_fixed_cost_is_not_believed(batches: list[tuple[float, float]]) -> None:
    assert ruling_cost(batches, SHARE) is None


def test_a_cost_beside_which_items_cost_nothing_is_one() -> None:
    found = ruling_cost([(1, 2.0), (16, 1.99), (16, 1.98)], SHARE)
    assert found is not None
    assert found.alpha == pytest.approx(1.99, rel=0.01)
    assert 0 < found.beta < 1e-4


def begun(items: int, service_s: float) -> Controller:
    controller = Controller()
    controller.observe(items, service_s, 0.0005)
    return controller


def test_a_worker_that_compares_takes_its_part_at_once() -> None:
    """Given a batch that costs 2 s, when others tell so, then the second batch is all that this worker will have."""
    alone, told = begun(16, 2.32), begun(16, 2.32)
    alone.compare([], SHARE, settled=True)
    told.compare(costs(2.0, 0.02, 1, 16, 16), SHARE, settled=True)
    assert alone.propose(0.0, 16, 3_760, 8).want < 50
    proposal = told.propose(0.0, 16, 3_760, 8)
    assert 440 < proposal.floor <= proposal.want < 500


def test_imports_are_not_taken_for_a_fixed_cost() -> None:
    """Given a first batch in which the process changed, then what it took is no reason for a long second one."""
    controller = begun(16, 2.32)
    controller.compare(costs(2.0, 0.02, 1, 16, 16), SHARE, settled=False)
    assert controller.propose(0.0, 16, 3_760, 8).want < 50


def test_a_slow_worker_does_not_believe_the_others() -> None:
    """Given a worker that takes four times as long as the others, then they do not say what its batches cost."""
    controller = begun(16, 4 * 2.32)
    controller.compare(costs(2.0, 0.02, 1, 16, 16), SHARE, settled=True)
    assert controller.propose(0.0, 16, 3_760, 8).want < 50


def test_a_slow_worker_that_began_with_one_item_learns_from_itself() -> None:
    """Given that its one item took as long as 16 of the others', then that is no fixed cost, as its 9 items say."""
    controller = begun(1, 0.33)
    controller.observe(9, 1.3, 0.0005)
    known = controller.per_item_s
    controller.compare([(16, 0.55)] * 7, 100.0, settled=True)
    assert controller.per_item_s == known


def test_a_worker_learns_from_its_own_two_batches_where_the_others_are_faster() -> None:
    controller = begun(1, 1.8 * 2.02)
    controller.compare([], SHARE, settled=True)
    controller.observe(9, 1.8 * 2.18, 0.0005)
    controller.compare(costs(2.0, 0.02, 16, 16, 16), SHARE, settled=True)
    assert controller.per_batch_s == pytest.approx(3.6, rel=0.05)
    assert controller.propose(0.0, 9, 3_760, 8).floor > 400


def test_a_fixed_cost_is_hardly_more_than_what_a_batch_of_another_took() -> None:
    """Given batches that wait for each other, when another took next to nothing, then no fixed cost is large."""
    alone, told = begun(16, 1.0), begun(16, 1.0)
    told.compare([(1, 0.02)], SHARE, settled=True)
    for controller in (alone, told):
        controller.observe(32, 1.1, 0.0005)
        controller.observe(64, 1.3, 0.0005)
    assert alone.propose(0.0, 64, 3_000, 8).floor > 200
    assert told.propose(0.0, 64, 3_000, 8).floor < 50


def test_what_a_process_loads_is_seen() -> None:
    before = Footprint(500, 60 << 20)
    assert unchanged(before, Footprint(500, 61 << 20))
    assert not unchanged(before, Footprint(501, 60 << 20))
    assert not unchanged(before, Footprint(500, 160 << 20))
    assert not unchanged(before, Footprint(500, -1))
    assert not unchanged(Footprint(500, -1), before)
    assert footprint().modules > 100
