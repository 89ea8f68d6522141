"""``python -P -m toolkit.cluster.node WORKERS``: a node, the main process of a ``celery worker``.

Started by the guard. Celery's own command line would do, but it imports every sub-command, a shell for terminals, and
whatever other packages register with it, which takes longer than all the rest of the start; and one of those that is
broken would break the node.
"""

from __future__ import annotations

import socket
import sys

from toolkit.cluster.layout import node_key, queue_name


def main(workers: int) -> int:
    """Serve the queue of this Python environment with `workers` workers until told to end; return the exit code."""
    from toolkit.cluster.node_app import app

    worker = app.Worker(
        hostname=f"toolkit-{node_key()}@{socket.gethostname()}",
        queues=[queue_name(node_key())],
        concurrency=workers,
        pool_cls="prefork",
        loglevel="WARNING",
        optimization="fair",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
