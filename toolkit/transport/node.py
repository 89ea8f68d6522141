"""A node's main process: reports itself, renews its workers' leases, notices their deaths, sweeps when elected."""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from toolkit._version import PROTOCOL, __version__
from toolkit.errors import (
    LedgerCorrupt,
    LedgerError,
    LedgerUnavailable,
    RunNotFound,
    TimeLimitExceeded,
    ToolkitError,
)
from toolkit.execution.failures import Described, judge
from toolkit.ledger import NOBODY, Contact, Death, Ledger, Registry, Renewed
from toolkit.ledger.registry import NODE_ALIVE_S
from toolkit.records import NodeInfo, RunSpec
from toolkit.transport import tracing
from toolkit.transport.app import task_names
from toolkit.transport.batch import bare_letter
from toolkit.transport.electing import Candidacy
from toolkit.transport.limits import Limits, OutOfMemory, Warden, place
from toolkit.transport.marker import Work
from toolkit.transport.neighbours import Neighbours, alive
from toolkit.transport.postbox import Postbox
from toolkit.transport.servant import Installation
from toolkit.transport.sweeping import Sweeper

logger = logging.getLogger(__name__)

TICK_S = 0.1
_RENEW_TICKS = 2  # also how soon workers hear of a cancel
_REPORT_TICKS = 10
_READ_AGAIN_S = 5.0  # a run swept is looked up anew so often: its id may be used again, for another queue or lease
_SWEEPER_LEASE_S = 2.5  # well below half a lease: else its death would look like that of the server
_PARDONS = 10
"""Workers of a run that may be told to end (SIGTERM) before their item is suspected: it may have done that itself."""
_LETTERS = {
    "worker_lost": ("WorkerLost", "the process that executed this item died, each time it was tried"),
    "timeout": (
        "toolkit.errors.TimeLimitExceeded",
        "the item ran for longer than its run allows, and did not end when interrupted: its process was killed",
    ),
    "out_of_memory": ("WorkerLost", "the kernel ended the process that executed this item: out of memory"),
}
"""What a dead letter says whose item did not live to say it."""


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
        Called about once a second with whether any run has work left, see `Sweeper.sweep`.
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
        self._specs: dict[tuple[str, int], RunSpec] = {}  # by run and creation, since an id may be used again
        self._latest: dict[str, tuple[float, RunSpec]] = {}  # and when each was read
        self._known: dict[str, int] = {}
        self._corrupt: set[str] = set()
        self._pardoned: dict[str, set[int]] = defaultdict(set)  # process ids by run
        self._warden = Warden(installation.marker)
        self._memory = OutOfMemory()
        self._place = place()
        self._neighbours = Neighbours(self._ledger, self._registry, self._place)
        self._postbox = Postbox(installation.app, self._ledger)
        self._sweeper = Sweeper(self._ledger, self._registry, self._spec, self._known, self._postbox.put)
        self._candidacy = Candidacy()
        self._others = False
        self._started_at = 0.0
        self._contact = Contact()
        self._due = math.inf
        self._stop = threading.Event()
        self._silent = False
        self._thread = threading.Thread(target=self._run, name="toolkit-keeper", daemon=True)

    def start(self) -> None:
        """Start the threads, after the workers were forked."""
        self._postbox.start()
        self._thread.start()

    def stop(self) -> None:
        """End the threads and forget the node."""
        self._stop.set()
        self._postbox.stop()
        try:
            self._registry.remove_node(self._node)
        except LedgerError:
            logger.debug("node %s could not sign off", self._node)

    def give_back(self) -> None:
        """End the workers, and report what they hold as lost, with nobody to blame: the node is about to be killed."""
        marker = self._installation.marker
        marker.drain()  # from now on a death is on purpose, for the thread as well
        held = marker.works()
        for pid in {work.pid for work in held} - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # first: what it still commits counts, and it takes nothing new
        owed = {(w.run_id, claim) for w in (*held, *marker.works()) for claim in (w.claim_id, w.asked) if claim}
        try:
            for run_id, claim_id in owed:
                with self._apart(run_id):
                    self._ledger.lost(run_id, claim_id, Death(NOBODY), retry_s=0.0)
        except ToolkitError as error:
            logger.warning("node %s: leases will return what its workers held (%s)", self._node, error)

    def _run(self) -> None:
        tick = 0
        while not self._stop.is_set():
            try:
                self._tick(tick)
                if self._silent and tick % _REPORT_TICKS == 0:  # when every step was taken
                    logger.warning("node %s: the ledger answers as it should again", self._node)
                    self._silent = False
            except ToolkitError as error:
                if not self._silent:
                    logger.warning("node %s: %s", self._node, error)
                    self._silent = True
            except Exception:
                logger.exception("node %s: keeper failed, going on", self._node)
            tick += 1
            self._stop.wait(TICK_S)

    def _tick(self, tick: int) -> None:
        """Take every step that is due, whatever is wrong with one of them; the first error is the tick's."""
        self._memory.look()
        failed: ToolkitError | None = None
        for step in self._steps(tick, self._installation.marker.works()):
            try:
                step()
            except LedgerUnavailable:
                raise  # each further step would wait for the server again
            except ToolkitError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _steps(self, tick: int, works: list[Work]) -> Iterator[Callable[[], None]]:
        yield partial(self._report_deaths, works)
        yield partial(self._keep_limits, works)
        if tick % _REPORT_TICKS == 0:
            yield self._look
            yield partial(self._report, len(works))
        yield partial(self._neighbours.bury, self._mend)
        if tick % _RENEW_TICKS == 0:
            yield partial(self._renew, [w for w in works if w.claim_id])
        if tick % _REPORT_TICKS == 0 or time.monotonic() >= self._due:
            yield self._sweep

    # ------------------------------------------------------------------ leases and deaths

    def _report_deaths(self, works: list[Work]) -> None:
        for work in works:
            if alive(work.pid):
                continue
            logger.warning("worker %s of node %s died on run %s", work.pid, self._node, work.run_id)
            with self._apart(work.run_id):
                death = self._death(work)
                if work.claim_id:
                    tracing.lost(self._ledger, self._spec_of(work), work.claim_id, death.category, death.blamed)
                    self._ledger.lost(work.run_id, work.claim_id, death)
                if work.asked != work.claim_id:  # granted perhaps, and nothing of it begun
                    self._ledger.lost(work.run_id, work.asked, replace(death, blamed=NOBODY))
            self._installation.marker.end_dead(work)
            self._warden.forget(work)
            self._mend(work.run_id)

    @contextmanager
    def _apart(self, run_id: str) -> Iterator[None]:
        """Whatever is wrong with the data of one run must not cost the others their leases."""
        try:
            yield
        except RunNotFound:
            pass
        except LedgerCorrupt as error:
            if run_id not in self._corrupt:
                logger.warning("run %s is left alone: %s", run_id, error)
                self._corrupt.add(run_id)

    def _death(self, work: Work) -> Death:
        """Who is to blame for a worker's death, and for what."""
        why = self._warden.why(work)
        if why == "nobody":
            return Death(NOBODY)
        if why == "timeout":
            retry = self._spec_of(work).retry
            verdict = judge(TimeLimitExceeded(), retry)
            limit = retry.max_attempts if verdict.retryable else 1
            delay_s = verdict.delay(1, retry, random.random())  # noqa: S311
            return Death(work.position, "timeout", limit, delay_s, self._letter(work, "timeout", limit))
        if self._installation.marker.draining or (work.ending and self._pardons(work)):
            return Death(NOBODY)
        category = "out_of_memory" if self._memory.lately else "worker_lost"
        return Death(work.position, category, letter=self._letter(work, category, 3))

    def _pardons(self, work: Work) -> bool:
        """Whether a worker that was told to end says nothing about its item."""
        if len(self._pardoned) > 1000:
            self._pardoned.clear()
        told = self._pardoned[work.run_id]
        told.add(work.pid)  # asked again while the server is away
        return len(told) <= _PARDONS

    def _letter(self, work: Work, category: str, attempts: int) -> bytes:
        told = Described(*_LETTERS[category], "")
        return bare_letter(told, category, attempts, f"{self._node}/{work.pid}", self._registry.now())

    def _mend(self, run_id: str, dead_workers: Sequence[int] = ()) -> None:
        """Sweep a run now: what its dead workers held goes to others at once, by tickets if need be."""
        with self._apart(run_id):
            spec = self._spec(run_id)
            if dead_workers:
                tracing.lost_with(self._ledger, spec, dead_workers)
            swept = self._ledger.sweep(
                run_id, known_workers=self._known.get(spec.queue, 0), idle_workers=len(dead_workers),
                lease_s=spec.lease_s, dead_workers=dead_workers, contact=self._contact,
            )  # fmt: skip
            if swept.tickets:
                self._postbox.put(spec, swept.tickets)

    def _keep_limits(self, works: list[Work]) -> None:
        for work in works:
            with self._apart(work.run_id):
                limits = Limits.of(self._spec_of(work))
                if limits is not None:
                    self._warden.keep(work, limits)

    def _renew(self, works: list[Work]) -> None:
        by_run: dict[tuple[str, int], list[Work]] = defaultdict(list)
        for work in works:
            by_run[work.run_id, work.born].append(work)
        for (run_id, _), held in by_run.items():
            renewed = Renewed("norun")
            with self._apart(run_id):
                queue = self._spec_of(held[0]).queue
                renewed = self._ledger.renew(run_id, self._known.get(queue, 0), [w.claim_id for w in held])
            for work in held:
                if renewed.state in ("cancelling", "cancelled", "norun") or work.claim_id in renewed.gone:
                    self._installation.marker.stop(work.slot, work.claim_id)
                if renewed.terminate:
                    self._warden.kill(work, "terminate")

    # ------------------------------------------------------------------ report and sweep

    def _look(self) -> None:
        """See who else is there."""
        nodes = self._registry.nodes(retry_s=0.0, alive_only=False)
        now = self._registry.now()
        self._contact = self._contact.heard(now)
        self._neighbours.meet(nodes)
        workers, queues = self._describe()
        known = dict.fromkeys(queues, workers)
        self._others = False
        for node in nodes:
            if node.node != self._node and node.protocol == PROTOCOL and abs(now - node.seen_at) <= NODE_ALIVE_S:
                self._others = True
                for queue in node.queues:
                    known[queue] = known.get(queue, 0) + node.workers
        self._known.clear()
        self._known.update(known)

    def _report(self, busy: int) -> None:
        workers, queues = self._describe()
        now = self._registry.now()
        self._started_at = self._started_at or now
        tasks = tuple(sorted(task_names(self._installation.app)))
        self._registry.report_node(
            NodeInfo(
                node=self._node, host=socket.gethostname(), pid=os.getpid(), workers=workers, busy=busy, queues=queues,
                tasks=tasks, toolkit_version=__version__, protocol=PROTOCOL,
                python=f"{sys.version_info[0]}.{sys.version_info[1]}",
                functions=self._installation.function_key_file is not None, started_at=self._started_at, seen_at=now,
                place=self._place,
            )
        )  # fmt: skip

    def _sweep(self) -> None:
        self._due = math.inf
        if not self._candidacy.stands(self._postbox.away and self._others, time.monotonic()):
            return
        failed: LedgerError | None = None
        try:
            elected = self._registry.elect_sweeper(self._node, _SWEEPER_LEASE_S)
            self._candidacy.took(elected, time.monotonic())
        except LedgerUnavailable:
            raise
        except LedgerError as error:
            elected, failed = True, error  # two that sweep do no harm
        if elected:
            self._sweep_all()
        if failed is not None:
            raise failed

    def _sweep_all(self) -> None:
        at_work, due_s = self._sweeper.sweep(self._contact)
        self._due = time.monotonic() + due_s
        if self._keep_alive is not None:
            self._keep_alive(at_work > 0)

    def _spec(self, run_id: str) -> RunSpec:
        """Spec of the run that has the id now, or had it a moment ago."""
        read_at, spec = self._latest.get(run_id, (-math.inf, None))
        if spec is None or time.monotonic() - read_at > _READ_AGAIN_S:
            spec = self._read(run_id)[0]
        return spec

    def _spec_of(self, work: Work) -> RunSpec:
        """Spec of the run that a worker is on.

        Raises
        ------
        RunNotFound
            That run is gone, though another one may have its id.
        """
        spec = self._specs.get((work.run_id, work.born))
        if spec is None:
            spec, born = self._read(work.run_id)
            if born != work.born:
                raise RunNotFound(f"run {work.run_id}, created at {work.born}, is gone")
        return spec

    def _read(self, run_id: str) -> tuple[RunSpec, int]:
        stored = self._ledger.stored(run_id, arguments=False)
        for kept in (self._specs, self._latest):
            if len(kept) > 1000:
                kept.clear()
        self._specs[run_id, stored.born] = stored.spec
        self._latest[run_id] = (time.monotonic(), stored.spec)
        return stored.spec, stored.born
