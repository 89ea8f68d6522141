"""Dead letters as files: exact, harmless, all or nothing."""

from __future__ import annotations

import csv
import math
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit import codec
from toolkit.client import export
from toolkit.client.export import read_letters, write_letters
from toolkit.errors import InvalidInput, LedgerCorrupt
from toolkit.records import DeadLetter, RunSpec

SPEC = RunSpec("run-000001", "m:task")
LETTER = DeadLetter(3, "key", 1, "m.Error", "message", "trace\nback", "fatal", 2, "n/1", "printed", 1.5)
HOSTILE = "\x1b[2J\u202eevil\x00\u2028<script>"


@pytest.mark.parametrize(
    "item",
    [
        None, True, 1, 1.0, -0.0, 2**70, "text", HOSTILE, [1, [2.5, None]], {"a": {"b": []}}, (1, 2), [(1, 2)],
        {1: "int key"}, b"bytes", {"$toolkit": "a user's own"}, {"a": {"$toolkit": None}}, Decimal("1.10"), {1, 2},
        datetime(2026, 11, 3, tzinfo=UTC), math.inf, [math.nan],
    ],
    ids=repr,
)  # fmt: skip
def test_json_lines_keep_every_value_exactly(item: Any, tmp_path: Path):
    letter = replace(LETTER, item=item, key=item, message=HOSTILE)
    path = tmp_path / "dead.jsonl"
    assert write_letters(path, SPEC, [letter, LETTER]) == 2
    found, second = read_letters(path)
    assert codec.encode(found.item) == codec.encode(found.key) == codec.encode(item)  # NaN is not equal to itself
    assert replace(found, item=0, key=0) == replace(letter, item=0, key=0)
    assert second == LETTER
    text = path.read_text(encoding="ascii")
    assert text.isprintable() or set(text) - set("\n") <= set(map(chr, range(32, 127)))


def test_an_array_comes_back_as_an_array(tmp_path: Path):
    item = np.arange(6, dtype="int16").reshape(2, 3)
    write_letters(tmp_path / "dead.jsonl", SPEC, [replace(LETTER, item=item)])
    (found,) = read_letters(tmp_path / "dead.jsonl")
    assert found.item.dtype == item.dtype
    assert (found.item == item).all()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\t=1"),
        ("\r=1", "'\ufffd=1"), ("\n=1", "'\n=1"), ("  =1", "'  =1"), ("\uff1d1", "'\uff1d1"), ("1=1", "1=1"), ("", ""),
        (HOSTILE, "\ufffd[2J\ufffdevil\ufffd\ufffd<script>"), ('a "b", c\nd', 'a "b", c\nd'),
    ],
)  # fmt: skip
def test_cells_are_text_to_a_spreadsheet_and_to_a_terminal(text: str, cell: str, tmp_path: Path):
    letter = replace(LETTER, message=text, logs=text, item=[text], key=text, worker=text)
    write_letters(tmp_path / "dead.csv", SPEC, [letter])
    with (tmp_path / "dead.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert {row[name] for name in ("message", "logs", "key", "worker")} == {cell}
    assert (row["run_id"], row["index"], row["at"]) == (SPEC.run_id, "3", "1970-01-01 00:00:01.500000+00:00")


@pytest.mark.parametrize("name", ["dead.txt", "dead", "dead.jsonl.gz"])
def test_another_ending_is_refused(name: str, tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"\.jsonl .* \.csv"):
        write_letters(tmp_path / name, SPEC, [LETTER])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    path = tmp_path / "dead.jsonl"
    write_letters(path, SPEC, [LETTER])
    with pytest.raises(InvalidInput, match="overwrite=True"):
        write_letters(path, SPEC, [])
    assert len(list(read_letters(path))) == 1
    assert write_letters(path, SPEC, [], overwrite=True) == 0
    assert path.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["dead.jsonl"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _no_links(self: Path, target: Path) -> None:
    raise PermissionError(f"no links here: {self} {target}")


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_was_taken_meanwhile_is_not_overwritten(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "dead.jsonl"
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)

    def letters() -> Iterator[DeadLetter]:
        path.write_text("somebody else's")
        yield LETTER

    with pytest.raises(InvalidInput, match="overwrite=True"):
        write_letters(path, SPEC, letters())
    assert path.read_text() == "somebody else's"
    assert [p.name for p in tmp_path.iterdir()] == ["dead.jsonl"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_error_half_way_leaves_what_was_there(overwrite: bool, tmp_path: Path):
    def letters() -> Iterator[DeadLetter]:
        yield LETTER
        raise LedgerCorrupt("the second one")

    path = tmp_path / "dead.csv"
    if overwrite:
        path.write_text("before")
    with pytest.raises(LedgerCorrupt, match="the second one"):
        write_letters(path, SPEC, letters(), overwrite)
    assert [p.read_text() for p in tmp_path.iterdir()] == (["before"] if overwrite else [])


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"nowhere.*cannot be written"):
        write_letters(tmp_path / "nowhere" / "dead.csv", SPEC, [LETTER])


@pytest.mark.parametrize("line", ["{", "[]", "{}", "3", '{"index": 1}', "\udcff"])
def test_a_line_that_is_no_letter_is_named(line: str, tmp_path: Path):
    path = tmp_path / "dead.jsonl"
    good = export.json_line(SPEC, LETTER)
    path.write_bytes(f"{good}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(LedgerCorrupt, match="line 2"):
        list(read_letters(path))


@pytest.mark.parametrize("bad", ['{"$toolkit": "%%"}', '{"$toolkit": "wQ=="}', '{"$toolkit": 3}'])
def test_a_tagged_value_that_does_not_decode_is_named(bad: str, tmp_path: Path):
    path = tmp_path / "dead.jsonl"
    path.write_text(export.json_line(SPEC, LETTER).replace('"item": 1', f'"item": {bad}'))
    with pytest.raises(LedgerCorrupt, match="line 1"):
        list(read_letters(path))
