"""The planner of a running run: what it notices and writes into the run's events, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.integration.ledgers import Run, metric_row
from toolkit.client.planner import MAX_REPLANS, Planner, Watch
from toolkit.errors import LedgerUnavailable
from toolkit.ledger import Ask, Ledger, new_claim_id
from toolkit.records import FLAG_FIRST, RunEvent, WorkerIdentity
from toolkit.settings import ServerAddress

PATIENCE_S = 20.0
HOSTS = ("fast", "slow\x1b[2J")


def work(run: Run, count: int, seconds: Callable[[int, str], float]) -> None:
    """Two workers on two hosts take `count` batches of four items in turn."""
    for i in range(count):
        host = HOSTS[i % 2]
        identity = WorkerIdentity(host, f"node@{host}", 1, "", "").encode()
        claim = run.ledger.claim(run.run_id, Ask(new_claim_id(), identity))
        row = metric_row(
            worker=claim.worker, items=4, ok=4, service_s=seconds(i, host), active_claims=2, claimed_at=100.0 + i,
            flags=FLAG_FIRST if i < 2 else 0,
        )  # fmt: skip
        run.commit(claim, row=row)


def told(run: Run) -> list[RunEvent]:
    every = (RunEvent.parse(*entry) for entry in run.reader.events())
    return [event for event in every if event.kind in ("drift", "slow_host")]


def test_a_slow_host_becomes_an_event_of_the_run_once(ledger: Ledger) -> None:
    run = Run(ledger, 400)
    watch = Watch(ledger, run.run_id)
    work(run, 40, lambda i, host: (0.3 if host != "fast" else 0.1) + 1e-4 * (i % 7))
    chunks, after = run.reader.metric_rows()
    watch.look(chunks)
    work(run, 40, lambda i, host: (0.3 if host != "fast" else 0.1) + 1e-4 * (i % 7))
    watch.look(run.reader.metric_rows(after)[0])
    (event,) = told(run)
    assert event.kind == "slow_host"
    assert event.detail.startswith("a batch takes 3 times as long on host slow")
    assert "\x1b" not in event.detail
    run.check()


def test_a_run_that_slows_down_says_so_while_its_planner_watches(ledger: Ledger) -> None:
    run = Run(ledger, 164, auto=True)
    work(run, 40, lambda i, host: 0.1 * (1 + i / 10) + 1e-4 * (i % 7))
    planner = Planner(ledger, run.spec, threading.Event())
    planner.start()
    while not told(run):
        assert planner.is_alive()
    while not run.status().state.final:
        work(run, 1, lambda i, host: 0.5)
    planner.join()
    (event,) = told(run)
    assert event.kind == "drift"


def test_of_a_steady_run_nothing_is_told(ledger: Ledger) -> None:
    run = Run(ledger, 400)
    work(run, 60, lambda i, host: 0.1 + 0.02 * (i * 7919 % 13))
    Watch(ledger, run.run_id).look(run.reader.metric_rows()[0])
    assert told(run) == []


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
