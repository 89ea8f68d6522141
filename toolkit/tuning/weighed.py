"""History of runs whose items have weights, modelled per unit of weight.

The model counts whole items. A run with weights is told to it in whole units instead, each a round part of what an item
weighs on average, and its answer is told in weight again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.tuning.recommendation import Recommendation
    from toolkit.tuning.recommender import Recommender

_PARTS: Final = 10
"""Units of an item, about: finer ones would only make the grid of sizes longer."""


@dataclass(frozen=True)
class Weighed:
    """Rows of runs with weights, in units.

    Attributes
    ----------
    frame : DataFrame
        The rows, `items` and `batch_size` in units.
    unit : float
        Weight of a unit.
    per_item : float
        What an item weighed on average.
    left_out : int
        Rows of runs without weights.
    """

    frame: pd.DataFrame
    unit: float
    per_item: float
    left_out: int

    def recommend(
        self, model: Recommender, task: str, n_items: int, *, weights: Iterable[float] | None = None,
        current: Mapping[str, Any] | None = None, **options: Any,
    ) -> Recommendation:  # fmt: skip
        """Ask a model that was fitted to `frame`; parameters as of `Recommender.recommend`.

        `weights` are those of the new items or of a sample of them; without, these weigh what items weighed.
        The batch size, of the answer and of `current`, is a weight.
        """
        if not isinstance(n_items, int | np.integer) or n_items < 1:
            raise InvalidInput(f"n_items={n_items!r}: how many items the next run has, 1 or more")
        per_item = self.per_item if weights is None else _mean(weights)
        if current is not None and current.get("batch_size"):
            current = {**current, "batch_size": max(1, round(float(current["batch_size"]) / self.unit))}
        units = max(1, round(n_items * per_item / self.unit))
        found = model.recommend(task, n_items=units, current=current, **options)
        grid = found.grid.assign(batch_size=[self._weight(size) for size in found.grid["batch_size"]])
        other = {"batch_size": self._weight(found.baseline["batch_size"])} if "batch_size" in found.baseline else {}
        return replace(
            found, n_items=int(n_items), batch_size=self._weight(found.batch_size), grid=grid, weight_unit=self.unit,
            taper=self._weight(found.taper),
            reasons=(self._says(n_items * per_item), *found.reasons), baseline={**found.baseline, **other},
        )  # fmt: skip

    def _weight(self, units: float) -> float:
        """So many units, without the last digits that binary fractions add."""
        return float(f"{units * self.unit:.12g}")

    def _says(self, total: float) -> str:
        left_out = f"; {self.left_out:,} batches of runs without weights are left out" if self.left_out else ""
        return (
            f"batch sizes are weights, {total:,.6g} in all: pass weight= to client.map as well{left_out}. Costs of an "
            f"item below are those of a weight of {self.unit:g}, and numbers of items are in that unit"
        )


def weigh(frame: pd.DataFrame) -> Weighed | None:
    """Return the rows of runs with weights in units; None where the latest run of `frame` had none."""
    if not len(frame) or "weight" not in frame.columns:
        return None
    weighed = frame["weight"].to_numpy(dtype=float, na_value=0.0) > 0
    latest = int(np.argmax(frame["claimed_at"].to_numpy(dtype="datetime64[ns]").astype(np.int64)))
    if not weighed[latest]:
        return None
    rows = frame[weighed]
    weight = rows["weight"].to_numpy(dtype=float)
    per_item = float(weight.sum() / max(1, rows["items"].sum()))
    unit = _round_down(per_item / _PARTS)
    if unit < 1 and np.all(weight == np.round(weight)):
        unit = 1.0  # pages, bytes and tokens are whole
    asked = rows["weight_asked"].to_numpy(dtype=float)
    frame = rows.assign(
        items=np.maximum(1, np.round(weight / unit)).astype(np.int64),
        batch_size=np.maximum(1, np.round(asked / unit)).astype(np.int64),
    )
    return Weighed(frame, unit, per_item, int((~weighed).sum()))


def _mean(weights: Iterable[float]) -> float:
    values = np.asarray(list(weights), dtype=float)
    if not values.size or not np.all(np.isfinite(values) & (values > 0)):
        raise InvalidInput("weights: expected positive numbers, those of the new items or of a sample of them")
    return float(values.mean())


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5, 10, ... that is not larger."""
    scale = 10.0 ** math.floor(math.log10(value))
    return max(step * scale for step in (1, 2, 5) if step * scale <= value * (1 + 1e-9))
