"""The answer: a setting for the next run, how long it will take, why, and how sure."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from toolkit import renderers
from toolkit.errors import TuningError
from toolkit.records import one_line, percent

if TYPE_CHECKING:
    import pandas as pd

GRID_COLUMNS = {
    "batch_size": "int64",
    "workers": "int64",
    "makespan_s": "float64",
    "low_s": "float64",
    "high_s": "float64",
    "cost_worker_s": "float64",
    "measured": "bool",
    "extrapolated": "bool",
}
"""Columns of ``Recommendation.grid`` and their types."""


@dataclass(frozen=True, repr=False)
class Recommendation:
    """A batch size and worker count for the next run of a task.

    Attributes
    ----------
    task : str
        For which task.
    n_items : int
        For how many items.
    batch_size, workers : int
        The setting. Where `refused`, what to run meanwhile: the best one measured, or, where what was measured says
        little of others, one that is hardly worse than the best whatever a batch costs; 0 when none was measured.
        Where items have weights, the batch size is a weight, and no whole number.
    makespan_s : float
        Expected seconds from the first claim to the end; NaN when refused.
    cost_worker_s : float
        Worker seconds that this reserves: workers times makespan.
    intervals : mapping of str to (low, high)
        90 % intervals of ``makespan_s``, ``cost_worker_s`` and, where it is known, ``saving``.
    coverage_method : str
        Where the intervals come from: ``conformal`` (errors on left-out runs), ``model``, or ``throughput`` (where
        plain throughput predicts better than the model, and only measured settings are compared).
    saving : float or None
        Share of the baseline's time that is saved (of its cost, if that is the objective).
    evidence : mapping
        What it rests on.
    reasons : tuple of str
        Why, in sentences.
    baseline : mapping
        What it is compared with, and how well both predict left-out runs.
    grid : DataFrame
        All settings that were considered, columns `GRID_COLUMNS`.
    refused : str or None
        Why there is no recommendation.
    objective : str
        ``makespan``, ``cost``, or the weight between them.
    experiment : str
        Which run would teach most.
    weight_unit : float
        Where items have weights, of which weight all batch sizes are multiples; else 0.
    better : float or None
        Probability that the setting beats the baseline; None where that cannot be said.
    binds : tuple of str
        What keeps the run from being faster, the most important first: ``overhead``, ``contention``, ``shared
        resource``, ``tail``, ``memory``, ``deadline``.
    taper : int
        The batch size from which batches get smaller toward the end, where that is faster than equal batches; else 0.
        All else is said of equal batches. Where items have weights, a weight.
    taper_s : float or None
        Expected seconds with them.
    """

    task: str
    n_items: int
    batch_size: float
    workers: int
    makespan_s: float
    cost_worker_s: float
    intervals: Mapping[str, tuple[float, float]]
    coverage_method: str
    saving: float | None
    evidence: Mapping[str, Any]
    reasons: tuple[str, ...]
    baseline: Mapping[str, Any]
    grid: pd.DataFrame = field(repr=False, compare=False)
    refused: str | None = None
    objective: str = "makespan"
    experiment: str = ""
    weight_unit: float = 0.0
    better: float | None = None
    binds: tuple[str, ...] = ()
    taper: float = 0
    taper_s: float | None = None

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments for ``client.map``; a refused recommendation leaves both to the automatic."""
        if self.refused:
            return {"batch_size": "auto", "max_workers": "auto"}
        if self.taper:
            return {"batch_size": self.taper, "taper": True, "max_workers": self.workers}
        return {"batch_size": self.batch_size, "max_workers": self.workers}

    @property
    def pareto(self) -> pd.DataFrame:
        """The settings that no other beats in both makespan and cost, the fastest first; extrapolated ones left out."""
        cells = self.grid[~self.grid["extrapolated"]].sort_values(["makespan_s", "cost_worker_s"], kind="stable")
        cheaper = cells["cost_worker_s"] < cells["cost_worker_s"].cummin().shift(fill_value=float("inf"))
        return cells[cheaper].reset_index(drop=True)

    def __repr__(self) -> str:
        """The answer in a few lines, which is what a notebook keeps as plain text; `str` gives the reasons too."""
        if self.refused:
            return "\n".join(self._refusal())
        lines = self._answer()
        if self.baseline.get("setting"):
            lines.append(f"  Compared with {self._compared()}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = self._refusal() if self.refused else self._answer()
        if not self.refused and self.saving is not None and self.saving > 0:
            saves = f"  Saves {percent(self.saving)} against {self.baseline.get('setting', 'the baseline')}"
            if self.better is not None and "saving" in self.intervals:
                low, high = self.intervals["saving"]
                chance = "over 99 %" if self.better > 0.99 else percent(self.better)
                saves += f" ({percent(low)} to {percent(high)}; better with {chance} probability)"
            lines.insert(2, saves + ".")
        lines += [f"  - {reason}" for reason in self.reasons]
        if self.experiment:
            lines.append(f"  Would teach most: {self.experiment}")
        return "\n".join(lines)

    def _refusal(self) -> list[str]:
        """Why there is no answer, and what to run meanwhile."""
        lines = [f"{one_line(self.task) or 'task'}, {self.n_items:,} items: no recommendation. {self.refused}"]
        if self.batch_size:
            lines.append(f"  Meanwhile: batch size {self.size_text()} with {_workers(self.workers)}.")
        return lines

    def _answer(self) -> list[str]:
        """The setting, what it will take, and what binds."""
        low, high = self.intervals["makespan_s"]
        interval = f"{seconds(low)} to {seconds(high)} ({_METHODS[self.coverage_method]})"
        setting = f"batch size {self.size_text()} with {_workers(self.workers)}"
        lines = [
            f"{one_line(self.task)}, {self.n_items:,} items: {setting}.",
            f"  Predicted {seconds(self.makespan_s)}, 90 % interval {interval}.",
        ]
        return [*lines, f"  Bound by {', '.join(self.binds)}."] if self.binds else lines

    def _compared(self) -> str:
        """The baseline's setting, what it would take, and what is saved against it."""
        known = self.baseline
        setting = f"{known['setting']}, batch size {self.size_text(known['batch_size'])}, {_workers(known['workers'])}"
        saved = "" if self.saving is None else f": saves {percent(self.saving)}"
        return f"{setting}, predicted {seconds(known['makespan_s'])}{saved}"

    def size_text(self, size: float | None = None) -> str:
        """The batch size, or another one; a weight is told as one."""
        size = self.batch_size if size is None else size
        return f"{size:,.6g} by weight" if self.weight_unit else f"{size:,}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002 - as IPython calls it
        printer.text(str(self))

    def _repr_html_(self) -> str:
        renderer = renderers.get("recommendation_html")
        if renderer is not None:
            return str(renderer(self))
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "grid"}
        values["intervals"] = {name: list(bounds) for name, bounds in self.intervals.items()}
        values["reasons"], values["binds"] = list(self.reasons), list(self.binds)
        for name in ("makespan_s", "cost_worker_s"):
            values[name] = None if math.isnan(values[name]) else values[name]
        for name in ("evidence", "baseline"):
            values[name] = dict(values[name])
        values["grid"] = {name: self.grid[name].astype(object).tolist() for name in GRID_COLUMNS}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recommendation:
        """Inverse of `to_dict`.

        Raises
        ------
        TuningError
            A field is missing or does not parse.
        """
        known = dict(values)
        try:
            for name in ("makespan_s", "cost_worker_s"):
                known[name] = float("nan") if known[name] is None else float(known[name])
            known["intervals"] = {name: (float(low), float(high)) for name, (low, high) in known["intervals"].items()}
            known["reasons"], known["binds"] = tuple(known["reasons"]), tuple(known.get("binds", ()))
            known["grid"] = grid_frame(known["grid"], weighed=known.get("weight_unit", 0.0) > 0)
            return cls(**known)
        except (KeyError, TypeError, ValueError) as exc:
            raise TuningError(f"this is no saved recommendation: {exc!r}") from exc


_METHODS = {
    "conformal": "from errors on left-out runs",
    "model": "from the model",
    "throughput": "from plain throughput",
}


def grid_frame(columns: Mapping[str, Any] | None = None, *, weighed: bool = False) -> pd.DataFrame:
    """Return a grid with its declared columns and types, also when empty; weights are floats."""
    import pandas as pd

    types = {**GRID_COLUMNS, "batch_size": "float64"} if weighed else GRID_COLUMNS
    values = columns or {name: [] for name in GRID_COLUMNS}
    return pd.DataFrame({name: pd.Series(values[name], dtype=dtype) for name, dtype in types.items()})


def seconds(value: float) -> str:
    """Text of a duration with three significant digits."""
    if math.isnan(value):
        return "unknown"
    if value >= 120:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1 or unit == "µs":
            scaled = value * factor
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    raise AssertionError("unreachable")


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count:,} workers"
