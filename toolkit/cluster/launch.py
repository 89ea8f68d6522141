"""Join, start and stop: the dance of clients around the guard, with the locks that keep it orderly."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.cluster import files, nodes
from toolkit.cluster.binary import ServerBinary, find_binary
from toolkit.cluster.layout import StateDir
from toolkit.errors import ClusterError

START_TIMEOUT_S = 30.0  # without any sign of life; a server that loads its data gives one
STOP_TIMEOUT_S = 60.0  # beyond the nodes' grace


def join(state: StateDir, binary: str | Path | None) -> dict[str, Any] | None:
    """Return what is known of the running server; None when none can be joined.

    The caller has taken its lease before: the guard looks for leases after it has closed the door.

    Raises
    ------
    ClusterError
        It is another server program than `binary`, or refuses the password.
    """
    server = state.server()
    answer = state.ping(server)
    if answer == "+PONG":
        _check_same(state, server, binary)
        return server
    if answer.startswith(("-WRONGPASS", "-NOAUTH")):
        raise ClusterError(
            f"the server in {state.path} refuses the password in {state.password_file}: the file was changed while it"
            " runs. LocalCluster().stop() ends that server; the next start uses the file"
        )
    return None


def _check_same(state: StateDir, server: dict[str, Any], binary: str | Path | None) -> None:
    """Refuse to join another program than the one asked for; nothing else would be what the user wanted."""
    if binary is None:
        return
    asked, runs = find_binary(binary), str(server.get("binary"))
    if asked.path.resolve() != Path(runs).resolve():
        raise ClusterError(
            f"{asked.path} was asked for, but {runs} ({server.get('engine')} {server.get('version')}) runs in"
            f" {state.path}. Leave server_binary and TOOLKIT_SERVER_BINARY out to join it, or end it with"
            " LocalCluster().stop()"
        )


def start(state: StateDir, binary: str | Path | None, first_wish: Callable[[], None]) -> dict[str, Any]:
    """Start the guard and wait for its server, or wait for somebody else who is at it.

    Parameters
    ----------
    state : StateDir
        The state directory.
    binary : str, pathlib.Path or None
        The server program asked for.
    first_wish : Callable
        Called before the guard starts, to say which node it should start beside the server.

    Returns
    -------
    dict
        What the guard says about the server.

    Raises
    ------
    ClusterError
        No server program is there, or it does not start.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while (lock := files.try_lock(state.path / "start.lock")) is None:
        if (server := join(state, binary)) is not None:
            return server
        if _loading(state):
            deadline = time.monotonic() + START_TIMEOUT_S
        _check_deadline(state, deadline)
        time.sleep(0.005)
    try:
        server = _await_running_guard(state, binary)
        if server is None:
            _write_spec(state, find_binary(binary))
            first_wish()
            _run_guard(state)
            server = join(state, binary)
        if server is None:
            raise ClusterError(f"the server in {state.path} ended as soon as it had started. {_ends(state)}")
        return server
    finally:
        os.close(lock)


def _await_running_guard(state: StateDir, binary: str | Path | None) -> dict[str, Any] | None:
    """Wait for the server of the guard that runs, for example while it restarts; None when no guard runs (any more)."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while state.guard_lives():
        if (server := join(state, binary)) is not None:
            return server
        if _loading(state):
            deadline = time.monotonic() + START_TIMEOUT_S
        _check_deadline(state, deadline)
        time.sleep(0.005)
    return None


def _loading(state: StateDir) -> bool:
    return state.ping(state.server()).startswith("-LOADING")


def _check_deadline(state: StateDir, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise ClusterError(f"the server in {state.path} did not answer within {START_TIMEOUT_S:g} s. {_ends(state)}")


def _ends(state: StateDir) -> str:
    """Return the ends of the two logs that tell why."""
    paths = [state.path / name for name in ("guard.log", "server.log")]
    return "\n".join(f"{path} ends:\n{files.tail(path) or '(empty)'}" for path in paths)


def _write_spec(state: StateDir, binary: ServerBinary) -> None:
    """Say what the guard should start, and make the data directory."""
    data = state.path / "data" / binary.data_name
    older = ""
    if not data.exists():
        older = _older_data(data.parent, binary)
        data.mkdir(mode=0o700)
    files.private_directory(data)
    spec = {"binary": str(binary.path), "engine": binary.engine, "version": binary.version_text, "data": str(data)}
    files.write_json(state.path / "spec.json", spec | {"inherit": older, "runtime": state.runtime_name})


def _older_data(parent: Path, binary: ServerBinary) -> str:
    """Return the newest data directory of an older version of the same engine, empty when there is none."""
    found = []
    for path in parent.glob(f"{binary.engine}-*.*"):
        numbers = path.name.removeprefix(f"{binary.engine}-").split(".")
        if len(numbers) == 2 and all(part.isdigit() for part in numbers):
            version = (int(numbers[0]), int(numbers[1]))
            if version < binary.version[:2]:
                found.append((version, str(path)))
    return max(found)[1] if found else ""


def _run_guard(state: StateDir) -> None:
    """Start the guard, detached, and wait until it says that the server answers.

    Raises
    ------
    ClusterError
        It says why not, dies, or is silent for too long.
    """
    read_fd, write_fd = os.pipe()
    log = files.open_log(state.path / "guard.log")
    try:
        program = str(Path(__file__).with_name("guard.py"))
        first = subprocess.Popen(
            [sys.executable, "-I", "-S", program, str(state.path), str(write_fd)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            pass_fds=(write_fd,),
            start_new_session=True,  # an interrupt of the kernel is not meant for it
        )
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
        os.close(log)
    try:
        told = _read_told(read_fd)
    finally:
        os.close(read_fd)
        first.wait()  # it forked the guard and ended long ago
    if told != "ready":
        why = told.removeprefix("error ") or f"the guard of {state.path} started no server. {_ends(state)}"
        raise ClusterError(why)


def _read_told(fd: int) -> str:
    """Return the guard's last word: ``ready``, ``error ...`` or nothing; ``loading`` only asks for patience."""
    text = b""
    while select.select([fd], [], [], START_TIMEOUT_S)[0]:
        if not (more := os.read(fd, 65536)):  # closed after the last word
            break
        text += more
    while text.startswith(b"loading\n"):
        text = text.removeprefix(b"loading\n")
    return text.decode("utf-8", "replace").strip()


def stop(state: StateDir, grace_s: float) -> None:
    """Make the guard end everything, and wait for it; also end what a killed guard left behind.

    Raises
    ------
    ClusterError
        Something does not end.
    """
    lock = files.wait_lock(state.path / "start.lock", STOP_TIMEOUT_S)
    if lock is None:
        raise ClusterError(f"another process has been starting or stopping the cluster in {state.path} for long")
    try:
        if state.guard_lives():
            files.write_json(state.path / "stop.json", {"grace_s": grace_s})
            files.wake(state.path)
        deadline = time.monotonic() + grace_s + STOP_TIMEOUT_S
        while state.guard_lives():
            if time.monotonic() > deadline:
                raise ClusterError(f"the guard of {state.path} does not end. {_ends(state)}")
            time.sleep(0.005)
        (state.path / "stop.json").unlink(missing_ok=True)
        if state.nodes.is_dir():
            nodes.kill_leftovers(state)
        if state.password_file.exists():
            os.close(files.end_leftover_server(state.path, state.read_password()))
        if left := state.server().get("socket"):
            files.remove_runtime(Path(left).parent)
        (state.path / "server.json").unlink(missing_ok=True)
    finally:
        os.close(lock)
