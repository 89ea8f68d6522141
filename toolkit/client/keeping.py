"""What becomes of ended runs: into the archive, and on a LocalCluster then off the server."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from toolkit.archive import Archive, Source, ended_runs
from toolkit.errors import ToolkitError
from toolkit.ledger import Ledger, Reader, Registry

logger = logging.getLogger(__name__)


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
        ended = [run for run in ended_runs(ledger, registry, ids, []) if run.status.state.final]
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


def _delete(registry: Registry, ledger: Ledger, runs: Iterable[Source]) -> None:
    for run in runs:
        if Reader(ledger.connection, run.spec.run_id).retire(run.status):
            registry.deactivate(run.spec.queue, run.spec.run_id)
            registry.forget_runs([run.spec.run_id])
            logger.info("run %s is archived, and deleted from the server", run.spec.run_id)
