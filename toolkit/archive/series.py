"""Series of instrumented tasks as rows of a frame, and their place in an archive.

Rows of a series are numbered; a file holds a span of them, and is called so. The server deletes the oldest ones, and
may lose its data and count anew: then the last archived row is not the one that it has under that number, and all that
it has is new.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from toolkit.archive import tables
from toolkit.archive.places import SERIES, Places, RunKey, Stored, span
from toolkit.errors import LedgerCorrupt
from toolkit.ledger import Segment, SeriesHead, SeriesName, SeriesStore
from toolkit.ledger.series import SEGMENT_ROWS
from toolkit.records import METRIC_SCHEMA

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.frames import Column

logger = logging.getLogger(__name__)

FILE_ROWS: Final = 16 * SEGMENT_ROWS


def series_columns() -> tuple[Column, ...]:
    """Columns of the table: those of metric rows, the wait in the queue, and the tags."""
    return tables.columns(SERIES)


def series_frame(head: SeriesHead, segments: Sequence[Segment]) -> pd.DataFrame:
    """Rows of one series in the columns of the table; what the worker could not know is put in here.

    That is the session, which stands in the place of a run, and how many others executed the task at the moment, as far
    as these rows tell.
    """
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
    waits = np.frombuffer(b"".join(s.waits for s in segments), dtype="<f4")
    frame["queue_wait_s"] = waits.astype("float64")
    frame["tags"] = schema.from_codes(np.zeros(len(frame), dtype="int8"), [head.name.tags])
    return frame


def readable(name: SeriesName) -> bool:
    """Whether this version reads rows of a series; says so where it does not."""
    if name.schema == METRIC_SCHEMA:
        return True
    logger.warning(
        "rows of task %s with schema %d are left out: this version reads %d", name.task, name.schema, METRIC_SCHEMA
    )
    return False


# --------------------------------------------------------------------------- write


def write_series(path: Path, store: SeriesStore, wait_s: float, least: int = 1) -> tuple[int, list[tuple[str, str]]]:
    """Write the rows that the archive at `path` lacks of every series that has at least `least` of them.

    Returns
    -------
    rows : int
        Written now.
    failed : list of (series id, reason)
        Series that could not be read.

    Raises
    ------
    ArchiveError, MissingDependency
        As for runs.
    """
    rows, failed = 0, []
    with Places(path).locked(wait_s) as places:
        for name in store.names():
            if not readable(name):
                continue
            try:
                for frame, first, stop in _new_frames(places, store, name, least):
                    rows += _write(places, name, frame, first, stop)
            except LedgerCorrupt as error:
                logger.warning("series %s is not archived: %s", name.series_id, error)
                failed.append((name.series_id, str(error)))
    return rows, failed


def _new_frames(
    places: Places, store: SeriesStore, name: SeriesName, least: int
) -> Iterator[tuple[pd.DataFrame, int, int]]:
    head = store.head(name)
    at = max(head.first, _archived(places, store, head))
    if head.rows - at < max(1, least):
        return
    while at < head.rows:
        stop = min(head.rows, at + FILE_ROWS)
        # Those just before are looked at too: who ran at the same moment is not cut off at the edge of a file.
        segments = [s for s in store.segments(head, max(0, at - SEGMENT_ROWS)) if s.first < stop]
        if not segments:
            return  # deleted meanwhile
        frame = series_frame(head, segments)
        numbers = [n for s in segments for n in range(s.first, s.first + len(s.waits) // 4)]
        keep = [at <= n < stop for n in numbers]
        if any(keep):
            yield frame[keep].reset_index(drop=True), at, stop
        at = stop


def _archived(places: Places, store: SeriesStore, head: SeriesHead) -> int:
    """Number of the first row that is not archived yet."""
    files = [f for f in places.files(SERIES, head.name.task) if f.key.run_id == head.name.series_id]
    if not files:
        return 0
    last = max(files, key=lambda f: (f.key, f.part))
    stop = span(last)[1]
    if stop > head.rows:
        return 0
    if stop - 1 < head.first:
        if stop < head.first:
            logger.warning(
                "series %s: %d rows were deleted before they were archived", head.name.series_id, head.first - stop
            )
        return stop
    segment = next(store.segments(head, stop - 1), None)
    if segment is None:  # deleted this very moment
        return stop
    there = series_frame(head, [segment])["claimed_at"].iloc[0]
    return stop if bool(tables.read(SERIES, [last.path])["claimed_at"].iloc[-1] == there) else 0


def _write(places: Places, name: SeriesName, frame: pd.DataFrame, first: int, stop: int) -> int:
    key = RunKey(int(frame["claimed_at"].iloc[0].timestamp() * 1000), name.series_id)

    def fill(file: IO[bytes]) -> None:
        writer = tables.Writer(SERIES, file)
        try:
            writer.add(frame)
        finally:
            writer.close()

    places.write(places.of_run(SERIES, key, name.task, f"{first:012d}-{stop:012d}"), fill)
    return len(frame)


# --------------------------------------------------------------------------- read


def read_series(path: Path, task: str | None = None, tags: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Rows of instrumented tasks from an archive, by series and number; columns of the table ``series``."""
    import json

    def wanted(stored: str) -> bool:
        found: dict[str, str] = json.loads(stored)
        return all(found.get(name) == value for name, value in (tags or {}).items())

    files: list[Stored] = sorted(Places(path).files(SERIES, task), key=lambda f: (f.key.run_id, f.key, f.part))
    frame: Any = tables.read(SERIES, [f.path for f in files])
    if task is not None:
        frame = frame[frame["task"] == task]
    if tags:
        frame = frame[frame["tags"].map(wanted).astype(bool)]
    whole: pd.DataFrame = frame.reset_index(drop=True)
    return whole


def with_archived(frame: pd.DataFrame, archived: pd.DataFrame) -> pd.DataFrame:
    """Rows of the server after those of the archive, none of them twice; both in the columns of the table."""
    from toolkit.frames import schema

    both = schema.concat(series_columns(), [archived, frame])
    once = ~both.duplicated(["task", "tags", "worker", "claimed_at", "service_s"], keep="last")
    return both[once].reset_index(drop=True)
