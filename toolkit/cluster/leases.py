"""Leases: as long as somebody holds one, the guard keeps the cluster alive. The kernel drops them with their holder."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
import time
import weakref
from pathlib import Path

from toolkit.cluster.files import ALL_NODES

_held: weakref.WeakSet[Lease] = weakref.WeakSet()  # to let go of in a forked child, which must not keep them alive


class Lease:
    """A locked file in the state directory that says: I am still here.

    Parameters
    ----------
    directory : pathlib.Path
        Where leases lie.
    idle_s : float
        How long the cluster should outlive the last lease; 0 leaves that to other holders.
    node : str or None
        Key of the node that the holder needs; `ALL_NODES` for whatever nodes there are.
    """

    def __init__(self, directory: Path, idle_s: float, node: str | None) -> None:
        self.directory = directory
        self.idle_s = idle_s
        self.node = node
        self._fd = -1
        self._path: Path | None = None

    @property
    def name(self) -> str:
        """Name of its file, empty before it was ever held."""
        return self._path.name if self._path else ""

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._fd >= 0

    def take(self) -> bool:
        """Hold the lease; return False when it was already held.

        Raises
        ------
        OSError
            The directory does not take files or locks.
        """
        if self.held:
            return False
        while not self._try_take():
            pass
        _held.add(self)
        return True

    def _try_take(self) -> bool:
        path = self.directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, json.dumps({"pid": os.getpid(), "idle_s": self.idle_s, "node": self.node}).encode())
            if path.exists():
                self._fd, self._path, fd = fd, path, -1
        except BlockingIOError:  # the guard looks at it this moment, and will clear it away
            pass
        finally:
            if fd >= 0:
                os.close(fd)
        return self.held

    def release(self) -> None:
        """Let go of the lease, also for processes that were forked while it was held."""
        if not self.held:
            return
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.forget()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Close this process's handle of the lease and leave the lock to the process that took it."""
        if self.held:
            os.close(self._fd)
            self._fd = -1


def _forget_in_child() -> None:
    for lease in list(_held):
        lease.forget()


os.register_at_fork(after_in_child=_forget_in_child)


class NodeKeepAlive:
    """What the main process of a node calls about once a second, with whether any run has work left.

    While there is work a lease keeps the cluster alive, even if the kernel that submitted it is gone.

    Parameters
    ----------
    leases : pathlib.Path
        Directory of the leases.
    lapse_s : float
        How long the last call counts, see `lapse`.
    """

    def __init__(self, leases: Path, lapse_s: float = 30.0) -> None:
        self._lease = Lease(leases, 0.0, ALL_NODES)
        self._lapse_s = lapse_s
        self._called_at = 0.0
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __call__(self, busy: bool) -> None:
        """Take the lease, or release it."""
        if os.getpid() != self._pid:
            return  # a worker process: the lease is its node's
        with self._lock:
            self._called_at = time.monotonic()
            if busy:
                self._lease.take()
            else:
                self._lease.release()

    def lapse(self) -> None:
        """Release the lease if nobody has called for `lapse_s`: then another node sees to the runs, or nobody can."""
        with self._lock:
            if time.monotonic() - self._called_at > self._lapse_s:
                self._lease.release()
