"""Answers Prometheus over HTTP, on this machine only unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server

from toolkit.errors import InvalidInput
from toolkit.exporter.collector import LedgerCollector
from toolkit.exporter.watch import Watch
from toolkit.ledger import Ledger
from toolkit.settings import LedgerSettings, ServerAddress

RETRY_S: Final = 1.0
"""A scrape must answer before Prometheus gives up, after 10 s by default: so long a call is tried again."""
DASHBOARD: Final = Path(__file__).with_name("grafana.json")


@contextmanager
def serving(
    address: ServerAddress, *, host: str = "127.0.0.1", port: int = 9469, task_limit: int = 100, drain_s: float = 300.0,
    fresh_s: float = 1.0,
) -> Iterator[int]:  # fmt: skip
    """Serve metrics of a ledger from threads of this process; gives the port.

    Parameters
    ----------
    address : ServerAddress
        The ledger's server; a user with the role ``dashboard`` (``toolkit acl``) is enough. It need not be up.
    host : str
        Address to listen on.
    port : int
        Its port, 0 for any free one.
    task_limit, drain_s
        See `Watch`.
    fresh_s : float
        Scrapes within so many seconds share one look at the ledger.

    Raises
    ------
    InvalidInput
        The address cannot be listened on.
    """
    ledger = Ledger(address, replace(LedgerSettings(), retry_s=RETRY_S))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(Watch(ledger, task_limit=task_limit, drain_s=drain_s), fresh_s))
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        ledger.close()
        raise InvalidInput(f"cannot listen on {host} port {port} ({error}): choose another --host or --port") from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        ledger.close()
