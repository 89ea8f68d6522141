"""Ended runs as a Parquet dataset: written once, read by this package, pandas, DuckDB and Polars as it lies.

===========  ==========================================================================================
`places`     names of directories and files, what is there, the lock, atomic writing; standard library only
`tables`     a run as rows of its three tables, and tables as frames
`archive`    `Archive`: write what is new, read it back
`series`     the same for the series of instrumented tasks
`keeping`    what of a server belongs into an archive, and whether something is missing there
`__main__`   ``python -m toolkit.archive``: a node's process that archives
===========  ==========================================================================================

::

    ARCHIVE/
      runs/day=2026-11-24/task_slug=docs.ocr/RUN.CREATED.STATE.parquet               one row
      rows/day=2026-11-24/task_slug=docs.ocr/RUN.CREATED.FIRST-STOP.parquet          metric rows FIRST to STOP
      dead_letters/day=2026-11-24/task_slug=docs.ocr/RUN.CREATED.NUMBER.parquet      letters that no earlier file has
      series/day=2026-11-24/task_slug=docs.ocr/SERIES.AT.FIRST-STOP.parquet          rows FIRST to STOP of a series
      .unfinished/                                                                   being written; empty afterwards
      .lock                                                                          held by the one who writes

The day is that of the run's creation, in UTC; the exact name of the task is a column of each file. A file is written
elsewhere in the archive, brought to the disk and then given its name, so there is never a part of one; its name says
what it holds, so a second call knows what is missing, also after a crash. A run's own row comes last. A run that went
on after it was archived (`Run.retry_dead`) gets further files: of its rows in ``runs`` the latest by ``archived_at``
counts.
"""

from toolkit.archive.archive import Archive, Archived, Source
from toolkit.archive.keeping import Lookout, archive_all, ended_runs
from toolkit.archive.places import RunKey
from toolkit.archive.series import read_series, readable, series_columns, series_frame, with_archived

__all__ = [
    "Archive",
    "Archived",
    "Lookout",
    "RunKey",
    "Source",
    "archive_all",
    "ended_runs",
    "read_series",
    "readable",
    "series_columns",
    "series_frame",
    "with_archived",
]
