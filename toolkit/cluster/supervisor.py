"""The guard's loop: start server and nodes, watch them, end them when no lease is held. Standard library only."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.cluster.children import GRACE_S, Node, Server, say
from toolkit.cluster.files import (
    ALL_NODES,
    GuardError,
    end_leftover_server,
    live_leases,
    read_json,
    remove_runtime,
    runtime_directory,
    try_lock,
    wait_lock,
)

TICK_S = 0.5  # how late the end of a lease may be seen; everything else wakes the guard
STARTING_S = 0.004  # between two looks at a server that starts
DEFAULT_IDLE_S = 300.0
SIGNAL_GRACE_S = 5.0  # the machine shuts down: nodes have this long


class Supervisor:
    """One server and its nodes, for the state directory `home`.

    Parameters
    ----------
    home : pathlib.Path
        The state directory.
    umask : int
        File mode mask of the client that started the guard: nodes get it, the guard's own files are private.
    notify : Callable
        Called with ``loading`` and ``ready``, for the client that waits.
    """

    def __init__(self, home: Path, umask: int, notify: Callable[[str], None]) -> None:
        self.home, self.umask, self.notify = home, umask, notify
        self.nodes: dict[str, Node] = {}
        self.idle_s = DEFAULT_IDLE_S
        self.leased_at = time.monotonic()
        self.end_grace_s: float | None = None  # set: end everything, nodes get this long
        self.start_lock: int | None = None
        self.wake_fd = -1
        self.runtime: Path | None = None
        self.server = Server(home, self._password(), self._take_data())
        (home / "stop.json").unlink(missing_ok=True)  # meant for an earlier guard

    def _password(self) -> str:
        return (self.home / "password").read_text(encoding="ascii").strip()

    def _take_data(self) -> int:
        return end_leftover_server(self.home, self._password())

    # ----------------------------------------------------------------- the loop

    def run(self) -> None:
        """Work until nobody needs the cluster, a client asks for its end, or a signal does.

        Raises
        ------
        GuardError
            The server does not start.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._on_signal)  # a handler, not SIG_IGN: children would inherit that
        try:
            while True:
                try:
                    wait_s = self._step()
                except OSError as error:  # for example a full disk; it may pass
                    say(f"{type(error).__name__}: {error}")
                    wait_s = TICK_S
                if self._must_end():
                    break
                self._wait(wait_s)
        finally:
            self._wind_down()

    def _on_signal(self, number: int, _frame: Any) -> None:
        if number == signal.SIGTERM:
            self.end_grace_s = SIGNAL_GRACE_S

    def _step(self) -> float:
        """Look at everything once and return how long there is nothing to do, in seconds."""
        now = time.monotonic()
        wait_s = self._step_server(now)
        leases = list(live_leases(self.home / "leases"))
        if leases:
            self.leased_at = now
            self.idle_s = max(float(lease.get("idle_s") or 0.0) for lease in leases) or self.idle_s
        leased = {lease.get("node") for lease in leases}
        for key in self._keys():
            node = self.nodes.setdefault(key, Node(self.home, key, self.umask))
            if key in leased or ALL_NODES in leased:
                node.leased_at = now
            elif now - node.leased_at > self.idle_s and node.wanted_path.exists():
                self._forget(node)
            node.step(wanted=True)
            wait_s = min(wait_s, node.due_in_s())
        return min(wait_s, TICK_S)

    def _step_server(self, now: float) -> float:
        """Look at the server, start it if it is due, and return when to look again, in seconds."""
        state = self.server.check()
        if state == "ended":
            if now < self.server.backoff.next_at:
                return self.server.backoff.next_at - now
            before, now_in = self.runtime, self._open_runtime()
            self.server.start(now_in)
            self.server.publish()
            if before not in (None, now_in):
                for node in self.nodes.values():
                    node.running = {}  # it knows the old socket: another one has to take its place
            return STARTING_S
        if state != "ready":
            if state == "loading":
                self.notify("loading")
            return STARTING_S if state == "starting" else 0.1
        self.notify("ready")
        return TICK_S

    def _keys(self) -> list[str]:
        """Return the keys of all nodes that are wanted or there."""
        paths = (self.home / "nodes").glob("*.json")
        wanted = {path.stem for path in paths if not path.stem.endswith(".state")}
        return sorted(wanted | set(self.nodes))

    def _forget(self, node: Node) -> None:
        """Drop the wish for a node that nobody has leased for long, unless somebody comes this very moment."""
        lock = try_lock(self.home / "nodes" / "lock")
        if lock is None:
            return
        if all(lease.get("node") not in (node.key, ALL_NODES) for lease in live_leases(self.home / "leases")):
            say(f"node {node.key} is no longer needed")
            node.wanted_path.unlink(missing_ok=True)
        os.close(lock)

    # ----------------------------------------------------------------- waiting

    def _open_runtime(self) -> Path:
        """Return the runtime directory, with its pipe; cleaners of temporary files may have taken them."""
        runtime = runtime_directory(self.home, self.server.spec["runtime"])
        path = runtime / "wake"
        if self.wake_fd >= 0 and runtime == self.runtime and path.exists():
            return runtime
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # for writing too, so that it never ends and signals can wake it
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        if self.wake_fd >= 0:
            os.close(self.wake_fd)
        self.wake_fd, self.runtime = fd, runtime
        return runtime

    def _wait(self, seconds: float) -> None:
        """Wait until a child dies, a client calls or `seconds` have passed."""
        if self.wake_fd < 0:
            time.sleep(seconds)
            return
        if select.select([self.wake_fd], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake_fd, 4096)

    # ----------------------------------------------------------------- the end

    def _must_end(self) -> bool:
        """Whether it is time to end, because a client or a signal says so or nobody has been there for long."""
        stop = self.home / "stop.json"
        if stop.exists():
            self.end_grace_s = float(read_json(stop).get("grace_s") or 0.0)
        elif time.monotonic() - self.leased_at > self.idle_s and self._nobody_comes():
            say(f"nobody was here for {self.idle_s:g} s")
            self.end_grace_s = GRACE_S
        return self.end_grace_s is not None

    def _nobody_comes(self) -> bool:
        """Close the door, then look once more whether somebody came in.

        A client takes its lease first and then looks for ``server.json``; the guard removes that first and then looks
        for leases. So either the client sees that it must wait, or the guard sees the client.
        """
        lock = try_lock(self.home / "start.lock")
        if lock is None:
            return False
        (self.home / "server.json").unlink(missing_ok=True)
        if any(True for _ in live_leases(self.home / "leases")):
            self.server.publish()
            os.close(lock)
            return False
        self.start_lock = lock  # held until the process ends
        return True

    def _wind_down(self) -> None:
        """End the nodes, then the server, and leave nothing behind but data and logs."""
        (self.home / "server.json").unlink(missing_ok=True)
        grace_s = self.end_grace_s if self.end_grace_s is not None else 0.0
        for node in self.nodes.values():
            node.wanted_path.unlink(missing_ok=True)
        while any(node.child is not None for node in self.nodes.values()):
            for node in self.nodes.values():
                node.drain(grace_s)
                node.step(wanted=False)
            self._wait(min([0.1, *(node.due_in_s() for node in self.nodes.values())]))
        self.server.stop()
        for node in self.nodes.values():
            node.ready_path.unlink(missing_ok=True)
        if self.runtime:
            remove_runtime(self.runtime)
        (self.home / "stop.json").unlink(missing_ok=True)
        say("the guard ends")


def main(home: Path, notify_fd: int) -> int:
    """Detach from the client, take the guard's lock and supervise; return the exit code.

    What the client waits for goes to descriptor `notify_fd`, a line each: ``loading`` (again and again), ``ready``, or
    ``error`` and the reason; then it is closed.
    """
    if os.fork():
        os._exit(0)  # the client reaps this one at once; the guard itself is nobody's child
    os.setsid()
    umask, pipe = os.umask(0o077), os.fdopen(notify_fd, "w", encoding="utf-8")
    last = ""

    def notify(text: str) -> None:
        nonlocal last
        if pipe.closed or (text == last == "ready"):
            return
        last = text
        with contextlib.suppress(OSError):
            print(text, file=pipe, flush=True)
            if text != "loading":
                pipe.close()

    lock = wait_lock(home / "guard.lock", GRACE_S + SIGNAL_GRACE_S)
    if lock is None:
        notify("error another guard does not end")
        return 1
    say(f"guard {os.getpid()} starts")
    try:
        Supervisor(home, umask, notify).run()
    except (GuardError, OSError, LookupError) as error:
        say(f"{type(error).__name__}: {error}")
        notify(f"error {error}")
        return 1
    return 0
