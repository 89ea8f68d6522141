"""The thread that re-plans a run: it ends with its run, and with the client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.integration.ledgers import Run, metric_row
from toolkit.client.planner import MAX_REPLANS, Planner
from toolkit.errors import LedgerUnavailable
from toolkit.ledger import Ledger
from toolkit.settings import ServerAddress

PATIENCE_S = 20.0


@pytest.fixture
def ledger(address: ServerAddress) -> Iterator[Ledger]:
    with closing(Ledger(address)) as made:
        yield made


def ended(planner: Planner) -> bool:
    planner.join(PATIENCE_S)
    return not planner.is_alive()


def test_a_planner_ends_when_its_run_is_gone(ledger: Ledger) -> None:
    run = Run(ledger, 8, auto=True)
    run.reader.delete()
    planner = Planner(ledger, run.spec, threading.Event())
    planner.start()
    assert ended(planner)


def test_a_planner_ends_with_its_client(ledger: Ledger) -> None:
    run, closed = Run(ledger, 8, auto=True), threading.Event()
    planner = Planner(ledger, run.spec, closed)
    planner.start()
    closed.set()
    assert ended(planner)
    assert run.status().state == "running"


def test_a_plan_that_the_server_did_not_take_is_made_again(
    ledger: Ledger, address: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, closed, fell = Run(ledger, 4000, page=4000, auto=True, batch_size=4), threading.Event(), []
    for number in range(12):
        size = 4 if number % 2 else 16
        ledger.update(run.run_id, batch_size=size)
        claim = run.claim()
        took_s = 0.05 + 0.001 * len(claim)
        run.commit(claim, row=metric_row(items=len(claim), ok=len(claim), service_s=took_s, active_claims=1))
    update = ledger.update

    def fail_once(*args: object, **options: object) -> None:
        if not fell:
            fell.append(1)
            raise LedgerUnavailable("the server is away for a moment")
        update(*args, **options)  # type: ignore[arg-type]
        closed.set()

    monkeypatch.setattr(ledger, "update", fail_once)
    planner = Planner(ledger, run.spec, closed)
    planner.start()
    assert ended(planner)
    assert fell
    assert 0 < len(run.events("updated")) <= 12 + MAX_REPLANS
    assert run.status().batch_size > 16
