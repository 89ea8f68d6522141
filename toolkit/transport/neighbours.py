"""Other nodes on this machine: a dead one is noticed by its process, long before its leases run out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from toolkit.errors import LedgerCorrupt
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.records import NodeInfo, WorkerIdentity

logger = logging.getLogger(__name__)

_WATCH_S = 10.0
"""How long the workers of a dead node are watched: those that live on finish their batch."""

_Mend = Callable[[str, Sequence[int]], None]


class Neighbours:
    """The nodes whose processes this one can see.

    A node says in its record where its process ids mean something (`limits.place`). Whoever is at the same place looks
    for the process itself. When that is gone, so are the claims of its workers, as their processes end.

    Parameters
    ----------
    ledger, registry
        Where the claims are, and the nodes.
    place : str
        Where this process is; empty sees nobody.
    """

    def __init__(self, ledger: Ledger, registry: Registry, place: str) -> None:
        self._ledger = ledger
        self._registry = registry
        self._place = place
        self._living: dict[tuple[str, int], NodeInfo] = {}
        self._dead: dict[tuple[str, int], float] = {}

    def meet(self, nodes: Sequence[NodeInfo]) -> None:
        """Take note of the nodes that are recorded, this one's predecessor of the same name included."""
        for node in nodes:
            key = (node.node, node.pid)
            if self._place and node.place == self._place and node.pid != os.getpid() and key not in self._dead:
                self._living[key] = node

    def bury(self, mend: _Mend) -> None:
        """Give back what dead neighbours held; called once a tick.

        Parameters
        ----------
        mend : callable of (str, sequence of int)
            Ends the claims of some workers of a run.
        """
        for key, node in list(self._living.items()):
            if alive(node.pid):
                continue
            now = time.monotonic()
            if key not in self._dead:
                logger.warning("node %s died, seen by its process %s", node.node, node.pid)
                self._dead[key] = now
            if not self._give_back(node, mend) or now - self._dead[key] > _WATCH_S:
                del self._living[key]

    def _give_back(self, node: NodeInfo, mend: _Mend) -> bool:
        """End the claims of the node's dead workers; whether some of its workers still live."""
        living = False
        for queue in node.queues:
            for run_id, _ in self._registry.active_runs(queue, retry_s=0.0):
                workers = self._workers(run_id, node)
                living = living or any(map(alive, workers.values()))
                dead = [code for code, pid in workers.items() if not alive(pid)]
                if dead:
                    mend(run_id, dead)
        return living

    def _workers(self, run_id: str, node: NodeInfo) -> dict[int, int]:
        """Process ids of the node's workers that served a run, by their codes in it."""
        found = {}
        try:
            for code, text in Reader(self._ledger.connection, run_id).workers().items():
                worker = WorkerIdentity.decode(text)
                if (worker.host, worker.node) == (node.host, node.node):
                    found[code] = worker.pid
        except (LedgerCorrupt, ValueError) as error:
            logger.warning("run %s: who works on it cannot be read (%s); its leases will expire", run_id, error)
        return found


def alive(pid: int) -> bool:
    """Whether a process lives; one that ended and was not waited for does not."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the second: no system has such ids
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
