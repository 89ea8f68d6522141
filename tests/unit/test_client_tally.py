"""What the batches of a run came to, summed up as they come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.notebook_samples import NOON, status
from toolkit.client.tally import BatchCounter, Tally
from toolkit.errors import LedgerCorrupt
from toolkit.records import METRIC_NAMES, METRIC_ROW, RunSpec, WorkerIdentity


def row(worker: int, **values: float) -> bytes:
    filled = {"items": 50, "service_s": 0.8, "decode_s": 0.15, "store_s": 0.05, "idle_s": 0.01, "claimed_at": NOON}
    every = dict.fromkeys(METRIC_NAMES, 0) | filled | values | {"worker": worker}
    return METRIC_ROW.pack(*(every[name] for name in METRIC_NAMES))


class Rows:
    """Stands where a run's bulk is read: packed rows in memory, and how many were asked for."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.read = 0
        self.people = {i: WorkerIdentity("host-a", "node-1", 4000 + i, "", "").encode() for i in (1, 2)}

    def metric_rows(self, first: int, row_bytes: int) -> tuple[list[bytes], int]:
        assert row_bytes == METRIC_ROW.size
        new = self.rows[first:]
        self.read += len(new)
        return new, len(self.rows)

    def workers(self) -> dict[int, str]:
        return self.people


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def counter(rows: Any) -> BatchCounter:
    return BatchCounter(rows, RunSpec("r1-abcdef", "docs.thumbnail"))


def test_no_row_is_read_twice_and_the_sum_grows(rows: Rows, counter: BatchCounter):
    rows.rows = [row(1), row(2, items=30, retried=2, dead=1), row(1, claimed_at=NOON + 9)]
    first = counter.pull(status(batches=3))
    assert [(w.worker, w.batches, w.items, w.failed, w.last_at) for w in first.workers] == [
        ("node-1/4001", 2, 100, 0, NOON + 9),
        ("node-1/4002", 1, 30, 3, NOON),
    ]
    rows.rows += [row(2)] * 3
    second = counter.pull(status(batches=6))
    assert rows.read == 6
    assert second.batches == 6
    assert second.workers[0].worker == "node-1/4002"
    assert second.busy_s == pytest.approx(6.0)
    assert second.waiting == pytest.approx(0.06 / 6.06, rel=1e-4)
    assert counter.pull(status(batches=6)) == second
    assert rows.read == 6


def test_wait_and_service_are_medians_of_the_latest_batches(rows: Rows, counter: BatchCounter):
    rows.rows = [row(1, service_s=9.0)] * 300 + [row(1, service_s=0.1, idle_s=0.002)] * 200
    tally = counter.pull(status(batches=500))
    assert tally.service_s == pytest.approx(0.3)
    assert tally.wait_s == pytest.approx(0.002)


def test_the_first_batch_of_a_ticket_waited_for_nobody_knows_what(rows: Rows, counter: BatchCounter):
    rows.rows = [row(1, idle_s=float("nan"))]
    tally = counter.pull(status(batches=1))
    assert (tally.wait_s, tally.idle_s) == (None, 0.0)


def test_rows_that_the_server_lost_are_not_counted(rows: Rows, counter: BatchCounter):
    rows.rows = [row(1)] * 5
    counter.pull(status(batches=5))
    rows.rows = [row(1)] * 2
    assert counter.pull(status(batches=2)).batches == 2


def test_nothing_yet(counter: BatchCounter):
    assert counter.pull(replace(status(), batches=0)) == Tally()
    assert Tally().waiting is None


def test_broken_rows_and_unknown_workers(rows: Rows, counter: BatchCounter):
    rows.people = {1: "host\tnode\tno number"}
    rows.rows = [row(1), row(7)]
    assert [w.worker for w in counter.pull(status(batches=2)).workers] == ["", ""]
    rows.rows += [b"cut"]
    with pytest.raises(LedgerCorrupt, match="inside a row"):
        counter.pull(status(batches=3))
