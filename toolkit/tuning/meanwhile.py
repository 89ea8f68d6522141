"""What to run where the data support no advice: hardly worse than the best, whatever a batch may cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from toolkit.tuning.history import Array
from toolkit.tuning.model import TaskModel, timing_of
from toolkit.tuning.schedule import Plans, equal_splits, simulate

_WORTH = (0.1, 1.0, 10.0, 100.0)  # how many items the fixed cost of a batch may be worth
_SHARES = 32  # most batches of a worker
_SAME = 0.01  # loss for which smaller batches are taken: less is at stake with each of them


def least_regret(model: TaskModel, n_items: int, workers: int) -> int:
    """Batch size whose expected loss is least, where batches of one size do not tell what of them is fixed cost.

    The fixed cost of a batch may be worth a few items or many, each as likely. How much batches vary, how far hosts
    differ and how workers slow each other down is known, so that too large batches are not chosen blindly.

    Parameters
    ----------
    model : TaskModel
        Of batches of about one size.
    n_items, workers : int
        Of the next run.
    """
    measured = max(run.batch_size for run in model.history.runs)
    sizes = np.array(sorted({*equal_splits(n_items, workers, _SHARES), min(measured, n_items)}), dtype=np.int64)
    plans = Plans.equal(np.full_like(sizes, n_items), sizes, np.full_like(sizes, workers))
    loss = np.zeros(len(sizes))
    for worth in _WORTH:
        base, held = (_split(part, float(measured), worth) for part in (model.costs.base, model.costs.held))
        timing = timing_of(plans, replace(model.costs, base=base, held=held), model)
        took = simulate(plans, timing, model.options.replicates, model.options.seed).mean(axis=1)
        loss += np.log(took / took.min()) / len(_WORTH)
    return int(sizes[loss <= loss.min() + _SAME][0])


def _split(costs: Array, size: float, worth: float) -> Array:
    """Costs in which a batch of `size` takes the same time, and a fixed cost is worth so many items."""
    out = costs.copy()
    out[:, 1] = (costs[:, 0] + costs[:, 1] * size) / (worth + size)
    out[:, 0] = worth * out[:, 1]
    return out
