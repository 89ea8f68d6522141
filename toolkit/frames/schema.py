"""Every column of every frame: its dtype and what it means. The same schema empty or full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from toolkit.errors import InvalidInput
from toolkit.records import CATEGORIES, METRIC_SCHEMA, OUTCOMES, PRIORITIES, RunState

TIME: Final = "datetime64[us, UTC]"
CATEGORY: Final = "category"
TEXT: Final = "object"
"""Plain `str` objects, on every version of pandas alike; None where there is none."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes
    ----------
    name : str
        Durations end in ``_s`` (float seconds), sizes in ``_bytes``, moments in ``_at`` (UTC).
    dtype : str
        Its pandas dtype.
    doc : str
        What it says.
    categories : tuple of str
        All values it may take, where they are fixed.
    """

    name: str
    dtype: str
    doc: str
    categories: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Unit of its values, empty for counts, text and flags; the end of the name says it."""
        name = f"_{self.name}"  # so that `at` is a moment, as `claimed_at` is
        return next((unit for ending, unit in _UNITS if name.endswith(ending)), "")


_UNITS: Final = (("_s", "s"), ("_s2", "s²"), ("_bytes", "bytes"), ("_at", "UTC"))


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What rows of a run carry besides their own fields.

    Attributes
    ----------
    run_id, task, name : str
        Which run.
    max_workers : int
        Its cap, 0 for none.
    row_schema : int
        Version of the layout of its rows.
    """

    run_id: str
    task: str
    name: str
    max_workers: int
    row_schema: int = METRIC_SCHEMA


def _c(name: str, dtype: str, doc: str, categories: tuple[str, ...] = ()) -> Column:
    return Column(name, dtype, doc, categories)


METRICS: Final = (
    _c("run_id", CATEGORY, "the run"),
    _c("task", CATEGORY, "name of its task"),
    _c("name", CATEGORY, "the user's name for the run"),
    _c("code_version", CATEGORY, "digest of the task's source, as the worker saw it"),
    _c("host", CATEGORY, "host of the worker"),
    _c("node", CATEGORY, "Celery node of the worker"),
    _c("worker", CATEGORY, "the worker, node/pid"),
    _c("batch", "int64", "number of the batch in its run, from 0, in the order of commits"),
    _c("first_index", "int64", "index of its first item"),
    _c("attempt", "int64", "highest attempt number among its items, from 1"),
    _c("batch_size", "int64", "items asked for, before tapering"),
    _c("items", "int64", "items executed"),
    _c("ok", "int64", "items that ended well"),
    _c("failed", "int64", "items that did not: retried + dead"),
    _c("retried", "int64", "items sent back for another attempt"),
    _c("dead", "int64", "items that became dead letters"),
    _c("weight_asked", "float64", "weight asked for, 0 where items have none"),
    _c("weight", "float64", "weight executed, 0 where items have none"),
    _c("outcome", CATEGORY, "how it ended", OUTCOMES),
    _c("error_category", CATEGORY, "category of its first error, empty without one", CATEGORIES),
    _c("claimed_at", TIME, "when it was claimed, by the server's clock"),
    _c("service_s", "float64", "user code, from first item to last"),
    _c("decode_s", "float64", "decoding items"),
    _c("store_s", "float64", "encoding results"),
    _c("idle_s", "float64", "since this worker's previous batch ended; NaN for the first of a ticket"),
    _c("cpu_user_s", "float64", "processor time in user mode during service"),
    _c("cpu_system_s", "float64", "processor time in system mode during service"),
    _c("peak_rss_bytes", "int64", "peak resident memory of the worker"),
    _c("input_bytes", "int64", "encoded items"),
    _c("output_bytes", "int64", "encoded results"),
    _c("item_sum_s", "float64", "sum of the items' durations"),
    _c("item_sumsq_s2", "float64", "sum of their squares, in seconds squared"),
    _c("item_max_s", "float64", "longest item"),
    _c("active_claims", "int64", "batches of the run being executed when it was claimed, itself included"),
    _c("known_workers", "int64", "workers alive on the run's queue at that moment"),
    _c("max_workers", "int64", "the run's cap, 0 for none"),
    _c("first_in_process", "bool", "first batch of the run in its process: carries imports and setup"),
    _c("tail", "bool", "smaller than asked, by tapering or because items ran out"),
    _c("cut_off", "bool", "ended by a death or a cancel: its durations are lower bounds"),
    _c("batched", "bool", "one call for the batch, not one per item"),
)

RUNS: Final = (
    _c("run_id", TEXT, "the run"),
    _c("name", CATEGORY, "the user's name for it"),
    _c("task", CATEGORY, "name of its task"),
    _c("state", CATEGORY, "its state", tuple(str(s) for s in RunState)),
    _c("priority", CATEGORY, "how pressing it was", PRIORITIES),
    _c("queue", CATEGORY, "Celery queue of its tickets"),
    _c("code_version", CATEGORY, "digest of the task's source, as the client saw it"),
    _c("tags", TEXT, "the user's labels, as JSON"),
    _c("submitted", "int64", "items"),
    _c("ok", "int64", "items that ended well"),
    _c("dead", "int64", "dead letters"),
    _c("skipped", "int64", "items cancelled or dropped"),
    _c("retried", "int64", "attempts that failed and were tried again"),
    _c("batches", "int64", "batches executed"),
    _c("lost", "int64", "batches whose process died"),
    _c("batch_size", "int64", "items per batch; of an automatic run the latest"),
    _c("auto", "bool", "the batch size was automatic"),
    _c("max_workers", "int64", "its cap, 0 for none"),
    _c("known_workers", "int64", "workers alive on its queue, when last seen"),
    _c("created_at", TIME, "when it was created"),
    _c("started_at", TIME, "first claim"),
    _c("finished_at", TIME, "end"),
    _c("makespan_s", "float64", "from the first claim to the end; NaN before"),
    _c("item_s", "float64", "latest seconds per item"),
)

ITEM_STATES: Final = ("ok", "dead", "skipped", "pending")
ITEMS: Final = (
    _c("run_id", TEXT, "the run"),
    _c("index", "int64", "index of the item"),
    _c("key", TEXT, "the user's key, None without one"),
    _c("state", CATEGORY, "how it stands", ITEM_STATES),
    _c("attempts", "Int64", "executions of a dead letter; missing for others"),
    _c("error_category", CATEGORY, "category of a dead letter's error, empty for others", CATEGORIES),
    _c("error_type", TEXT, "class of a dead letter's error, None for others"),
)

WORKERS: Final = (
    _c("node", TEXT, "Celery node"),
    _c("host", CATEGORY, "its host"),
    _c("pid", "int64", "its main process"),
    _c("workers", "int64", "its worker processes"),
    _c("busy", "int64", "workers that hold a claim"),
    _c("queues", CATEGORY, "queues it listens to, comma-separated"),
    _c("n_tasks", "int64", "tasks registered in its application"),
    _c("toolkit_version", CATEGORY, "version of this package there"),
    _c("protocol", "int64", "version of the ledger's layout there"),
    _c("python", CATEGORY, "Python version there"),
    _c("functions", "bool", "it runs signed functions"),
    _c("started_at", TIME, "when it started"),
    _c("seen_at", TIME, "when it last reported"),
)

DEAD_LETTERS: Final = (
    _c("run_id", TEXT, "the run"),
    _c("task", CATEGORY, "name of its task"),
    _c("index", "int64", "index of the item"),
    _c("key", TEXT, "the user's key, None without one"),
    _c("category", CATEGORY, "error category", CATEGORIES),
    _c("error_type", CATEGORY, "class of the error"),
    _c("message", TEXT, "its message"),
    _c("traceback", TEXT, "its traceback"),
    _c("attempts", "int64", "executions of the item"),
    _c("worker", CATEGORY, "the last one, node/pid"),
    _c("logs", TEXT, "tail of what it printed and logged"),
    _c("item", TEXT, "the item itself"),
    _c("at", TIME, "when its batch was claimed"),
)

EVENTS: Final = (
    _c("run_id", TEXT, "the run"),
    _c("event_id", TEXT, "id in the stream"),
    _c("at", TIME, "when, by the server's clock"),
    _c("event", CATEGORY, "what"),
    _c("submitted", "Int64", "items so far"),
    _c("ok", "Int64", "items that ended well so far"),
    _c("dead", "Int64", "dead letters so far"),
    _c("skipped", "Int64", "items cancelled or dropped so far"),
    _c("retried", "Int64", "retries so far"),
    _c("detail", TEXT, "more, for people"),
)

PROGRESS: Final = (
    _c("at", TIME, "when, by the server's clock"),
    _c("ok", "int64", "items that ended well so far"),
    _c("dead", "int64", "dead letters at that moment"),
    _c("retried", "int64", "retries so far"),
    _c("submitted", "int64", "items so far"),
    _c("skipped", "int64", "items cancelled or dropped so far"),
)


PROFILE: Final = (
    _c("function", TEXT, "module:function"),
    _c("own", "int64", "samples in the function itself"),
    _c("total", "int64", "samples in it and in what it called"),
    _c("share", "float64", "total, as a share of all samples"),
)


def build(columns: Sequence[Column], values: Mapping[str, Any], n: int) -> pd.DataFrame:
    """Build a frame of `n` rows with exactly the declared columns, order and dtypes.

    Parameters
    ----------
    columns : sequence of Column
        The declaration.
    values : mapping of str to array, sequence or scalar
        By column name; a scalar is repeated. The frame takes over arrays that have the declared dtype already.
    n : int
        Rows.
    """
    made = {c.name: _series(c, values.get(c.name), n) for c in columns}
    return pd.DataFrame(made, index=pd.RangeIndex(n), copy=False)


def _series(column: Column, value: Any, n: int) -> Any:
    if isinstance(value, pd.Categorical):
        return value
    if isinstance(value, np.ndarray) and value.dtype == column.dtype != TEXT:
        return value
    if column.dtype == TIME:
        return _moments(value, n)
    scalar = value is None or isinstance(value, str | int | float | bool)
    values = [value] * n if scalar else value
    if column.dtype == CATEGORY:
        return categorical(values, column.categories or tuple(dict.fromkeys(v for v in values if v is not None)))
    if column.dtype == TEXT:
        return text_column(values)
    numbers: Any = [] if value is None else values
    return pd.array(numbers, dtype=column.dtype)


def text_column(values: Sequence[Any]) -> pd.Series[Any]:
    """Column of objects as they are: text, or items of a user.

    Element by element, because an item may itself be a list or an array; and as a series, because of an array pandas 3
    would infer another dtype.
    """
    return pd.Series(np.fromiter(values, dtype=object, count=len(values)), dtype=object)


def categorical(values: Sequence[Any], categories: Sequence[str]) -> pd.Categorical:
    """Categorical over `categories`, kept as plain `str` objects; a value that is none of them is missing."""
    known = {name: code for code, name in enumerate(categories)}
    codes = np.fromiter((known.get(v, -1) for v in values), dtype="int32", count=len(values))
    return from_codes(codes, categories)


def from_codes(codes: np.ndarray[Any, Any], categories: Sequence[str]) -> pd.Categorical:
    """Categorical of positions in `categories`, -1 for a missing value."""
    index: Any = pd.Index(list(categories), dtype="object")  # plain `str` objects on every version of pandas alike
    made: pd.Categorical = pd.Categorical.from_codes(codes, categories=index)
    return made


_FAR_S: Final = 1e11  # seconds until the year 5138: more are milliseconds
_LATEST_S: Final = 9.2e12  # beyond it, microseconds do not fit into 64 bits; about the year 290,000


def _moments(value: Any, n: int) -> Any:
    """Seconds since the epoch (array or sequence, 0 and NaN for never) as UTC timestamps."""
    seconds = np.zeros(n) if value is None else np.asarray(value, dtype="float64")
    known = (seconds > 0) & (seconds < _LATEST_S)
    micros = np.rint(np.where(known, seconds, 0) * 1e6).astype("int64")
    micros[~known] = np.iinfo("int64").min
    return pd.DatetimeIndex(micros.view("datetime64[us]")).tz_localize(UTC).array


def empty(columns: Sequence[Column]) -> pd.DataFrame:
    """Return the frame without rows."""
    return build(columns, {}, 0)


def describe(columns: Sequence[Column]) -> str:
    """Return the declaration as a Markdown table: column, dtype, unit, meaning."""
    rows = [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.doc} |" for c in columns]
    return "\n".join(["| column | dtype | unit | meaning |", "| --- | --- | --- | --- |", *rows])


def concat(columns: Sequence[Column], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack frames of one schema; categoricals stay categoricals, over the categories of all."""
    frames = [f for f in frames if len(f)]
    if not frames:
        return empty(columns)
    if len(frames) == 1:
        return frames[0].reset_index(drop=True)
    parts: dict[str, Any] = {}
    for c in columns:
        pieces = [f[c.name] for f in frames]
        if c.dtype == CATEGORY:
            union = pd.api.types.union_categoricals([_plain_categories(p) for p in pieces])
            parts[c.name] = _plain_categories(pd.Series(union))
        else:
            joined: Any = pd.concat(pieces, ignore_index=True)
            parts[c.name] = joined if joined.dtype == c.dtype else joined.astype(c.dtype)
    return pd.DataFrame(parts, copy=False)


