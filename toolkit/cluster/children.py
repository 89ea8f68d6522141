"""The processes of the guard: the server and the nodes, each a small state machine that never waits long."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.cluster.files import (
    GuardError,
    call,
    open_log,
    read_json,
    signal_group,
    tail,
    try_lock,
    write_json,
)

# Of the server: another locale might stop it. The wheel's binary allocates by glibc, whose cache keeps seven blocks of
# a size by default; a ledger call takes and gives back hundreds: 5 % of its instructions. Others do not read this.
_ENVIRONMENT = {"LC_ALL": "C", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=256"}

GRACE_S = 30.0  # a node may finish its batches for this long before it is killed
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.2, 10.0
GIVE_BACK_S = 1.0  # so long before it is killed it has to give back what its workers hold
STEADY_S = 10.0  # a process that lived this long did not die of its start
START_TRIES = 3  # a server that never answered is not tried for ever


# Parts of names, whole words of names (`PWD` alone is the directory), and what only a value gives away.
_SECRET_PART = re.compile(r"pass|secret|token|key|credential|auth|cookie|private|dsn|webhook|conn_?str|bearer|jwt")
_SECRET_WORD = re.compile(
    r"(?:^|[^a-z])(?:pwd|pw|conn|creds?|pat|sas|sig|signature)(?:$|[^a-z])|[a-z0-9]pwd$"
    r"|connection(?:_?(?:string|str|uri|url))?$"
)
_HARMLESS = frozenset(("pwd", "oldpwd"))
_SECRET_VALUE = re.compile(
    r"(?:^|[^a-z])(?:pwd|passw(?:or)?d|account_?key|access_?key|shared_?access_?\w*|api_?key|secret|token|sig)"
    r"\w*[\"']?\s*[=:]"
    r"|[a-z][a-z0-9+.-]*://[^/?#\s]*@"  # any user in a URL
    r"|://[^/\s]*(?:webhook|hooks?\.)|/webhooks?/"
    r"|-----begin [a-z ]*private key",
    re.IGNORECASE,
)


def say(text: str) -> None:
    """Write one line to the guard's log; a full disk does not end the guard."""
    with contextlib.suppress(OSError):
        os.write(1, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode())


def looks_secret(name: str, value: str) -> bool:
    """Whether an environment variable may hold a credential, by its name or by what stands in its value."""
    lower = name.lower()
    if lower in _HARMLESS:
        return False
    user_part, at, _ = value.partition("://")[2].partition("@")  # a password may have a slash in it
    in_url = bool(at and ":" in user_part)
    return bool(in_url or _SECRET_PART.search(lower) or _SECRET_WORD.search(lower) or _SECRET_VALUE.search(value))


def node_environment(stored: dict[str, str]) -> dict[str, str]:
    """Return the environment of a node: what its client stored, and the credentials that the guard itself was given.

    Credentials never go to disk: they come from the environment of the process that started the cluster.
    """
    return {name: value for name, value in os.environ.items() if looks_secret(name, value)} | stored


def _die_with_guard() -> Callable[[], None] | None:
    """Return what a child does before exec so that it gets SIGTERM when the guard dies; None where that is unknown."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # not needed elsewhere

    libc, guard = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        libc.prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != guard:  # it died between fork and here
            os._exit(1)

    return prepare


def _ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether `child` has ended; if so, also end what is left of its group, while the group's id is still its own."""
    if child.returncode is not None:
        return True
    if hasattr(os, "waitid"):  # looks without reaping, which keeps the id reserved
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        signal_group(child.pid, signal.SIGKILL)
    elif child.poll() is not None:
        signal_group(child.pid, signal.SIGKILL)
    return child.poll() is not None


def _how(returncode: int) -> str:
    """Say how a process ended, in words."""
    return f"was killed by signal {-returncode}" if returncode < 0 else f"exited with code {returncode}"


