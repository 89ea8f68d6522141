"""How many workers a LocalCluster needs for a run with ``max_workers="auto"``: it grows, and never shrinks.

A node grows by being started anew, after the batches that it is on. So it grows before the run's first ticket, only
where earlier runs of the task say that this pays, and only while no other run uses it. Idle workers cost nothing but
memory, so there is nothing to win by shrinking.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from toolkit.cluster.nodes import default_workers
from toolkit.errors import LedgerError, RunNotFound
from toolkit.records import RunSpec, RunState

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.client.arguments import Size
    from toolkit.cluster import LocalCluster
    from toolkit.ledger import Ledger, Registry

logger = logging.getLogger(__name__)

EVENT: Final = "workers"
"""Kind of the run's event that says what was done, and why."""

RESTART_S: Final = 3.0
"""What must be saved at least: a node takes 1 to 2 s to start, and first batches in new processes are slow."""

_LOOKED_AT: Final = 25
"""So many of the latest runs are searched for one of the task."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What earlier runs say about the run that is submitted.

    Attributes
    ----------
    workers : int
        The recommended count, 0 where there is no recommendation.
    present_s, recommended_s : float
        Predicted makespan with the workers that are there and with the recommended ones, seconds.
    refused : str
        Why there is no recommendation.
    """

    workers: int
    present_s: float = float("nan")
    recommended_s: float = float("nan")
    refused: str = ""


def choose(present: int, most: int, forecast: Forecast) -> tuple[int, str]:
    """Return how many workers to have, from `present` to `most`, and why."""
    left = f"left at {_workers(present)} of {most} that this machine has CPUs for"
    if forecast.refused:
        return present, f"{left}: {forecast.refused}"
    target = min(forecast.workers, most)
    if target <= present:
        return present, f"{left}: earlier runs recommend {_workers(forecast.workers)}"
    saved = forecast.present_s - forecast.recommended_s
    if not saved >= RESTART_S:
        return present, f"{left}: {target} would save {max(0.0, saved):.1f} s, less than a restart of the node costs"
    return target, (
        f"scaled from {_workers(present)} to {target}: predicted {forecast.recommended_s:.1f} s instead of "
        f"{forecast.present_s:.1f} s"
    )


class Grower:
    """Grows a LocalCluster for runs that are about to be submitted.

    Parameters
    ----------
    cluster : LocalCluster
        Whose node serves them.
    ledger, registry
        Where other runs are.
    history : callable of str
        Returns the metric rows of earlier runs of a task.
    """

    def __init__(
        self, cluster: LocalCluster, ledger: Ledger, registry: Registry, history: Callable[[str], pd.DataFrame]
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._registry = registry
        self._history = history

    def grow(self, spec: RunSpec, size: Size, n_items: int | None) -> str:
        """Grow the cluster for a run, and return what was done and why; empty where there was nothing to decide.

        Parameters
        ----------
        spec : RunSpec
            The run.
        size : Size
            Its batch size; and its worker cap, which must be automatic for anything to happen.
        n_items : int or None
            How many items it has; None for a stream.
        """
        present, most = self._cluster.workers, default_workers()
        if n_items is not None:
            most = min(most, -(-n_items // max(1, size.batch_size)))
        if size.max_workers or not 0 < present < most or spec.queue != self._cluster.queue:
            return ""
        forecast = self._ask(spec, size, n_items, present, most)
        if forecast is None:
            return ""
        workers, reason = choose(present, most, forecast)
        if workers > present and not self._cluster.grow(workers):
            reason = f"left at {_workers(self._cluster.workers)}: another client scaled them meanwhile"
        logger.info("run %s: workers %s", spec.run_id, reason)
        return reason

    def _ask(self, spec: RunSpec, size: Size, n_items: int | None, present: int, most: int) -> Forecast | None:
        """What is cheap to know first; None for a run that is too short to ask."""
        if n_items is None:
            return Forecast(0, refused="how long a stream takes is not known beforehand")
        pace = self._latest_pace_s(spec)
        if pace is not None and n_items * pace * (1 - present / most) < RESTART_S:  # even with a perfect speed-up
            return None
        others = self._others(spec)
        if others:
            return Forecast(0, refused=f"run {others} uses them")
        if pace is None:
            return Forecast(0, refused="no earlier run of this task says what more would bring")
        return _forecast(self._history(spec.task), spec, size, n_items, (present, most))

    def _others(self, spec: RunSpec) -> str:
        """The id of another run that the node works for, empty when there is none."""
        for run_id, _ in self._registry.active_runs(spec.queue):
            try:
                status = self._ledger.status(run_id)
            except (RunNotFound, LedgerError):
                continue
            if run_id != spec.run_id and (status.active or status.state is RunState.RUNNING):
                return run_id
        return ""

    def _latest_pace_s(self, spec: RunSpec) -> float | None:
        """Seconds an item of the latest ended run of the same task, None when none of the latest runs was."""
        for run_id in self._registry.run_ids()[:_LOOKED_AT]:
            try:
                old = self._ledger.spec(run_id)
                if old.task != spec.task or run_id == spec.run_id:
                    continue
                status = self._ledger.status(run_id, old)
            except (RunNotFound, LedgerError):
                continue
            if status.state is RunState.FINISHED and status.done and status.started_at:
                return max(0.0, status.finished_at - status.started_at) / status.done
        return None


def _forecast(frame: pd.DataFrame, spec: RunSpec, size: Size, n_items: int, span: tuple[int, int]) -> Forecast:
    """Ask the model of the task's history."""
    import pandas as pd

    from toolkit.tuning import Recommender

    present, most = span
    model = Recommender().fit(frame)
    advice = model.recommend(spec.task, n_items=n_items, max_workers=most)
    if advice.refused:
        return Forecast(0, refused=advice.refused)
    if size.batch_size:
        settings = {"task": spec.task, "n_items": n_items, "batch_size": min(size.batch_size, n_items)}
        here, there = model.predict(pd.DataFrame([{**settings, "workers": w} for w in (present, advice.workers)]))
    else:
        grid = advice.grid
        here, there = grid.loc[grid["workers"] == present, "makespan_s"].min(), advice.makespan_s
    return Forecast(advice.workers, float(here), float(there))


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
