"""A node's main process: whatever is wrong elsewhere, its workers keep their leases and every run is swept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import Any

import pytest
import redis
from celery import Celery

from tests.conftest import Server, running_server
from tests.integration.clusters import until
from tests.integration.ledgers import Run
from toolkit.errors import LedgerFull
from toolkit.ledger import Claim, Connection, FailedItem, Ledger, Registry, keys
from toolkit.settings import ServerAddress
from toolkit.transport import node as node_module
from toolkit.transport.node import Keeper
from toolkit.transport.servant import Installation

QUEUE = "shelves"
WORKERS = 2


class Node:
    """The main process of a node with two workers, beside runs on an empty server of its own."""

    def __init__(self, address: ServerAddress, broker_url: str, stack: ExitStack, name: str = "n1@host") -> None:
        self.ledger = Ledger(address)
        self.registry = Registry(self.ledger.connection)
        self.app = Celery("shop", broker=broker_url, set_as_current=False)
        self.installation = Installation(self.app, address)
        self.needed: list[bool] = []
        self.keeper = Keeper(self.installation, name, lambda: (WORKERS, (QUEUE,)), self.needed.append)
        stack.callback(self.ledger.close)
        stack.callback(until, lambda: not self.threads(), "its threads end")
        stack.callback(self.keeper.stop)

    def run(self, items: int = 8, **options: Any) -> Run:
        """A listed run; `priority` and `queue` as in a spec."""
        spec = {name: options.pop(name) for name in ("priority", "queue") if name in options}
        run = Run(self.ledger, create=False, **options)
        run.spec = replace(run.spec, **({"queue": QUEUE} | spec))
        self.registry.add_run(run.spec)
        self.ledger.create(run.spec, **run.sizes)
        run.append(items, close=True)
        return run

    def work(self, run: Run) -> Claim:
        """A worker of this node is on a batch."""
        claim = run.claim()
        self.mark(0, run, claim)
        return claim

    def mark(self, slot: int, run: Run, claim: Claim) -> None:
        """Note a batch as a worker does that begins it."""
        self.installation.marker.begin(slot, run.run_id, claim.claim_id, 0, self.ledger.stored(run.run_id).born)

    def threads(self) -> list[threading.Thread]:
        """Those that the keeper started and that have not ended."""
        return [t for t in (self.keeper._thread, self.keeper._postbox._thread) if t.is_alive()]

    def command(self, *args: Any) -> Any:
        return self.ledger.connection.command(*args)


def lease(run: Run, claim: Claim) -> float:
    """When a lease ends, seconds since the epoch."""
    return run.reader.claims()[claim.claim_id].lease_ms / 1000


def renewed_twice(run: Run, claim: Claim) -> None:
    """Wait until a lease was renewed two times from now on."""
    for _ in range(2):
        end = lease(run, claim)
        until(lambda end=end: lease(run, claim) > end, "the lease is renewed")


@pytest.fixture
def broker() -> Iterator[Server]:
    """A broker that a test may freeze."""
    with running_server("valkey") as server:
        yield server
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def ledger_server() -> Iterator[Server]:
    """A server whose lists of runs and nodes a test has to itself, and may spoil."""
    with running_server("valkey") as server:
        yield server


@pytest.fixture
def start(ledger_server: Server) -> Iterator[Callable[..., Node]]:
    """Return what makes a node, which begins with `keeper.start()`."""
    with ExitStack() as stack:
        yield lambda broker_url="redis+socket:///nowhere.sock", **options: Node(
            ledger_server.address, broker_url, stack, **options
        )


def url_of(broker: Server) -> str:
    path = broker.address.url.removeprefix("unix://")
    return f"redis+socket://:{broker.address.password}@{path}"


# --------------------------------------------------------------------------- the broker


def test_leases_are_renewed_and_runs_swept_while_the_broker_is_frozen(
    start: Callable[..., Node], broker: Server
) -> None:
    node = start(url_of(broker))
    os.kill(broker.pid, signal.SIGSTOP)
    run = node.run()
    claim = node.work(run)
    node.keeper.start()
    until(run.tickets, "a ticket is on its way")
    renewed_twice(run, claim)
    late = node.run()
    late.ledger.steer(late.run_id, "cancel")
    until(lambda: node.registry.active_runs(QUEUE) == [(run.run_id, 1)], "what has ended leaves the list")
    os.kill(broker.pid, signal.SIGCONT)
    with node.app.connection_for_read() as connection:
        client = connection.default_channel.client
        until(lambda: arrived(client), "the ticket arrives")


def test_a_connection_that_the_broker_closed_is_made_anew(
    start: Callable[..., Node], broker: Server, caplog: pytest.LogCaptureFixture
) -> None:
    node = start(url_of(broker))
    node.run()
    node.keeper.start()
    with node.app.connection_for_read() as connection, closing(Connection(broker.address)) as link:
        client = connection.default_channel.client
        until(lambda: arrived(client) >= WORKERS, "tickets arrive")
        link.command("CLIENT", "KILL", "TYPE", "normal")
        with suppress(redis.ConnectionError):
            client.ping()
        node.run()
        until(lambda: arrived(client) >= 2 * WORKERS, "those of another run arrive too")
    assert caplog.messages == []


def arrived(client: Any) -> int:
    """Tickets at the broker."""
    return int(sum(client.llen(key) for key in client.scan_iter(f"{QUEUE}*", _type="list")))


def test_where_the_sweeper_reaches_no_broker_another_node_takes_its_place(
    start: Callable[..., Node], broker: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "_REPORT_TICKS", 1)  # all at ten times the speed
    monkeypatch.setattr(node_module, "_SWEEPER_LEASE_S", 1.0)
    cut_off, well = start(), start(url_of(broker), name="n2@host")
    cut_off.keeper.start()
    until(lambda: cut_off.command("GET", keys.SWEEPER) == b"n1@host", "the node that is cut off is the sweeper")
    well.keeper.start()
    until(lambda: len(well.registry.nodes()) == 2, "the other one is there")
    cut_off.keeper._postbox._away = True  # as the first ticket that it cannot send tells it, after seconds
    until(lambda: cut_off.command("GET", keys.SWEEPER) == b"n2@host", "the other one takes its place")
    cut_off.run()
    with well.app.connection_for_read() as connection:
        client = connection.default_channel.client
        until(lambda: arrived(client) > 0, "tickets arrive")


def test_a_broker_that_takes_a_ticket_for_long_counts_as_away(start: Callable[..., Node]) -> None:
    postbox = start().keeper._postbox
    assert not postbox.away
    postbox._began = time.monotonic() - 60
    assert postbox.away


def test_runs_are_swept_beside_one_whose_tickets_no_broker_takes(start: Callable[..., Node]) -> None:
    node = start()
    urgent, low = node.run(priority="high"), node.run(priority="low")
    claim = low.claim()
    low.commit(claim, failed=[FailedItem(0, "retry", 1.0, "retryable")])
    low.make_due()
    low.expire(low.claim())
    held = node.work(urgent)
    node.keeper.start()
    until(lambda: low.status().lost == 1 and low.status().delayed == 0, "retries come due, and leases end")
    renewed_twice(urgent, held)


def test_a_death_is_dealt_with_while_no_broker_takes_tickets(start: Callable[..., Node]) -> None:
    node = start()
    run, other = node.run(), node.run()
    kept = other.claim()
    node.mark(1, other, kept)
    lost = run.claim()
    pid = os.fork()
    if pid == 0:
        node.mark(0, run, lost)
        os._exit(0)
    os.waitpid(pid, 0)
    node.keeper.start()
    until(lambda: run.status().lost == 1, "the dead worker's batch goes back")
    renewed_twice(other, kept)


# --------------------------------------------------------------------------- the ledger


def test_a_full_server_is_swept_and_its_nodes_are_seen(start: Callable[..., Node]) -> None:
    node = start()
    run = node.run()
    run.expire(run.claim())
    node.command("CONFIG", "SET", "maxmemory", "1000000")
    with pytest.raises(LedgerFull):
        node.command("SET", "anything", "x")
    run.ledger.steer(run.run_id, "cancel")
    node.keeper.start()
    until(lambda: run.status().state == "cancelled", "what was cancelled ends")
    assert [n.node for n in node.registry.nodes()] == ["n1@host"]


@pytest.mark.parametrize("key", [keys.SWEEPER, keys.NODES])
def test_a_key_that_cannot_be_written_keeps_nobody_from_sweeping(start: Callable[..., Node], key: str) -> None:
    node = start()
    run = node.run()
    run.expire(run.claim())
    run.ledger.steer(run.run_id, "cancel")
    node.command("RPUSH", key, "of another type")
    node.keeper.start()
    until(lambda: run.status().state == "cancelled", "what was cancelled ends")
