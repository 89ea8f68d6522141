"""Puts the planned faults into practice, and remembers exactly what it did to whom."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.journal import Event, Journal
from tests.chaos.nodes import Fleet, Node, Server
from tests.chaos.oracle import Kill
from tests.chaos.plans import Fault
from tests.chaos.proxy import Proxy

_LATENCY_S = 0.05
PATIENCE_S = 5.0
"""How long a fault waits for something to hit."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """Processes that stood still for a while.

    Attributes
    ----------
    kind : str
        ``node``, ``main`` or ``child``.
    pids : tuple of int
        Which.
    at, until : float
        Monotonic seconds.
    """

    kind: str
    pids: tuple[int, ...]
    at: float
    until: float


class Injector:
    """Executes faults; one at a time, those that last go on in the background.

    Parameters
    ----------
    server : Server
        The server.
    fleet : Fleet
        The nodes.
    proxy : Proxy or None
        Between the server and the last node.
    log : pathlib.Path
        One line of JSON for each fault, with its time.

    Attributes
    ----------
    done : Counter
        Faults that hit, by target.
    kinds : Counter
        The same by target and kind.
    """

    def __init__(self, server: Server, fleet: Fleet, proxy: Proxy | None, log: Path) -> None:
        self.done: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.kills: list[Kill] = []
        self.freezes: list[Freeze] = []
        self.orphans: list[int] = []
        self._server, self._fleet, self._proxy = server, fleet, proxy
        self._log = log
        self._began = time.monotonic()
        self._lasting: list[threading.Thread] = []
        self._stop = threading.Event()
        self._network = threading.Lock()

    def execute(self, fault: Fault) -> bool:
        """Execute one fault; False when there was nothing to hit."""
        act: Callable[[Fault], list[int] | None] = {
            "child": self._kill_child, "node": self._kill_node, "server": self._kill_server, "freeze": self._freeze,
            "network": self._break_network,
        }[fault.target]  # fmt: skip
        at = time.monotonic()
        hit, latest = act(fault), at + PATIENCE_S
        while hit is None and fault.target != "network" and time.monotonic() < latest:
            time.sleep(0.05)  # all that could be hit is being put up again
            hit = act(fault)
        (self.missed if hit is None else self.done)[fault.target] += 1
        self.kinds[f"{fault.target} {fault.kind}"] += hit is not None
        told = {"at_s": round(at - self._began, 3), "target": fault.target, "kind": fault.kind, "rank": fault.rank,
                "duration_s": round(fault.duration_s, 3), "hit": hit}  # fmt: skip
        with self._log.open("a", encoding="ascii") as file:
            file.write(json.dumps(told) + "\n")
        return hit is not None

    def settle(self) -> None:
        """End what still lasts, at once: thaw, and forward again."""
        self._stop.set()
        for thread in self._lasting:
            thread.join(30)
        if self._proxy is not None:
            self._proxy.restore()

    # ------------------------------------------------------------------ by target

    def _kill_child(self, fault: Fault) -> list[int] | None:
        found = [(node, pid) for node in self._fleet.nodes for pid in node.children()]
        if not found:
            return None
        node, pid = found[fault.rank % len(found)]
        self._killed([pid])
        node.signal([pid], signal.SIGKILL)
        return [pid]

    def _kill_node(self, fault: Fault) -> list[int] | None:
        node = self._pick(fault)
        if node is None:
            return None
        pids = node.kill(group=fault.kind == "group")
        self._killed(pids)
        if fault.kind == "main":
            self._later(lambda: self.orphans.extend(node.orphans()))
        return pids or None

    def _kill_server(self, fault: Fault) -> list[int] | None:
        return [self._server.kill(fault.duration_s)]

    def _freeze(self, fault: Fault) -> list[int] | None:
        node = self._pick(fault)
        children = node.children() if node is not None else []
        if node is None or not children:
            return None
        child = [children[fault.rank // 7 % len(children)]]
        pids = {"node": [node.pid, *children], "main": [node.pid], "child": child}[fault.kind]
        began = time.monotonic()
        node.signal(pids, signal.SIGSTOP)

        def thaw() -> None:
            self._stop.wait(fault.duration_s)
            self.freezes.append(Freeze(fault.kind, tuple(pids), began, time.monotonic()))
            node.signal(pids, signal.SIGCONT)

        self._later(thaw)
        return pids

    def _break_network(self, fault: Fault) -> list[int] | None:
        proxy = self._proxy
        if proxy is None or not self._network.acquire(blocking=False):
            return None  # the fault before still lasts

        def act() -> None:
            try:
                if fault.kind == "reset":
                    proxy.reset()
                elif fault.kind == "cut_reply":
                    proxy.cut_replies(1 + fault.rank % 3)
                elif fault.kind == "latency":
                    proxy.latency(_LATENCY_S)
                    self._stop.wait(fault.duration_s)
                    proxy.latency(0.0)
                else:
                    with proxy.half_open():
                        self._stop.wait(fault.duration_s)
            finally:
                self._network.release()

        self._later(act)
        return [proxy.port]

    # ------------------------------------------------------------------ parts

    def _pick(self, fault: Fault) -> Node | None:
        """A node that is up: one whose pool exists, where there is any."""
        up = [node for node in self._fleet.nodes if node.alive]
        ready = [node for node in up if node.children()] or up
        return ready[fault.rank % len(ready)] if ready else None

    def _killed(self, pids: list[int]) -> None:
        now = time.monotonic()
        self.kills += [Kill(pid, now) for pid in pids]

    def _later(self, action: Callable[[], object]) -> None:
        thread = threading.Thread(target=action, name="chaos-lasting", daemon=True)
        self._lasting = [*(t for t in self._lasting if t.is_alive()), thread]
        thread.start()


def refusals(freezes: list[Freeze], journal: Journal) -> Counter[str]:
    """What became of the work that stood still beyond its lease.

    For each frozen process that was executing an item: its first commit afterwards was ``refused`` or ``accepted``
    (nobody had swept meanwhile), or it made ``none`` (it was killed, or gave up).
    """
    found: Counter[str] = Counter()
    for freeze in freezes:
        for pid in freeze.pids:
            life = journal.life_of(pid, freeze.at)
            if life is None or life.before(freeze.at)["event"][-1] >= Event.ACCEPTED:
                continue
            after = life.records[life.records["at"] > freeze.until]
            commits = after["event"][after["event"] >= Event.ACCEPTED]
            ended = "none" if not len(commits) else "refused" if commits[0] == Event.REFUSED else "accepted"
            found[f"{freeze.kind} {ended}"] += 1
    return found
