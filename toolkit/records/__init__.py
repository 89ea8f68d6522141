"""Frozen records that travel between rooms, one line per field.

`words` (states, priorities, categories), `asked` (a run's spec), `seen` (a run as it stands), `events` (what happened
to it), `rows` (metric rows).
"""

from toolkit.records.asked import (
    Retry,
    RunSpec,
    qualified_name,
)
from toolkit.records.events import Counters, RunEvent
from toolkit.records.rows import (
    FLAG_BATCHED,
    FLAG_CUT_OFF,
    FLAG_FIRST,
    FLAG_TAIL,
    METRIC_FIELDS,
    METRIC_LAYOUTS,
    METRIC_NAMES,
    METRIC_ROW,
    METRIC_SCHEMA,
    METRIC_SEGMENT_ROWS,
    OUTCOMES,
    WorkerIdentity,
    metric_layout,
    metric_row_bytes,
)
from toolkit.records.seen import (
    DeadLetter,
    NodeInfo,
    RunStatus,
    utc,
)
from toolkit.records.words import (
    CATEGORIES,
    INLINE_QUEUE,
    PRIORITIES,
    RunState,
    check_name,
    check_run_id,
    one_line,
    percent,
    progress,
    quantity,
)

__all__ = [
    "CATEGORIES",
    "FLAG_BATCHED",
    "FLAG_CUT_OFF",
    "FLAG_FIRST",
    "FLAG_TAIL",
    "INLINE_QUEUE",
    "METRIC_FIELDS",
    "METRIC_LAYOUTS",
    "METRIC_NAMES",
    "METRIC_ROW",
    "METRIC_SCHEMA",
    "METRIC_SEGMENT_ROWS",
    "OUTCOMES",
    "PRIORITIES",
    "Counters",
    "DeadLetter",
    "NodeInfo",
    "Retry",
    "RunEvent",
    "RunSpec",
    "RunState",
    "RunStatus",
    "WorkerIdentity",
    "check_name",
    "check_run_id",
    "metric_layout",
    "metric_row_bytes",
    "one_line",
    "percent",
    "progress",
    "qualified_name",
    "quantity",
    "utc",
]
