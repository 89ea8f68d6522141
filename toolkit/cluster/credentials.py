"""Passwords for the broker's connection, read from a file at each connect.

A password in a Celery broker URL shows in ``inspect().stats()``, in monitors and in logs. The URL of a LocalCluster
names a class of this module instead, ``toolkit.cluster.credentials:file_<hex of the path>``, and the broker's client
makes one and asks it.
"""

from __future__ import annotations

import os
from pathlib import Path

from redis.credentials import CredentialProvider

_PREFIX = "file_"


class FileCredentials(CredentialProvider):
    """Reads the password of the server's default user from the file `path`; subclasses bind it."""

    path = Path()

    def get_credentials(self) -> tuple[str]:
        """Return the password as the one element of a tuple."""
        return (self.path.read_text(encoding="ascii").strip(),)


def __getattr__(name: str) -> type[FileCredentials]:
    """Make the class for ``file_<hex>``."""
    if not name.startswith(_PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        path = Path(os.fsdecode(bytes.fromhex(name.removeprefix(_PREFIX))))
    except ValueError:
        raise AttributeError(f"{name!r} does not name a password file") from None
    return type("FileCredentials", (FileCredentials,), {"path": path})
