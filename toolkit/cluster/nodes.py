"""What a client wants of a node: its command, its environment, and how many workers."""

from __future__ import annotations

import os
import re
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.cluster import files
from toolkit.cluster.children import looks_secret
from toolkit.cluster.layout import StateDir
from toolkit.errors import ClusterError

# Not for nodes: they would talk to another server, or take themselves for a kernel.
_LEFT_OUT = re.compile(r"TOOLKIT_(APP|LEDGER_URL|FUNCTION_KEY_FILE)|(JPY|JUPYTER|KERNEL|PYDEVD|COLAB)_\w*|MPLBACKEND|_")


def default_workers() -> int:
    """Return how many CPUs this process may use: the machine's, less what affinity and control groups forbid."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # another system, or no limit
        pass
    return max(1, count)


def node_argv(workers: int) -> list[str]:
    """Return the command of a node with `workers` workers, for the Python environment of this process.

    ``-P`` keeps files of the current directory from standing in for the modules that the node itself needs; tasks find
    theirs by the run's ``sys_path``.
    """
    return [sys.executable, "-P", "-m", "toolkit.cluster.node", str(workers)]


def stored_environment(state: StateDir, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of `environ` goes to disk for the node; credentials do not, see `children.node_environment`."""
    kept = {n: v for n, v in environ.items() if not _LEFT_OUT.fullmatch(n) and not looks_secret(n, v)}
    kept["TOOLKIT_STATE_DIR"] = str(state.path)
    root = str(Path(__file__).resolve().parents[2])
    if root not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:  # a checkout: the node must find it
        rest = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
        kept["PYTHONPATH"] = os.pathsep.join([root, *rest])
    return kept


@contextmanager
def wishes_locked(state: StateDir, timeout_s: float = 10.0) -> Iterator[None]:
    """Keep other clients and the guard from changing wishes for nodes meanwhile.

    Raises
    ------
    ClusterError
        Somebody holds the lock for longer than `timeout_s`.
    """
    lock = files.wait_lock(state.nodes / "lock", timeout_s)
    if lock is None:
        raise ClusterError(f"another process has been changing {state.nodes} for {timeout_s:g} s; try again")
    try:
        yield
    finally:
        os.close(lock)


def wanted_by_others(state: StateDir, key: str, lease_name: str) -> bool:
    """Whether somebody holds a lease on node `key`, other than the lease `lease_name`."""
    leases = files.live_leases(state.leases)
    return any(lease.get("node") == key and lease["name"] != lease_name for lease in leases)


def read_wish(state: StateDir, key: str) -> dict[str, Any]:
    """Return what clients want of node `key`; empty when nobody wants it."""
    return files.read_json(state.node_file(key, "json"))


def write_wish(state: StateDir, key: str, argv: list[str], workers: int, generation: int) -> None:
    """Want node `key` with so many workers, in this process's environment and directory; the caller holds the lock."""
    try:
        cwd = str(Path.cwd())
    except OSError:  # it was deleted
        cwd = "/"
    wish = {"argv": argv, "env": stored_environment(state, os.environ), "cwd": cwd}
    files.write_json(state.node_file(key, "json"), wish | {"workers": workers, "generation": generation})


def next_generation(wish: Mapping[str, Any]) -> int:
    """Return a generation later than that of `wish`, and than any of an earlier cluster."""
    return max(int(wish.get("generation", 0)) + 1, time.time_ns() // 1_000_000)


def node_state(state: StateDir, key: str) -> dict[str, Any]:
    """Return what the guard made of node `key`.

    Returns
    -------
    dict
        ``pid``, ``failures``, ``restarts`` and so on as the guard wrote them, ``current`` for whether that is about
        what is wanted now, and ``ready`` for whether the node serves so.
    """
    made, wish = files.read_json(state.node_file(key, "state.json")), read_wish(state, key)
    same = all(made.get(name) == wish.get(name) for name in ("workers", "generation"))
    made["current"] = bool(wish) and same and made.get("guard_pid") == state.server().get("guard_pid")
    try:
        ready_pid = state.node_file(key, "ready").read_text(encoding="ascii").strip()
    except OSError:
        ready_pid = ""
    made["ready"] = made["current"] and made.get("state") == "started" and str(made.get("pid")) == ready_pid
    return made


def kill_leftovers(state: StateDir) -> None:
    """Kill nodes whose guard is gone. Their locks are held, so the groups recorded for them are still their own."""
    for path in state.nodes.glob("*.lock"):
        lock = files.try_lock(path)
        if lock is not None:
            os.close(lock)
            continue
        pid = int(files.read_json(state.node_file(path.stem, "state.json")).get("pid") or 0)
        if pid > 1:
            files.signal_group(pid, signal.SIGKILL)
