"""How much more batches vary than the bulk of them shows: heavy tails, and how little a handful of batches tells."""

from __future__ import annotations

import numpy as np

from toolkit.tuning.history import Array, Cells
from toolkit.tuning.structure import N_BASE
from toolkit.tuning.variation import Variation

_FEW = 30.0  # degrees of freedom within cells below which cells are compared with the structure too
_MOST = 20.0


def wildness(cells: Cells, predicted: Array, variance: Variation) -> float:
    """Return the factor by which sums of batches vary more than `variance` says, at least 1.

    `variation.fit_variation` trusts wild cells less, which suits the usual batch. Their sum has them all, so here each
    counts in full; and of a variance that few batches tell of, the next ones may show more: with `n` degrees of freedom
    a normal error is spread by ``n / (n - 2)``, the variance of Student's t.

    Parameters
    ----------
    cells : Cells
        What was measured.
    predicted : ndarray of shape (n_cells,)
        Seconds of a batch of each cell, by the structure.
    variance : Variation
        How much batches vary.
    """
    usual = np.maximum(variance.of(cells.items), 1e-8)
    known = np.isfinite(cells.variance) & (cells.first == 0)
    free = cells.n[known] - 1.0
    seen, count = float((free * cells.variance[known] / usual[known]).sum()), float(free.sum())
    if count < _FEW:
        seen += float((cells.n * np.square(cells.mean_s / predicted - 1.0) / usual).sum())
        count += max(1.0, len(cells) - (N_BASE - 1.0))
    return float(np.clip(seen / count, 1.0, _MOST) * (1.0 + 2.0 / max(count - 2.0, 1.0)))
