"""A node's main process: reports itself, renews its workers' leases, notices their deaths, sweeps when elected."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit import codec
from toolkit._version import PROTOCOL, __version__
from toolkit.errors import LedgerError, RunNotFound, TransportError
from toolkit.ledger import Death, Ledger, Registry, Renewed
from toolkit.records import INLINE_QUEUE, NodeInfo, RunSpec
from toolkit.transport.marker import Work
from toolkit.transport.servant import Installation
from toolkit.transport.tickets import issue

logger = logging.getLogger(__name__)

TICK_S = 0.1
_RENEW_TICKS = 5
_REPORT_TICKS = 10
_SWEEPER_LEASE_S = 4.0


class Keeper:
    """The thread of a node's main process.

    Parameters
    ----------
    installation : Installation
        What the node was told.
    node : str
        Celery name of the node.
    describe : callable
        Returns the number of workers and the queues, as they are now.
    keep_alive : callable of bool, optional
        Called about once a second with whether any run is unfinished.
    """

    def __init__(
        self, installation: Installation, node: str, describe: Callable[[], tuple[int, tuple[str, ...]]],
        keep_alive: Callable[[bool], None] | None = None,
    ) -> None:  # fmt: skip
        self._installation = installation
        self._node = node
        self._describe = describe
        self._keep_alive = keep_alive
        self._ledger = Ledger(installation.address)
        self._registry = Registry(self._ledger.connection)
        self._specs: dict[str, RunSpec] = {}
        self._known: dict[str, int] = {}
        self._started_at = 0.0
        self._stop = threading.Event()
        self._silent = False
        self._thread = threading.Thread(target=self._run, name="toolkit-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread, after the workers were forked."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and forget the node."""
        self._stop.set()
        try:
            self._registry.remove_node(self._node)
        except LedgerError:
            logger.debug("node %s could not sign off", self._node)

    def _run(self) -> None:
        tick = 0
        while not self._stop.is_set():
            try:
                self._tick(tick)
                if self._silent:
                    logger.warning("node %s: the ledger answers again", self._node)
                    self._silent = False
            except (LedgerError, TransportError) as error:
                if not self._silent:
                    logger.warning("node %s: %s", self._node, error)
                    self._silent = True
            except Exception:
                logger.exception("node %s: keeper failed, going on", self._node)
            tick += 1
            self._stop.wait(TICK_S)

    def _tick(self, tick: int) -> None:
        works = self._installation.marker.works()
        self._report_deaths(works)
        if tick % _RENEW_TICKS == 0:
            self._renew(works)
        if tick % _REPORT_TICKS == 0:
            self._report(len(works))
            if self._registry.elect_sweeper(self._node, _SWEEPER_LEASE_S):
                self._sweep()

    # ------------------------------------------------------------------ leases and deaths

    def _report_deaths(self, works: list[Work]) -> None:
        for work in works:
            if _alive(work.pid):
                continue
            logger.warning("worker %s of node %s died on run %s", work.pid, self._node, work.run_id)
            self._ledger.lost(work.run_id, work.claim_id, Death(work.position, letter=self._letter(work)))
            self._installation.marker.end_dead(work)

    def _letter(self, work: Work) -> bytes:
        return codec.encode({
            "error_type": "WorkerLost",
            "message": "the process that executed this item died, each time it was tried",
            "traceback_text": "", "category": "worker_lost", "attempts": 3, "worker": f"{self._node}/{work.pid}",
            "logs": "", "at": self._registry.now(),
        })  # fmt: skip

    def _renew(self, works: list[Work]) -> None:
        by_run: dict[str, list[Work]] = defaultdict(list)
        for work in works:
            by_run[work.run_id].append(work)
        for run_id, held in by_run.items():
            try:
                queue = self._spec(run_id).queue
                renewed = self._ledger.renew(run_id, self._known.get(queue, 0), [w.claim_id for w in held])
            except RunNotFound:
                renewed = Renewed("norun")
            for work in held:
                if renewed.state in ("cancelling", "cancelled", "norun") or work.claim_id in renewed.gone:
                    self._installation.marker.stop(work.slot, work.claim_id)

    # ------------------------------------------------------------------ report and sweep

    def _report(self, busy: int) -> None:
        workers, queues = self._describe()
        now = self._registry.now()
        self._started_at = self._started_at or now
        tasks = tuple(sorted(t for t in self._installation.app.tasks if not t.startswith(("celery.", "toolkit."))))
        self._registry.report_node(
            NodeInfo(
                node=self._node, host=socket.gethostname(), pid=os.getpid(), workers=workers, busy=busy, queues=queues,
                tasks=tasks, toolkit_version=__version__, protocol=PROTOCOL,
                python=f"{sys.version_info[0]}.{sys.version_info[1]}",
                functions=self._installation.function_key_file is not None, started_at=self._started_at, seen_at=now,
            )
        )  # fmt: skip

    def _sweep(self) -> None:
        unfinished = sweep_all(self._ledger, self._registry, self._spec, self._known, self._issue)
        if self._keep_alive is not None:
            self._keep_alive(unfinished > 0)

    def _issue(self, spec: RunSpec, n: int) -> None:
        issue(self._installation.app, self._ledger, spec, n)

    def _spec(self, run_id: str) -> RunSpec:
        spec = self._specs.get(run_id)
        if spec is None:
            if len(self._specs) > 1000:
                self._specs.clear()
            spec = self._specs[run_id] = self._ledger.spec(run_id)
        return spec


def sweep_all(
    ledger: Ledger, registry: Registry, spec_of: Callable[[str], RunSpec], known: dict[str, int],
    send: Callable[[RunSpec, int], Any],
) -> int:  # fmt: skip
    """Sweep every unfinished run once, and send the tickets they lack.

    Parameters
    ----------
    spec_of : callable
        Spec of a run id.
    known : dict
        Known workers by queue; updated here.
    send : callable
        Sends a number of tickets of a run.

    Returns
    -------
    int
        Unfinished runs.
    """
    nodes = registry.nodes(retry_s=0.0)
    unfinished = 0
    for queue in registry.queues():
        listening = [n for n in nodes if queue in n.queues and n.protocol == PROTOCOL]
        known[queue] = sum(n.workers for n in listening)
        idle = max(0, known[queue] - sum(n.busy for n in listening))
        for run_id, _ in registry.active_runs(queue):
            try:
                spec = spec_of(run_id)
                swept = ledger.sweep(run_id, known_workers=known[queue], idle_workers=idle, lease_s=spec.lease_s)
            except RunNotFound:
                registry.deactivate(queue, run_id)
                continue
            except LedgerError as error:  # one broken run must not stop the others
                logger.warning("run %s: not swept (%s)", run_id, error)
                continue
            if swept.state in ("finished", "cancelled", "norun"):
                registry.deactivate(queue, run_id)
                continue
            if queue == INLINE_QUEUE:  # its own process executes it: it keeps no node alive
                continue
            unfinished += 1
            if swept.tickets and known[queue]:  # where nobody listens, messages would only pile up
                send(spec, swept.tickets)
    return unfinished


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"
