"""Batches that get smaller toward the end: which sizes, and where they are advised."""

from __future__ import annotations

import math

import pytest

from toolkit.client.arguments import Size
from toolkit.execution.tapering import Proposal, taken, tapering_floor
from toolkit.tuning import Recommender, Workload, simulate_makespans, simulate_runs
from toolkit.tuning.tapering import tapered_sizes

UNEQUAL = Workload(per_item_s=0.05, per_batch_s=0.1, item_sigma=1.0)
COSTLY_BATCHES = Workload(per_item_s=0.02, per_batch_s=2.0, item_sigma=0.2)
SETTINGS = [(2, 8), (12, 8), (60, 4), (12, 2), (60, 8)]


@pytest.mark.parametrize(("n_items", "want", "workers", "least"), [(1_000, 20, 4, 3), (37, 50, 8, 1), (5_000, 1, 2, 1)])
def test_batches_are_cut_as_the_ledger_cuts_them(n_items: int, want: int, workers: int, least: int) -> None:
    left, slowly = n_items, []
    while left:
        slowly.append(taken(Proposal(want, least), left, workers))
        left -= int(slowly[-1])

    assert tapered_sizes(n_items, want, workers, lambda _left: least) == slowly


def test_tapering_stops_where_cutting_would_double_the_work() -> None:
    # A batch costs as much as 100 items: with few items left for each worker, no batch is smaller than that.
    assert tapering_floor(2.0, 0.02, 0.0, 10.0) == pytest.approx(100.0)
    # With many left, a fifth of a batch may be fixed cost.
    assert tapering_floor(2.0, 0.02, 0.0, 10_000.0) == pytest.approx(400.0)
    assert tapering_floor(2.0, 0.02, 0.0, math.inf) == pytest.approx(400.0)
    # What an item costs is hardly known: it may be far more than nothing.
    assert tapering_floor(2.0, 1e-6, 0.0, 10.0, error_s=0.5) == pytest.approx(10.0)


@pytest.mark.parametrize(("share", "rounds"), [(450.0, 1), (799.0, 1), (900.0, 2), (2_100.0, 5)])
def test_the_end_of_a_run_has_whole_rounds_where_a_batch_costs_much(share: float, rounds: int) -> None:
    """Given that a fifth of a batch of 400 is fixed cost, what is left for a worker is cut into equal ones of more."""
    room = 1.03 if rounds == 1 else 1.0  # of the last one, so that nothing is left for another
    assert tapering_floor(2.0, 0.02, 0.0, share) == pytest.approx(room * share / rounds)


def test_tapering_is_advised_where_items_differ_much() -> None:
    # given
    model = Recommender().fit(simulate_runs(UNEQUAL, 1_000, SETTINGS))

    # when
    advice = model.recommend(n_items=4_000, max_workers=8)

    # then
    assert advice.taper > advice.batch_size
    assert advice.taper_s is not None
    assert advice.taper_s < advice.makespan_s
    assert advice.kwargs() == {"batch_size": advice.taper, "taper": True, "max_workers": advice.workers}
    sizes = tapered_sizes(4_000, int(advice.taper), advice.workers, lambda _left: 8)
    tapered, equal = simulate_makespans(
        UNEQUAL, 4_000, [(sizes, advice.workers), (advice.batch_size, advice.workers)], seeds=range(16)
    ).mean(axis=1)
    assert tapered < equal


def test_tapering_is_not_advised_where_batches_cost_seconds() -> None:
    model = Recommender().fit(simulate_runs(COSTLY_BATCHES, 1_000, SETTINGS))

    advice = model.recommend(n_items=4_000, max_workers=8)

    assert not advice.taper
    assert advice.kwargs() == {"batch_size": advice.batch_size, "max_workers": advice.workers}


def test_a_given_size_tapers_when_asked_to() -> None:
    assert Size.parse(64, "auto", taper=True) == Size(64, True, 0)
    assert Size.parse(2.5, 3, weighted=True, taper=True) == Size(0, True, 3, 2.5)
    assert not Size.parse(64, "auto").auto
