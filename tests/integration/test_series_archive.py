"""Rows of instrumented tasks in an archive: what the server deleted is read back, and no row twice."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.integration.test_instrument_series import NOW, flush
from toolkit.archive import Lookout, archive_all
from toolkit.errors import InvalidInput
from toolkit.frames import METRICS
from toolkit.instruments import read_instrumented
from toolkit.ledger import Ledger, Registry, SeriesName, SeriesStore
from toolkit.ledger.series import SEGMENT_ROWS
from toolkit.settings import ServerAddress


class Past:
    """One series on the server, and an archive of it."""

    def __init__(self, ledger: Ledger, address: ServerAddress, path: Path) -> None:
        self.ledger, self.address, self.path = ledger, address, path
        self.registry = Registry(ledger.connection)
        self.store = SeriesStore(ledger.connection)
        self.name = SeriesName.of(f"task.{secrets.token_hex(6)}/é", {"night": "7"})
        self.store.admit(self.name)

    def record(self, n: int, at: float = NOW, keep_rows: int = 100_000) -> None:
        self.store.record(self.name, replace(flush(n, at), keep_rows=keep_rows))

    def archive(self, least: int = 1) -> int:
        archive_all(self.ledger, self.registry, self.path, least=least)
        return len(self.read("archive"))

    def read(self, source: str, **options: Any) -> pd.DataFrame:
        return read_instrumented(
            self.name.task, ledger=self.address, source=source, archive=self.path, queue_wait=True, **options
        )


@pytest.fixture
def past(address: ServerAddress, tmp_path: Path) -> Iterator[Past]:
    with closing(Ledger(address)) as ledger:
        made = Past(ledger, address, tmp_path / "archive")
        yield made
        made.store.delete(made.name)


def test_what_the_cap_deleted_is_read_back(past: Past) -> None:
    """Given archived rows, when the server keeps only later ones, both together are what there ever was."""
    past.record(3000)
    assert past.archive() == 3000
    past.record(3000, at=NOW + 3000)
    everything = past.read("server")
    assert past.archive() == 6000
    for k in range(2):
        past.record(SEGMENT_ROWS, at=NOW + 100_000 * (k + 1), keep_rows=2 * SEGMENT_ROWS)
    assert len(past.read("server")) < 2 * SEGMENT_ROWS + 6000
    both = past.read("both")
    assert [c for c in both.columns if c != "queue_wait_s"] == [c.name for c in METRICS]
    assert len(both) == 6000 + 2 * SEGMENT_ROWS
    assert not both.duplicated(["claimed_at"]).any()
    assert both["run_id"].nunique() == 3  # long pauses lie between
    pd.testing.assert_frame_equal(past.read("archive"), everything, check_categorical=False)
    assert len(past.read("both", tags={"night": "7"}, until=NOW_AS_TEXT)) == 100
    assert past.read("archive", tags={"night": "8"}).empty


NOW_AS_TEXT = pd.Timestamp(NOW + 100, unit="s").isoformat()


def test_archiving_again_writes_what_is_new_and_nothing_twice(past: Past) -> None:
    past.record(10)
    assert [past.archive(), past.archive()] == [10, 10]
    past.record(5, at=NOW + 50)
    assert past.archive(least=6) == 10  # a file of so few rows is not worth it to a node
    assert past.archive() == 15
    assert past.read("archive")["batch"].tolist() == list(range(15))


def test_a_series_that_began_anew_is_archived_beside_the_old_one(past: Past) -> None:
    """Given a server that lost its data, when rows get numbers that are archived already, none is taken for another."""
    past.record(10)
    past.archive()
    past.store.delete(past.name)
    past.store.admit(past.name)
    past.record(12, at=NOW + 5000)
    assert [past.archive(), past.archive()] == [22, 22]
    assert len(past.read("both")) == 22


def test_a_lookout_sees_what_is_missing_and_then_nothing(past: Past) -> None:
    past.registry.forget_runs(past.registry.run_ids())  # those of other tests, some of which cannot be read on purpose
    past.archive()
    lookout = Lookout(past.ledger, past.registry, past.path, least=8)
    lookout.lacks()  # the series of other tests
    past.record(8)
    assert lookout.lacks()
    past.archive()
    assert not lookout.lacks()
    past.record(3, at=NOW + 50)
    assert not lookout.lacks()


def test_an_archive_that_nobody_knows_says_what_to_pass(past: Past) -> None:
    with pytest.raises(InvalidInput, match="TOOLKIT_ARCHIVE"):
        read_instrumented(past.name.task, ledger=past.address, source="archive")
    with pytest.raises(InvalidInput, match="one of both, server, archive"):
        past.read("disk")
