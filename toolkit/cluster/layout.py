"""Where a cluster keeps its things, as clients and nodes see it; the layout is described in `toolkit.cluster.guard`."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toolkit.cluster import files
from toolkit.errors import ClusterError
from toolkit.settings import ServerAddress

_CREDENTIALS = "toolkit.cluster.credentials:file_"  # a name that toolkit/cluster/credentials.py understands


def node_key() -> str:
    """Return the key of this Python environment: same key, same interpreter and same installed packages."""
    identity = f"{Path(sys.prefix).resolve()}\0{sys.implementation.cache_tag}\0{sys.version}"
    return f"py{sys.version_info.major}{sys.version_info.minor}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


def queue_name(key: str) -> str:
    """Return the Celery queue of the node `key`: a kernel's tickets reach workers of its own environment only."""
    return f"toolkit-{key}"


@dataclass(frozen=True, slots=True)
class StateDir:
    """The state directory of one cluster.

    Attributes
    ----------
    path : pathlib.Path
        Absolute path.
    """

    path: Path

    @property
    def password_file(self) -> Path:
        """The secret of the server."""
        return self.path / "password"

    @property
    def function_key_file(self) -> Path:
        """The secret that signs functions typed in a cell."""
        return self.path / "function.key"

    @property
    def leases(self) -> Path:
        """Directory of the leases."""
        return self.path / "leases"

    @property
    def runtime_name(self) -> str:
        """Name of the directory for the socket, short and its own."""
        return f"toolkit-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]}"

    @property
    def nodes(self) -> Path:
        """Directory of what is wanted of nodes, and of what became of it."""
        return self.path / "nodes"

    def node_file(self, key: str, suffix: str) -> Path:
        """Return the path of a file of node `key`: ``json``, ``state.json``, ``ready`` or ``log``."""
        return self.nodes / f"{key}.{suffix}"

    def prepare(self) -> None:
        """Make the directories (0700) and the secrets (0600) that are missing.

        Raises
        ------
        GuardError
            A directory belongs to somebody else.
        OSError
            The place cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.leases, self.nodes, self.path / "data"):
            files.private_directory(path)
        for secret in (self.password_file, self.function_key_file):
            if not secret.exists():
                self._create_secret(secret)

    def _create_secret(self, path: Path) -> None:
        """Write 32 random bytes as hex digits, unless another process was faster."""
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        files.write_private(partial, secrets.token_hex(32))
        try:
            os.link(partial, path)  # fails where the file exists: two processes never use different secrets
        except FileExistsError:
            pass
        finally:
            partial.unlink()

    def read_password(self) -> str:
        """Return the secret of the server."""
        return self.password_file.read_text(encoding="ascii").strip()

    def server(self) -> dict[str, Any]:
        """Return what the guard wrote about the server; empty while it cannot be joined."""
        return files.read_json(self.path / "server.json")

    def guard_lives(self) -> bool:
        """Whether a guard runs."""
        return files.is_locked(self.path / "guard.lock")

    def ping(self, server: dict[str, Any], timeout_s: float = 1.0) -> str:
        """Ask the server whether it answers; see `files.call` for what comes back."""
        if not server.get("socket") or not self.guard_lives():
            return ""
        return files.call(server["socket"], self.read_password(), "PING", timeout_s)


def socket_address(state: StateDir, socket_path: str) -> ServerAddress:
    """Return the address of the ledger: database 0."""
    return ServerAddress(f"unix://{quote(socket_path)}?db=0", password_file=state.password_file)


def broker_url(state: StateDir, socket_path: str) -> str:
    """Return the broker's URL, database 1 of the same server; it names the password's file, not the password."""
    credentials = f"{_CREDENTIALS}{os.fsencode(state.password_file).hex()}"
    return f"redis+socket://{quote(socket_path)}?virtual_host=1&credential_provider={credentials}"


def parse_state_dir(path: Path | str) -> StateDir:
    """Return the state directory at `path`.

    Raises
    ------
    ClusterError
        The path cannot name a directory.
    """
    absolute = Path(path).expanduser().absolute()
    if re.search(r"[\x00-\x1f]", str(absolute)):
        raise ClusterError(f"state directory {str(absolute)!r}: control characters cannot be used")
    return StateDir(absolute)
