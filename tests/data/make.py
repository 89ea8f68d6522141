"""Writes what this version of the package stores, for the test that reads it for ever: ``python -m tests.data.make``.

Run it once when `records.METRIC_SCHEMA` or `archive.tables.VERSION` was raised. It never replaces a file that is there:
those of earlier versions are the point.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from toolkit.archive import Archive, Source, tables
from toolkit.frames import RunInfo, metrics_frame
from toolkit.records import (
    METRIC_FIELDS,
    METRIC_SCHEMA,
    DeadLetter,
    RunSpec,
    RunState,
    RunStatus,
    WorkerIdentity,
)

HERE = Path(__file__).parent
SPEC = RunSpec(
    "run-000001", "docs.ocr:pages/é", name="nightly", tags={"night": "7"}, priority="high", row_schema=METRIC_SCHEMA
)  # fmt: skip
WORKERS = {3: WorkerIdentity("host-a", "zoe@host-a", 17, "abc", "0.1.0").encode()}
LETTERS = (
    DeadLetter(
        2, "k2", (1, b"\x00", math.inf), "m.Error", "no\u202e", "Trace\nback", "fatal", 4, "zoe/17", "log", 1.7e9
    ),
    DeadLetter(5, None, {"a": [1, None]}, "ValueError", "", "", "timeout", 1, "zoe/17", "", 1.7e9 + 1),
)
STATUS = RunStatus(
    run_id=SPEC.run_id, name=SPEC.name, task=SPEC.task, state=RunState.FINISHED, closed=True, submitted=9, remaining=0,
    ready=0, delayed=0, claimed=0, ok=7, dead=2, skipped=0, retried=3, batches=3, active=0, known_workers=2, lost=1,
    batch_size=3, auto=True, max_workers=4, item_s=0.5, generation=0, created_at=1_700_000_000.25,
    started_at=1_700_000_001.0, finished_at=1_700_000_004.5, at=1_700_000_009.0,
)  # fmt: skip


def packed_rows() -> bytes:
    """Three rows in which every field has a value of its own; the last holds nothing but its moment and NaN."""
    rows = []
    for number in (1, 2):
        values: dict[str, float] = {name: 10 * number + at for at, (name, _) in enumerate(METRIC_FIELDS)}
        rows.append(values | {"worker": 3, "flags": number, "outcome": 1, "category": 3, "claimed_at": 1.7e9 + number})
    rows.append(dict.fromkeys(values, 0) | {"idle_s": math.nan, "claimed_at": 1.7e9})
    layout = struct.Struct("<" + "".join(code for _, code in METRIC_FIELDS))
    return b"".join(layout.pack(*(row[name] for name, _ in METRIC_FIELDS)) for row in rows)


@dataclass(frozen=True)
class Bulk:
    """What the ledger would hold of the run."""

    def each_metric_rows(self, first: int, row_bytes: int) -> Iterator[bytes]:
        yield packed_rows()[first * row_bytes :]

    def workers(self) -> dict[int, str]:
        return WORKERS

    def each_dead_letter(self) -> tuple[DeadLetter, ...]:
        return LETTERS


def plain(frame: pd.DataFrame) -> dict[str, Any]:
    """A frame as JSON: its columns with their types, its rows as text that tells types apart."""
    return {
        "columns": {name: str(dtype) for name, dtype in frame.dtypes.items()},
        "rows": [{str(name): _cell(value) for name, value in row.items()} for row in frame.to_dict("records")],
    }


def _cell(value: Any) -> str:
    return value.isoformat() if isinstance(value, pd.Timestamp) else repr(value)


def read_rows(schema: int) -> pd.DataFrame:
    """The packed rows that were kept of one version."""
    info = RunInfo(SPEC.run_id, SPEC.task, SPEC.name, STATUS.max_workers, schema)
    return metrics_frame(info, (HERE / f"rows-{schema}.bin").read_bytes(), WORKERS)


def read_archive(version: int) -> dict[str, pd.DataFrame]:
    """The archive that was kept of one version."""
    archive = Archive(HERE / f"archive-{version}")
    runs, keys = archive.known_runs()
    return {"runs": runs, "rows": archive.metrics(keys), "dead_letters": archive.dead_letters(keys)}


def main() -> None:
    """Write the files of the present version."""
    rows, expected = HERE / f"rows-{METRIC_SCHEMA}.bin", HERE / f"rows-{METRIC_SCHEMA}.json"
    if not rows.exists():
        rows.write_bytes(packed_rows())
        expected.write_text(json.dumps(plain(read_rows(METRIC_SCHEMA)), indent=1) + "\n")
    kept, said = HERE / f"archive-{tables.VERSION}", HERE / f"archive-{tables.VERSION}.json"
    if not kept.exists():
        Archive(kept).write([Source(SPEC, STATUS, Bulk())])
        found = {name: plain(frame) for name, frame in read_archive(tables.VERSION).items()}
        said.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written into {HERE} at {datetime.now(UTC):%Y-%m-%d}")


if __name__ == "__main__":
    main()
