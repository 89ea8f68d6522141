"""The only builder of DataFrames. Columns, dtypes and units are declared in `schema`."""

from toolkit.frames.metrics import concat_metrics, metrics_frame, row_dtype
from toolkit.frames.schema import (
    DEAD_LETTERS,
    EVENTS,
    ITEMS,
    METRICS,
    RUNS,
    WORKERS,
    Column,
    RunInfo,
    describe,
    empty,
    timestamp,
)
from toolkit.frames.tables import (
    concat_dead_letters,
    dead_letters_frame,
    events_frame,
    items_frame,
    runs_frame,
    workers_frame,
)

__all__ = [
    "DEAD_LETTERS",
    "EVENTS",
    "ITEMS",
    "METRICS",
    "RUNS",
    "WORKERS",
    "Column",
    "RunInfo",
    "concat_dead_letters",
    "concat_metrics",
    "dead_letters_frame",
    "describe",
    "empty",
    "events_frame",
    "items_frame",
    "metrics_frame",
    "row_dtype",
    "runs_frame",
    "timestamp",
    "workers_frame",
]
