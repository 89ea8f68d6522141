"""What `max_workers="auto"` makes of a LocalCluster: never more than the machine, the advice or the gain allow."""

from __future__ import annotations

import pytest

from toolkit.client.scaling import Forecast, choose


@pytest.mark.parametrize(
    ("advised", "expected"),
    [(2, 2), (3, 3), (4, 4), (16, 4)],  # this machine has 4
)
def test_a_cluster_grows_to_what_is_recommended_within_the_machine(advised: int, expected: int) -> None:
    workers, reason = choose(1, 4, Forecast(advised, present_s=60.0, recommended_s=20.0))
    assert workers == expected
    assert reason == f"scaled from 1 worker to {expected}: predicted 20.0 s instead of 60.0 s"


@pytest.mark.parametrize("advised", [1, 2])
def test_a_cluster_does_not_shrink(advised: int) -> None:
    workers, reason = choose(2, 4, Forecast(advised, present_s=60.0, recommended_s=20.0))
    assert workers == 2
    assert "earlier runs recommend" in reason


@pytest.mark.parametrize("there_s", [58.0, 60.0, 70.0, float("nan")])
def test_a_restart_must_be_worth_it(there_s: float) -> None:
    workers, reason = choose(1, 4, Forecast(4, present_s=60.0, recommended_s=there_s))
    assert workers == 1
    assert "less than a restart" in reason


def test_a_refusal_is_passed_on() -> None:
    workers, reason = choose(1, 4, Forecast(0, refused="run r-1 uses them"))
    assert (workers, reason) == (1, "left at 1 worker of 4 that this machine has CPUs for: run r-1 uses them")
