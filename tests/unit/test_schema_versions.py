"""What earlier versions stored is read for ever: one small file of each is kept in ``tests/data``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.data import make
from toolkit import frames, records
from toolkit.archive import Archive, tables
from toolkit.errors import ArchiveError, LedgerCorrupt
from toolkit.frames import RunInfo, metrics_frame
from toolkit.records import METRIC_FIELDS, METRIC_LAYOUTS, METRIC_ROW, METRIC_SCHEMA

AGAIN = "the stored form has changed: raise its version, keep the older layout, run `python -m tests.data.make`"


def same(frame: pd.DataFrame, expected: dict[str, dict[str, dict[str, str]]]) -> None:
    """Every column that the old version knew has its values still; a later one may have more."""
    found = make.plain(frame)
    for then, now in zip(expected["rows"], found["rows"], strict=True):
        assert {name: now.get(name) for name in then} == then


@pytest.mark.parametrize("version", sorted(METRIC_LAYOUTS))
def test_packed_rows_of_every_version_are_read(version: int) -> None:
    frame = make.read_rows(version)
    same(frame, json.loads((make.HERE / f"rows-{version}.json").read_text()))
    assert [str(d) for d in frame.dtypes] == [c.dtype for c in frames.METRICS]


@pytest.mark.parametrize("version", range(1, tables.VERSION + 1))
def test_an_archive_of_every_version_is_read(version: int) -> None:
    expected = json.loads((make.HERE / f"archive-{version}.json").read_text())
    found = make.read_archive(version)
    for name, columns in {"runs": frames.RUNS, "rows": frames.METRICS, "dead_letters": frames.DEAD_LETTERS}.items():
        same(found[name], expected[name])
        assert list(found[name].columns) == [c.name for c in columns]
        assert [str(d) for d in found[name].dtypes] == [c.dtype for c in columns]


def test_who_changes_what_is_stored_raises_its_version() -> None:
    assert make.packed_rows() == (make.HERE / f"rows-{METRIC_SCHEMA}.bin").read_bytes(), AGAIN
    kept = json.loads((make.HERE / f"archive-{tables.VERSION}.json").read_text())
    for name, columns in {"runs": frames.RUNS, "rows": frames.METRICS, "dead_letters": frames.DEAD_LETTERS}.items():
        assert kept[name]["columns"] == {c.name: c.dtype for c in columns}, AGAIN


def test_rows_of_an_older_layout_say_nothing_where_it_recorded_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a layout that lacks fields and orders the others differently."""
    lacking = {"idle_s", "store_s", "input_bytes", "weight"}
    older = tuple(field for field in reversed(METRIC_FIELDS) if field[0] not in lacking)
    monkeypatch.setattr(records.rows, "METRIC_LAYOUTS", {0: older, **METRIC_LAYOUTS})
    packed = np.array([tuple(range(1, len(older) + 1))], frames.row_dtype(0)).tobytes()
    assert len(packed) == records.metric_row_bytes(0) < METRIC_ROW.size
    found = metrics_frame(RunInfo("run-000001", "t", "", 0, 0), packed, {}).iloc[0]
    expected = {name: value for value, (name, _) in enumerate(older, 1)}
    assert (found["items"], found["service_s"]) == (expected["items"], expected["service_s"])
    assert np.isnan([found["idle_s"], found["store_s"], found["weight"]]).all()
    assert found["input_bytes"] == 0
    frames.row_dtype.cache_clear()


def test_rows_of_a_later_layout_are_refused_by_name() -> None:
    with pytest.raises(LedgerCorrupt, match=rf"layout {METRIC_SCHEMA + 1}: this version reads .*upgrade"):
        metrics_frame(RunInfo("run-000001", "t", "", 0, METRIC_SCHEMA + 1), b"", {})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    shutil.copytree(make.HERE / f"archive-{tables.VERSION}", tmp_path / "archive")
    return Archive(tmp_path / "archive")


def rewritten(archive: Archive, folder: str, /, **said: bytes) -> None:
    import pyarrow.parquet as pq

    (path,) = (archive.path / folder).rglob("*.parquet")
    old = pq.ParquetFile(path).read()
    names = {f"toolkit.{name}".encode(): value for name, value in said.items()}
    pq.write_table(old.replace_schema_metadata((old.schema.metadata or {}) | names), path)


def test_a_file_of_a_later_version_is_refused_by_name(archive: Archive) -> None:
    rewritten(archive, "runs", version=b"99")
    with pytest.raises(ArchiveError, match=r"\.parquet has version 99, .*upgrade"):
        archive.runs()


def test_a_file_of_another_table_is_refused_by_name(archive: Archive) -> None:
    rewritten(archive, "runs", table=b"rows")
    with pytest.raises(ArchiveError, match=r"\.parquet is no file of table runs"):
        archive.runs()


def test_a_torn_file_is_refused_by_name(archive: Archive) -> None:
    (path,) = (archive.path / "rows").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    _, keys = archive.known_runs()
    with pytest.raises(ArchiveError, match=rf"{path.name} cannot be read .* remove the file"):
        archive.metrics(keys)


def test_a_column_that_a_file_lacks_is_there_and_says_nothing(archive: Archive) -> None:
    import pyarrow.parquet as pq

    lacking = ["service_s", "items", "host", "outcome", "claimed_at", "tail"]
    (path,) = (archive.path / "rows").rglob("*.parquet")
    old = pq.ParquetFile(path).read()
    pq.write_table(old.drop_columns(lacking), path)
    _, keys = archive.known_runs()
    frame = archive.metrics(keys)
    assert [str(d) for d in frame.dtypes] == [c.dtype for c in frames.METRICS]
    assert frame[["service_s", "host", "outcome", "claimed_at"]].isna().all(axis=None)
    assert frame[["items", "tail"]].eq(0).all(axis=None)
    assert frame["batch"].tolist() == [0, 1, 2]
