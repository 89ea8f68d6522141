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
    METRIC_ROW,
    OUTCOMES,
    WorkerIdentity,
)

_NUMPY_CODES = {"B": "u1", "H": "<u2", "I": "<u4", "Q": "<u8", "f": "<f4", "d": "<f8"}
_COPIED = (
    "first_index", "attempt", "items", "ok", "retried", "dead", "weight_asked", "weight", "service_s", "decode_s",
    "store_s", "idle_s", "cpu_user_s", "cpu_system_s", "input_bytes", "output_bytes", "item_sum_s", "item_sumsq_s2",
    "item_max_s", "active_claims", "known_workers",
)  # fmt: skip
_FLAGS = {"first_in_process": FLAG_FIRST, "tail": FLAG_TAIL, "cut_off": FLAG_CUT_OFF, "batched": FLAG_BATCHED}


@cache
def row_dtype() -> np.dtype[Any]:
    """The packed record of `records.METRIC_FIELDS` as a numpy dtype."""
    return np.dtype([(name, _NUMPY_CODES[code]) for name, code in METRIC_FIELDS])


def metrics_frame(run: RunInfo, rows: bytes | Sequence[bytes], workers: Mapping[int, str]) -> pd.DataFrame:
    """One row per executed batch.

    Parameters
    ----------
    run : RunInfo
        The run.
    rows : bytes or sequence of bytes
        Packed rows, as the ledger stores them.
    workers : mapping of int to str
        Encoded `records.WorkerIdentity` by the code that rows carry.

    Raises
    ------
    LedgerCorrupt
        The bytes are not a whole number of rows.
    """
    data = rows if isinstance(rows, bytes) else b"".join(rows)
    if len(data) % METRIC_ROW.size:
        raise LedgerCorrupt(
            f"run {run.run_id}: metric rows end inside a row ({len(data)} bytes, {METRIC_ROW.size} a row)"
        )
    raw = np.frombuffer(data, dtype=row_dtype())
    n = len(raw)
    kinds = {c.name: c.dtype for c in schema.METRICS}
    values: dict[str, Any] = {name: raw[name].astype(kinds[name]) for name in _COPIED}
    values |= {name: (raw["flags"] & flag) != 0 for name, flag in _FLAGS.items()}
    values |= _identities(raw["worker"], workers)
    values |= {
        "run_id": _constant(run.run_id, n),
        "task": _constant(run.task, n),
        "name": _constant(run.name, n),
        "batch": np.arange(n, dtype="int64"),
        "batch_size": raw["asked"].astype("int64"),
        "failed": raw["retried"].astype("int64") + raw["dead"].astype("int64"),
        "outcome": _coded(raw["outcome"], OUTCOMES),
        "error_category": _coded(raw["category"], CATEGORIES),
        "claimed_at": raw["claimed_at"],
        "peak_rss_bytes": raw["peak_rss_kib"].astype("int64") * 1024,
        "max_workers": np.full(n, run.max_workers, dtype="int64"),
    }
    return schema.build(schema.METRICS, values, n)


def concat_metrics(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack metric frames of several runs."""
    return schema.concat(schema.METRICS, frames)


def _constant(value: str, n: int) -> pd.Categorical:
    return pd.Categorical.from_codes(np.zeros(n, dtype="int8"), categories=pd.Index([value], dtype=object))


def _coded(codes: np.ndarray[Any, Any], names: tuple[str, ...]) -> pd.Categorical:
    known = np.where(codes < len(names), codes, -1).astype("int8")
    return pd.Categorical.from_codes(known, categories=pd.Index(names, dtype=object))


def _identities(codes: np.ndarray[Any, Any], workers: Mapping[int, str]) -> dict[str, pd.Categorical]:
    """Host, node, worker and code version of each row; an unknown code reads as empty text."""
    known = {code: WorkerIdentity.decode(text) for code, text in workers.items()}
    unique, inverse = np.unique(codes, return_inverse=True)
    found = [known.get(int(code), WorkerIdentity("", "", 0, "", "")) for code in unique]
    columns = {
        "host": [w.host for w in found],
        "node": [w.node for w in found],
        "worker": [w.worker if w.node else "" for w in found],
        "code_version": [w.code_version for w in found],
    }
    made = {}
    for name, texts in columns.items():
        categories = list(dict.fromkeys(texts))
        positions = np.array([categories.index(t) for t in texts], dtype="int32")
        taken = positions[inverse] if len(positions) else np.empty(0, dtype="int32")
        made[name] = pd.Categorical.from_codes(taken, categories=pd.Index(categories, dtype=object))
    return made
