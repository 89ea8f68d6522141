"""How much memory a worker may reach with a batch size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.tuning.history import Array
from toolkit.tuning.nonneg import weighted_nonneg

RISK = 0.01  # that a process exceeds the bound
_NORMAL = 2.326  # standard normal quantile of 1 - RISK; for Student's t see Abramowitz and Stegun, 26.7.5
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

    Relative-error non-negative least squares for the mean, and a bound that the next process exceeds with a
    probability of `RISK`.
    """
    if not points:
        return None
    items, peak = np.array(points, dtype=np.float64).T
    design = np.stack([np.ones_like(items), items], axis=1) / peak[:, None]
    ridge = np.array([[1e-6 / peak.mean() ** 2, 1e-6 * (items.max() / peak.max()) ** 2]])
    found = weighted_nonneg(design[None], np.ones((1, len(items))), np.ones((1, len(items))), ridge)[0]
    above = peak / np.maximum(found[0] + found[1] * items, 1.0)
    used = int((found > 0).sum())
    spread = np.log(np.maximum(above, 1e-3))
    sd = float(np.sqrt(np.square(spread).sum() / max(1, len(above) - used)))
    # The next process, not the mean: a one-sided prediction bound of a normal logarithm with few degrees of freedom.
    few = _NORMAL * (1.0 + (_NORMAL**2 + 1.0) / (4.0 * max(1, len(above) - used)))
    bound = float(np.exp(few * sd * np.sqrt(1.0 + used / len(above))))
    factor = max(1.0, float(above.max()), bound) + _MARGIN
    return MemoryModel(float(found[0]), float(found[1]), factor)
