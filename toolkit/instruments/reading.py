"""Rows of instrumented tasks as frames, in the schema of every other metric row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from toolkit.archive import read_series, readable, series_columns, series_frame, with_archived
from toolkit.errors import InvalidInput
from toolkit.ledger import Connection, SeriesStore
from toolkit.settings import LedgerSettings, ServerAddress, Settings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SERIES: Final = (
    ("series_id", "object", "the series; its sessions are the run ids of its rows"),
    ("task", "object", "name of the task"),
    ("tags", "object", "labels, as JSON"),
    ("rows", "int64", "rows that are stored"),
    ("capped", "int64", "rows deleted because there were newer ones"),
    ("dropped", "int64", "rows lost on their way, as far as their process could tell later"),
    ("last_at", "datetime64[us, UTC]", "end of the latest execution"),
)
"""Columns of `instrumented`: name, dtype, meaning."""

Cursor = Mapping[str, int]
"""Series id to the number of its first row that was not read yet."""


def read_instrumented(  # noqa: PLR0913 - one call says which rows, and where they are
    task: str | None = None, *, since: datetime | str | float | None = None,
    until: datetime | str | float | None = None,
    tags: Mapping[str, str] | None = None, ledger: str | ServerAddress | None = None, queue_wait: bool = False,
    source: str = "both", archive: Path | str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Metric rows of instrumented tasks: one row per execution.

    Parameters
    ----------
    task : str, optional
        Only this task.
    since, until : datetime, str or float, optional
        Only executions that began at or after, and before, these moments (UTC when they have no zone; a number is
        seconds since 1970).
    tags : mapping, optional
        Only executions with all of these labels.
    ledger : str or ServerAddress, optional
        The server; by default ``TOOLKIT_LEDGER_URL``.
    queue_wait : bool
        Add a column ``queue_wait_s``: seconds between publishing (or the wanted moment) and the start, by the clocks
        of the two hosts; NaN where the publisher was not instrumented.
    source : str
        ``server``, ``archive`` or ``both``: the server keeps the latest rows of a series, and what is archived
        (`Client.archive`, ``toolkit archive``, or by nodes with ``TOOLKIT_ARCHIVE``) stays; no row comes twice.
    archive : path, optional
        Directory of the archive; by default ``TOOLKIT_ARCHIVE``, and without that the server alone is read.

    Returns
    -------
    pandas.DataFrame
        Columns as in ``run.metrics()``. A stretch of executions without a pause of a minute counts as a run, whose id
        is in ``run_id``; ``name`` holds the tags, ``active_claims`` what ran of the same task and tags at that moment.

    Raises
    ------
    InvalidInput
        No ledger URL, a moment is none, or `source` is none or names an archive that is not known.
    LedgerUnavailable, LedgerRefused, LedgerCorrupt
        The server does not answer, refuses the credentials, or holds what does not parse.
    ArchiveError, MissingDependency
        The archive cannot be read; pass ``source="server"`` to do without.
    """
    if source not in ("both", "server", "archive"):
        raise InvalidInput(f"source={source!r:.60}: one of both, server, archive")
    place = Path(archive) if archive is not None else Settings.from_env().archive
    if source == "archive" and place is None:
        raise InvalidInput('source="archive": pass archive=... or set TOOLKIT_ARCHIVE')
    found = []
    if source != "server" and place is not None and (source == "archive" or place.is_dir()):
        found.append(read_series(place, task, tags))
    if source != "archive":
        with open_ledger(ledger) as connection:
            found.append(_stored(connection, task, tags, {})[0])
    frame = found[0] if len(found) == 1 else with_archived(found[1], found[0])
    return _between(_shaped(frame, queue_wait), since, until)


