"""All runs of a server, looked at again and again: who watches reads only what may have changed.

An unfinished run costs one short call a look. One that has ended is read again only while it has dead letters, which
somebody may send back to work or drop, and of those a bounded number a look.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import Final

from toolkit.client.selecting import Known
from toolkit.errors import LedgerCorrupt, RunNotFound
from toolkit.ledger import Ledger, Registry
from toolkit.records import NodeInfo, RunStatus

logger = logging.getLogger(__name__)

_OVERLAP_S: Final = 60.0
"""A run is indexed before it is created: so long may that take, or it is seen only while it is unfinished."""
_ENDED_A_LOOK: Final = 200
"""Ended runs with dead letters that are read again in one look; all of them in turn."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a server found.

    Attributes
    ----------
    at : float
        Seconds since the epoch by the server's clock.
    nodes : tuple of NodeInfo
        Nodes that are alive.
    runs : tuple of (RunSpec, RunStatus)
        Runs in sight, the newest first.
    read : tuple of (RunStatus or None, RunSpec, RunStatus)
        Those that were read in this look, each with its snapshot from before.
    unreadable : int
        Runs whose data did not parse, and which are left out.
    """

    at: float
    nodes: tuple[NodeInfo, ...]
    runs: tuple[Known, ...]
    read: tuple[tuple[RunStatus | None, *Known], ...]
    unreadable: int


class RunsWatch:
    """What is known of the runs of a ledger.

    Parameters
    ----------
    ledger : Ledger
        Which one; read only.
    latest : int, optional
        Runs that have ended which are kept in sight, the newest. Without, all are read once; then only those with dead
        letters stay.
    """

    def __init__(self, ledger: Ledger, latest: int | None = None) -> None:
        self._ledger = ledger
        self._registry = Registry(ledger.connection)
        self._latest = latest
        self._runs: dict[str, Known] = {}
        self._turn: list[str] = []  # ended runs with dead letters, still to be read again in this round
        self._news: list[tuple[RunStatus | None, *Known]] = []  # read, and not told yet
        self._looked_at = 0.0

    @property
    def first(self) -> bool:
        """Whether nothing was looked at yet."""
        return not self._looked_at

    def look(self) -> Look:
        """Read what may have changed since the last look.

        Raises
        ------
        LedgerUnavailable, LedgerRefused, LedgerError
            The server does not answer, or not to us; what was known stays.
        """
        now = self._registry.now()
        nodes = self._registry.nodes()
        active = {run_id for queue in self._registry.queues() for run_id, _ in self._registry.active_runs(queue)}
        listed = self._registry.run_ids(since=None if self.first else self._looked_at - _OVERLAP_S)
        unfinished = {run_id for run_id, (_, status) in self._runs.items() if not status.state.final}
        fresh = {run_id for run_id in listed[: self._latest] if run_id not in self._runs}
        unreadable = 0
        for run_id in sorted(active | unfinished | fresh | self._next_ended()):
            try:
                self._read(run_id)
            except RunNotFound:
                self._runs.pop(run_id, None)
            except LedgerCorrupt as error:
                unreadable += 1
                logger.debug("run %s is left out: %s", run_id, error)
        self._looked_at = now
        runs = sorted(self._runs.values(), key=lambda known: (-known[1].created_at, known[0].run_id))
        self._forget(now, active, runs)
        # A look that fails half-way tells nothing: what it read is told by the next one.
        news, self._news = self._news, []
        return Look(now, tuple(nodes), tuple(runs), tuple(news), unreadable)

    def _next_ended(self) -> set[str]:
        """Some ended runs whose dead letters somebody may have dropped or sent back."""
        if not self._turn:
            self._turn = [k for k, (_, status) in self._runs.items() if status.state.final and status.dead]
        part = set(islice(self._turn, _ENDED_A_LOOK))
        del self._turn[:_ENDED_A_LOOK]
        return part

    def _read(self, run_id: str) -> None:
        before = self._runs.get(run_id)
        spec = before[0] if before else self._ledger.spec(run_id)
        status = self._ledger.status(run_id, spec)
        self._runs[run_id] = (spec, status)
        self._news.append((before[1] if before else None, spec, status))

    def _forget(self, now: float, active: set[str], runs: list[Known]) -> None:
        """An ended run is not listed as new again, so what leaves our sight costs nothing any more."""
        ended = [(spec, status) for spec, status in runs if status.state.final and spec.run_id not in active]
        latest = self._latest
        gone = [known for known in ended if not known[1].dead] if latest is None else ended[latest:]
        for spec, status in gone:
            if status.created_at < now - 2 * _OVERLAP_S:
                del self._runs[spec.run_id]
