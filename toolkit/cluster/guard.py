"""The guard: a small process that keeps one server and its nodes alive, and ends them when nobody needs them.

It runs as a file, ``python -I -S guard.py STATE_DIR FD``, with the standard library and three files of this room only
(`files`, `children`, `supervisor`): it lives as long as the cluster does, so it should be small, and nothing that a
user installs or puts on a path may break it.

The state directory, every name in it, who writes it and what it means. Directories are 0700, files 0600.

====================== ===========================================================================================
``password``           secret of the server; written once, by the first client
``function.key``       secret that signs functions typed in a cell; written once, by the first client
``start.lock``         held by whoever starts or stops the cluster: a client, or the guard while it winds down
``guard.lock``         held by the guard while it lives, so that there is one
``data.lock``          held by the guard and inherited by the server: while it is held, the data are in use
``spec.json``          which binary to start on which data directory; written by the client that starts the guard
``server.json``        where the server is; written by the guard; absent means: do not join, it is not up or it ends
``stop.json``          a client asks the guard to end everything now
``leases/*``           a file per holder, locked while it lives; the kernel drops locks, even after SIGKILL
``nodes/lock``         held while ``nodes/K.json`` is read and changed
``nodes/K.json``       the node that clients want for Python environment K
``nodes/K.state.json`` what the guard made of it
``nodes/K.ready``      pid of the node's main process, written by the node once it serves
``nodes/K.lock``       inherited by every process of the node: while it is held, some process of the node lives
``data/ENGINE-X.Y/``   append-only files, a directory per engine and version
``archive/``           runs that have ended, as Parquet; written by a client when it closes
``*.log``              ``server.log``, ``guard.log``, ``nodes/K.log``; a large one becomes ``.log.1`` at the next start
====================== ===========================================================================================

The runtime directory (socket ``s``, pipe ``wake``) lies elsewhere, because the path of a socket must be short.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path


def _run() -> int:
    """Run the supervisor without running any package's ``__init__``: those may import what the guard must not need."""
    here = Path(__file__).absolute().parent
    for name, path in (("toolkit", here.parent), ("toolkit.cluster", here)):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    from toolkit.cluster.supervisor import main

    return main(Path(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(_run())
