"""What tests of the past share: a few runs of a task of their own, and what server and archive say of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tests.integration.ledgers import Run, metric_row
from toolkit.archive import Archive, Source
from toolkit.client.history import History
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.settings import LedgerSettings


class Past(History):
    """The part of a client that looks back, and the runs of one test: they have a task of their own."""

    def __init__(self, ledger: Ledger, path: Path | None, task: str) -> None:
        self.settings = LedgerSettings()
        self._ledger, self._registry = ledger, Registry(ledger.connection)
        self._archive_path, self.task = path, task
        self.made: list[Run] = []

    def begin(self, batches: int, **spec: Any) -> Run:
        """A run of so many batches of four items, none of them executed."""
        made = Run(self._ledger, create=False)
        made.spec = replace(made.spec, **({"task": self.task} | spec))
        made.run_id, made.reader = made.spec.run_id, Reader(self._ledger.connection, made.spec.run_id)
        self._registry.add_run(made.spec)
        self._ledger.create(made.spec, **made.sizes)
        made.append(4 * batches, close=True)
        self.made.append(made)
        return made

    def clear(self) -> None:
        """Take the runs off the server, where other tests look at all runs too."""
        for run in self.made:
            run.reader.delete()
            self._registry.deactivate(run.spec.queue, run.run_id)
        self._registry.forget_runs([run.run_id for run in self.made])

    def run(self, batches: int, *, dead: int = 0, **spec: Any) -> Run:
        """A run that has ended: where there are to be dead letters, these in a batch before the others."""
        made = self.begin(batches + bool(dead), **spec)
        if dead:
            made.die(*range(dead))
        for number in range(batches):
            work(made, number)
        return made

    def source(self, run: Run) -> Source:
        return Source(run.spec, self._ledger.status(run.run_id, run.spec), run.reader)

    def put(self, *runs: Run) -> Any:
        """Archive these runs."""
        assert self._archive_path is not None
        return Archive(self._archive_path).write(map(self.source, runs))

    def both_agree(self) -> pd.DataFrame:
        """Server, archive and both say the same of this test's runs; returns the metrics."""
        for look in (self.runs, self.metrics):
            live, kept, both = (look(self.task, source=source) for source in ("server", "archive", "both"))
            same(live, kept)
            same(live, both)
        return both


def work(run: Run, number: int = 0) -> None:
    """Execute and commit one batch."""
    claim = run.claim(f"w{number % 3}")
    at = 1.7e9 + number
    run.commit(
        claim, row=metric_row(items=len(claim), ok=len(claim), worker=claim.worker, claimed_at=at, service_s=0.25)
    )


def plain(column: Any) -> Any:
    """For sorting: categoricals would sort by the order of their categories."""
    return column.astype(str) if column.name == "run_id" else column


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    order = [name for name in ("run_id", "batch", "index") if name in one.columns]
    one, other = (f.sort_values(order, key=plain, ignore_index=True) for f in (one, other))
    pd.testing.assert_frame_equal(one, other, check_categorical=False)
    assert [str(d) for d in one.dtypes] == [str(d) for d in other.dtypes]


def finished_again(run: Run) -> None:
    while not run.status().state.final:
        work(run)


def past_end(run: Run, seconds: float = 7200.0) -> None:
    """Let a run be over for so long."""
    registry, ms = Registry(run.ledger.connection), int((run.status().at - seconds) * 1000)
    run.command("HSET", "head", "created_at", ms, "finished_at", ms)
    registry.forget_runs([run.run_id])
    run.ledger.connection.command("ZADD", "tk:runs", ms / 1000, run.run_id)
