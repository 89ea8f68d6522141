"""Names of an archive's files, the lock, and frames as tables: nothing a task is called gets out of its directory."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import make
from toolkit import errors, frames
from toolkit.archive import Archive, RunKey, Source
from toolkit.archive.places import ROWS, Places, slug, state_part
from toolkit.errors import ArchiveError, MissingDependency
from toolkit.frames import Column, stored
from toolkit.records import RunState

HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "day=1/x", "*", "?[a]", "\x00", "\n", "é" * 200,
    "x" * 5000, "CON", "~", "$(rm)", "\ud800", "a=b", "__HIVE_DEFAULT_PARTITION__", "%2e%2e%2f", "<script>", "-rf",
]  # fmt: skip
KEY = RunKey(1_700_000_000_250, "run-000001")


@pytest.mark.parametrize("task", HOSTILE, ids=ascii)
def test_a_hostile_task_stays_in_its_directory(task: str, tmp_path: Path) -> None:
    places = Places(tmp_path)
    path = places.of_run(ROWS, KEY, task, "0-1")
    assert path.relative_to(tmp_path).parts[:2] == ("rows", "day=2023-11-14")
    assert path.parent.parent == tmp_path / "rows" / "day=2023-11-14"
    with places.locked(0):
        places.write(path, lambda file: file.write(b"x") and None)
    assert os.path.realpath(path) == str(path)
    assert [found.path for found in places.files(ROWS, task, KEY)] == [path]


@given(st.text(max_size=200))
def test_a_slug_is_a_plain_short_word(task: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,91}", slug(task))


def test_a_plain_name_is_its_own_slug_and_others_are_told_apart() -> None:
    assert slug("docs.ocr_v2-x") == "docs.ocr_v2-x"
    alike = ["a/b", "a:b", "a_b", "a b", "é", "è", "", "_", "x" * 100, "x" * 101]
    assert len({slug(task) for task in alike}) == len(alike)


@pytest.mark.parametrize(
    "changed",
    [{"generation": 1}, {"ok": 8}, {"dead": 1}, {"skipped": 1}, {"batches": 4}, {"state": RunState.CANCELLED}],
)
def test_a_run_that_went_on_has_another_name(changed: dict[str, Any]) -> None:
    assert state_part(replace(make.STATUS, **changed)) != state_part(make.STATUS)
    assert state_part(replace(make.STATUS, at=9.9e9, known_workers=99)) == state_part(make.STATUS)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "deep" / "archive")
    archive.write([Source(make.SPEC, make.STATUS, make.Bulk())])
    for path in (archive.path, *archive.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_who_comes_while_another_writes_waits_or_says_so(tmp_path: Path) -> None:
    with Places(tmp_path).locked(0), pytest.raises(ArchiveError, match="another process is writing"):
        Archive(tmp_path).write([], wait_s=0.0)
    assert Archive(tmp_path).write([], wait_s=0.0).runs == 0


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    with Places(tmp_path).locked(0):
        (tmp_path / ".unfinished" / "part").write_bytes(b"torn")
    with Places(tmp_path).locked(0):
        assert not list((tmp_path / ".unfinished").iterdir())


def test_a_file_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    places, path = Places(tmp_path), tmp_path / "rows" / "x.parquet"

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with places.locked(0), pytest.raises(ArchiveError, match=r"No space left on device.*archive again"):
        places.write(path, fail)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArchiveError, match="cannot be written"):
        Archive(tmp_path / "file").write([])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_foreign_file_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = Archive(tmp_path)
    archive.write([Source(make.SPEC, make.STATUS, make.Bulk())])
    (path,) = (tmp_path / "runs").rglob("*.parquet")
    path.with_name("mine.parquet").write_bytes(b"?")
    assert len(archive.runs()) == 1
    assert "mine.parquet" in caplog.text


def test_two_archives_put_together_double_nothing(tmp_path: Path) -> None:
    """Given one that was written when the run had ended first, and one after it had gone on."""
    first, second = Archive(tmp_path / "first"), Archive(tmp_path / "second")
    first.write([Source(make.SPEC, replace(make.STATUS, batches=2), make.Bulk())])
    second.write([Source(make.SPEC, make.STATUS, make.Bulk())])
    shutil.copytree(tmp_path / "first", tmp_path / "second", dirs_exist_ok=True)
    runs, keys = second.known_runs()
    assert runs["batches"].tolist() == [3]
    assert second.metrics(keys)["batch"].tolist() == [0, 1, 2]
    assert second.write([Source(make.SPEC, make.STATUS, make.Bulk())]).unchanged == 1


def test_what_is_missing_between_files_is_written_anew(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for batches in (1, 2, 3):
        archive.write([Source(make.SPEC, replace(make.STATUS, batches=batches), make.Bulk())])
    first, middle, last = sorted((tmp_path / "rows").rglob("*.parquet"))
    middle.unlink()
    done = archive.write([Source(make.SPEC, replace(make.STATUS, generation=1), make.Bulk())])
    assert (done.rows, done.dead_letters) == (1, 0)
    assert sorted((tmp_path / "rows").rglob("*.parquet")) == [first, middle, last]
    assert archive.metrics(archive.known_runs()[1])["batch"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("table", ["rows", "dead_letters"])
def test_a_file_that_was_taken_away_is_written_anew(table: str, tmp_path: Path) -> None:
    """Given a damaged file that was removed, as its error advises, the next call writes it, and nothing else."""
    archive, run = Archive(tmp_path), Source(make.SPEC, make.STATUS, make.Bulk())
    archive.write([run])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    (damaged,) = (tmp_path / table).rglob("*.parquet")
    damaged.write_bytes(damaged.read_bytes()[:100])
    reads = {"rows": archive.metrics, "dead_letters": archive.dead_letters}[table]
    with pytest.raises(ArchiveError, match="remove the file and archive again"):
        reads(archive.known_runs()[1])
    damaged.unlink()
    assert not archive.holds(run.spec, run.status)
    done = archive.write([run])
    assert (done.runs, done.unchanged, getattr(done, table)) == (0, 0, len(reads(archive.known_runs()[1])))
    assert damaged.is_file()
    assert {path: path.stat().st_mtime_ns for path in files if path != damaged}.items() <= files.items()
    assert archive.write([run]).unchanged == 1


def test_an_archive_that_is_not_there_is_empty(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "none")
    pd.testing.assert_frame_equal(archive.runs(), frames.empty(frames.RUNS))
    pd.testing.assert_frame_equal(archive.metrics([KEY]), frames.empty(frames.METRICS))
    pd.testing.assert_frame_equal(archive.dead_letters([KEY]), frames.empty(frames.DEAD_LETTERS))
    assert not (tmp_path / "none").exists()


# --------------------------------------------------------------------------- frames as tables

EVERY = (
    Column("category", "category", "x"), Column("fixed", "category", "x", ("a", "b")), Column("text", "object", "x"),
    Column("at", "datetime64[us, UTC]", "x"), Column("n", "int64", "x"), Column("maybe", "Int64", "x"),
    Column("x", "float64", "x"), Column("flag", "bool", "x"),
)  # fmt: skip
VALUES = {
    "category": ["é", None, "é"], "fixed": ["b", None, "a"], "text": ["x\u202e", None, ""], "at": [1.5, 0, 4e9],
    "n": [2**62, -1, 0], "maybe": [1, None, 3], "x": [1.5, float("nan"), float("inf")], "flag": [True, False, True],
}  # fmt: skip


def test_every_kind_of_column_comes_back_as_it_was() -> None:
    frame = frames.schema.build(EVERY, VALUES, 3)
    pd.testing.assert_frame_equal(stored.from_arrow(EVERY, stored.to_arrow(EVERY, frame)), frame)
    empty = frames.empty(EVERY)
    pd.testing.assert_frame_equal(stored.from_arrow(EVERY, stored.to_arrow(EVERY, empty)), empty)


def test_stacked_tables_with_other_categories_are_one_frame() -> None:
    import pyarrow as pa

    parts = [frames.schema.build(EVERY, VALUES | {"category": [text] * 3}, 3) for text in ("a", "b", "a")]
    table = pa.concat_tables([stored.to_arrow(EVERY, part) for part in parts])
    whole = stored.from_arrow(EVERY, table)
    assert whole["category"].tolist() == list("aaabbbaaa")
    assert list(whole["category"].cat.categories) == ["a", "b"]


def test_text_that_no_encoding_has_does_not_stop_the_rest() -> None:
    frame = frames.schema.build(EVERY, VALUES | {"text": ["\ud800", "y", None], "category": ["\udfff", "b", None]}, 3)
    found = stored.from_arrow(EVERY, stored.to_arrow(EVERY, frame))
    assert found["text"].tolist() == ["?", "y", None]
    assert found["category"].tolist()[:2] == ["?", "b"]


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path) -> None:
    """In a process of its own, in which the package cannot be imported."""
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path\n"
        "from tests.data import make\n"
        "from toolkit.archive import Archive, Source\n"
        "Archive(Path(sys.argv[1])).write([Source(make.SPEC, make.STATUS, make.Bulk())])\n"
    )
    root = Path(errors.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], cwd=root, capture_output=True, text=True, check=False
    )
    assert MissingDependency.__name__ in done.stderr
    assert "batch-analytics-toolkit[archive]" in done.stderr
    assert not list(tmp_path.rglob("*.parquet"))
