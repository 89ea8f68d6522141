"""What of a server belongs into an archive: every run that has ended, and the series of instrumented tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from toolkit.archive.archive import Archive, Archived, Source
from toolkit.archive.series import write_series
from toolkit.errors import LedgerCorrupt, RunNotFound
from toolkit.ledger import Connection, Ledger, Reader, Registry, SeriesStore

logger = logging.getLogger(__name__)


def archive_all(ledger: Ledger, registry: Registry, path: Path, *, wait_s: float = 60.0, least: int = 1) -> Archived:
    """Write what the archive at `path` lacks of every run that has ended, and of the series of instrumented tasks.

    Parameters
    ----------
    wait_s : float
        How long to wait for another process that writes, in seconds.
    least : int
        New rows that a series must have to get a file.

    Raises
    ------
    ArchiveError, MissingDependency
        See `Archive.write`.
    LedgerUnavailable
        The server does not answer.
    """
    unread: list[tuple[str, str]] = []
    done = Archive(path).write(ended_runs(ledger, registry, registry.run_ids(), unread), wait_s)
    rows, bad = write_series(path, SeriesStore(ledger.connection), wait_s, least)
    return replace(done, series_rows=rows, failed=(*done.failed, *unread, *bad))


def ended_runs(
    ledger: Ledger, registry: Registry, ids: Iterable[str], unread: list[tuple[str, str]]
) -> Iterator[Source]:
    """Runs by their ids as sources, also those that go on; what cannot be read is added to `unread`."""
    gone = []
    for run_id in ids:
        try:
            spec = ledger.spec(run_id)
            yield Source(spec, ledger.status(run_id, spec), Reader(ledger.connection, run_id))
        except RunNotFound:
            gone.append(run_id)
        except LedgerCorrupt as error:
            logger.warning("run %s is not archived: %s", run_id, error)
            unread.append((run_id, str(error)))
    registry.forget_runs(gone)


class Lookout:
    """Whether an archive lacks something, asked often: what it was seen to hold is asked for once in a while.

    Loads no library, and reads two small answers for each run that is new.

    Parameters
    ----------
    ledger, registry
        The server.
    path : pathlib.Path
        The archive.
    least : int
        New rows of a series that count.
    """

    def __init__(self, ledger: Ledger, registry: Registry, path: Path, least: int) -> None:
        self._ledger = ledger
        self._registry = registry
        self._archive = Archive(path)
        self._least = least
        self._held: set[str] = set()
        self._rows: dict[str, int] = {}

    def forget(self) -> None:
        """Ask for everything the next time: a run may have gone on, or the archive been moved."""
        self._held.clear()

    def lacks(self) -> bool:
        """Whether a run has ended that is not there, or a series has grown by so many rows."""
        for queue in self._registry.queues():  # dead letters were sent back to work
            self._held.difference_update(run_id for run_id, _ in self._registry.active_runs(queue))
        ids = [run_id for run_id in self._registry.run_ids() if run_id not in self._held]
        for run in ended_runs(self._ledger, self._registry, ids, []):
            if self._archive.holds(run.spec, run.status):
                self._held.add(run.spec.run_id)
            elif run.status.state.final:
                return True
        return self._grown(self._ledger.connection)

    def _grown(self, connection: Connection) -> bool:
        store = SeriesStore(connection)
        rows = {name.series_id: store.head(name).rows for name in store.names()}
        grown = any(abs(n - self._rows.get(series_id, 0)) >= self._least for series_id, n in rows.items())
        if grown:
            self._rows = rows
        return grown
