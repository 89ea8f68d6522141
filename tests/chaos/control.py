"""The negative control: the same shape, kills, journal and judge on plain Celery, which must be seen to lose items.

Its messages are acknowledged late and given back when a child is lost, as Celery advises. What a dead worker had taken
comes back after the visibility timeout, an hour by default: within a campaign that is loss.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from celery import Celery

from tests.chaos import QUEUE, plans
from tests.chaos.deployment import until
from tests.chaos.faults import Injector
from tests.chaos.journal import RECORD, Journal
from tests.chaos.nodes import Fleet, Node, Server, node_environment
from tests.chaos.oracle import Evidence, Verdict, judge
from tests.chaos.plans import RunPlan

CHUNK = 10
PAUSE_S = 0.005
QUIET_S = 3.0
"""So long nothing was executed: nothing more comes within the campaign."""


class Control:
    """One control campaign of child, node and server kills; call `run` once.

    Parameters
    ----------
    seed : int
        The faults come from it, as in a campaign.
    seconds : float
        How long faults are made.
    directory : pathlib.Path
        For data, logs and the journal.
    per_s : float
        Faults a second; by default those of a full campaign.
    """

    def __init__(self, seed: int, seconds: float, directory: Path, per_s: float | None = None) -> None:
        kinds = ("child", "node", "server")
        share = seconds / plans.FULL_S if per_s is None else per_s * seconds / sum(plans.TARGETS[k] for k in kinds)
        self.faults = plans.faults(seed, seconds, {k: max(1, round(plans.TARGETS[k] * share)) for k in kinds})
        self.seconds = seconds
        self.directory = directory
        self.journal = directory / "journal"
        self.journal.mkdir()

    def run(self) -> Verdict:
        """Publish every chunk, make the faults, wait until nothing moves, judge."""
        n = int(self.seconds * 4 / PAUSE_S) // CHUNK * CHUNK  # what four children could do undisturbed
        plan = RunPlan(0, "plain", n, CHUNK, PAUSE_S, keep_results=False)
        with contextlib.ExitStack() as stack:
            server = Server(self.directory / "server")
            stack.callback(server.stop)
            self._publish(server, n)
            environment = node_environment(server, self.journal)
            fleet = Fleet()
            stack.callback(fleet.close)
            for name in ("p0", "p1"):
                fleet.add(Node(name, "tests.chaos.plain", environment, self.directory / f"{name}.log"))
            until(lambda: self._written() > 0, 60.0, "the plain workers work")
            injector = Injector(server, fleet, None, self.directory / "faults.log")
            for fault in self.faults:
                time.sleep(fault.after_s)
                injector.execute(fault)
            injector.settle()
            self._await_quiet()
        # Celery keeps no books: it is asked to account for every item, as a run that ended does
        seen = Evidence(plan, "plain", "finished", 0, n, 0, 0, n, 1, None)
        return judge([seen], Journal.read(self.journal), injector.kills)

    def _publish(self, server: Server, n: int) -> None:
        app = Celery("control", broker=server.url(1), set_as_current=False)
        app.conf.task_default_queue = QUEUE
        with app.producer_or_acquire() as producer:
            for start in range(0, n, CHUNK):
                app.send_task("plain.chunk", (0, start, start + CHUNK, PAUSE_S), producer=producer, queue=QUEUE)
        app.close()

    def _written(self) -> int:
        return sum(path.stat().st_size for path in self.journal.iterdir()) // RECORD.size

    def _await_quiet(self) -> None:
        """Until nothing was executed for `QUIET_S`, on nodes that are up."""
        latest, since = self._written(), time.monotonic()
        while time.monotonic() - since < QUIET_S:
            time.sleep(0.1)
            if (now := self._written()) != latest:
                latest, since = now, time.monotonic()
