"""A run as rows of the archive's tables, and tables as frames. Files say which table they are, and in which version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from toolkit.archive.places import LETTERS, ROWS, RUNS, SERIES
from toolkit.codec import from_json, to_json
from toolkit.errors import ArchiveError, LedgerCorrupt
from toolkit.records import DeadLetter, RunSpec, RunStatus, one_line

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.frames import Column

VERSION: Final = 1
"""Version of the columns that are written: whoever changes those of a table raises it, and keeps a file of the old."""

_BATCH: Final = 500  # letters, which are as large as their items, in memory at a time
_TABLE_KEY, _VERSION_KEY = b"toolkit.table", b"toolkit.version"


def columns(table: str) -> tuple[Column, ...]:
    """Columns of a table: those of the frame, of runs also when they were archived, of series wait and tags."""
    from toolkit import frames

    if table == RUNS:
        archived = frames.Column("archived_at", "datetime64[us, UTC]", "when this was written")
        generation = frames.Column("generation", "int64", "how often dead letters were sent back to work before")
        return (*frames.RUNS, generation, archived)
    if table == SERIES:
        waited = frames.Column("queue_wait_s", "float64", "seconds between publishing and the start")
        return (*frames.METRICS, waited, frames.Column("tags", "category", "labels, as JSON"))
    return {ROWS: frames.METRICS, LETTERS: frames.DEAD_LETTERS}[table]


class Writer:
    """Writes frames of one table into a file, one after the other.

    Parameters
    ----------
    table : str
        Which table.
    file : binary file
        Where to.
    """

    def __init__(self, table: str, file: IO[bytes]) -> None:
        from toolkit.frames import stored

        stored.require_pyarrow("archiving")
        import pyarrow.parquet as pq

        self._columns = columns(table)
        said = {_TABLE_KEY: table.encode(), _VERSION_KEY: str(VERSION).encode()}
        self._schema = stored.arrow_schema(self._columns).with_metadata(said)
        self._writer: Any = pq.ParquetWriter(file, self._schema, compression="zstd")

    def add(self, frame: pd.DataFrame) -> None:
        """Append the rows of a frame."""
        from toolkit.frames import stored

        table = stored.to_arrow(self._columns, frame)
        self._writer.write_table(table.replace_schema_metadata(self._schema.metadata))

    def close(self) -> None:
        """Write the end of the file, which stays open."""
        self._writer.close()


def run_frame(spec: RunSpec, status: RunStatus, archived_at: float) -> pd.DataFrame:
    """The one row of a run."""
    import pandas as pd

    from toolkit import frames

    frame = frames.runs_frame([(spec, status)])
    frame["generation"] = status.generation
    frame["archived_at"] = pd.DatetimeIndex([pd.Timestamp(archived_at, unit="s", tz="UTC")]).as_unit("us")
    return frame


def letter_frames(spec: RunSpec, letters: Iterable[DeadLetter]) -> Iterator[pd.DataFrame]:
    """Dead letters as frames whose items and keys are JSON, as `Run.export_dead` writes them."""
    from toolkit import frames

    waiting: list[DeadLetter] = []

    def made() -> pd.DataFrame:
        frame = frames.dead_letters_frame(spec.run_id, spec.task, waiting)
        frame["item"] = frames.text_column([_json(x.item) for x in waiting])
        frame["key"] = frames.text_column([None if x.key is None else _json(x.key) for x in waiting])
        return frame

    for letter in letters:
        waiting.append(letter)
        if len(waiting) == _BATCH:
            yield made()
            waiting = []
    if waiting:
        yield made()


def _json(value: Any) -> str:
    return json.dumps(to_json(value), allow_nan=False)


def read(table: str, paths: Sequence[Path]) -> pd.DataFrame:
    """Rows of files of one table, of whichever versions, in the order of the files.

    Raises
    ------
    ArchiveError
        A file is no whole Parquet file, another table's, or of a later version.
    MissingDependency
        pyarrow is not installed.
    """
    from toolkit.frames import schema, stored

    wanted = columns(table)
    if not paths:
        return schema.empty(wanted)
    pa = stored.require_pyarrow("reading the archive (which source='server' does without)")
    groups: list[list[Any]] = []  # neighbours of one version, which are stacked before they become a frame
    for path in paths:
        part = _read_file(table, path, {c.name for c in wanted})
        if groups and groups[-1][-1].schema.equals(part.schema):
            groups[-1].append(part)
        else:
            groups.append([part])
    return schema.concat(wanted, [stored.from_arrow(wanted, pa.concat_tables(group)) for group in groups])


def _read_file(table: str, path: Path, wanted: set[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            said = file.schema_arrow.metadata or {}
            _check(table, path, said)
            return file.read([name for name in file.schema_arrow.names if name in wanted]).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise ArchiveError(
            f"archive: {path} cannot be read ({one_line(str(error))}). While its run is on the server, remove the "
            "file and archive again"
        ) from error


def _check(table: str, path: Path, said: dict[bytes, bytes]) -> None:
    found, version = said.get(_TABLE_KEY, b"").decode("utf-8", "replace"), said.get(_VERSION_KEY, b"")
    if found != table or not version.isdigit():
        raise ArchiveError(f"archive: {path} is no file of table {table}; move it out of the archive")
    if int(version) > VERSION:
        raise ArchiveError(
            f"archive: {path} has version {int(version)}, and this package reads up to {VERSION}: upgrade "
            "batch-analytics-toolkit here"
        )


def with_items(frame: pd.DataFrame) -> pd.DataFrame:
    """Dead letters whose items and keys are the values themselves again.

    Raises
    ------
    ArchiveError
        One does not decode.
    """
    from toolkit import frames

    for name in ("item", "key"):
        try:
            values = [None if text is None else from_json(json.loads(text)) for text in frame[name]]
        except (ValueError, TypeError, RecursionError, LedgerCorrupt) as error:
            raise ArchiveError(f"archive: a dead letter's {name} does not decode ({one_line(str(error))})") from error
        frame[name] = frames.text_column(values)
    return frame
