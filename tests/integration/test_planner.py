"""What the planner of a running run notices and writes into the run's events, on the real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.integration.ledgers import Run, metric_row
from toolkit.client.planner import Planner, Watch
from toolkit.ledger import Ask, Ledger, new_claim_id
from toolkit.records import FLAG_FIRST, RunEvent, WorkerIdentity
from toolkit.settings import ServerAddress

HOSTS = ("fast", "slow\x1b[2J")


@pytest.fixture
def ledger(address: ServerAddress) -> Iterator[Ledger]:
    with closing(Ledger(address)) as ledger:
        yield ledger


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
    planner = Planner(ledger, run.spec)
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