def _plain_categories(values: pd.Series[Any]) -> pd.Categorical:
    """Categories as `str` objects: those of a frame read from a file may have pandas' own text dtype."""
    known = values.array if isinstance(values.array, pd.Categorical) else pd.Categorical(values)
    return from_codes(np.asarray(known.codes), list(known.categories))


def timestamp(moment: datetime | str | float) -> float:
    """Seconds since the epoch of a moment; without a zone it is taken as UTC, a number is such seconds already.

    Raises
    ------
    InvalidInput
        It is not a date.
    """
    if isinstance(moment, int | float | np.number):
        # pandas would read nanoseconds, and so a moment of 1970
        if isinstance(moment, bool) or not 0 <= moment < _FAR_S:
            raise InvalidInput(f"{moment!r} is not a date; a number is seconds since 1970, as time.time() gives")
        return float(moment)
    if isinstance(moment, str) and moment.strip().lower() in ("now", "today"):
        # pandas reads the local clock, which would then pass for UTC
        raise InvalidInput(f"{moment!r} is not a date; pass text like '2026-11-23', or time.time() for this moment")
    try:
        stamp = pd.Timestamp(moment)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{moment!r} is not a date; pass a datetime or text like '2026-11-23 14:00'") from error
    if pd.isna(stamp):
        raise InvalidInput(f"{moment!r} is not a date")
    return float((stamp.tz_localize(UTC) if stamp.tzinfo is None else stamp).timestamp())
