"""A node behind a network that delays, resets, hangs and loses answers: each run ends, and its books are right."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import redis

from tests.chaos.deployment import Deployment, deploy, patience, until
from tests.chaos.journal import Journal
from tests.chaos.oracle import judge
from tests.chaos.plans import RunPlan
from tests.chaos.proxy import Proxy
from tests.chaos.work import Worker
from toolkit.ledger import StoredClaim, keys


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One node, which talks to the server through the proxy only."""
    with deploy(tmp_path_factory.mktemp("network"), 1, lease_s=2.0) as deployment:
        yield deployment


@pytest.fixture
def proxy(made: Deployment) -> Iterator[Proxy]:
    """The proxy, forwarding faithfully again after the test."""
    yield made.proxy
    made.proxy.restore()


class Going:
    """A run of about a second on two children, and its judgement."""

    def __init__(self, made: Deployment, number: int, n: int = 300) -> None:
        self.plan = RunPlan(number, "slow", n, 10, 0.005, keep_results=True, fatal=(5,))
        self._made = made
        self._worker = Worker(made.client, made.journal, patience(60))
        self.run, _ = self._worker.submit(self.plan, "network")

    def reach(self, share: float) -> None:
        until(lambda: self.run.status().done >= share * self.plan.n, 60, f"{share:.0%} of the items are done")

    def check(self) -> None:
        evidence = self._worker.finish(self.run, self.plan)
        assert judge([evidence], Journal.read(self._made.journal), []).violations == ()


def test_latency(made: Deployment, proxy: Proxy) -> None:
    proxy.latency(0.03)
    Going(made, 1, 150).check()


def test_connections_are_reset(made: Deployment, proxy: Proxy) -> None:
    going, before = Going(made, 2), proxy.connections
    for share in (0.1, 0.4, 0.7):
        going.reach(share)
        proxy.reset()
    going.check()
    assert proxy.connections > before


def test_answers_are_cut(made: Deployment, proxy: Proxy) -> None:
    going, before = Going(made, 3), proxy.cut
    for n, share in enumerate((0.1, 0.3, 0.5), start=1):
        going.reach(share)
        proxy.cut_replies(2)
        until(lambda n=n: proxy.cut >= before + 2 * n, 60, "two answers were dropped")  # type: ignore[misc]
    going.check()


def test_a_connection_hangs_until_its_leases_are_over(made: Deployment, proxy: Proxy) -> None:
    going = Going(made, 4)
    going.reach(0.2)
    with proxy.half_open():
        server = made.client._ledger.connection.redis
        until(lambda: _lease_left(server, going.run.run_id) < 0, 60, "every lease has run out unrenewed")
    going.check()


def _lease_left(server: redis.Redis, run_id: str) -> float:
    """Seconds until the last lease of a run ends, by the server's clock; negative once all are over."""
    claims = server.hvals(keys.of(run_id, "claims"))
    seconds, micros = server.time()
    return max(StoredClaim.parse(c).lease_ms for c in claims) / 1000 - (seconds + micros / 1e6) if claims else 1.0


def test_the_proxy_does_what_it_says(made: Deployment, proxy: Proxy) -> None:
    """Seen from a plain socket, so that no client's own repairs hide anything."""

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)

    question, refusal = b"*1\r\n$4\r\nPING\r\n", b"-NOAUTH"
    with connect() as sock:
        sock.sendall(question)
        assert sock.recv(100).startswith(refusal)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    with connect() as sock:
        with proxy.half_open():
            sock.sendall(question)
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(100)
        sock.settimeout(20)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
