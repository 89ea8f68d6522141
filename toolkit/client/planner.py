"""Re-planning a running run: while a client is attached, what the probes taught sizes the rest.

And watching it: items that take longer and longer, or a host slower than the others, become remarks among its events.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from toolkit.errors import LedgerError, RunNotFound
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.records import FLAG_CUT_OFF, FLAG_FIRST, METRIC_NAMES, METRIC_ROW, RunSpec

logger = logging.getLogger(__name__)

MAX_REPLANS = 5  # of each, the batches that it sized tell what the plan before it was wrong by
PERIOD_S = 0.3
_WATCH_S = 2.0  # between two looks at a run that is not planned any more
_MOST_ROWS = 2_000
_HISTORY_RUNS = 3
_HISTORY_LOOKED_AT = 25
_I = {name: i for i, name in enumerate(METRIC_NAMES)}
_WATCHED = [_I[name] for name in ("items", "service_s", "claimed_at", "active_claims")]


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


class Watch:
    """Looks for what changes inside a run, see `toolkit.tuning.watch`, and tells each thing once.

    Parameters
    ----------
    ledger : Ledger
        Where the run is.
    run_id : str
        The run.
    """

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._hosts: dict[int, str] = {}
        self._seen: list[Any] = []
        self._judged = 0
        self._told: set[tuple[str, str]] = set()

    def look(self, chunks: list[bytes]) -> None:
        """Take further metric rows, and write remarks on what they show into the run's events.

        Raises
        ------
        LedgerError
            The server does not answer as it should.
        """
        from toolkit.tuning.watch import Seen, notices

        for chunk in chunks:
            for row in METRIC_ROW.iter_unpack(chunk):
                flags, code = row[_I["flags"]], row[_I["worker"]]
                if flags & FLAG_CUT_OFF or not row[_I["items"]]:
                    continue
                items, service_s, claimed_at, active = (row[at] for at in _WATCHED)  # the order of `Seen`
                first = bool(flags & FLAG_FIRST)
                self._seen.append(Seen(items, service_s, claimed_at, active, self._host(code), first))
        if len(self._seen) < 1.25 * self._judged + 8:  # each look costs as much as there is, so not at each batch
            return
        self._seen = self._seen[-_MOST_ROWS:]
        self._judged = len(self._seen) if len(self._seen) < _MOST_ROWS // 2 else 0
        for notice in notices(self._seen):
            if (notice.kind, notice.about) not in self._told:
                self._told.add((notice.kind, notice.about))
                self._ledger.note(self._run_id, notice.kind, notice.text)

    def _host(self, code: int) -> str:
        if code not in self._hosts:
            identities = Reader(self._ledger.connection, self._run_id).workers()
            self._hosts |= {known: text.partition("\t")[0] for known, text in identities.items()}
        return self._hosts.setdefault(code, "")


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
    most : int
        How often it may be planned anew; 0 to watch it only.
    """

    def __init__(self, ledger: Ledger, spec: RunSpec, closed: threading.Event, most: int = MAX_REPLANS) -> None:
        super().__init__(name=f"toolkit-planner-{spec.run_id}", daemon=True)
        self._ledger = ledger
        self._spec = spec
        self._closed = closed
        self._most = most
        self._watch = Watch(ledger, spec.run_id)
        self._rows: list[tuple[int, float, int, float, bool]] = []
        self._next = 0

    def run(self) -> None:
        """Plan, often enough, and watch until the run ends or is gone, or the client is closed."""
        planned, current = 0, 0
        while not self._closed.wait(PERIOD_S if planned < self._most else _WATCH_S):
            try:
                status = self._ledger.status(self._spec.run_id, self._spec)
                if status.state.final:
                    return
                self._read()
                if planned >= self._most or not status.auto:
                    planned = self._most
                    continue
                size = self._plan(status.remaining + status.ready, max(1, status.known_workers), status.max_workers)
                if size is None or close(size.batch_size, current):
                    continue
                detail = "re-planned: " + "; ".join(size.reasons)
                self._ledger.update(self._spec.run_id, batch_size=size.batch_size, detail=detail, steered=True)
            except RunNotFound:
                return
            except LedgerError as error:
                logger.debug("run %s: not re-planned (%s)", self._spec.run_id, error)
                continue
            current = size.batch_size
            planned += 1

    def _read(self) -> None:
        chunks, self._next = Reader(self._ledger.connection, self._spec.run_id).metric_rows(self._next)
        self._rows = (self._rows + sizing_rows(chunks))[-_MOST_ROWS:]
        self._watch.look(chunks)

    def _plan(self, remaining: int, known: int, cap: int) -> Any:
        from toolkit.tuning.plan import replan

        workers = min(known, cap) if cap else known
        if remaining < 4 * workers or len(self._rows) < 4:
            return None
        plan = replan(self._rows, remaining=remaining, workers=workers)
        return plan if plan is not None and plan.confident else None


def close(a: int, b: int) -> bool:
    """Within a fifth of each other: not worth an update."""
    return b > 0 and abs(a - b) <= 0.2 * b
