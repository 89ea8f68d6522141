"""Who would take a run: queues that nobody listens to, and more workers than there are."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from toolkit.client.arguments import Size
from toolkit.client.reach import check_reach, why_gone, why_waiting
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput
from toolkit.records import INLINE_QUEUE, NodeInfo, RunSpec


def node(queue: str, workers: int = 2) -> NodeInfo:
    return NodeInfo(f"n-{queue}", "h", 1, workers, 0, (queue,), (), "0.1.0", 1, "3.11", True, 1.0, 2.0)


def spec(queue: str) -> RunSpec:
    return RunSpec("run-reach-1", "shop.price", queue=queue)


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    return LocalCluster(2, state_dir=tmp_path)


def test_a_local_cluster_refuses_a_queue_that_nobody_serves(cluster: LocalCluster) -> None:
    with pytest.raises(InvalidInput, match=rf"queue='slow': .* listens to '{cluster.queue}' alone.*Leave queue= out"):
        check_reach(spec("slow"), Size(1, False, 0), [node(cluster.queue)], cluster)
    # its own before its node is there, and that of another environment's node, are served
    assert check_reach(spec(cluster.queue), Size(1, False, 2), [], cluster) == ""
    assert check_reach(spec("other"), Size(1, False, 2), [node("other")], cluster) == ""
    assert check_reach(spec(INLINE_QUEUE), Size(1, False, 9), [], cluster) == ""


def test_elsewhere_a_queue_without_a_node_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert check_reach(spec("slow"), Size(1, False, 0), [node("celery")], None) == ""
    assert "no node that is alive listens to queue 'slow'" in caplog.text
    caplog.clear()
    check_reach(spec("slow"), Size(1, False, 0), [node("slow")], None)
    assert caplog.text == ""


def test_more_workers_than_listen_are_remarked(cluster: LocalCluster) -> None:
    nodes = [node("slow"), node("slow", 3), node("celery", 50)]
    said = check_reach(spec("slow"), Size(1, False, 64), nodes, None)
    assert said == "max_workers=64, and 5 listen: at most 5 batches run at a time"
    assert check_reach(spec("slow"), Size(1, False, 5), nodes, None) == ""
    assert check_reach(spec(cluster.queue), Size(1, False, 64), [], cluster).endswith(
        "client.cluster.scale(64) has more"
    )


def test_nothing_is_said_of_a_cluster_that_was_not_started_or_is_none(cluster: LocalCluster) -> None:
    assert why_gone(cluster) == why_gone(None) == ""
    assert why_waiting(None, "celery") == why_waiting(cluster, "other") == why_waiting(cluster, cluster.queue) == ""
