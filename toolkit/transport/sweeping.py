"""The sweep of all runs: what the elected node does about once a second."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from toolkit._version import PROTOCOL
from toolkit.errors import LedgerUnavailable, RunNotFound, ToolkitError
from toolkit.ledger import Contact, Ledger, Registry, Swept
from toolkit.records import INLINE_QUEUE, NodeInfo, RunSpec, one_line

logger = logging.getLogger(__name__)

_COMPARE_S = 60.0
_COMPARED = 20
_MOST_SPOILED = 1000


class Sweeper:
    """Sweeps every unfinished run, and keeps the lists of them true.

    Parameters
    ----------
    ledger, registry
        The server.
    spec_of : callable
        Spec of a run id.
    known : dict
        Known workers by queue; updated here.
    send : callable
        Sends a number of tickets of a run.
    """

    def __init__(
        self, ledger: Ledger, registry: Registry, spec_of: Callable[[str], RunSpec], known: dict[str, int],
        send: Callable[[RunSpec, int], Any],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._registry = registry
        self._spec_of = spec_of
        self._known = known
        self._send = send
        self._uncompared: deque[str] = deque()  # of all runs
        self._recent: deque[str] = deque()  # of those that came since
        self._compare_at = 0.0
        self._compared_to: float | None = None  # by the server's clock
        self._spoiled: set[str] = set()

    def sweep(self, contact: Contact) -> tuple[int, float]:
        """Sweep every unfinished run once, and send the tickets they lack.

        Parameters
        ----------
        contact : Contact
            Since when this process has been in touch with the server.

        Returns
        -------
        int
            Runs that go on as they are. Not those that wait for somebody: paused, or open with nothing left to do, as
            one whose submitter died leaves it.
        float
            Seconds until the first of their leases ends. Those who live renew theirs long before, so that a sweep at
            that moment finds a claim of the dead.
        """
        nodes: list[NodeInfo] = []
        with self._apart("nodes"):
            nodes = self._registry.nodes(retry_s=0.0, forget=True)
        at_work, due_s = 0, math.inf
        listed: set[str] = set()
        for queue in self._registry.queues():
            with self._apart(f"queue {queue}"):
                idle = self._count_workers(queue, nodes)
                for run_id, _ in self._registry.active_runs(queue):
                    listed.add(run_id)
                    swept = self._sweep_run(queue, run_id, idle, contact)
                    if swept is not None:
                        at_work += _at_work(swept)
                        due_s = min(due_s, math.inf if swept.due_s is None else swept.due_s)
        self._compare(listed)
        return at_work, due_s

    def _sweep_run(self, queue: str, run_id: str, idle: int, contact: Contact) -> Swept | None:
        """Sweep one run; None for one that has ended, or keeps no node alive."""
        with self._apart(f"run {run_id}", slow=True):
            try:
                spec = self._spec_of(run_id)
                swept = self._ledger.sweep(
                    run_id, known_workers=self._known[queue], idle_workers=idle, lease_s=spec.lease_s, contact=contact
                )
            except RunNotFound:
                swept = None
            if swept is None or swept.state in ("finished", "cancelled", "norun"):
                self._registry.deactivate(queue, run_id)
            elif queue != INLINE_QUEUE:  # its own process executes it: it keeps no node alive
                if swept.tickets and self._known[queue]:  # where nobody listens, messages would only pile up
                    self._send(spec, swept.tickets)
                return swept
        return None

    @contextmanager
    def _apart(self, what: str, *, slow: bool = False) -> Iterator[None]:
        """Whatever is wrong with one run or queue must not stop the others; it is told once, until it is well again.

        A server that does not answer ends the sweep, except where (`slow`) it may be the fault of this one thing.
        """
        try:
            yield
            self._spoiled.discard(what)
        except ToolkitError as error:
            if isinstance(error, LedgerUnavailable) and not slow:
                raise
            if what not in self._spoiled and len(self._spoiled) < _MOST_SPOILED:
                self._spoiled.add(what)
                logger.warning("%s: not swept (%s)", what, one_line(str(error), 1000))

    def _count_workers(self, queue: str, nodes: list[NodeInfo]) -> int:
        """Take note of the workers that listen to a queue; returns how many of them are idle."""
        listening = [n for n in nodes if queue in n.queues and n.protocol == PROTOCOL]
        self._known[queue] = sum(n.workers for n in listening)
        return max(0, self._known[queue] - sum(n.busy for n in listening))

    def _compare(self, listed: set[str]) -> None:
        """List runs again that are unfinished and in no list, a few at a time and the newest first.

        A list is written beside the run it tells of, not together with it: whoever died in between, or was slow, may
        have left it wrong, and what is in no list is swept by nobody. A run that came lately is compared within about
        two minutes, however many there are; an old one in its turn, 20 runs with each sweep: with 100,000 of them, kept
        for long, that takes an hour and a half.
        """
        if time.monotonic() >= self._compare_at:
            self._compare_at = time.monotonic() + _COMPARE_S
            with self._apart("index of all runs"):
                self._read_index()
        for uncompared in (self._recent, self._uncompared):
            for _ in range(min(_COMPARED, len(uncompared))):
                self._compare_run(uncompared.popleft(), listed)

    def _read_index(self) -> None:
        """Take up the runs that came since the last look, or all of them once those of an earlier look are compared."""
        now, since = self._registry.now(), self._compared_to
        if not self._uncompared:
            self._uncompared.extend(self._registry.run_ids())
        elif since is not None:
            # A run is indexed before it is created, and its client may die later: hence those of a while before, too.
            known = set(self._recent)
            found = self._registry.run_ids(since=min(since, now) - _COMPARE_S)
            self._recent.extendleft(run_id for run_id in reversed(found) if run_id not in known)
        self._compared_to = now

    def _compare_run(self, run_id: str, listed: set[str]) -> None:
        try:
            if run_id not in listed and self._registry.goes_on(run_id):
                self._registry.activate(self._ledger.spec(run_id))
                logger.warning("run %s was in no list of unfinished runs, and is again", run_id)
        except ToolkitError as error:
            logger.debug("run %s: not compared (%s)", run_id, error)


def _at_work(swept: Swept) -> bool:
    """Whether something of a run is executed, or will be without anybody's doing."""
    return swept.active > 0 or (swept.state != "paused" and swept.left + swept.delayed > 0)
