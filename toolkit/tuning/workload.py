"""What a simulated task costs, exactly: `Workload`, the service model of `simulate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import InvalidInput
from toolkit.tuning.engine import Rules

if TYPE_CHECKING:
    from toolkit.tuning.history import Array

ITEM_KINDS = ("lognormal", "exponential", "pareto")


@dataclass(frozen=True, slots=True)
class Workload:
    """What a task costs, exactly.

    Attributes
    ----------
    name : str
        Name of the task.
    per_item_s : float
        Mean seconds of an item.
    per_batch_s : float
        Seconds of a batch, whatever its size.
    item_sigma : float
        Standard deviation of the logarithm of an item's seconds; 0 for equal items.
    batch_sigma : float
        The same of a factor that a whole batch shares.
    run_sigma : float
        The same of a factor that a whole run shares.
    cores : float
        Processors: more busy workers than this share them. Infinite for work that waits.
    sigma, kappa : float
        Contention and coherence of the universal scalability law.
    warm_s : float
        Seconds of the first batch in a process that has never run the task.
    gap_s : float
        Seconds between two batches of a worker.
    stagger_s : float
        Delay from one worker's first claim to the next one's.
    base_bytes, item_bytes : int
        Peak memory of a process: base, and for each item of its largest batch.
    item_kind : str
        ``lognormal`` (with `item_sigma`), ``exponential``, or ``pareto`` with index `pareto_index`, a heavy tail.
    pareto_index : float
        Above 1; below 2 the variance of an item is infinite (it is cut at 400 times the scale).
    slow_share, slow_factor : float
        Bimodal items: this share takes this many times as long as the others.
    drift : float
        The last item takes this many times as long as the first, linearly in between; the mean stays.
    free_items : float
        Saturation threshold: only items of a batch beyond this many cost anything, as where a device is not yet full.
    per_byte_s, payload_bytes, payload_sigma : float
        Seconds per input byte; mean bytes of an item and the standard deviation of their logarithm.
    lock_batch_s, lock_item_s : float
        At its end a batch holds, alone, a shared resource for ``lock_batch_s + lock_item_s * items``.
    rate : float
        Items per second that all workers together are allowed.
    speeds : tuple of float
        Speeds of workers' hosts, repeated over the workers; empty for 1.
    presence : tuple of (joins_s, leaves_s)
        When workers come and from when on they take nothing more, repeated over the workers; empty for always.
    memory_sigma : float
        Standard deviation of the logarithm of a process's peak memory.
    """

    name: str = "demo.task"
    per_item_s: float = 1e-3
    per_batch_s: float = 0.0
    item_sigma: float = 0.0
    batch_sigma: float = 0.02
    run_sigma: float = 0.01
    cores: float = math.inf
    sigma: float = 0.0
    kappa: float = 0.0
    warm_s: float = 0.0
    gap_s: float = 5e-4
    stagger_s: float = 2e-3
    base_bytes: int = 60 << 20
    item_bytes: int = 1 << 10
    item_kind: str = "lognormal"
    pareto_index: float = 2.5
    slow_share: float = 0.0
    slow_factor: float = 1.0
    drift: float = 1.0
    free_items: float = 0.0
    per_byte_s: float = 0.0
    payload_bytes: float = 100.0
    payload_sigma: float = 0.0
    lock_batch_s: float = 0.0
    lock_item_s: float = 0.0
    rate: float = math.inf
    speeds: tuple[float, ...] = ()
    presence: tuple[tuple[float, float], ...] = ()
    memory_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.item_kind not in ITEM_KINDS:
            raise InvalidInput(f"item_kind={self.item_kind!r}: expected one of {', '.join(ITEM_KINDS)}")
        if self.pareto_index <= 1:
            raise InvalidInput(f"pareto_index={self.pareto_index!r}: expected more than 1, below there is no mean")
        if not self.rate > 0 or not all(speed > 0 for speed in self.speeds):
            raise InvalidInput("rate and speeds must be more than 0")

    def slowdown(self, busy: int) -> float:
        """How much slower a batch is while `busy` workers are at work."""
        usl = 1.0 + self.sigma * (busy - 1) + self.kappa * busy * (busy - 1)
        return usl * max(1.0, busy / self.cores)

    def items_s(self, n_items: int, rng: np.random.Generator) -> Array:
        """Seconds of each item on an idle machine, drawn at random, without what bytes cost."""
        if self.item_kind == "exponential":
            factor = rng.standard_exponential(n_items)
        elif self.item_kind == "pareto":
            tail = np.minimum(rng.pareto(self.pareto_index, n_items), 400.0)
            factor = (1.0 + tail) * (self.pareto_index - 1.0) / self.pareto_index
        elif self.item_sigma:
            factor = rng.lognormal(-(self.item_sigma**2) / 2, self.item_sigma, n_items)
        else:
            factor = np.ones(n_items)
        if self.slow_share:
            slow = np.where(rng.random(n_items) < self.slow_share, self.slow_factor, 1.0)
            factor = factor * slow / (1.0 + self.slow_share * (self.slow_factor - 1.0))
        if self.drift != 1.0:
            factor = factor * (1.0 + (self.drift - 1.0) * np.arange(n_items) / n_items) * 2.0 / (1.0 + self.drift)
        return np.asarray(self.per_item_s * factor)

    def bytes_of(self, n_items: int, rng: np.random.Generator) -> Array:
        """Input bytes of each item, drawn at random."""
        if not self.payload_sigma:
            return np.full(n_items, self.payload_bytes)
        drawn = rng.lognormal(-(self.payload_sigma**2) / 2, self.payload_sigma, n_items)
        return np.asarray(self.payload_bytes * drawn)

    def work_s(self, items: int, rng: np.random.Generator) -> float:
        """Seconds of one batch of `items` items on an idle machine, drawn at random."""
        drawn = float(self.items_s(items, rng).sum()) * max(0.0, 1.0 - self.free_items / items)
        drawn += self.per_byte_s * float(self.bytes_of(items, rng).sum()) if self.per_byte_s else 0.0
        shared = rng.lognormal(-(self.batch_sigma**2) / 2, self.batch_sigma) if self.batch_sigma else 1.0
        return float(shared * (self.per_batch_s + drawn))

    def rules(self, workers: int) -> Rules:
        """How so many workers share what there is."""
        cycle = np.arange(workers)
        presence = np.array(self.presence or [(0.0, np.inf)], dtype=np.float64)
        return Rules(
            slowdown=np.array([1.0, *(self.slowdown(k) for k in range(1, workers + 1))]),
            speed=np.array(self.speeds or [1.0])[cycle % max(1, len(self.speeds))],
            joins_s=presence[cycle % len(presence), 0] + cycle * self.stagger_s,
            leaves_s=presence[cycle % len(presence), 1],
            warm_s=self.warm_s,
            gap_s=self.gap_s,
            rate=self.rate,
        )
