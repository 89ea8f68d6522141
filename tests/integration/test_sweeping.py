"""The sweep of all runs: what is unfinished is listed and swept, whoever died or came late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.acceptance import shop
from tests.conftest import Server
from tests.integration.ledgers import Run
from toolkit._version import PROTOCOL
from toolkit.client import Client
from toolkit.client import Run as Handle
from toolkit.ledger import Contact, FailedItem, Ledger, Registry, keys
from toolkit.records import NodeInfo, RunSpec
from toolkit.settings import ServerAddress, url_with_password
from toolkit.transport import make_app, sweeping
from toolkit.transport.sweeping import Sweeper

QUEUE = "shelves"


class Deployment:
    """An empty database with one node's sweeper; tickets are only counted."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.ledger = Ledger(address)
        self.registry = Registry(self.ledger.connection)
        self.sent: list[str] = []
        self.sweeper = Sweeper(self.ledger, self.registry, self.ledger.spec, {}, self.send)

    def send(self, spec: RunSpec, n: int) -> None:
        self.sent += [spec.run_id] * n

    def sweep(self) -> int:
        """Sweep once; returns how many runs have work left."""
        return self.sweeper.sweep(Contact())[0]

    def command(self, *args: Any) -> Any:
        return self.ledger.connection.command(*args)

    def run(self, items: int = 4, *, dead: int = 0, close: bool = True, **spec: Any) -> Run:
        """A run as clients submit them, finished where some of its items are to be dead."""
        run = Run(self.ledger, create=False)
        run.spec = replace(run.spec, queue=QUEUE, **spec)
        self.registry.add_run(run.spec)
        self.ledger.create(run.spec, **run.sizes)
        run.append(items, close=close)
        if dead:
            run.die(*range(dead))
        return run

    def node(self, name: str = "n1", *, workers: int = 2) -> NodeInfo:
        now = self.registry.now()
        return NodeInfo(name, "host", 1, workers, 0, (QUEUE,), (), "0", PROTOCOL, "3.11", False, now, now)

    def listed(self) -> list[str]:
        return [run_id for run_id, _ in self.registry.active_runs(QUEUE)]


@pytest.fixture
def deployment(server: Server) -> Iterator[Deployment]:
    """A database of its own on the session's server: a sweep is of all runs."""
    made = Deployment(ServerAddress(f"{server.address.url}?db=15", password=server.address.password))
    yield made
    for key in made.ledger.connection.redis.scan_iter():
        made.command("DEL", key)
    made.ledger.close()


# --------------------------------------------------------------------------- what is listed


def test_a_run_that_has_ended_leaves_the_list_and_one_that_is_gone(deployment: Deployment) -> None:
    ended, gone, goes_on = deployment.run(dead=1), deployment.run(), deployment.run()
    gone.reader.delete()
    deployment.command("ZADD", keys.RUNS, 1, gone.run_id)
    assert deployment.sweep() == 1
    assert deployment.listed() == [goes_on.run_id]
    assert ended.run_id in deployment.registry.run_ids()


def test_a_run_that_a_sweep_finds_before_it_is_created_is_swept_later(deployment: Deployment) -> None:
    run = Run(deployment.ledger, create=False)
    run.spec = replace(run.spec, queue=QUEUE)
    deployment.registry.add_run(run.spec)
    assert deployment.sweep() == 0
    deployment.ledger.create(run.spec, **run.sizes)
    run.append(4, close=True)
    assert deployment.sweep() == 1
    assert deployment.listed() == [run.run_id]


def test_an_unfinished_run_in_no_list_is_listed_again(deployment: Deployment) -> None:
    lost, ended = deployment.run(priority="high"), deployment.run(dead=1)
    deployment.command("DEL", keys.active(QUEUE))
    deployment.sweep()
    assert deployment.registry.active_runs(QUEUE) == [(lost.run_id, 2)]
    assert deployment.sweep() == 1
    assert ended.status().state == "finished"


def test_the_lists_are_compared_a_few_runs_at_a_time(deployment: Deployment) -> None:
    runs = {deployment.run().run_id for _ in range(30)}
    deployment.command("DEL", keys.active(QUEUE))
    deployment.sweep()
    assert 0 < len(deployment.listed()) < 30
    deployment.sweep()
    assert set(deployment.listed()) == runs


