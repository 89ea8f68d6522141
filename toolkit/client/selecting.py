"""Which runs are there, and which of them are meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from toolkit.errors import RunNotFound, UnknownTask
from toolkit.ledger import Ledger, Registry
from toolkit.records import RunSpec, RunStatus

Known = tuple[RunSpec, RunStatus]


def known_runs(ledger: Ledger, registry: Registry) -> list[Known]:
    """Every run on the server, newest first; forgets those whose data are gone."""
    found, gone = [], []
    for run_id in registry.run_ids():
        try:
            spec = ledger.spec(run_id)
            found.append((spec, ledger.status(run_id, spec)))
        except RunNotFound:
            gone.append(run_id)
    registry.forget_runs(gone)
    return found


def select_runs(
    runs: list[Known], task: Any, since: datetime | str | None, tags: Mapping[str, str] | None
) -> Iterator[RunSpec]:
    """Those of one task (None: any), created at or after `since`, that carry all of `tags`."""
    from toolkit import frames

    wanted = None if task is None else task_name(task)
    earliest = frames.timestamp(since) if since is not None else None
    for spec, status in runs:
        if wanted is not None and spec.task != wanted:
            continue
        if earliest is not None and status.created_at < earliest:
            continue
        if any(spec.tags.get(k) != v for k, v in (tags or {}).items()):
            continue
        yield spec


def task_name(task: Any) -> str:
    """Name under which runs of `task` are listed.

    Raises
    ------
    UnknownTask
        It is no task at all.
    """
    if isinstance(task, str):
        return task
    name = getattr(task, "name", None)
    if isinstance(name, str):
        return name
    if callable(task):
        from toolkit.execution import as_task

        return as_task(task).name
    raise UnknownTask(f"{type(task).__name__} is no task; pass a function, a task, or a task's name")
