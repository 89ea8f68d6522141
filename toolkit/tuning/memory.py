"""How much memory a worker may reach with a batch size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.tuning.history import Array
from toolkit.tuning.nonneg import weighted_nonneg

_QUANTILE = 0.95
_MARGIN = 0.02  # a quantile of a few processes is not yet the quantile


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """An upper bound of a worker's peak resident set, linear in the batch size.

    Attributes
    ----------
    base_bytes, per_item_bytes : float
        Expected peak: ``base + per_item * b``.
    factor : float
        What the upper quantile is above that.
    """

    base_bytes: float
    per_item_bytes: float
    factor: float

    def upper_bytes(self, batch_size: Array) -> Array:
        """Return the bytes that a worker hardly ever exceeds."""
        return np.asarray((self.base_bytes + self.per_item_bytes * batch_size) * self.factor)


def fit_memory(points: tuple[tuple[float, float], ...]) -> MemoryModel | None:
    """Fit the peaks of processes against the largest batch that they had executed; None without data.

    Relative-error non-negative least squares for the mean, and the 95 % quantile of what is above it.
    """
    if not points:
        return None
    items, peak = np.array(points, dtype=np.float64).T
    design = np.stack([np.ones_like(items), items], axis=1) / peak[:, None]
    ridge = np.array([[1e-6 / peak.mean() ** 2, 1e-6 * (items.max() / peak.max()) ** 2]])
    found = weighted_nonneg(design[None], np.ones((1, len(items))), np.ones((1, len(items))), ridge)[0]
    above = peak / np.maximum(found[0] + found[1] * items, 1.0)
    factor = max(1.0, float(np.quantile(above, _QUANTILE))) + _MARGIN
    return MemoryModel(float(found[0]), float(found[1]), factor)
