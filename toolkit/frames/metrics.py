"""Metric rows as a frame: packed records read as one array, no Python per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from toolkit.errors import LedgerCorrupt
from toolkit.frames import schema
from toolkit.frames.schema import RunInfo
from toolkit.records import (
    CATEGORIES,
    FLAG_BATCHED,
    FLAG_CUT_OFF,
    FLAG_FIRST,
    FLAG_TAIL,
    METRIC_FIELDS,
    METRIC_SCHEMA,
    OUTCOMES,
    WorkerIdentity,
    metric_layout,
)

_NUMPY_CODES = {"B": "u1", "H": "<u2", "I": "<u4", "Q": "<u8", "f": "<f4", "d": "<f8"}
_FLAGS = {"first_in_process": FLAG_FIRST, "tail": FLAG_TAIL, "cut_off": FLAG_CUT_OFF, "batched": FLAG_BATCHED}
_DECLARED = {c.name: c.dtype for c in schema.METRICS}
_BLOCK_ROWS = 4096  # packed rows that stay in a core's cache while their fields are taken out one after the other
_NOBODY = WorkerIdentity("", "", 0, "", "")


@cache
def row_dtype(row_schema: int = METRIC_SCHEMA) -> np.dtype[Any]:
    """The packed record of one version of the layout as a numpy dtype.

    Raises
    ------
    LedgerCorrupt
        The version is not known here.
    """
    return np.dtype([(name, _NUMPY_CODES[code]) for name, code in metric_layout(row_schema)])


def metrics_frame(
    run: RunInfo, rows: bytes | Sequence[bytes], workers: Mapping[int, str], first: int = 0
) -> pd.DataFrame:
    """One row per executed batch.

    Parameters
    ----------
    run : RunInfo
        The run; its `row_schema` says how the rows are packed. What an older layout did not record is NaN in columns
        of floats and 0 in others.
    rows : bytes or sequence of bytes
        Packed rows, as the ledger stores them.
    workers : mapping of int to str
        Encoded `records.WorkerIdentity` by the code that rows carry.
    first : int
        Number of the first of these rows in its run.

    Returns
    -------
    pandas.DataFrame
        Columns as declared in `schema.METRICS`, rows in the order of commits.

    Raises
    ------
    LedgerCorrupt
        The bytes are not a whole number of rows, an index is out of range, or the layout is not known here.
    """
    fields = _columns(_packed(run, rows))
    n = len(fields["worker"])
    if (fields["first_index"] < 0).any():
        raise LedgerCorrupt(f"run {run.run_id}: a metric row has an index beyond 63 bits")
    values: dict[str, Any] = {name: column for name, column in fields.items() if name in _DECLARED}
    values |= {name: (fields["flags"] & flag) != 0 for name, flag in _FLAGS.items()}
    values |= _identities(fields["worker"], workers)
    values |= {
        "run_id": _constant(run.run_id, n),
        "task": _constant(run.task, n),
        "name": _constant(run.name, n),
        "batch": np.arange(first, first + n, dtype="int64"),
        "batch_size": fields["asked"].astype("int64"),
        "failed": fields["retried"] + fields["dead"],
        "outcome": _coded(fields["outcome"], OUTCOMES),
        "error_category": _coded(fields["category"], CATEGORIES),
        "peak_rss_bytes": fields["peak_rss_kib"].astype("int64") * 1024,
        "max_workers": np.full(n, run.max_workers, dtype="int64"),
    }
    return schema.build(schema.METRICS, values, n)


def _packed(run: RunInfo, rows: bytes | Sequence[bytes]) -> np.ndarray[Any, Any]:
    data = rows if isinstance(rows, bytes | bytearray | memoryview) else b"".join(rows)
    dtype = row_dtype(run.row_schema)
    if len(data) % dtype.itemsize:
        raise LedgerCorrupt(
            f"run {run.run_id}: metric rows end inside a row ({len(data)} bytes, {dtype.itemsize} a row)"
        )
    return np.frombuffer(data, dtype=dtype)


def _columns(raw: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Each field by itself: numbers of the frame with their declared dtype, codes as they are.

    Field by field over all rows would read the packed rows from memory once a field; this reads them once.
    """
    columns = {name: np.empty(len(raw), _number_dtype(name, raw.dtype[name])) for name in raw.dtype.names or ()}
    for start in range(0, len(raw), _BLOCK_ROWS):
        block = raw[start : start + _BLOCK_ROWS]
        for name, column in columns.items():
            column[start : start + _BLOCK_ROWS] = block[name]
    for name, code in METRIC_FIELDS:
        if name not in columns:  # an older layout
            dtype = _number_dtype(name, np.dtype(_NUMPY_CODES[code]))
            columns[name] = np.full(len(raw), np.nan if np.dtype(dtype).kind == "f" else 0, dtype)
    return columns


def _number_dtype(name: str, packed: np.dtype[Any]) -> Any:
    declared = _DECLARED.get(name, "")
    return declared if declared in ("int64", "float64") else packed


def concat_metrics(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack metric frames of several runs."""
    return schema.concat(schema.METRICS, frames)


def _constant(value: str, n: int) -> pd.Categorical:
    return schema.from_codes(np.zeros(n, dtype="int8"), [value])


def _coded(codes: np.ndarray[Any, Any], names: tuple[str, ...]) -> pd.Categorical:
    table = np.full(256, -1, dtype="int8")  # a code of a later version has no name here
    table[: len(names)] = np.arange(len(names))
    return schema.from_codes(table[codes], names)


def _identities(codes: np.ndarray[Any, Any], workers: Mapping[int, str]) -> dict[str, pd.Categorical]:
    """Host, node, worker and code version of each row; an unknown code reads as empty text."""
    present = np.flatnonzero(np.bincount(codes))
    found = [_identity(workers.get(int(code))) for code in present]
    texts = {
        "host": [w.host for w in found],
        "node": [w.node for w in found],
        "worker": [w.worker if w.node else "" for w in found],
        "code_version": [w.code_version for w in found],
    }
    made = {}
    for name, of_codes in texts.items():
        categories = {text: position for position, text in enumerate(dict.fromkeys(of_codes))}
        table = np.zeros(int(present[-1]) + 1 if len(present) else 0, dtype="int32")
        table[present] = [categories[text] for text in of_codes]
        made[name] = schema.from_codes(table[codes], list(categories))
    return made


def _identity(text: str | None) -> WorkerIdentity:
    try:
        return WorkerIdentity.decode(text) if text is not None else _NOBODY
    except ValueError:  # its process id is no number: the rows count, whoever wrote them
        return _NOBODY
