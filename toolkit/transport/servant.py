"""One worker process: turns a ticket into batches."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from billiard.process import current_process
from celery import Celery

from toolkit._version import PROTOCOL, __version__
from toolkit.errors import (
    FunctionNotAllowed,
    InvalidInput,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    RunNotFound,
    ToolkitError,
    TransportError,
)
from toolkit.execution import Modules, Task, load_function, read_key, resolve
from toolkit.ledger import Ledger, Registry
from toolkit.records import PRIORITIES, RunSpec, check_run_id, one_line
from toolkit.settings import ServerAddress
from toolkit.transport.adapters import adapt
from toolkit.transport.limits import Interrupter, Limits
from toolkit.transport.loop import BatchLoop, Hooks, RunContext, make_context, pause_corrupt
from toolkit.transport.marker import Marker
from toolkit.transport.tickets import new_ticket_id, publish

logger = logging.getLogger(__name__)

_CONTEXTS_KEPT = 8
MAX_HOPS = 20
"""How many nodes may decline a ticket before it is dropped; a sweeper then sends a fresh one."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What `install` was told; shared by a node's main process and its workers.

    Attributes
    ----------
    app : celery.Celery
        The application.
    address : ServerAddress
        The ledger's server.
    marker : Marker
        Shared memory, mapped before the workers are forked.
    function_key_file : pathlib.Path or None
        Key for functions typed in a cell; None refuses them.
    allow_imports : bool
        Whether a task's module may be imported because a run names it.
    archive : pathlib.Path or None
        Where the node keeps what ends on the server; None leaves that to others.
    """

    app: Celery
    address: ServerAddress
    marker: Marker = field(default_factory=Marker)
    function_key_file: Path | None = None
    allow_imports: bool = False
    archive: Path | None = None


class Declined(ToolkitError):
    """A run that this node cannot execute; another one may."""


class Servant:
    """The part of a worker process that serves tickets.

    Parameters
    ----------
    installation : Installation
        What the node was told.
    node : str
        Celery name of the node.
    """

    def __init__(self, installation: Installation, node: str) -> None:
        self._installation = installation
        self._node = node
        self._host = socket.gethostname()
        self._pid, self._parent = os.getpid(), os.getppid()
        self.ledger = Ledger(installation.address)
        self.registry = Registry(self.ledger.connection)
        self._contexts: OrderedDict[str, RunContext] = OrderedDict()
        self._lock = threading.Lock()
        self._modules = Modules()
        self._full = False  # whether the server's lack of memory was logged
        self._interrupter = Interrupter(installation.marker)

    def serve(self, run_id: str, ticket_id: str, hop: int) -> None:
        """Take batches of a run until it needs this worker no more."""
        try:
            check_run_id(run_id)
        except InvalidInput as error:
            logger.warning("a ticket was dropped: %s", error)
            return
        try:
            context = self._context(run_id)
        except RunNotFound:
            return  # a ticket that outlived its run
        except LedgerCorrupt as error:
            pause_corrupt(self.ledger, run_id, error)
            return
        except LedgerError:
            logger.exception("run %s: the ledger failed before anything was claimed", run_id)
            return
        except (Declined, InvalidInput) as error:
            self._decline(run_id, ticket_id, hop, error)
            return
        self._work(context, ticket_id)

    def _work(self, context: RunContext, ticket_id: str) -> None:
        run_id, hooks = context.spec.run_id, self._hooks()
        if _is_pool_process():
            self._interrupter.serve(hooks.slot, Limits.of(context.spec))
        loop = BatchLoop(self.ledger, context, hooks, new_ticket_id)
        try:
            ended = loop.serve(ticket_id)
        except LedgerFull as error:
            # Nothing was claimed, and nothing is wrong with the run: the sweeper sends another ticket within a second.
            if not self._full:
                logger.warning("run %s: %s", run_id, error)
            self._full = True
            return
        except LedgerError:
            logger.exception("run %s: the ledger failed, its lease will return what was claimed", run_id)
            return
        self._full = ended.reason == "full"
        if ended.reason in ("finished", "cancelled", "norun"):
            self.registry.deactivate(context.spec.queue, run_id)
            self._contexts.pop(run_id, None)
        elif ended.reason == "yield" and ended.left > 0:
            self._spawn(context.spec, new_ticket_id(), leaving=True)

    # ------------------------------------------------------------------ surroundings

    def _hooks(self) -> Hooks:
        marker = self._installation.marker
        slot = marker.slot_of_process(getattr(current_process(), "index", None))
        return Hooks(marker, slot, self._another_waits, self._draining, self._spawn)

    def _draining(self) -> bool:
        # A worker whose node died must not go on for ever: nobody renews its leases.
        return self._installation.marker.draining or (self._pid == os.getpid() and os.getppid() != self._parent)

    def _another_waits(self, spec: RunSpec) -> bool:
        mine = PRIORITIES.index(spec.priority)
        try:
            return any(
                run_id != spec.run_id and priority >= mine
                for run_id, priority in self.registry.active_runs(spec.queue, retry_s=0.0)
            )
        except LedgerError:
            return False

    def _spawn(self, spec: RunSpec, ticket_id: str, *, leaving: bool = False) -> None:
        try:
            if not leaving or self.ledger.register_tickets(spec.run_id, [ticket_id], lacking=True):
                publish(self._installation.app, spec, [ticket_id])
        except (TransportError, LedgerError) as error:
            logger.warning("run %s: a ticket was not sent (%s); a sweeper will", spec.run_id, error)

    # ------------------------------------------------------------------ what to execute

    def _context(self, run_id: str) -> RunContext:
        with self._lock:
            context = self._contexts.get(run_id)
            generation = 0 if context is None else self._generation(context)
            if context is not None and generation <= context.generation:
                self._contexts.move_to_end(run_id)
                return context
            spec = self.ledger.spec(run_id)
            check_version(spec)
            check_limits(spec)
            function, kwargs = self.ledger.function(run_id)
            task = self._task(spec, function)
            self._compare(spec, task)
            context = make_context(spec, task, kwargs, host=self._host, node=self._node)
            context.edition, context.generation = self._modules.edition, generation
            self._contexts[run_id] = context
            while len(self._contexts) > _CONTEXTS_KEPT:
                self._contexts.popitem(last=False)
            return context

    def _generation(self, context: RunContext) -> int:
        """The run's generation, looked up where modules were edited: for a new one the code was mended, perhaps."""
        edited = self._installation.allow_imports and (
            context.edition != self._modules.edition or self._modules.edited()
        )
        return self.ledger.status(context.spec.run_id, context.spec).generation if edited else context.generation

    def _task(self, spec: RunSpec, function: bytes) -> Task:
        installation = self._installation
        if not installation.allow_imports:  # modules are the application's, and change when its nodes are restarted
            return self._load(spec, function)
        if self._modules.renew():
            logger.warning("run %s: modules were edited, they are imported anew", spec.run_id)
        try:
            return self._load(spec, function)
        finally:
            self._modules.look()

    def _compare(self, spec: RunSpec, task: Task) -> None:
        """Say so where the run gets other code than it was submitted with: here is what the files hold now."""
        if spec.code_version and task.code_version != spec.code_version:
            self.ledger.note(
                spec.run_id, "code_version",
                f"{self._node}/{self._pid} executes version {task.code_version} of {task.name}; the run was submitted "
                f"with version {spec.code_version}. Its metric rows say which version ran",
            )  # fmt: skip

    def _load(self, spec: RunSpec, function: bytes) -> Task:
        installation = self._installation
        if spec.kind == "celery":
            return adapt(installation.app, spec.task)
        if spec.kind == "function":
            if installation.function_key_file is None:
                raise FunctionNotAllowed(
                    f"node {self._node} runs no functions shipped by value; put the function in a module of the Celery "
                    "application, or give tk.install(function_key_file=...) the client's key"
                )
            key = read_key(installation.function_key_file)
            edition = self._modules.edition
            return load_function(function, spec.run_id, key, sys_path=spec.sys_path, edition=edition)
        return resolve(spec.path or spec.task, allow_import=installation.allow_imports, sys_path=spec.sys_path)

    def _decline(self, run_id: str, ticket_id: str, hop: int, error: ToolkitError) -> None:
        logger.warning("run %s declined: %s", run_id, one_line(str(error), 1000))
        if hop == 0:
            self.ledger.note(run_id, "declined", f"{self._node}: {error}")
        if hop >= MAX_HOPS:
            return
        time.sleep(min(1.0, 0.05 * (hop + 1)))  # lets another node be first at the broker
        try:
            publish(self._installation.app, self.ledger.spec(run_id), [ticket_id], hop + 1)
        except (ToolkitError, ValueError) as failed:
            logger.warning(
                "run %s: the declined ticket was not passed on (%s); a sweeper sends another", run_id, failed
            )


def _is_pool_process() -> bool:
    """Whether this is a process of its own that executes one batch at a time."""
    return getattr(current_process(), "index", None) is not None


def check_limits(spec: RunSpec) -> None:
    """Decline a run with time limits where they cannot be kept.

    Raises
    ------
    Declined
        The pool is not prefork: a thread or a greenlet can neither be interrupted nor killed.
    """
    if Limits.of(spec) is not None and not _is_pool_process():
        raise Declined(
            "the run has time limits, and this node's pool has no processes that could be interrupted or killed; start "
            "it with --pool=prefork, or submit without item_time_limit_s and batch_time_limit_s"
        )


def check_version(spec: RunSpec) -> None:
    """Decline a run of another version of this package.

    Raises
    ------
    Declined
        Its protocol, or its major and minor version, differ from ours.
    """
    if spec.protocol != PROTOCOL or spec.toolkit_version.split(".")[:2] != __version__.split(".")[:2]:
        raise Declined(
            f"the run was submitted by version {spec.toolkit_version} (protocol {spec.protocol}), this node has "
            f"{__version__} (protocol {PROTOCOL}); install the same minor version on both"
        )