def test_a_run_that_came_lately_is_compared_before_a_thousand_old_ones(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_COMPARE_S", 0.0)  # a look with each sweep
    now, old = deployment.registry.now(), deployment.run()
    deployment.command("ZADD", keys.RUNS, now - 1500, old.run_id)
    deployment.command("ZADD", keys.RUNS, *(x for i in range(1000) for x in (now - 1000 - i, f"old-{i:04d}")))
    deployment.command("DEL", keys.active(QUEUE))
    deployment.sweep()
    late = deployment.run()
    deployment.command("DEL", keys.active(QUEUE))
    deployment.sweep()
    assert deployment.listed() == [late.run_id]
    # and the old ones are compared as well, meanwhile
    for _ in range(30):
        deployment.sweep()
    assert set(deployment.listed()) == {late.run_id, old.run_id}


def test_a_client_that_dies_amid_a_retry_leaves_a_run_that_is_swept(deployment: Deployment) -> None:
    class Dying(Registry):
        """Of a client that dies once the ledger has the retry."""

        def activate(self, spec: RunSpec) -> None:
            if run.status().state == "running":
                raise KeyboardInterrupt
            super().activate(spec)

    run = deployment.run(dead=1)
    deployment.registry.deactivate(QUEUE, run.run_id)
    handle = Handle(deployment.ledger, Dying(deployment.ledger.connection), run.spec, lambda *_: 0)
    with pytest.raises(KeyboardInterrupt):
        handle.retry_dead()
    assert deployment.listed() == [run.run_id]
    assert deployment.sweep() == 1


def test_a_retry_of_nothing_lists_nothing(deployment: Deployment) -> None:
    run = deployment.run(dead=1)
    deployment.registry.deactivate(QUEUE, run.run_id)
    handle = Handle(deployment.ledger, deployment.registry, run.spec, lambda *_: 0)
    assert handle.retry_dead([3]) == 0
    assert deployment.listed() == []


# --------------------------------------------------------------------------- what keeps nodes alive


def test_an_abandoned_submission_keeps_no_node_alive_once_its_items_ended(deployment: Deployment) -> None:
    run = deployment.run(close=False)
    assert deployment.sweep() == 1, "its items wait"
    claim = run.claim()
    assert deployment.sweep() == 1, "a worker is on them"
    run.commit(claim, failed=[FailedItem(0, "retry", 60.0, "retryable")])
    assert deployment.sweep() == 1, "a retry comes due"
    run.make_due()
    deployment.sweep()
    run.commit(run.claim())
    assert deployment.sweep() == 0
    assert deployment.listed() == [run.run_id], "its submitter may come back"
    run.append(4)
    assert deployment.sweep() == 1


def test_a_paused_run_keeps_no_node_alive_once_its_batches_ended(deployment: Deployment) -> None:
    run = deployment.run(8)
    claim = run.claim()
    run.ledger.steer(run.run_id, "pause")
    assert deployment.sweep() == 1
    run.commit(claim)
    assert deployment.sweep() == 0
    run.ledger.steer(run.run_id, "resume")
    assert deployment.sweep() == 1


# --------------------------------------------------------------------------- what somebody spoiled


SPOILED = {
    "a node": ("HSET", keys.NODES, "old@host", "junk"),
    "a run's id": ("ZADD", keys.active(QUEUE), 3, "NO ID"),
    "a run's id in no encoding": ("ZADD", keys.active(QUEUE), 3, b"\xff\xfe"),
    "a queue's name": ("SADD", keys.QUEUES, "a\nb"),
    "a queue's name in no encoding": ("SADD", keys.QUEUES, b"\xff"),
    "a queue's runs": ("RPUSH", keys.active("another"), "no zset"),
    "an id of all runs": ("ZADD", keys.RUNS, 1e12, "NO ID"),
    "all ids": ("SET", keys.RUNS, "no zset"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_one_bad_entry_keeps_nobody_from_the_others(
    deployment: Deployment, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = deployment.run()
    run.expire(run.claim())
    deployment.registry.report_node(deployment.node())
    deployment.command("SADD", keys.QUEUES, "another")
    deployment.command(*SPOILED[what])
    for _ in range(3):
        assert deployment.sweep() == 1
    assert (run.status().lost, run.status().known_workers) == (1, 2)
    assert set(deployment.sent) == {run.run_id}
    assert len(caplog.messages) == 1, caplog.messages


def test_a_corrupt_run_is_told_once_until_it_is_well(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    corrupt, well = deployment.run(priority="urgent"), deployment.run()
    corrupt.command("HSET", "head", "ready", "zzz")
    well.expire(well.claim())
    for _ in range(3):
        assert deployment.sweep() == 1
    assert well.status().lost == 1
    assert [corrupt.run_id in message for message in caplog.messages] == [True]
    corrupt.command("HSET", "head", "ready", "0")
    assert deployment.sweep() == 2
    corrupt.command("HSET", "head", "ready", "zzz")
    deployment.sweep()
    assert len(caplog.messages) == 2


def test_a_client_submits_beside_a_bad_record_of_a_node(deployment: Deployment) -> None:
    deployment.command("HSET", keys.NODES, "old@host", "junk")
    with Client(make_app("memory://", QUEUE), url_with_password(deployment.address)) as client:
        assert client.map(shop.double, [1, 2], inline=True).results() == [2, 4]
