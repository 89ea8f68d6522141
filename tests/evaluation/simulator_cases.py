"""Workloads with known truth, the histories that teach, the oracle, and the rules of thumb beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from toolkit.tuning import Workload, simulate_makespans, simulate_runs
from toolkit.tuning.schedule import equal_splits

TRUTH_SEEDS = tuple(range(5_000, 5_064))  # common random numbers of the oracle and of everything compared with it
SEEDS = tuple(range(20))  # of histories: the odd ones for development, the even ones for the final table
_MOST_BATCHES = 1_500


@dataclass(frozen=True)
class Case:
    """A workload, how many items are asked about, and how many workers there are at most."""

    name: str
    work: Workload
    n_items: int
    most: int
    uneven: bool = False  # bimodal, drifting or slow-host work, where tapering is to pay


def _cases() -> tuple[Case, ...]:
    w = Workload
    return (
        Case("cpu, tiny items", w(per_item_s=5e-4, per_batch_s=1e-3, sigma=0.01, kappa=2e-4), 20_000, 8),
        Case("fixed overhead", w(per_item_s=0.02, per_batch_s=2.0, item_sigma=0.2, sigma=5e-3), 4_000, 8),
        Case("i/o sleep", w(per_item_s=0.05, per_batch_s=2e-3), 4_000, 16),
        Case("rate limit", w(per_item_s=0.2, per_batch_s=0.05, item_sigma=0.3, rate=20.0), 1_000, 8),
        Case("lognormal 1.5", w(per_item_s=0.05, per_batch_s=0.02, item_sigma=1.5), 4_000, 8),
        Case("pareto 1.5", w(per_item_s=0.06, per_batch_s=0.02, item_kind="pareto", pareto_index=1.5), 4_000, 8),
        Case("exponential items", w(per_item_s=0.05, per_batch_s=0.1, item_kind="exponential"), 4_000, 8),
        Case("lock", w(per_item_s=0.02, per_batch_s=0.01, item_sigma=0.3, lock_batch_s=0.02, lock_item_s=2e-3), 4_000, 8),  # noqa: E501 - a table
        Case("bimodal", w(per_item_s=0.04, per_batch_s=0.02, slow_share=0.02, slow_factor=50.0), 4_000, 8, True),
        Case("drift x3", w(per_item_s=0.06, per_batch_s=0.05, drift=3.0), 4_000, 8, True),
        Case("slow host", w(per_item_s=0.03, per_batch_s=0.05, item_sigma=0.3, speeds=(0.25, *[1.0] * 7)), 4_000, 8, True),  # noqa: E501 - a table
        Case("saturating device", w(per_item_s=8e-4, per_batch_s=0.06, free_items=64.0, sigma=0.15, kappa=0.01), 8_192, 8),  # noqa: E501 - a table
        Case("few items", w(per_item_s=1.0, per_batch_s=0.5, item_sigma=0.5), 64, 8),
        Case("retrograde", w(per_item_s=0.05, per_batch_s=0.02, item_sigma=0.2, sigma=0.08, kappa=0.01), 4_000, 16),
        Case("warm-up", w(per_item_s=0.02, per_batch_s=0.02, item_sigma=0.3, warm_s=8.0), 3_000, 8),
        Case("two cores", w(per_item_s=2e-3, per_batch_s=0.01, cores=2, item_sigma=0.5), 6_000, 4),
        Case("per byte", w(per_item_s=1e-3, per_batch_s=0.02, per_byte_s=1e-8, payload_bytes=1e6, payload_sigma=1.0), 4_000, 8),  # noqa: E501 - a table
        Case("noisy runs", w(per_item_s=5e-3, per_batch_s=0.05, run_sigma=0.06, batch_sigma=0.15, cores=4), 4_000, 8),
        Case("workers come late", w(per_item_s=0.02, per_batch_s=0.05, presence=((0, math.inf), (0, math.inf), (3, math.inf), (3, math.inf))), 6_000, 8),  # noqa: E501 - a table
        Case("single worker", w(per_item_s=0.01, per_batch_s=0.1, item_sigma=0.4), 1_000, 1),
    )  # fmt: skip


CASES = _cases()


def history(case: Case, seed: int) -> pd.DataFrame:
    """Five runs (fewer counts of workers where there are few) at a quarter of the size, jittered by seed."""
    n, most = max(4, case.n_items // 4), case.most
    rng = np.random.default_rng([seed, 77])
    large = max(2.0, n / (2.0 * most))
    small = max(1.0, large / 64.0, n / 1_500.0)
    middle = math.sqrt(small * large)
    plan = [(small, most), (middle, most), (large, max(1, most // 2)), (middle, max(1, most // 4)), (large, most)]
    settings = [(max(1, round(b * rng.uniform(0.75, 1.33))), w) for b, w in plan]
    return simulate_runs(case.work, n, settings, seed=10_000 + seed, warm=False)


class Truth:
    """True makespans of settings of one case with warm workers, each computed once."""

    def __init__(self, case: Case, seeds: Sequence[int] = TRUTH_SEEDS) -> None:
        self.case, self.seeds = case, seeds
        self.work = replace(case.work, warm_s=0.0)
        self._known: dict[tuple[int, int], np.ndarray] = {}

    def makespans(self, size: int, workers: int) -> np.ndarray:
        """Of one setting, shape (n_seeds,)."""
        key = (min(int(size), self.case.n_items), int(workers))
        if key not in self._known:
            self._known[key] = simulate_makespans(self.work, self.case.n_items, [key], seeds=self.seeds)[0]
        return self._known[key]

    def mean(self, size: int, workers: int) -> float:
        """Expected makespan."""
        return float(self.makespans(size, workers).mean())

    def sequence(self, sizes: Sequence[int], workers: int) -> float:
        """Expected makespan of batches of these sizes."""
        found = simulate_makespans(self.work, self.case.n_items, [(sizes, workers)], seeds=self.seeds)
        return float(found.mean())

    def search(self) -> dict[tuple[int, int], float]:
        """Means of the exhaustive grid: eight seeds for all, all seeds for the best by time and by cost."""
        n, most = self.case.n_items, self.case.most
        sizes = {round(2 ** (k / 3)) for k in range(3 * math.ceil(math.log2(n)) + 1)} | {n}
        sizes |= {b for w in range(1, most + 1) for b in equal_splits(n, w)}
        cells = [(b, w) for w in range(1, most + 1) for b in sorted(sizes) if b <= n and n / b <= _MOST_BATCHES]
        few = simulate_makespans(self.work, n, cells, seeds=self.seeds[:8]).mean(axis=1)
        cost = few * np.array([w for _, w in cells])
        best = {cells[i] for order in (few, cost) for i in np.argsort(order)[:24]}
        best |= {
            cells[min((i for i, c in enumerate(cells) if c[1] == w), key=few.__getitem__)] for w in range(1, most + 1)
        }
        picked = sorted(best)
        exact = simulate_makespans(self.work, n, picked, seeds=self.seeds)
        for cell, row in zip(picked, exact, strict=True):
            self._known[cell] = row
        return {cell: float(row.mean()) for cell, row in zip(picked, exact, strict=True)}


# --------------------------------------------------------------------------- rules of thumb


def quarter(case: Case) -> int:
    """``ceil(N / (4 w))``."""
    return -(-case.n_items // (4 * case.most))


def joblib_size(case: Case) -> int:
    """Batches of 0.2 to 2 s, found as joblib does: twice what would take 0.2 s."""
    work, size = case.work, 1
    for _ in range(8):
        took = work.per_batch_s + size * (work.per_item_s + work.per_byte_s * work.payload_bytes)
        if 0.2 <= took <= 2.0 or (took > 2.0 and size < 2):
            break
        size = max(1, 2 * int(size * 0.2 / took))
    return min(size, case.n_items)


def kruskal_weiss(case: Case) -> int:
    """``(sqrt(2) N h / (sigma w sqrt(ln w)))^(2/3)`` with the true overhead h and spread sigma of items."""
    seen = case.work.items_s(20_000, np.random.default_rng(1))
    spread, w = max(float(seen.std()), 1e-9), case.most
    if w == 1:
        return case.n_items
    overhead = case.work.per_batch_s + case.work.gap_s
    size = (math.sqrt(2) * case.n_items * overhead / (spread * w * math.sqrt(math.log(w)))) ** (2 / 3)
    return int(np.clip(round(size), 1, -(-case.n_items // w)))


def guided(case: Case) -> list[int]:
    """Each batch an equal share of what remains."""
    left, sizes = case.n_items, []
    while left:
        sizes.append(-(-left // case.most))
        left -= sizes[-1]
    return sizes


def factoring(case: Case) -> list[int]:
    """Rounds of equal batches, each of half of what remains."""
    left, sizes = case.n_items, []
    while left:
        size = max(1, -(-left // (2 * case.most)))
        for _ in range(case.most):
            if left:
                sizes.append(min(size, left))
                left -= sizes[-1]
    return sizes


def trapezoid(case: Case) -> list[int]:
    """Batches that shrink linearly from ``N / (2 w)`` to 1."""
    first = max(1, case.n_items // (2 * case.most))
    count = max(2, -(-2 * case.n_items // (first + 1)))
    step, left, sizes, at = (first - 1) / (count - 1), case.n_items, [], float(first)
    while left:
        sizes.append(min(left, max(1, round(at))))
        left -= sizes[-1]
        at -= step
    return sizes
