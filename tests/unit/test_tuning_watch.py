"""What is noticed inside a run, told as batches whose causes are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from toolkit.tuning.watch import NOTABLE, Seen, notices

Factor = Callable[[int, str], float]


def batches(
    factor: Factor, count: int = 60, hosts: tuple[str, ...] = ("a", "b"), noise: float = 0.1, seed: int = 0
) -> list[Seen]:
    """Batches of changing sizes, 20 ms and 5 ms an item, times what `factor` says of the position and the host."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        items, host = 4 + 4 * (i % 3), hosts[i % len(hosts)]
        took = (0.02 + 5e-3 * items) * factor(i, host) * float(rng.lognormal(0.0, noise))
        out.append(Seen(items, took, 100.0 + i, 4, host, i < 4))
    return out


def test_of_a_steady_run_nothing_is_said() -> None:
    for seed in range(20):
        assert notices(batches(lambda i, host: 1.0, seed=seed, noise=0.3)) == []


def test_a_slow_host_is_named_with_how_slow_it_is() -> None:
    (found,) = notices(batches(lambda i, host: 3.0 if host == "b" else 1.0))
    assert (found.kind, found.about) == ("slow_host", "b")
    assert found.factor == pytest.approx(3.0, rel=0.2)
    assert found.text == f"a batch takes {found.factor:.2g} times as long on host b as on the others"


def test_items_that_take_longer_and_longer_are_a_drift() -> None:
    (found,) = notices(batches(lambda i, host: 1.0 + i / 30))
    assert (found.kind, found.about) == ("drift", "")
    assert 1.6 < found.factor < 3.0


def test_items_that_get_faster_are_a_drift_too() -> None:
    (found,) = notices(batches(lambda i, host: 1.0 if i < 30 else 0.4))
    assert found.kind == "drift"
    assert found.factor < 1 / NOTABLE


def test_a_slow_host_that_comes_late_is_no_drift() -> None:
    def late(i: int, host: str) -> float:
        return 2.5 if host == "b" else 1.0

    seen = batches(late, hosts=("a",), count=40) + [
        Seen(one.items, one.service_s, one.claimed_at + 40, 4, "b", False)
        for one in batches(late, hosts=("b",), count=40, seed=1)
    ]
    assert [one.kind for one in notices(seen)] == ["slow_host"]


def test_imports_lonely_batches_and_stuck_ones_say_nothing() -> None:
    seen = batches(lambda i, host: 1.0)
    imports = [Seen(4, 9.0, 100.0, 4, "b", True)] * 9
    alone = [Seen(8, 0.02, 90.0 + i, 1, "a", False) for i in range(9)]
    stuck = [Seen(8, 60.0, 158.0, 4, "b", False), Seen(8, 60.0, 159.0, 4, "a", False)]
    assert notices([*seen, *imports, *alone, *stuck]) == []


def test_a_handful_of_batches_says_nothing() -> None:
    assert notices(batches(lambda i, host: 5.0 if host == "b" else 1.0, count=12)) == []
    assert notices([]) == []
