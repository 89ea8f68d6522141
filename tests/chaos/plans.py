"""What a campaign will do, drawn from its seed alone: the runs in order, and the faults with their intervals."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FULL_S = 1320.0
"""Seconds of faults in a full campaign; its runs then come to their end without any."""
TARGETS: Mapping[str, int] = {"child": 600, "node": 250, "server": 100, "freeze": 30, "network": 20}
"""Faults of a full campaign, by kind."""
ITEMS = 1_000_000
"""Items of a full campaign, at least."""
LEASE_S = 2.0
SPARE, SPARE_LEAST = 1.05, 6
"""How many times its target of each kind is planned, and how many more at least: some faults find nothing to hit."""
_NETWORK = ("latency", "reset", "half_open", "cut_reply")
_FREEZES = ("node", "node", "main", "child")


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run.

    Attributes
    ----------
    number : int
        From 0; names it in the journal.
    shape : str
        ``tiny``, ``auto``, ``slow``, ``batched`` or ``retries``.
    n : int
        Items.
    batch_size : int or str
        As `Client.map` takes it.
    pause_s : float
        How long an item takes, or a batch of a batched task.
    keep_results : bool
        As `Client.map` takes it.
    fatal, killers : tuple of int
        Planted items: they raise, and they kill their own process, each time.
    twice : int
        One item of so many fails twice; 0 for none.
    steer : tuple of (float, str)
        Verbs, each with the share of ended items at which it is given.
    revive : bool
        Heal the fatal items and retry all dead letters once the run has ended.
    """

    number: int
    shape: str
    n: int
    batch_size: int | str
    pause_s: float
    keep_results: bool
    fatal: tuple[int, ...] = ()
    killers: tuple[int, ...] = ()
    twice: int = 0
    steer: tuple[tuple[float, str], ...] = ()
    revive: bool = False

    @property
    def batched(self) -> bool:
        """Whether one call takes a whole batch."""
        return self.shape == "batched"

    @property
    def cancels(self) -> bool:
        """Whether it is cancelled on its way."""
        return any(verb == "cancel" for _, verb in self.steer)

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of its task."""
        values: dict[str, Any] = {
            "run": self.number, "pause_s": self.pause_s, "fatal": list(self.fatal), "killers": list(self.killers),
        }  # fmt: skip
        return values if self.batched else {**values, "twice": self.twice}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes
    ----------
    after_s : float
        Interval since the fault before.
    target : str
        A key of `TARGETS`.
    kind : str
        Which of the faults of that target.
    rank : int
        Picks the victim among those that are there.
    duration_s : float
        How long it lasts, where it lasts.
    """

    after_s: float
    target: str
    kind: str
    rank: int
    duration_s: float = 0.0


def faults(seed: int, seconds: float, totals: Mapping[str, int]) -> list[Fault]:
    """Faults of a campaign in order, spread over `seconds`."""
    rng = random.Random(f"faults {seed}")
    targets = [target for target, n in totals.items() for _ in range(n)]
    rng.shuffle(targets)
    gaps = [rng.expovariate(1.0) + 0.1 for _ in targets]
    stretch = seconds / sum(gaps) if gaps else 1.0
    return [_fault(rng, gap * stretch, target) for gap, target in zip(gaps, targets, strict=True)]


def _fault(rng: random.Random, after_s: float, target: str) -> Fault:
    rank = rng.randrange(1_000_000)
    if target == "child":
        return Fault(after_s, target, "kill", rank)
    if target == "node":
        return Fault(after_s, target, rng.choice(("group", "group", "main")), rank)
    if target == "server":
        return Fault(after_s, target, "kill", rank, rng.choice((0.0, 0.0, 0.0, 0.5, 1.5)))
    if target == "freeze":
        return Fault(after_s, target, rng.choice(_FREEZES), rank, 2 * LEASE_S + rng.uniform(0.5, 3.5))
    kind = rng.choice(_NETWORK)
    return Fault(after_s, target, kind, rank, rng.uniform(2.0, 7.0) if kind in ("latency", "half_open") else 0.0)


def runs(seed: int, scale: float = 1.0) -> Iterator[RunPlan]:
    """Runs of a campaign in order, without end; `scale` makes them smaller."""
    rng = random.Random(f"runs {seed}")
    number = 0
    while True:
        shapes = ["tiny", "tiny", "auto", "slow", "batched", "retries"]
        rng.shuffle(shapes)
        for shape in shapes:
            yield _run(rng, number, shape, scale)
            number += 1


def _run(rng: random.Random, number: int, shape: str, scale: float) -> RunPlan:
    low, high, pause_s = {
        "tiny": (3_000, 15_000, 0.0),
        "auto": (3_000, 10_000, 0.001),
        "slow": (600, 2_000, 0.008),
        "batched": (4_000, 16_000, 0.02),
        "retries": (1_500, 4_000, 0.002),
    }[shape]
    n = max(50, int(rng.randint(low, high) * scale))
    size: int | str = {
        "tiny": rng.choice((500, 1000, 4000)), "auto": "auto", "slow": rng.choice((5, 20, 50)),
        "batched": rng.choice((32, 100, 256)), "retries": rng.choice((20, 100, "auto")),
    }[shape]  # fmt: skip
    planted = rng.sample(range(n), 4)
    fatal = tuple(sorted(planted[: rng.choice((0, 1, 2))]))
    killers = tuple(sorted(planted[3:])) if rng.random() < 0.2 else ()
    steer: list[tuple[float, str]] = []
    if rng.random() < 0.25:
        steer += [(rng.uniform(0.1, 0.5), "pause")]
    if rng.random() < 0.25:
        steer += [(rng.uniform(0.1, 0.8), "update")]
    if rng.random() < 0.08:
        steer += [(rng.uniform(0.3, 0.9), "cancel")]
    return RunPlan(
        number, shape, n, size, pause_s, rng.random() < 0.6, fatal, killers,
        rng.choice((7, 13)) if shape == "retries" else 0, tuple(sorted(steer)), bool(fatal) and rng.random() < 0.4,
    )  # fmt: skip
