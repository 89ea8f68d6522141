"""One worker process: turns a ticket into batches."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
from contextlib import suppress
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
    LedgerUnavailable,
    RunNotFound,
    ToolkitError,
    TransportError,
)
from toolkit.execution import Modules, Task, load_function, read_key, resolve
from toolkit.ledger import Ledger, Registry
from toolkit.records import PRIORITIES, RunSpec, check_run_id
from toolkit.settings import ServerAddress
from toolkit.transport.adapters import adapt
from toolkit.transport.declining import Declining
from toolkit.transport.limits import Interrupter, Limits
from toolkit.transport.loop import BatchLoop, Hooks, RunContext, make_context, pause_corrupt
from toolkit.transport.marker import Marker
from toolkit.transport.tickets import new_ticket_id, publish

logger = logging.getLogger(__name__)

_CONTEXTS_KEPT = 8  # of a process that serves one ticket at a time; as many more as it ever served at once
_OVER = ("finished", "cancelled", "norun")
_ANEW = ("other", "anew")
_REBIRTHS = 3  # how often a ticket begins anew since its run was replaced, or its dead letters sent back, meanwhile


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
        # Contexts that no ticket uses, the latest used last. A ticket has one to itself: threads of a process may serve
        # the same run, and the page that one of them keeps is not the page of another.
        self._contexts: list[RunContext] = []
        self._serving: list[RunContext] = []
        self._most_used = 0
        self._lock = threading.Lock()
        self._making = threading.Lock()  # tasks are found, and their modules imported, one at a time
        self._modules = Modules()
        self._left_old = False  # whether something of modules that were edited since waits for the garbage collector
        self._full = False  # whether the server's lack of memory was logged
        self._declining = Declining(installation.app, self.ledger, node)
        self._interrupter = Interrupter(installation.marker)

    def serve(self, run_id: str, ticket_id: str, hop: int) -> None:
        """Take batches of a run until it needs this worker no more."""
        try:
            check_run_id(run_id)
        except InvalidInput as error:
            logger.warning("a ticket was dropped: %s", error)
            return
        try:
            with self._installation.marker.slot(_pool_index()) as slot:
                self._serve(run_id, ticket_id, hop, slot)
        except TransportError as error:
            self._declining.note(run_id, error)
            self._declining.pass_on(run_id, ticket_id, hop)
        finally:
            self._collect()

    def _serve(self, run_id: str, ticket_id: str, hop: int, slot: int) -> None:
        if self._declining.remembers(run_id):
            self._declining.pass_on(run_id, ticket_id, hop)
            return
        for _ in range(_REBIRTHS):
            began = time.monotonic()
            try:
                context = self._take(run_id)
            except RunNotFound:
                return  # a ticket that outlived its run
            except LedgerCorrupt as error:
                pause_corrupt(self.ledger, run_id, error)
                return
            except LedgerError:
                logger.exception("run %s: the ledger failed before anything was claimed", run_id)
                return
            except (Declined, InvalidInput) as error:
                self._declining.decline(run_id, error, time.monotonic() - began)
                self._declining.pass_on(run_id, ticket_id, hop)
                return
            ended = "failed"
            try:
                ended = self._work(context, ticket_id, slot)
            finally:
                self._put_back(context, ended)
            if ended not in _ANEW:
                return

    def _work(self, context: RunContext, ticket_id: str, slot: int) -> str:
        """Serve one ticket; returns why it ended, "failed" when the server did not say."""
        run_id, marker = context.spec.run_id, self._installation.marker
        hooks = Hooks(marker, slot, self._another_waits, self._draining, self._spawn)
        if _pool_index() is not None:
            self._interrupter.serve(slot, Limits.of(context.spec))
        loop = BatchLoop(self.ledger, context, hooks, new_ticket_id)
        try:
            ended = loop.serve(ticket_id)
        except LedgerFull as error:
            # Nothing was claimed, and nothing is wrong with the run: the sweeper sends another ticket within a second.
            if not self._full:
                logger.warning("run %s: %s", run_id, error)
            self._full = True
            return "failed"
        except LedgerError:
            logger.exception("run %s: the ledger failed, what was claimed goes back", run_id)
            return "failed"
        self._full = ended.reason == "full"
        if ended.reason in _OVER:
            with suppress(LedgerError):  # a sweep does it too
                self.registry.deactivate(context.spec.queue, run_id)
        elif ended.reason == "yield" and ended.left > 0:
            self._spawn(context.spec, new_ticket_id(), leaving=True)
        return ended.reason

    # ------------------------------------------------------------------ surroundings

    def _draining(self) -> bool:
        # A worker whose node died must not go on for ever: nobody renews its leases.
        return self._installation.marker.draining or (self._pid == os.getpid() and os.getppid() != self._parent)

    def _another_waits(self, spec: RunSpec) -> bool:
        mine = PRIORITIES.index(spec.priority)
        try:
            return any(
                run_id != spec.run_id and priority >= mine and not self._declining.remembers(run_id)
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

    def _take(self, run_id: str) -> RunContext:
        """What this process knows of a run, for one ticket alone until it is put back."""
        with self._lock:
            at = next((n for n, context in enumerate(self._contexts) if context.spec.run_id == run_id), None)
            context = None if at is None else self._contexts.pop(at)
            self._enter(context)
        if context is not None and self._begins_anew(context):
            with self._lock:
                self._leave(context)
            context = None  # before its successor is made: what its task's setup returned makes room
        if context is None:
            with self._making:
                context = self._make(run_id)
                with self._lock:
                    self._enter(context)
        if context.edition != self._modules.placed:
            with self._making:
                self._modules.place(context.edition)
        return context

    def _enter(self, context: RunContext | None) -> None:
        """Count a context among those in use; at no moment is one of a run that goes on in neither list."""
        if context is not None:
            self._serving.append(context)
            self._most_used = max(self._most_used, len(self._serving))

    def _leave(self, context: RunContext) -> None:
        self._serving = [c for c in self._serving if c is not context]

    def _begins_anew(self, context: RunContext) -> bool:
        try:
            return self._mended(context)
        except BaseException as error:
            # Where the server did not say, the run goes on later with the code that it began with.
            self._put_back(context, "norun" if isinstance(error, RunNotFound) else "failed")
            raise

    def _make(self, run_id: str) -> RunContext:
        stored = self.ledger.stored(run_id)
        check_version(stored.spec)
        check_limits(stored.spec)
        task = self._task(stored.spec, stored.function)
        self._compare(stored.spec, task)
        context = make_context(stored.spec, task, stored.kwargs, host=self._host, node=self._node)
        context.born, context.edition, context.generation = stored.born, self._modules.edition, stored.generation
        return context

    def _put_back(self, context: RunContext, ended: str) -> None:
        run_id = context.spec.run_id
        with self._lock:
            self._leave(context)
            if ended in _OVER:
                self._left_old |= context.edition != self._modules.edition
                self._contexts = [c for c in self._contexts if c.spec.run_id != run_id]
            elif ended == "other":  # the run was deleted, and its id given to another one
                self._contexts = [c for c in self._contexts if (c.spec.run_id, c.born) != (run_id, context.born)]
            else:
                self._contexts.append(context)
                del self._contexts[: -_CONTEXTS_KEPT - self._most_used]
        if self._modules.several:
            with self._making:
                self._drop_editions()

    def _mended(self, context: RunContext) -> bool:
        """Whether a generation of the run begins here, and modules were edited since the last: mended for it, perhaps.

        One that has begun goes on with what it has: hence each is noted, also where nothing was edited before it.
        """
        generation = self.ledger.generation(context.spec.run_id)
        begins, context.generation = generation > context.generation, generation
        if not begins or not self._installation.allow_imports:
            return False
        with self._making:  # nobody else looks at the modules meanwhile, or imports some
            return context.edition != self._modules.edition or self._modules.edited()

    def _task(self, spec: RunSpec, function: bytes) -> Task:
        installation = self._installation
        if not installation.allow_imports:  # modules are the application's, and change when its nodes are restarted
            return self._load(spec, function)
        self._modules.place(self._modules.edition)
        if self._modules.renew():
            logger.warning("run %s: modules were edited, they are imported anew", spec.run_id)
            self._left_old = True
        self._forget_ended()
        try:
            return self._load(spec, function)
        finally:
            self._modules.look()

    def _forget_ended(self) -> None:
        """Let go of what was loaded from modules that were edited since, where its run has ended.

        Module, task and function refer to each other, so that a model which a setup returned would stay until a full
        garbage collection, one with each edit; these come rarely.
        """
        with self._lock:
            idle = [context for context in self._contexts if context.edition != self._modules.edition]
        ended = {id(context) for context in idle if self._has_ended(context.spec.run_id)}
        if ended:
            with self._lock:
                self._contexts = [context for context in self._contexts if id(context) not in ended]
            self._left_old = True
        idle.clear()
        self._drop_editions()
        self._collect()

    def _drop_editions(self) -> None:
        with self._lock:
            used = {context.edition for context in (*self._contexts, *self._serving)}
        self._left_old |= self._modules.drop(used)

    def _has_ended(self, run_id: str) -> bool:
        """Whether a run is over, or gone. One that cannot be read is not, and no fault of the run that asks."""
        try:
            return not self.registry.goes_on(run_id)
        except LedgerUnavailable:
            raise
        except LedgerError as error:
            logger.debug("run %s: what it was loaded from is kept (%s)", run_id, error)
            return False

    def _collect(self) -> None:
        if self._left_old:
            self._left_old = False
            gc.collect()

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


def _pool_index() -> int | None:
    """Number of this process in its pool; None where a worker is no process of its own."""
    index = getattr(current_process(), "index", None)
    return None if index is None else int(index)


def check_limits(spec: RunSpec) -> None:
    """Decline a run with time limits where they cannot be kept.

    Raises
    ------
    Declined
        The pool is not prefork: a thread or a greenlet can neither be interrupted nor killed.
    """
    if Limits.of(spec) is not None and _pool_index() is None:
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
