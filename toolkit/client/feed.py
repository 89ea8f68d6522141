"""Metric rows as they come: what is new since the previous pull, for plots of work that goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from toolkit.client.selecting import Known
from toolkit.errors import InvalidInput
from toolkit.ledger import Connection, Reader
from toolkit.records import RunSpec, RunStatus, metric_row_bytes, quantity

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def metrics_from(reader: Reader, spec: RunSpec, max_workers: int, first: int = 0) -> tuple[pd.DataFrame, int]:
    """Metric rows of a run from row number `first` on, and the number to go on from."""
    from toolkit import frames

    info = frames.RunInfo(spec.run_id, spec.task, spec.name, max_workers, spec.row_schema)
    rows, following = reader.metric_rows(first, metric_row_bytes(spec.row_schema))
    if not rows:
        return frames.empty(frames.METRICS), following
    return frames.metrics_frame(info, rows, reader.workers(), first), following


class MetricsFeed:
    """Metric rows since the previous pull, each row once; made by ``run.follow_metrics`` and ``client.follow_metrics``.

    Any number of feeds follow a run side by side: each has a cursor of its own, and reading changes nothing on the
    server. A pull costs a round trip or two per run, and one more where there are new rows.

    Parameters
    ----------
    runs : callable
        Lists the runs that are followed, with fresh snapshots.
    connection : Connection
        The door to the server.
    cursor : mapping of str to int, optional
        `cursor` of an earlier feed, to go on where that one stopped.

    Raises
    ------
    InvalidInput
        `cursor` is none.

    Examples
    --------
    >>> feed = run.follow_metrics()  # doctest: +SKIP
    >>> while not feed.ended:  # doctest: +SKIP
    ...     plot.add(feed.pull())
    ...     time.sleep(1)
    """

    def __init__(
        self, runs: Callable[[], Iterable[Known]], connection: Connection, cursor: Mapping[str, int] | None = None
    ) -> None:
        self._runs = runs
        self._connection = connection
        self._cursor = _checked(cursor)
        self._ended = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        pulled = self.cursor
        end = ", ended" if self.ended else ""
        return f"<MetricsFeed: {quantity(sum(pulled.values()), 'row')} of {quantity(len(pulled), 'run')} pulled{end}>"

    @property
    def cursor(self) -> dict[str, int]:
        """Rows pulled so far, by run: plain values, with which another process can go on."""
        with self._lock:
            return dict(self._cursor)

    @property
    def ended(self) -> bool:
        """Whether the latest pull got the last rows: there were runs, and all had ended before it.

        A run whose dead letters are sent back to work begins anew, and so do its rows.
        """
        return self._ended

    def pull(self) -> pd.DataFrame:
        """Rows that were recorded since the previous pull; at the first one all that there are.

        Returns
        -------
        pandas.DataFrame
            Columns of `toolkit.frames.METRICS`, also without rows; by run in the order of commits, ``batch`` goes on.

        Raises
        ------
        RunNotFound
            The one run that is followed has expired.
        LedgerUnavailable
            The server does not answer; the next pull misses nothing.
        """
        from toolkit import frames

        with self._lock:
            runs = list(self._runs())
            found, cursor = [], dict(self._cursor)
            for spec, status in runs:
                name = _name(status)
                first = cursor.get(name, 0)
                if status.batches < first:
                    logger.warning(
                        "run %s: the server lost its latest %d metric rows; rows that replace them follow",
                        spec.run_id,
                        first - status.batches,
                    )
                    first = status.batches
                elif status.batches == first:
                    continue
                reader = Reader(self._connection, spec.run_id)
                frame, cursor[name] = metrics_from(reader, spec, status.max_workers, first)
                found.append(frame)
            self._ended = bool(runs) and all(status.state.final for _, status in runs)
            self._cursor = cursor  # only now: a pull that fails half-way has delivered nothing
            return frames.concat_metrics(found)


def _name(status: RunStatus) -> str:
    """What a cursor calls a run: an id may be used again once the server forgot it."""
    return f"{status.run_id}@{round(status.created_at * 1000)}"


def _checked(cursor: Mapping[str, int] | None) -> dict[str, int]:
    if cursor is None:
        return {}
    if not isinstance(cursor, Mapping) or not all(
        isinstance(k, str) and isinstance(v, int) and not isinstance(v, bool) and v >= 0 for k, v in cursor.items()
    ):
        raise InvalidInput(f"cursor={cursor!r:.100}: expected what the attribute `cursor` of an earlier feed said")
    return dict(cursor)
