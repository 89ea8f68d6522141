"""What-if makespans against formulas, and short forms of the evaluation with known truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.simulator_cases import CASES, Truth, history
from toolkit.errors import InvalidInput
from toolkit.tuning import Recommender, Workload, simulate_makespans, simulate_run

PLAIN: dict[str, Any] = {"batch_sigma": 0.0, "run_sigma": 0.0, "gap_s": 0.0, "stagger_s": 0.0}


def mean(work: Workload, n_items: int, size: int, workers: int, seeds: int = 1) -> float:
    return float(simulate_makespans(work, n_items, [(size, workers)], seeds=range(seeds)).mean())


def test_exponential_items_end_as_order_statistics_say() -> None:
    """``((N - w) / w + H_w) / mu``: memoryless items, so the last w are fresh ones (David and Nagaraja, ch. 2)."""
    work = Workload(per_item_s=0.1, item_kind="exponential", **PLAIN)
    harmonic = sum(1 / k for k in range(1, 9))
    assert mean(work, 80, 1, 8, seeds=2_000) == pytest.approx(0.1 * (72 / 8 + harmonic), rel=0.02)


def test_any_work_keeps_the_bounds_of_list_scheduling() -> None:
    """Between ``max(load / w, longest)`` and ``load / w + (1 - 1/w) longest`` (Graham, 1969)."""
    work = Workload(per_item_s=0.1, item_kind="pareto", pareto_index=1.5, **PLAIN)
    frame = simulate_run(work, 200, 1, 4, warm=True)
    load, longest = frame["service_s"].sum(), frame["service_s"].max()
    end = (frame["claimed_at"] - frame["claimed_at"].min()).dt.total_seconds() + frame["service_s"]
    assert max(load / 4, longest) - 1e-6 <= end.max() <= load / 4 + 0.75 * longest + 1e-6


@pytest.mark.parametrize(
    ("changes", "size", "workers", "expected"),
    [
        ({"rate": 20.0}, 5, 8, 10.0),  # the limit rules
        ({"lock_batch_s": 0.5}, 10, 8, 0.1 + 20 * 0.5),  # one at a time
        ({"speeds": (1.0, 0.5)}, 1, 2, 200 * 0.01 / 1.5),  # capacity of both hosts
        ({"free_items": 10.0, "per_batch_s": 1.0}, 10, 4, 5.0),  # the device is not yet full
        ({"per_byte_s": 1e-3}, 50, 4, 50 * (0.01 + 0.1)),
        ({"presence": ((0.0, math.inf), (1.0, math.inf))}, 1, 2, 1.0 + 1.0 / 2),
        ({"presence": ((0.0, 0.5),)}, 1, 2, math.inf),
        ({"cores": 2}, 1, 4, 1.0),
        ({"warm_s": 3.0}, 50, 4, 3.5),
    ],
)
def test_what_is_shared_rules_the_makespan(changes: dict[str, Any], size: int, workers: int, expected: float) -> None:
    work = Workload(**{"per_item_s": 0.01, **PLAIN, **changes})
    assert mean(work, 200, size, workers) == pytest.approx(expected, rel=0.02)


def test_settings_share_their_luck_and_do_not_depend_on_neighbours() -> None:
    work = Workload(item_sigma=1.0, batch_sigma=0.3)
    alone = simulate_makespans(work, 500, [(7, 3)], seeds=[1, 2])
    among = simulate_makespans(work, 500, [(1, 2), (7, 3), (100, 3), (8, 3)], seeds=[1, 2])
    np.testing.assert_allclose(alone[0], among[1])


def test_senseless_settings_are_refused() -> None:
    for size, workers in ((0, 1), (1, 0), ([3, 3], 1)):
        with pytest.raises(InvalidInput):
            simulate_makespans(Workload(), 10, [(size, workers)], seeds=[0])
    with pytest.raises(InvalidInput, match="item_kind"):
        Workload(item_kind="odd")


@pytest.mark.parametrize("name", ["cpu, tiny items", "fixed overhead", "warm-up", "few items"])
def test_advice_from_five_runs_is_nearly_the_best(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    truth = Truth(case, seeds=range(5_000, 5_008))
    advice = Recommender().fit(history(case, 1)).recommend(n_items=case.n_items, max_workers=case.most)
    assert advice.refused is None
    limit = 1.25 if name == "few items" else 1.05
    assert truth.mean(advice.batch_size, advice.workers) <= limit * min(truth.search().values())


@pytest.mark.parametrize(
    ("kind", "word"),
    [("doubled", "duplicated"), ("clock", "clock skewed"), ("units", "far out"), ("nothing", "unusable")],
)
def test_bad_rows_are_named(kind: str, word: str) -> None:
    frame = history(CASES[0], 1)
    bad = np.arange(len(frame)) % 10 == 3
    late = pd.to_timedelta(np.where(bad, 86_400.0, 0.0), unit="s")
    spoiled = {
        "doubled": pd.concat([frame, frame[bad]], ignore_index=True),
        "clock": frame.assign(claimed_at=frame["claimed_at"] - late),
        "units": frame.assign(service_s=frame["service_s"].where(~bad, 1e3 * frame["service_s"])),
        "nothing": frame.assign(service_s=frame["service_s"].where(~bad)),
    }[kind]
    advice = Recommender().fit(spoiled).recommend(n_items=CASES[0].n_items)
    assert any("rows left out" in reason and word in reason for reason in advice.reasons)
