"""What becomes of ended runs: into the archive, and on a LocalCluster then off the server."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from toolkit.archive import Archive, Archived, Source
from toolkit.errors import LedgerCorrupt, RunNotFound, ToolkitError
from toolkit.ledger import Ledger, Reader, Registry

logger = logging.getLogger(__name__)


def archive_runs(ledger: Ledger, registry: Registry, path: Path) -> Archived:
    """Write every run that has ended into the archive at `path`, as far as it lacks them.

    Raises
    ------
    ArchiveError, MissingDependency
        See `toolkit.archive.Archive.write`.
    LedgerUnavailable
        The server does not answer.
    """
    unread: list[tuple[str, str]] = []
    done = Archive(path).write(_sources(ledger, registry, registry.run_ids(), unread))
    return replace(done, failed=(*done.failed, *unread))


def tidy(ledger: Ledger, registry: Registry, path: Path, retention_s: float | None, everything: bool) -> None:
    """Archive runs of a LocalCluster that have ended, then delete those that ended longer than `retention_s` ago.

    What goes wrong is logged: then nothing is deleted, and the next client that closes tries again. With nothing to do
    it costs a round trip, or with `everything` some per run, and loads no library.

    Parameters
    ----------
    retention_s : float or None
        Seconds that a run stays on the server after its end; None for ever.
    everything : bool
        Archive all runs that have ended, not only those that are to be deleted.
    """
    try:
        before = None if retention_s is None else registry.now() - retention_s
        old = registry.run_ids(before) if before is not None else []
        ids = registry.run_ids() if everything else old
        archive = Archive(path)
        ended = [run for run in _sources(ledger, registry, ids, []) if run.status.state.final]
        due = [run for run in ended if before is not None and run.status.finished_at < before]
        fresh = [run for run in (ended if everything else due) if not archive.holds(run.spec, run.status)]
        if fresh and find_spec("pyarrow") is None:
            logger.info(
                "%d ended runs stay on the server: to archive them, which comes before they are deleted, install "
                "'batch-analytics-toolkit[archive]'",
                len(fresh),
            )
        elif fresh:
            archive.write(fresh, wait_s=0.0)
        _delete(registry, ledger, [run for run in due if archive.holds(run.spec, run.status)])
    except ToolkitError as error:
        logger.warning("ended runs were not archived now, and nothing was deleted: %s", error)


def _sources(ledger: Ledger, registry: Registry, ids: Iterable[str], unread: list[tuple[str, str]]) -> Iterator[Source]:
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


def _delete(registry: Registry, ledger: Ledger, runs: Iterable[Source]) -> None:
    for run in runs:
        if Reader(ledger.connection, run.spec.run_id).retire(run.status):
            registry.deactivate(run.spec.queue, run.spec.run_id)
            registry.forget_runs([run.spec.run_id])
            logger.info("run %s is archived, and deleted from the server", run.spec.run_id)
