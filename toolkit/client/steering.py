"""What a client does for an automatic run: more workers before it, a batch size from history, an eye on it after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sized
from typing import TYPE_CHECKING, Any

from toolkit.client.planner import MAX_REPLANS, Planner, plan_from_history
from toolkit.client.scaling import Grower
from toolkit.records import RunSpec, one_line

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.client.arguments import Size
    from toolkit.cluster import LocalCluster
    from toolkit.ledger import Ledger, Registry

logger = logging.getLogger(__name__)


class Steering:
    """Steers the automatic runs of one client. A run whose steering fails goes on with what its workers find out.

    Parameters
    ----------
    cluster : LocalCluster or None
        The client's, where it has one: only this can grow.
    ledger, registry
        Where runs are.
    metrics : callable
        Metric rows of a task that the server has, as a frame.
    detached : threading.Event
        Set when the client closes: planning ends.
    """

    def __init__(
        self,
        cluster: LocalCluster | None,
        ledger: Ledger,
        registry: Registry,
        metrics: Callable[[str], pd.DataFrame],
        detached: threading.Event,
    ) -> None:
        self._cluster, self._ledger, self._registry = cluster, ledger, registry
        self._metrics, self._detached = metrics, detached

    def grow(self, spec: RunSpec, size: Size, items: Iterable[Any]) -> str:
        """Let a LocalCluster grow for a run whose worker count is automatic; returns what was done, and why."""
        if self._cluster is None:
            return ""
        try:
            grower = Grower(self._cluster, self._ledger, self._registry, self._metrics)
            return grower.grow(spec, size, len(items) if isinstance(items, Sized) else None)
        except Exception as error:  # more workers are a wish: without them the run is only slower
            logger.exception("run %s: workers left as they are", spec.run_id)
            return f"left as they are: {one_line(str(error))}"

    def plan(self, spec: RunSpec, size: Size) -> None:
        """Size an automatic run from history, unless its size was given, and keep an eye on it."""
        try:
            most = 0 if size.batch_size else self._replans(spec)
            if most is not None:
                Planner(self._ledger, spec, self._detached, most).start()
        except Exception:  # the items are submitted: a plan that fails must not look like a failed submission
            logger.exception("run %s: not planned, its workers size the batches by themselves", spec.run_id)

    def _replans(self, spec: RunSpec) -> int | None:
        """How often a run may be planned anew: not at all where earlier runs tell its size; None where it has ended."""
        status = self._ledger.status(spec.run_id, spec)
        if status.state.final:
            return None
        local = self._cluster.workers if self._cluster is not None and spec.queue == self._cluster.queue else 0
        workers = max(1, status.known_workers, local)  # of a cluster that was just scaled, the node knows less
        workers = min(workers, status.max_workers or workers)
        plan = plan_from_history(self._ledger, self._registry, spec, status.submitted, workers)
        if plan is None or not plan.confident:
            return MAX_REPLANS
        detail = "planned from earlier runs: " + "; ".join(plan.reasons)
        self._ledger.update(spec.run_id, batch_size=plan.batch_size, detail=detail, steered=True)
        return 0
