"""What tests of the LocalCluster share: a state directory that leaves no process behind, and other clients."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from toolkit.cluster import LocalCluster, files
from toolkit.settings import ServerAddress

ROOT = Path(files.__file__).parents[2]
PATIENCE_S = 30.0


def until(condition: Callable[[], object], what: str) -> None:
    """Poll `condition` until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.005)


def processes_of(*marks: str) -> list[psutil.Process]:
    """Return the live processes that have one of `marks` in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                line = "\0".join(process.cmdline())
                if any(mark in line for mark in marks):
                    found.append(process)
        except psutil.Error:
            continue
    return found


def true_in_fork(condition: Callable[[], bool]) -> bool:
    """Return whether `condition` holds in a forked child, whatever happens there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if condition() else 1
        finally:
            os._exit(code)  # never back into pytest
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def guard_looked(home: Path, times: int = 6) -> None:
    """Wait until the guard has looked at the leases so many times, which is at most twice a second."""
    for count in range(times):
        dead = home / "leases" / f"dead-{count}"  # nobody holds it, so the guard clears it away
        dead.touch(0o600)
        until(lambda path=dead: not path.exists(), "the guard looks at the leases")  # type: ignore[misc]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def connect(address: ServerAddress) -> redis.Redis:
    return redis.Redis.from_url(address.url, password=address.read_password(), decode_responses=True)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A state directory, all of whose processes are gone after the test."""
    path = tmp_path / f"state-{secrets.token_hex(4)}"
    yield path
    cluster = LocalCluster(state_dir=path, node=False)
    cluster.stop(grace_s=0.0)
    runtime = cluster._state.runtime_name
    until(lambda: not processes_of(str(path), runtime), "every process of the cluster is gone")


def server_only(home: Path, **kwargs: object) -> LocalCluster:
    return LocalCluster(state_dir=home, node=False, **kwargs)  # type: ignore[arg-type]


def run_python(code: str, home: Path, **kwargs: object) -> subprocess.Popen[str]:
    """Start another client process; ``cluster`` is started in it."""
    lines = [
        "import os, sys, time",
        "from pathlib import Path",
        "from toolkit.cluster import LocalCluster",
        "cluster = LocalCluster(state_dir=Path(sys.argv[1]), node=False, idle_s=float(sys.argv[2])).start()",
        "print(cluster.status().server_pid, flush=True)",
        code,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines), str(home), str(kwargs.pop("idle_s", 300.0))],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **kwargs,  # type: ignore[call-overload]
    )


STAND_IN = """
import os, signal, sys, time
ready, notes, workers = sys.argv[1:]
with open(notes, "a") as file:
    file.write(f"{os.getpid()} {workers}\\n")
if os.path.exists(notes + ".broken"):
    sys.exit("no module named broken")
if os.path.exists(notes + ".stubborn"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() and not os.path.exists(notes + ".mute"):
    with open(ready, "w") as file:
        file.write(str(os.getpid()))
time.sleep(1000)
"""


class StandIn(LocalCluster):
    """A cluster whose node is a small process with a child, which notes its lives beside the state directory."""

    def __init__(self, home: Path, workers: int | None = None, key: str = "", **kwargs: float) -> None:
        super().__init__(workers, state_dir=home, **kwargs)  # type: ignore[arg-type]
        self._key = self._lease.node = key or self._key
        self.notes = home.with_name(f"{home.name}-{self._key}")

    def _node_argv(self, workers: int) -> list[str]:
        ready = str(self._state.node_file(self._key, "ready"))
        return [sys.executable, "-I", "-S", "-c", STAND_IN, ready, str(self.notes), str(workers)]

    def lives(self) -> list[tuple[int, int]]:
        """Return process id and number of workers of every node so far."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(int(pid), int(workers)) for pid, workers in (line.split() for line in lines)]

    def flag(self, name: str, on: bool = True) -> None:
        """Make the next node ``broken``, ``stubborn`` (no end when asked) or ``mute`` (never ready)."""
        path = Path(f"{self.notes}.{name}")
        path.touch() if on else path.unlink()
