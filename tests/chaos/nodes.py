"""The processes of a campaign: a server that keeps its data, and nodes that are put up again when they fall."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import redis

from tests.chaos import BROKER, LEDGER
from tests.chaos.journal import DIRECTORY
from toolkit.cluster.binary import find_binary

ROOT = Path(__file__).parents[2]
START_S = 60.0
ORPHAN_S = 10.0
"""How long the children of a dead main process may stay."""


class Server:
    """A real server on a port of 127.0.0.1, with an append-only file that outlives its kills.

    Parameters
    ----------
    directory : pathlib.Path
        Where its data and its log go.
    appendfsync : str
        ``always`` or ``everysec``.
    """

    def __init__(self, directory: Path, appendfsync: str = "always") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._binary = str(find_binary().path)
        self._directory = directory
        self._password = secrets.token_urlsafe(12)
        self._appendfsync = appendfsync
        self._lock = threading.Lock()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self.back_s: list[float] = []
        self.start()

    def url(self, database: int, port: int | None = None) -> str:
        """Address with the password, of the server itself or of a proxy before it."""
        return f"redis://:{self._password}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it has read its data."""
        lines = (
            f"port {self.port}", "bind 127.0.0.1", f"requirepass {self._password}", f"dir {self._directory}",
            'save ""', "appendonly yes", f"appendfsync {self._appendfsync}", "maxmemory-policy noeviction",
        )  # fmt: skip
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(("\n".join(lines) + "\n").encode())
        probe = redis.Redis(port=self.port, password=self._password)
        deadline = time.monotonic() + START_S
        while True:
            try:
                probe.ping()
                break
            except redis.exceptions.RedisError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"the server did not start; see {self._directory}/server.log") from None
                time.sleep(0.01)
        probe.close()

    def kill(self, away_s: float = 0.0) -> int:
        """Kill it as a power switch would, and start it again after `away_s`; returns the process killed."""
        with self._lock:
            began = time.monotonic()
            assert self._process is not None
            killed = self._process.pid
            self.stop()
            time.sleep(away_s)
            self.start()
            self.back_s.append(time.monotonic() - began - away_s)
            return killed

    def stop(self) -> None:
        """Kill it for good."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Node:
    """One ``celery worker`` in a session of its own.

    Parameters
    ----------
    name : str
        Its name, kept over restarts.
    module : str
        The application it loads.
    environment : mapping
        Beside the present one.
    log : pathlib.Path
        Where it writes.
    """

    def __init__(self, name: str, module: str, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.starts = 0
        self.killed: set[int] = set()
        self._module = module
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []
        self.start()

    @property
    def pid(self) -> int:
        """Its main process, 0 when there is none."""
        return self._process.pid if self.alive and self._process is not None else 0

    @property
    def alive(self) -> bool:
        """Whether its main process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; does not wait until it listens."""
        command = [
            sys.executable, "-m", "celery", "-A", self._module, "worker", "-c", "2", "-l", "WARNING",
            "-n", f"{self.name}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=out, stderr=out, start_new_session=True, cwd=ROOT
            )
        self.starts += 1

    def children(self) -> list[int]:
        """Its pool's processes."""
        return [p.pid for p in self._children()]

    def _children(self) -> list[psutil.Process]:
        try:
            return sorted(psutil.Process(self.pid).children(), key=lambda p: p.pid) if self.pid else []
        except psutil.Error:
            return []

    def kill(self, *, group: bool) -> list[int]:
        """Kill it as a machine loss would, or only its main process; returns the processes that it had."""
        process, self._family = self._process, self._children()  # the fleet puts up the next one at once
        if process is None or process.poll() is not None:
            return []
        pid = process.pid
        self.killed.add(pid)
        if group:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        return [pid, *(p.pid for p in self._family)]

    def orphans(self) -> list[int]:
        """Children of the main process killed last that outlived it; they get `ORPHAN_S` to go, then are killed."""
        _, left = psutil.wait_procs(self._family, timeout=ORPHAN_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return [p.pid for p in left]

    def signal(self, pids: list[int], number: signal.Signals) -> None:
        """Send a signal to some of its processes, where they still are."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """Kill it and all its children for good."""
        if self._process is not None:
            family = self._children()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if self.alive:
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for process in family:
                with contextlib.suppress(psutil.Error):
                    process.kill()


def node_environment(server: Server, journal: Path, port: int | None = None) -> dict[str, str]:
    """What a node needs to know: the broker in database 1, the ledger in database 0, through a proxy or not."""
    scratch = journal.parent / "scratch"  # what killed processes leave goes with the rest
    scratch.mkdir(exist_ok=True)
    return {
        BROKER: server.url(1, port), LEDGER: server.url(0, port), DIRECTORY: str(journal), "TMPDIR": str(scratch),
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


class Fleet:
    """Nodes that are started again when they end, whoever ended them.

    Attributes
    ----------
    nodes : list of Node
        The nodes, by rank.
    own_deaths : int
        How often one ended that nobody had killed.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.own_deaths = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="chaos-fleet", daemon=True)
        self._thread.start()

    def add(self, node: Node) -> None:
        """Take a node in."""
        self.nodes.append(node)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for node in tuple(self.nodes):
                if not node.alive:
                    self.own_deaths += node._process is not None and node._process.pid not in node.killed
                    node.start()

    def close(self) -> None:
        """End all nodes."""
        self._stop.set()
        self._thread.join(10)
        for node in self.nodes:
            node.end()
