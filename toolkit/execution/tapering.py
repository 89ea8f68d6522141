"""What a good batch is, and how batches shrink toward the end of a run.

Pure functions of plain values: what the ledger grants is computed there, see `3_claim.lua`, and here once more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_ROOM: Final = 1.03  # times an equal part that a worker may take of the last round: what it leaves costs another round


@dataclass(frozen=True, slots=True)
class Limits:
    """What a good batch is.

    Attributes
    ----------
    target_s : float
        Duration of a batch when nothing asks for another.
    max_s : float
        Longest batch, unless the fixed cost of a batch demands a longer one.
    overhead : float
        Share of a batch that fixed cost and gap may take.
    floor_s : float
        Duration below which tapering does not cut a batch.
    floor_overhead : float
        Share of fixed cost and gap beyond which tapering does not cut a batch.
    growth : int
        Most by which a batch may exceed the largest one seen.
    far : int
        The same where a fixed cost rules, so that it takes only a few times as long.
    shares : int
        Batches per worker that must remain, so that the end of the run stays even.
    gap_share : float
        Share of a batch that the gap before it should take: toward it, a batch is made longer than `target_s`.
    patient_s : float
        Longest batch that a gap alone may ask for.
    other_size : float
        Share of a worker's part of the run that its second batch may hold to tell the cost of a batch from that of an
        item.
    apart_size : float
        The same of a later one, where the first took far more than what an item costs at most.
    """

    target_s: float = 0.15
    max_s: float = 2.0
    overhead: float = 0.05
    floor_s: float = 0.005
    floor_overhead: float = 0.2
    growth: int = 16
    far: int = 32
    shares: int = 4
    gap_share: float = 0.005
    patient_s: float = 0.5
    other_size: float = 0.02
    apart_size: float = 0.1


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a worker asks for at a claim.

    Attributes
    ----------
    want : int or float
        Items of the next batch, at least 1; or its weight, 0 where nothing is known.
    floor : int or float
        Smallest batch that tapering toward the end of the run may cut it to, at most `want`; of items, at least 1.
    """

    want: float
    floor: float


def taken(proposal: Proposal, remaining: int, workers: int) -> float:
    """Items that the ledger grants: tapered toward the end, as in guided self-scheduling.

    Half an equal share of what remains, never less than the floor (Polychronopoulos and Kuck, IEEE Trans. Computers
    C-36, 1987). The ledger computes the same; this is the reference for tests and simulations.
    """
    share = -(-remaining // (2 * max(1, workers)))
    return max(1, min(proposal.want, max(proposal.floor, share), remaining))


def tapering_floor(
    fixed_s: float, item_s: float, gap_s: float, share: float, limits: Limits | None = None, error_s: float = 0.0
) -> float:
    """Items below which tapering does not cut a batch that costs `fixed_s` and `item_s` an item.

    `gap_s` is what passes between two batches, `share` the items that remain for each worker, infinite for any number,
    and `error_s` a standard error of `item_s`.
    """
    limits = limits or Limits()
    by_overhead = (1 / limits.floor_overhead - 1) * (fixed_s + gap_s) / item_s
    if share < by_overhead:  # never starve the other workers for a fixed cost, unless cutting would double the work
        by_overhead = min(by_overhead, max(share, fixed_s / (item_s + error_s)))
    elif 0 < by_overhead < share < math.inf:  # whole rounds: nobody pays a fixed cost more for what is left of one
        rounds = math.floor(share / by_overhead)
        by_overhead = share / rounds * (_ROOM if rounds == 1 else 1.0)
    return max(limits.floor_s / (item_s + error_s), by_overhead)
