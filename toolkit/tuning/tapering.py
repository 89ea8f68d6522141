"""Batches that get smaller toward the end of a run: what the model expects of them beside equal ones.

Large batches at the head save what each batch costs, small ones at the end leave nobody waiting for the last (guided
self-scheduling; Polychronopoulos and Kuck, IEEE Trans. Computers C-36, 1987). The ledger cuts them so at each claim;
here the same sizes are played under the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.execution.tapering import Proposal, taken, tapering_floor
from toolkit.tuning.model import TaskModel, timing_of
from toolkit.tuning.schedule import STEPS, Plans, simulate

_WINS = 0.01  # of the makespan, from which it is worth it
_FARTHEST = 2.0  # times the best equal size: workers learn late what to taper to, and large batches wait for it longer


@dataclass(frozen=True, slots=True)
class Tapering:
    """Batches of `batch_size`, smaller toward the end, and the seconds that they take instead of equal ones."""

    batch_size: int
    makespan_s: float


def tapered_sizes(n_items: int, want: int, workers: int, floor: Callable[[float], float]) -> list[int]:
    """Sizes of the batches that the ledger grants, in the order of their claims.

    Parameters
    ----------
    n_items : int
        Items of the run.
    want : int
        Batch size before tapering.
    workers : int
        Who share them.
    floor : callable
        Told how many items are left, the smallest batch that tapering may cut, as workers say at their claims.
    """
    whole = max(0, math.ceil((n_items - 2 * workers * (want - 1)) / want) - 1)  # of these, none is cut
    sizes, left = [want] * whole, n_items - whole * want
    while left:
        sizes.append(int(taken(Proposal(want, floor(left)), left, workers)))
        left -= sizes[-1]
    return sizes


def find_tapering(
    model: TaskModel, n_items: int, setting: tuple[int, int], equal_s: float, sizes: NDArray[np.int64]
) -> Tapering | None:
    """The best of `sizes` to taper from with as many workers; None where equal batches are about as fast.

    Parameters
    ----------
    model : TaskModel
        The model.
    n_items : int
        Items of the run.
    setting : (batch_size, workers)
        The best one of equal batches.
    equal_s : float
        What it is expected to take.
    sizes : ndarray of int64
        Sizes that may be had.
    """
    size, workers = setting
    tried = sizes[(sizes >= size) & (sizes <= min(_FARTHEST * size, n_items // (2 * workers)))]
    if workers < 2 or not len(tried):
        return None
    busy = np.array([float(workers)])
    contention = float(model.costs.contention(busy)[0, 0])
    one, two = (float(model.costs.service_s(np.array([size]), busy)[0, 0]) for size in (1.0, 2.0))
    item_s = max(two - one, 1e-9)
    fixed_s = max(0.0, one - item_s)
    gap_s = float(model.gap[0]) * contention

    def floor(left: float) -> float:
        return max(1, math.ceil(tapering_floor(fixed_s, item_s, gap_s, left / workers)))

    equal = [size] * (n_items // size) + [n_items % size] * (n_items % size > 0)
    cut = [equal, *(tapered_sizes(n_items, want, workers, floor) for want in tried.tolist())]
    bodies = [tuple(sorted(Counter(part[:-STEPS]).items())) for part in cut]
    plans = Plans.recorded(bodies, [tuple(part[-STEPS:]) for part in cut], [min(workers, len(part)) for part in cut])
    played = simulate(plans, timing_of(plans, model.costs, model), model.options.replicates, model.options.seed)
    ratio = played[1:].mean(axis=1) / played[0].mean()
    best = int(np.argmin(ratio))
    return Tapering(int(tried[best]), float(ratio[best]) * equal_s) if ratio[best] <= 1.0 - _WINS else None
