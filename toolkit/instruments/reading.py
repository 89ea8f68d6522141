"""Rows of instrumented tasks as frames, in the schema of every other metric row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from toolkit.errors import InvalidInput
from toolkit.ledger import Connection, Segment, SeriesHead, SeriesStore
from toolkit.records import METRIC_SCHEMA
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


def read_instrumented(
    task: str | None = None, *, since: datetime | str | None = None, until: datetime | str | None = None,
    tags: Mapping[str, str] | None = None, ledger: str | ServerAddress | None = None, queue_wait: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Metric rows of instrumented tasks: one row per execution.

    Parameters
    ----------
    task : str, optional
        Only this task.
    since, until : datetime or str, optional
        Only executions that began at or after, and before, these moments (UTC when they have no zone).
    tags : mapping, optional
        Only executions with all of these labels.
    ledger : str or ServerAddress, optional
        The server; by default ``TOOLKIT_LEDGER_URL``.
    queue_wait : bool
        Add a column ``queue_wait_s``: seconds between publishing (or the wanted moment) and the start, by the clocks
        of the two hosts; NaN where the publisher was not instrumented.

    Returns
    -------
    pandas.DataFrame
        Columns as in ``run.metrics()``. A stretch of executions without a pause of a minute counts as a run, whose id
        is in ``run_id``; ``name`` holds the tags, ``active_claims`` what ran of the same task and tags at that moment.

    Raises
    ------
    InvalidInput
        No ledger URL, or a moment is none.
    LedgerUnavailable, LedgerRefused, LedgerCorrupt
        The server does not answer, refuses the credentials, or holds what does not parse.
    """
    with open_ledger(ledger) as connection:
        frame, _ = pull(connection, task, tags=tags, queue_wait=queue_wait)
    return _between(frame, since, until)


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
    from toolkit import frames

    store, cursor, found = SeriesStore(connection), dict(after or {}), []
    for name in store.names():
        if (task is not None and name.task != task) or not (tags or {}).items() <= name.labels().items():
            continue
        if name.schema != METRIC_SCHEMA:
            logger.warning(
                "rows of task %s with schema %d are left out: this version reads %d",
                name.task,
                name.schema,
                METRIC_SCHEMA,
            )
            continue
        head = store.head(name)
        first = cursor.get(name.series_id, 0)
        if first > head.rows:  # the server lost its data meanwhile, and counts anew
            first = 0
        segments = list(store.segments(head, first))
        if segments:
            found.append(_series_frame(head, segments, queue_wait))
        cursor[name.series_id] = head.rows
    return _concat(found, queue_wait) if found else _concat([frames.empty(frames.METRICS)], queue_wait), cursor


def _series_frame(head: SeriesHead, segments: list[Segment], queue_wait: bool) -> pd.DataFrame:
    """Rows of one series; what the worker could not know (session, neighbours) is put in here."""
    import numpy as np

    from toolkit import frames
    from toolkit.frames import schema

    labels = ",".join(f"{k}={v}" for k, v in head.name.labels().items())
    series = frames.RunInfo(head.name.series_id, head.name.task, labels, 0)
    frame = frames.concat_metrics([frames.metrics_frame(series, s.rows, s.workers) for s in segments])
    number = np.concatenate([s.first + np.arange(len(s.waits) // 4, dtype="int64") for s in segments])
    starts = np.asarray(head.sessions or (0,), dtype="int64")
    session = np.maximum(np.searchsorted(starts, number, side="right") - 1, 0)
    present, codes = np.unique(session, return_inverse=True)
    frame["run_id"] = schema.from_codes(
        codes.astype("int32"), [f"{head.name.series_id}-{start}" for start in starts[present]]
    )
    frame["batch"] = number - np.minimum(starts[session], number)
    begins = frame["claimed_at"].to_numpy(dtype="datetime64[us]").astype("int64") / 1e6
    ends = begins + frame["service_s"].to_numpy()
    frame["active_claims"] = np.searchsorted(np.sort(begins), begins, side="right") - np.searchsorted(
        np.sort(ends), begins, side="right"
    )
    if queue_wait:
        waits = np.frombuffer(b"".join(s.waits for s in segments), dtype="<f4")
        frame["queue_wait_s"] = waits.astype("float64")
    return frame


def _concat(found: list[pd.DataFrame], queue_wait: bool) -> pd.DataFrame:
    import numpy as np

    from toolkit import frames

    frame = frames.concat_metrics(found)
    if queue_wait:  # beside the declared columns, which stacking keeps
        waits = [f["queue_wait_s"].to_numpy() for f in found if len(f)]
        frame["queue_wait_s"] = np.concatenate(waits) if waits else np.zeros(0)
    return frame


def _between(frame: pd.DataFrame, since: datetime | str | None, until: datetime | str | None) -> pd.DataFrame:
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