def inherit_data(data: Path, older: Path | None) -> None:
    """Give an empty data directory the append-only files of the same engine's `older` version.

    They are copied, so that going back to the older version finds what it left; the newer one may change the format.
    """
    if older is None or any(data.iterdir()) or not (older / "appendonlydir").is_dir():
        return
    import shutil  # slow to import, rarely needed

    partial = data.with_name(f"{data.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(older, partial)
    data.rmdir()
    partial.replace(data)
    say(f"data copied from {older} to {data}")


class Backoff:
    """When something that keeps dying may be started again: after 0.2 s at first, doubled up to 10 s."""

    def __init__(self) -> None:
        self.failures = 0
        self.next_at = 0.0

    def failed(self, lived_s: float) -> None:
        """Count a death after `lived_s` seconds of life."""
        self.failures = 1 if lived_s > STEADY_S else self.failures + 1
        self.next_at = time.monotonic() + min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self.failures - 1, 10))

    def clear(self) -> None:
        """Forget the deaths so far."""
        self.failures, self.next_at = 0, 0.0


class Server:
    """The one server process on its data directory; `check` says how it does."""

    def __init__(self, home: Path, password: str, data_lock: int) -> None:
        self.home, self.password, self.data_lock = home, password, data_lock
        self.spec = read_json(home / "spec.json")
        self.log_path = home / "server.log"
        self.child: subprocess.Popen[bytes] | None = None
        self.backoff = Backoff()
        self.runtime = Path()
        self.started_at = 0.0
        self.restarts = 0
        self.ready = self.was_ready = False

    @property
    def socket_path(self) -> Path:
        """Path of the server's socket."""
        return self.runtime / "s"

    def _config(self) -> bytes:
        """Return the configuration. It goes in on standard input, because it holds the password."""
        values = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "requirepass": self.password,
            "dir": self.spec["data"],
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "zset-max-listpack-entries": "0",  # small ones too keep scores as numbers: parsing texts costs a call 2 %
        }
        lines = []
        for name, value in values.items():
            safe = "".join(chr(b) if 32 < b < 127 and b not in b"\"'\\" else f"\\x{b:02x}" for b in os.fsencode(value))
            lines.append(f'{name} "{safe}"\n')
        return "".join(lines).encode()

    def start(self, runtime: Path) -> None:
        """Start the server with its socket in directory `runtime`; `publish` then says where it is."""
        self.runtime, self.started_at, self.ready = runtime, time.monotonic(), False
        self.socket_path.unlink(missing_ok=True)
        older = self.spec.get("inherit")
        inherit_data(Path(self.spec["data"]), Path(older) if older else None)
        log = open_log(self.log_path)
        try:
            self.child = subprocess.Popen(
                [self.spec["binary"], "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.spec["data"],
                env=_ENVIRONMENT | {"PATH": os.environ.get("PATH", os.defpath)},
                pass_fds=(self.data_lock,),
                start_new_session=True,
                preexec_fn=_die_with_guard(),  # noqa: PLW1509 - the guard has one thread
            )
        except OSError as error:
            self._failed(f"does not start: {error}")
            return
        finally:
            os.close(log)
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `check` will see it
            self.child.stdin.write(self._config())
            self.child.stdin.close()
        say(f"server {self.child.pid} started")

    def publish(self) -> None:
        """Write down where the server is, for clients that want to join."""
        where = {name: self.spec.get(name, "") for name in ("binary", "engine", "version")}
        where |= {"socket": str(self.socket_path), "wake": str(self.runtime / "wake"), "guard_pid": os.getpid()}
        where |= {"pid": self.child.pid if self.child else 0, "restarts": self.restarts}
        write_json(self.home / "server.json", where)

    def _failed(self, how: str) -> None:
        """Note that the server is not there any more.

        Raises
        ------
        GuardError
            It failed several times and never answered.
        """
        say(f"server {how}")
        self.child, self.ready = None, False
        self.backoff.failed(time.monotonic() - self.started_at)
        if not self.was_ready and self.backoff.failures >= START_TRIES:
            binary = self.spec.get("binary")
            raise GuardError(f"{binary} {how}, {START_TRIES} times. {self.log_path} ends:\n{tail(self.log_path)}")

    def check(self) -> str:
        """Look at the server once: ``ready``, ``loading``, ``starting`` or ``ended``.

        Raises
        ------
        GuardError
            It failed several times and never answered.
        """
        if self.child is None:
            return "ended"
        if _ended(self.child):
            self._failed(f"{self.child.pid} {_how(self.child.returncode)}")
            self.restarts += 1
            return "ended"
        if self.ready:
            if self.socket_path.exists():
                return "ready"
            say("the socket is gone, the server starts anew")  # a cleaner of temporary files, or the end of a login
            self.stop()
            return "ended"
        answer = call(str(self.socket_path), self.password, "PING", 0.25)
        if answer == "+PONG":
            self.ready = self.was_ready = True
            self.backoff.clear()
        return "ready" if self.ready else "loading" if answer.startswith("-LOADING") else "starting"

    def stop(self) -> None:
        """End the server; what it acknowledged is on disk when this returns."""
        if self.child is None:
            return
        self.child.terminate()
        try:
            self.child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        say(f"server {self.child.pid} stopped")
        self.child, self.ready = None, False


class Node:
    """One ``celery worker`` for one Python environment: what is wanted, and the process that is there."""

    def __init__(self, home: Path, key: str, umask: int) -> None:
        self.key, self.umask = key, umask
        self.wanted_path, self.state_path, self.ready_path, self.lock_path, self.log_path = (
            home / "nodes" / f"{key}.{suffix}" for suffix in ("json", "state.json", "ready", "lock", "log")
        )
        self.wanted: dict[str, Any] = {}
        self.running: dict[str, Any] = {}  # the wish that the process was started with
        self.child: subprocess.Popen[bytes] | None = None
        self.backoff = Backoff()
        self.restarts = 0
        self.started_at = 0.0
        self.kill_at = 0.0  # 0 while it need not end
        self.told_at = 0.0  # when it was told that its time is over
        self.leased_at = time.monotonic()
        self._told: dict[str, Any] = {}

    def step(self, wanted: bool) -> None:
        """Bring the process one step nearer to what clients want."""
        self.wanted = read_json(self.wanted_path) if wanted else {}
        if self.child is not None:
            self._look()
        if self.child is None and self.wanted.get("argv"):
            if _wish(self.wanted) != _wish(self.running):
                self.backoff.failures = 0  # what died before was another one
                self._start()
            elif time.monotonic() >= self.backoff.next_at:
                self._start()
        self._tell()

    def due_in_s(self) -> float:
        """Seconds until `step` has something to do, if nothing happens before."""
        now = time.monotonic()
        if self.child is None:
            return max(0.0, self.backoff.next_at - now) if self.wanted.get("argv") else 60.0
        return max(0.05, self.kill_at - now) if self.kill_at else 60.0  # what was killed may take a while to go

    def _look(self) -> None:
        """See whether the process ended, or has to."""
        assert self.child is not None
        if _ended(self.child):
            say(f"node {self.key} {self.child.pid} {_how(self.child.returncode)}")
            if not self.kill_at:
                self.backoff.failed(STEADY_S + 1 if self.is_ready() else time.monotonic() - self.started_at)
                self.restarts += 1
            self.child, self.kill_at = None, 0.0
        elif _wish(self.wanted) != _wish(self.running):
            self.drain(GRACE_S)

    def is_ready(self) -> bool:
        """Whether this very process said that it serves."""
        try:
            return self.child is not None and self.ready_path.read_text(encoding="ascii") == str(self.child.pid)
        except OSError:
            return False

    def drain(self, grace_s: float) -> None:
        """Ask the process to finish its batches and end; kill all of it `grace_s` after the first time of asking.

        One that serves is told first, so that it gives back what its workers hold: it then kills itself, at once.
        """
        if self.child is None:
            return
        now = time.monotonic()
        if not self.kill_at:
            say(f"node {self.key} {self.child.pid} drains")
            self.child.terminate()
        self.kill_at = min(self.kill_at or now + grace_s, now + grace_s)
        if now < self.kill_at:
            return
        if not self.told_at and self._tell_end():
            self.told_at = now
        if not self.told_at or now >= self.told_at + GIVE_BACK_S:
            signal_group(self.child.pid, signal.SIGKILL)

    def _tell_end(self) -> bool:
        """Say to the process that its time is over; whether it hears it."""
        if not self.is_ready():
            return False
        assert self.child is not None
        assert self.child.stdin is not None
        try:
            os.write(self.child.stdin.fileno(), b"\n")
        except OSError:
            return False
        return True

    def _start(self) -> None:
        """Start the process, unless one that an earlier guard left behind still lives."""
        lock = try_lock(self.lock_path)
        if lock is None:
            self._evict()
            return
        self.ready_path.unlink(missing_ok=True)
        self.running, self.started_at, self.kill_at = dict(self.wanted), time.monotonic(), 0.0
        self.told_at = 0.0
        log, cwd = open_log(self.log_path), self.wanted.get("cwd") or "/"
        try:
            self.child = subprocess.Popen(
                self.wanted["argv"],
                stdin=subprocess.PIPE,  # that it closes tells the node that the guard is gone
                stdout=log,
                stderr=log,
                cwd=cwd if Path(cwd).is_dir() else "/",
                env=node_environment(self.wanted.get("env") or {}),
                pass_fds=(lock,),
                start_new_session=True,
                umask=self.umask,
                preexec_fn=_die_with_guard(),  # noqa: PLW1509 - the guard has one thread
            )
        except OSError as error:
            os.write(log, f"cannot start {self.wanted['argv'][0]}: {error}\n".encode())
            self.backoff.failed(0.0)
        else:
            say(f"node {self.key} {self.child.pid} started with {self.wanted.get('workers')} workers")
        finally:
            os.close(log)
            os.close(lock)

    def _evict(self) -> None:
        """End a node of an earlier guard. Its lock is held, so the group recorded for it is still its own."""
        now, pid = time.monotonic(), int(read_json(self.state_path).get("pid") or 0)
        if now < self.backoff.next_at:
            return
        self.backoff.next_at = now + 1.0
        if not self.kill_at:
            say(f"node {self.key} {pid} of an earlier guard drains")
            self.kill_at = now + GRACE_S
        if now >= self.kill_at + LAST_BACKOFF_S:
            self.lock_path.unlink(missing_ok=True)  # held by a stranger that left the group: do without
        elif pid > 1:
            self._signal_leftover(pid, kill=now >= self.kill_at)

    def _signal_leftover(self, pid: int, kill: bool) -> None:
        """Ask the main process `pid` to end, or kill its whole group; also when the main process is already gone."""
        try:
            os.kill(pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            kill = True
        if kill:
            signal_group(pid, signal.SIGKILL)

    def _tell(self) -> None:
        """Write down what is there, for clients that wait for it."""
        if self.child is None and not self.running:
            return  # what an earlier guard wrote is needed to end its node
        told = {
            "pid": self.child.pid if self.child else 0,
            "workers": self.running.get("workers", 0),
            "generation": self.running.get("generation", 0),
            "failures": self.backoff.failures,
            "restarts": self.restarts,
            "guard_pid": os.getpid(),
            "state": "none" if self.child is None else "draining" if self.kill_at else "started",
        }
        if told != self._told:
            write_json(self.state_path, told)
            self._told = told


def _wish(node: dict[str, Any]) -> tuple[Any, Any]:
    """Return what of a wish makes a new process necessary when it changes."""
    return node.get("workers"), node.get("generation")
