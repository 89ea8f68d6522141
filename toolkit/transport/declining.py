"""Runs that a worker process cannot execute: remembered for a while, and their tickets passed on to other nodes.

Neither keeps the worker from other runs: a ticket is passed on by a timer, and a run that was declined a moment ago is
not looked at again.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from celery import Celery

from toolkit.errors import ToolkitError
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.records import one_line
from toolkit.transport.tickets import publish

logger = logging.getLogger(__name__)

MAX_HOPS: Final = 20
"""How many nodes may decline a ticket before it is dropped; a sweeper then sends a fresh one."""

_REMEMBERED_S: Final = 1.0  # a run whose module was mended waits no longer than this,
_MOST_REMEMBERED_S: Final = 30.0
_REST: Final = 10.0  # or than ten times what it took to find out: to try takes a tenth of a worker at most
_MOST_PENDING: Final = 100
_MOST_REASONS: Final = 5  # of one run: a reason may name an address in memory, and then is another each time
_MOST_RUNS: Final = 1000
_LATEST: Final = 200


class Declining:
    """What one worker process declines.

    Parameters
    ----------
    app : celery.Celery
        Where tickets are passed on.
    ledger : Ledger
        Where it is noted.
    node : str
        Celery name of the node.
    """

    def __init__(self, app: Celery, ledger: Ledger, node: str) -> None:
        self._app = app
        self._ledger = ledger
        self._registry = Registry(ledger.connection)
        self._node = node
        self._until: dict[str, float] = {}
        self._noted: dict[str, set[str]] = {}
        self._pending: set[str] = set()
        self._lock = threading.Lock()

    def remembers(self, run_id: str) -> bool:
        """Whether a run was declined a moment ago."""
        return time.monotonic() < self._until.get(run_id, 0.0)

    def decline(self, run_id: str, error: ToolkitError, took_s: float) -> None:
        """Remember that a run was declined, which took some time to find out, and note why."""
        now = time.monotonic()
        with self._lock:
            self._until = {other: until for other, until in self._until.items() if until > now}
            self._until[run_id] = now + min(_MOST_REMEMBERED_S, max(_REMEMBERED_S, _REST * took_s))
        self.note(run_id, error)

    def note(self, run_id: str, error: ToolkitError) -> None:
        """Note among the run's events, once for each node and reason, why a ticket was declined."""
        detail = f"{self._node}: {error}"[:1000]
        with self._lock:
            if len(self._noted) > _MOST_RUNS:
                self._noted.clear()
            noted = self._noted.setdefault(run_id, set())
            if detail in noted or len(noted) >= _MOST_REASONS:
                return
            noted.add(detail)
        logger.warning("run %s declined: %s", run_id, one_line(str(error), 1000))
        try:
            events = Reader(self._ledger.connection, run_id).latest_events(_LATEST)
            if not any(f.get("event") == "declined" and f.get("detail") == detail for _, f in events):
                self._ledger.note(run_id, "declined", detail)
        except ToolkitError as failed:
            logger.warning("run %s: that it was declined is not noted (%s)", run_id, failed)

    def pass_on(self, run_id: str, ticket_id: str, hop: int) -> None:
        """Publish a ticket again in a moment, so that another node is first at the broker.

        One of a run at a time: more would only go round. What is dropped, a sweep finds that the run lacks.
        """
        if hop >= MAX_HOPS:
            return
        with self._lock:
            if run_id in self._pending or len(self._pending) >= _MOST_PENDING:
                return
            self._pending.add(run_id)
        timer = threading.Timer(min(1.0, 0.05 * (hop + 1)), self._publish, (run_id, ticket_id, hop + 1))
        timer.daemon = True
        timer.start()

    def _publish(self, run_id: str, ticket_id: str, hop: int) -> None:
        with self._lock:
            self._pending.discard(run_id)
        try:
            if self._registry.goes_on(run_id):
                publish(self._app, self._ledger.spec(run_id), [ticket_id], hop)
        except (ToolkitError, ValueError) as failed:
            logger.warning(
                "run %s: the declined ticket was not passed on (%s); a sweeper sends another", run_id, failed
            )
