"""Files, locks and one-line talk with the server: what the guard and its clients share. Standard library only.

The layout of the state directory is described in `toolkit.cluster.guard`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOG_BYTES = 4 * 1024 * 1024
ALL_NODES = "*"  # in a lease: keep whatever nodes there are
SOCKET_PATH_BYTES = 103  # 104 on macOS and 108 on Linux, with the closing zero


class GuardError(Exception):
    """The guard cannot do its work; the text goes to the client that started it."""


# --------------------------------------------------------------------------- small files


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in file `path`; empty when it is absent or not (yet) an object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_private(path: Path, text: str) -> None:
    """Replace file `path` (mode 0600) at once, so that no reader sees half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace file `path` (mode 0600) by `values`, at once."""
    write_private(path, json.dumps(values))


def open_log(path: Path) -> int:
    """Open log file `path` for appending; a large one is moved aside first, so that two bounded files remain."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(f"{path}.1")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def tail(path: Path, lines: int = 15) -> str:
    """Return the last `lines` lines of file `path`, empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


# --------------------------------------------------------------------------- directories


def private_directory(path: Path) -> Path:
    """Make directory `path` if needed, mode 0700, and return it.

    Raises
    ------
    GuardError
        It is not a directory, or it belongs to another user.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise GuardError(f"{path} is not a directory of this user; remove it or choose another place")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def runtime_directory(home: Path, name: str) -> Path:
    """Make the private directory `name` for the socket, in a place that is short enough; `home` is the last resort.

    Raises
    ------
    GuardError
        No place is short enough and this user's.
    """
    problems = []
    for base in (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp", str(home)):  # noqa: S108 - it is checked
        if not base or not base.startswith("/"):
            continue
        path = Path(base, name)
        if len(os.fsencode(path)) + len("/s") > SOCKET_PATH_BYTES:
            problems.append(f"{base} is too long")
            continue
        try:
            return private_directory(path)
        except (OSError, GuardError) as error:
            problems.append(str(error))
    raise GuardError("no directory for the server's socket: " + "; ".join(problems))


def remove_runtime(runtime: Path) -> None:
    """Remove the directory for the socket, as far as it is this cluster's."""
    with contextlib.suppress(OSError):
        for name in ("s", "wake"):
            (runtime / name).unlink(missing_ok=True)
        runtime.rmdir()


# --------------------------------------------------------------------------- locks


def try_lock(path: Path) -> int | None:
    """Lock file `path`, made if needed, and return its descriptor; None when another process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return fd


def wait_lock(path: Path, timeout_s: float) -> int | None:
    """Lock file `path`, waiting up to `timeout_s`; None when another process still holds it."""
    deadline = time.monotonic() + timeout_s
    while (fd := try_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return fd


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on file `path`."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who look do not deceive each other
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def live_leases(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield what each live lease says, and clear away the files of dead holders."""
    for path in directory.iterdir():
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            yield read_json(path) | {"name": path.name}
        finally:
            os.close(fd)


# --------------------------------------------------------------------------- talk


def call(socket_path: str, password: str, command: str, timeout_s: float = 1.0) -> str:
    """Send one command to the server and return the first line of its answer.

    Returns
    -------
    str
        ``+PONG``, ``-LOADING ...`` and so on; ``silent`` when the server takes the connection and does not answer in
        time; empty when nobody is there.
    """
    words = [b"$%d\r\n%s\r\n" % (len(word), word) for word in (b"AUTH", password.encode(), command.encode())]
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout_s)
        try:
            link.connect(socket_path)
            link.sendall(b"*2\r\n" + words[0] + words[1] + b"*1\r\n" + words[2])
            with link.makefile("rb") as answer:
                first = answer.readline()
                line = answer.readline() if first.startswith(b"+OK") else first
        except TimeoutError:
            return "silent"
        except OSError:
            return ""
    return line.decode("utf-8", "replace").strip()


def wake(home: Path) -> None:
    """Tell the guard, if there is one, that something changed; without this it would see it a tick later."""
    path = read_json(home / "server.json").get("wake")
    if not path:
        return
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # fails when no guard listens
        with contextlib.suppress(OSError):
            os.write(fd, b"w")
        os.close(fd)


def signal_group(pid: int, number: int) -> None:
    """Send signal `number` to every process of the group that `pid` leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def end_leftover_server(home: Path, password: str) -> int:
    """Lock the data, ending a server that a killed guard left behind, and return the lock's descriptor.

    Raises
    ------
    GuardError
        The server does not end.
    """
    path, left = home / "data.lock", read_json(home / "server.json")
    pid = int(left.get("pid") or 0)
    if (fd := wait_lock(path, 2.0)) is not None:  # on Linux it ends by itself, with its guard
        return fd
    answer = call(str(left.get("socket")), password, "SHUTDOWN", 2.0)
    if (fd := wait_lock(path, 0.0 if answer == "silent" else 10.0)) is not None:
        return fd
    if pid > 1:
        signal_group(pid, signal.SIGKILL)  # the lock is held, so this is still the server and not a later process
    if (fd := wait_lock(path, 5.0)) is not None:
        return fd
    raise GuardError(f"the data in {home} are in use by a server that does not end (pid {pid})")
