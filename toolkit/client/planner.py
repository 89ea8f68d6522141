"""Re-planning a running run: while a client is attached, what the probes taught sizes the rest."""

from __future__ import annotations

import logging
import threading
from typing import Any

from toolkit.errors import LedgerError, RunNotFound
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.records import FLAG_CUT_OFF, FLAG_FIRST, METRIC_NAMES, METRIC_ROW, RunSpec

logger = logging.getLogger(__name__)

MAX_REPLANS = 3
_PERIOD_S = 0.3
_HISTORY_RUNS = 3
_HISTORY_LOOKED_AT = 25
_I = {name: i for i, name in enumerate(METRIC_NAMES)}


def sizing_rows(chunks: list[bytes]) -> list[tuple[int, float, int, float, bool]]:
    """Metric rows as ``(items, service_s, active_claims, idle_s, first)``, without cut-off ones."""
    rows = []
    for chunk in chunks:
        for row in METRIC_ROW.iter_unpack(chunk):
            if row[_I["items"]] and not row[_I["flags"]] & FLAG_CUT_OFF:
                first = bool(row[_I["flags"]] & FLAG_FIRST)
                rows.append(
                    (row[_I["items"]], row[_I["service_s"]], row[_I["active_claims"]], row[_I["idle_s"]], first)
                )
    return rows


def plan_from_history(ledger: Ledger, registry: Registry, spec: RunSpec, n_items: int, workers: int) -> Any:
    """A plan from the latest runs of the same task and code, None when they do not support one."""
    from toolkit.tuning.plan import replan

    rows: list[tuple[int, float, int, float, bool]] = []
    used = 0
    for run_id in registry.run_ids()[:_HISTORY_LOOKED_AT]:
        if used >= _HISTORY_RUNS:
            break
        try:
            old = ledger.spec(run_id)
            if run_id == spec.run_id or (old.task, old.code_version) != (spec.task, spec.code_version):
                continue
            found = sizing_rows(Reader(ledger.connection, run_id).metric_rows()[0])
        except (RunNotFound, LedgerError):
            continue
        used += bool(found)
        rows += found[-2000:]
    return replan(rows, remaining=n_items, workers=workers) if rows else None


class Planner(threading.Thread):
    """Watches one automatic run and updates its batch size, a bounded number of times.

    Parameters
    ----------
    ledger : Ledger
        Where the run is.
    spec : RunSpec
        The run.
    closed : threading.Event
        Set once no client is attached any more.
    """

    def __init__(self, ledger: Ledger, spec: RunSpec, closed: threading.Event) -> None:
        super().__init__(name=f"toolkit-planner-{spec.run_id}", daemon=True)
        self._ledger = ledger
        self._spec = spec
        self._closed = closed
        self._rows: list[tuple[int, float, int, float, bool]] = []
        self._next = 0

    def run(self) -> None:
        """Plan until the run ends or is gone, has been planned often enough, or the client is closed."""
        planned, current = 0, 0
        while planned < MAX_REPLANS and not self._closed.wait(_PERIOD_S):
            try:
                status = self._ledger.status(self._spec.run_id, self._spec)
                if status.state.final or not status.auto:
                    return
                size = self._plan(status.remaining + status.ready, max(1, status.known_workers), status.max_workers)
                if size is None or _close(size.batch_size, current):
                    continue
                detail = "re-planned: " + "; ".join(size.reasons)
                self._ledger.update(self._spec.run_id, batch_size=size.batch_size, detail=detail)
            except RunNotFound:
                return
            except LedgerError as error:
                logger.debug("run %s: not re-planned (%s)", self._spec.run_id, error)
                continue
            current = size.batch_size
            planned += 1

    def _plan(self, remaining: int, known: int, cap: int) -> Any:
        from toolkit.tuning.plan import replan

        chunks, self._next = Reader(self._ledger.connection, self._spec.run_id).metric_rows(self._next)
        self._rows = (self._rows + sizing_rows(chunks))[-2000:]
        workers = min(known, cap) if cap else known
        if remaining < 4 * workers or len(self._rows) < 4:
            return None
        plan = replan(self._rows, remaining=remaining, workers=workers)
        return plan if plan is not None and plan.confident else None


def _close(a: int, b: int) -> bool:
    """Within a fifth of each other: not worth an update."""
    return b > 0 and abs(a - b) <= 0.2 * b
