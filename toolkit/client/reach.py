"""Who would take a run's batches: what a user is told who names a queue, or more workers than there are."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from toolkit.client.arguments import Size
from toolkit.client.doctor import Finding
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput
from toolkit.records import INLINE_QUEUE, NodeInfo, RunSpec

logger = logging.getLogger(__name__)


def check_reach(spec: RunSpec, size: Size, nodes: Sequence[NodeInfo], cluster: LocalCluster | None) -> str:
    """Look who listens to the queue of a run that is about to be submitted, and warn where nobody does.

    Returns
    -------
    str
        A remark for the run's events, empty where there is nothing to say.

    Raises
    ------
    InvalidInput
        The queue is none that a node of the LocalCluster serves.
    """
    if spec.queue == INLINE_QUEUE:
        return ""
    here = cluster is not None and spec.queue == cluster.queue
    workers = sum(node.workers for node in nodes if spec.queue in node.queues)
    if cluster is not None and here:
        workers = cluster.workers  # its node may be starting
    elif cluster is not None and not workers:
        raise InvalidInput(
            f"queue={spec.queue!r}: this LocalCluster's node listens to {cluster.queue!r} alone, so nobody would take "
            "the items. Leave queue= out, or use tk.Client(app=...) for the deployment that has this queue"
        )
    elif not workers:
        logger.warning(
            "run %s: no node that is alive listens to queue %r, its items wait until one does; start one with -Q %s, "
            "or pass another queue=",
            spec.run_id,
            spec.queue,
            spec.queue,
        )
    if 0 < workers < size.max_workers:
        more = f"; client.cluster.scale({size.max_workers}) has more" if here else ""
        return f"max_workers={size.max_workers}, and {workers} listen: at most {workers} batches run at a time{more}"
    return ""


def why_waiting(cluster: LocalCluster | None, queue: str) -> str:
    """What a LocalCluster's node is about, that a run of its queue waits for; empty where it serves, or is none."""
    if cluster is None or queue != cluster.queue:
        return ""
    seen = cluster.status()
    return {
        "starting": f"the LocalCluster's node is starting its {seen.workers} workers",
        "draining": "the LocalCluster's node is started anew, after the batches that it is on",
        "failing": f"the LocalCluster's node keeps dying; its log lies in {seen.state_dir / 'nodes'}",
    }.get(seen.node_state, "")


def coming(cluster: LocalCluster | None) -> Finding | None:
    """What a doctor says of a LocalCluster's node that does not serve yet, None where it serves or is none."""
    text = why_waiting(cluster, cluster.queue) if cluster is not None else ""
    if not text or cluster is None:
        return None
    if cluster.status().node_state == "failing":
        return Finding("problem", text)
    return Finding("note", f"{text}; nobody takes tickets before that")


def why_gone(cluster: LocalCluster | None) -> str:
    """Why a LocalCluster's server will not answer again by itself; empty where nobody knows."""
    if cluster is None or not cluster.stopped:
        return ""
    return f"the LocalCluster in {cluster.state_dir} was stopped by this process; cluster.start() goes on with its runs"
