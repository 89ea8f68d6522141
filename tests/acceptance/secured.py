"""Servers with users of their own, or with TLS, and nodes that work under them."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.acceptance.nodes import celery_node
from tests.conftest import _redis_binary, _short_directory, _start, _valkey_binary

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server and the passwords of its users, `root` among them, who may do everything."""

    socket: Path
    passwords: dict[str, str]

    def ledger_url(self, user: str) -> str:
        return f"unix://{user}:{self.passwords[user]}@{self.socket}?db=0"

    def broker_url(self, user: str) -> str:
        return f"redis+socket://{user}:{self.passwords[user]}@{self.socket}?virtual_host=1"

    def connect(self, user: str) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), username=user, password=self.passwords[user])


@contextmanager
def running(engine: str, *lines: str, **environment: str) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A server with these lines of configuration, ``{directory}`` being its own directory; gives its socket."""
    binary = _valkey_binary() if engine == "valkey" else _redis_binary()
    with _short_directory() as directory:
        socket = directory / "server.sock"
        process = subprocess.Popen(
            [binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env={**os.environ, **environment},
        )  # fmt: skip
        common = ("port 0", f"unixsocket {socket}", f"dir {directory}", 'save ""', "maxmemory-policy noeviction")
        try:
            _start(process, "\n".join((*common, *lines)) + "\n")
            yield socket, process
        finally:
            process.kill()
            process.wait()


@contextmanager
def guarded(engine: str, acl: str, folder: Path) -> Iterator[Guarded]:
    """A server whose users are those of an ACL file made by the toolkit, with the passwords in `folder`."""
    passwords = {path.name: path.read_text().strip() for path in folder.iterdir()} | {"root": secrets.token_hex(16)}
    file = folder.with_name(f"{folder.name}-{engine}.acl")
    file.write_text(f"{acl}user root on >{passwords['root']} ~* &* +@all\n")
    with running(engine, f"aclfile {file}", "enable-debug-command yes") as (socket, _):
        yield Guarded(socket, passwords)


def node(environment: dict[str, str], log: Path, level: str = "WARNING") -> AbstractContextManager[int]:
    """A node of the secured application, with two workers."""
    name = f"secured-{secrets.token_hex(3)}"
    return celery_node("tests.acceptance.secured_app", name, environment, log, "-c", "2", "-l", level, "-Q", "celery")