def instrumented(ledger: str | ServerAddress | None = None) -> pd.DataFrame:
    """What is recorded of instrumented tasks: one row per task and set of tags, with the counts of rows that are gone.

    Parameters
    ----------
    ledger : str or ServerAddress, optional
        The server; by default ``TOOLKIT_LEDGER_URL``.

    Returns
    -------
    pandas.DataFrame
        Columns `SERIES`.
    """
    from toolkit.frames import Column, schema

    with open_ledger(ledger) as connection:
        store = SeriesStore(connection)
        heads = [store.head(name) for name in store.names()]
    values: dict[str, Any] = {
        "series_id": [h.name.series_id for h in heads],
        "task": [h.name.task for h in heads],
        "tags": [h.name.tags for h in heads],
        "rows": [h.rows - h.first for h in heads],
        "capped": [h.capped for h in heads],
        "dropped": [h.dropped for h in heads],
        "last_at": [h.last_at for h in heads],
    }
    return schema.build([Column(*column) for column in SERIES], values, len(heads))


def pull(
    connection: Connection, task: str | None = None, *, tags: Mapping[str, str] | None = None,
    after: Cursor | None = None, queue_wait: bool = False,
) -> tuple[pd.DataFrame, dict[str, int]]:  # fmt: skip
    """Rows of instrumented tasks that are newer than a cursor, and the cursor for the next call.

    Parameters
    ----------
    connection : Connection
        The door to the server.
    task, tags, queue_wait
        As in `read_instrumented`.
    after : mapping of str to int, optional
        The cursor of an earlier call; by default all rows that are stored.

    Returns
    -------
    frame : pandas.DataFrame
        Columns as in ``run.metrics()``.
    cursor : dict of str to int
        Row numbers by series.
    """
    frame, cursor = _stored(connection, task, tags, after or {})
    return _shaped(frame, queue_wait), cursor


def _stored(
    connection: Connection, task: str | None, tags: Mapping[str, str] | None, after: Cursor
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows of the server in the columns of the archive's table, and the cursor behind them."""
    from toolkit.frames import schema

    store, cursor = SeriesStore(connection), dict(after)
    found = [schema.empty(series_columns())]
    for name in store.names():
        if (task is not None and name.task != task) or not (tags or {}).items() <= name.labels().items():
            continue
        if not readable(name):
            continue
        head = store.head(name)
        first = cursor.get(name.series_id, 0)
        if first > head.rows:  # the server lost its data meanwhile, and counts anew
            first = 0
        segments = list(store.segments(head, first))
        if segments:
            found.append(series_frame(head, segments))
        cursor[name.series_id] = head.rows
    return schema.concat(series_columns(), found), cursor


def _shaped(frame: pd.DataFrame, queue_wait: bool) -> pd.DataFrame:
    from toolkit import frames

    return frame[[*(c.name for c in frames.METRICS), *(["queue_wait_s"] if queue_wait else [])]]


def _between(
    frame: pd.DataFrame, since: datetime | str | float | None, until: datetime | str | float | None
) -> pd.DataFrame:
    if since is None and until is None:
        return frame
    import pandas as pd

    from toolkit import frames

    keep = pd.Series(data=True, index=frame.index)
    if since is not None:
        keep &= frame["claimed_at"] >= pd.Timestamp(frames.timestamp(since), unit="s", tz="UTC")
    if until is not None:
        keep &= frame["claimed_at"] < pd.Timestamp(frames.timestamp(until), unit="s", tz="UTC")
    return frame[keep].reset_index(drop=True)


@contextmanager
def open_ledger(ledger: str | ServerAddress | None, retry_s: float | None = None) -> Iterator[Connection]:
    """Connect to the server that is named, or to ``TOOLKIT_LEDGER_URL``, for as long as the context lasts."""
    found = ledger or Settings.from_env().ledger_url
    if not found:
        raise InvalidInput("no ledger: pass ledger=... or set TOOLKIT_LEDGER_URL, e.g. redis://127.0.0.1:6379/1")
    connection = Connection(
        ServerAddress.of(found), LedgerSettings() if retry_s is None else LedgerSettings(retry_s=retry_s)
    )
    try:
        yield connection
    finally:
        connection.close()
