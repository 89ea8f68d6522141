"""A server, nodes that are put up again when they fall, a proxy before the last of them, and a client beside it all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import QUEUE
from tests.chaos.nodes import Fleet, Node, Server, node_environment
from tests.chaos.proxy import Proxy
from toolkit.client import Client
from toolkit.settings import LedgerSettings
from toolkit.transport import make_app

APP = "tests.chaos.app"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What faults are made on.

    Attributes
    ----------
    server : Server
        Broker and ledger.
    proxy : Proxy
        Between the server and the last node.
    fleet : Fleet
        The nodes.
    client : Client
        Connected to the server itself.
    journal : pathlib.Path
        Directory of the journal.
    """

    server: Server
    proxy: Proxy
    fleet: Fleet
    client: Client
    journal: Path


@contextlib.contextmanager
def deploy(
    directory: Path, nodes: int, *, lease_s: float, appendfsync: str = "always",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Deployment]:  # fmt: skip
    """Start everything, and end everything whatever happens.

    Parameters
    ----------
    directory : pathlib.Path
        For data, logs and the journal.
    nodes : int
        How many, with two children each.
    lease_s : float
        Lease of the client's runs.
    appendfsync : str
        The server's.
    environment : mapping, optional
        Further variables of the nodes.
    """
    journal = directory / "journal"
    journal.mkdir()
    with contextlib.ExitStack() as stack:
        server = Server(directory / "server", appendfsync)
        stack.callback(server.stop)
        proxy = Proxy(server.port)
        stack.callback(proxy.close)
        fleet = Fleet()
        stack.callback(fleet.close)
        for i, port in enumerate([None] * (nodes - 1) + [proxy.port]):
            told = {**node_environment(server, journal, port), **(environment or {})}
            fleet.add(Node(f"n{i}", APP, told, directory / f"n{i}.log"))
        settings = LedgerSettings(lease_s=lease_s, retention_s=7200.0)
        client = stack.enter_context(Client(make_app(server.url(1), QUEUE, "chaos"), server.url(0), settings=settings))
        until(lambda: len(client.nodes()) == nodes, 60.0, "all nodes report themselves")
        yield Deployment(server, proxy, fleet, client, journal)


def until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Wait until something is true.

    Raises
    ------
    RuntimeError
        It did not happen in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def patience(seconds: float) -> Callable[[], bool]:
    """A function that says, from so long after now on, that enough was waited."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline
