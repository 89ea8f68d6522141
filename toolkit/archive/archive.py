"""`Archive`: writes what is new of ended runs, and reads it back as the frames that the server would give."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from toolkit.archive import tables
from toolkit.archive.places import LETTERS, ROWS, RUNS, Places, RunKey, Stored, span, state_part
from toolkit.errors import LedgerCorrupt, RunNotFound
from toolkit.records import DeadLetter, RunSpec, RunStatus, metric_row_bytes, quantity

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_LOCK_WAIT_S: Final = 60.0


class Bulk(Protocol):
    """What is read of a run; `toolkit.ledger.Reader` is one."""

    def each_metric_rows(self, first: int, row_bytes: int) -> Iterator[bytes]:
        """Packed metric rows from row number `first` on."""

    def workers(self) -> Mapping[int, str]:
        """Worker identities by the code that rows carry."""

    def each_dead_letter(self) -> Iterable[DeadLetter]:
        """Dead letters, ascending by index."""


@dataclass(frozen=True, slots=True)
class Source:
    """A run to archive.

    Attributes
    ----------
    spec : RunSpec
        What it was asked to be.
    status : RunStatus
        How it stands.
    bulk : Bulk
        Where its rows and letters are read.
    """

    spec: RunSpec
    status: RunStatus
    bulk: Bulk


@dataclass(frozen=True, slots=True)
class Archived:
    """What a call of `Archive.write` did.

    Attributes
    ----------
    path : pathlib.Path
        The archive.
    runs, rows, dead_letters : int
        Written now: runs, metric rows, dead letters.
    unchanged : int
        Runs that were there already, as they are.
    unfinished : int
        Runs that have not ended: they are archived once they have.
    failed : tuple of (run id, reason)
        Runs and series that could not be read; nothing of them is lost on the server.
    series_rows : int
        Written now: rows of instrumented tasks.
    """

    path: Path
    runs: int = 0
    rows: int = 0
    dead_letters: int = 0
    unchanged: int = 0
    unfinished: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    series_rows: int = 0

    def __str__(self) -> str:
        written = (
            f"{quantity(self.runs, 'run')}, {quantity(self.rows, 'metric row')} and "
            f"{quantity(self.dead_letters, 'dead letter')} written"
        )
        parts = [f"{self.path}: {written}", f"{quantity(self.unchanged, 'run')} there already"]
        if self.series_rows:
            parts.append(f"{quantity(self.series_rows, 'row')} of instrumented tasks written")
        if self.unfinished:
            parts.append(f"{self.unfinished:,} {'has' if self.unfinished == 1 else 'have'} not ended")
        parts += [f"{_which(run_id)} could not be read: {reason}" for run_id, reason in self.failed]
        return "; ".join(parts)


def _which(name: str) -> str:
    return name if name.startswith("series-") else f"run {name}"


class Archive:
    """A Parquet dataset of ended runs; see `toolkit.archive` for its layout.

    Parameters
    ----------
    path : Path
        Its directory, made when something is written. Only its owner may read what is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = Places(path)

    def __repr__(self) -> str:
        return f"<Archive {str(self.path)!r}>"

    # ------------------------------------------------------------------ write

    def holds(self, spec: RunSpec, status: RunStatus) -> bool:
        """Whether a run is in the archive completely, as it stands; one that has not ended is not.

        A file of it may have been taken away since, as the error of one that cannot be read advises.
        """
        key = RunKey.of(status)
        return (
            status.state.final
            and self._places.of_run(RUNS, key, spec.task, state_part(status)).is_file()
            and not any(_missing(self._places.beside(ROWS, spec.task, key), status.batches))
            and (not status.dead or bool(self._places.beside(LETTERS, spec.task, key)))
        )

    def write(self, runs: Iterable[Source], wait_s: float = _LOCK_WAIT_S) -> Archived:
        """Write what the archive lacks of those runs that have ended; may be called again and again.

        Parameters
        ----------
        runs : iterable of Source
            The runs; taken one at a time.
        wait_s : float
            How long to wait for another process that writes, in seconds.

        Raises
        ------
        ArchiveError
            The place cannot be written, or another process goes on writing. What was written is complete.
        MissingDependency
            pyarrow is not installed.
        """
        done = {"runs": 0, "rows": 0, "dead_letters": 0, "unchanged": 0, "unfinished": 0}
        failed: list[tuple[str, str]] = []
        with self._places.locked(wait_s):
            for run in runs:
                if not run.status.state.final:
                    done["unfinished"] += 1
                elif self.holds(run.spec, run.status):
                    done["unchanged"] += 1
                else:
                    try:
                        for what, n in self._write_run(run):
                            done[what] += n
                    except (LedgerCorrupt, RunNotFound) as error:  # the other runs are archived all the same
                        logger.warning("run %s is not archived: %s", run.spec.run_id, error)
                        failed.append((run.spec.run_id, str(error)))
        return Archived(self.path, **done, failed=tuple(failed))

    def _write_run(self, run: Source) -> Iterator[tuple[str, int]]:
        key = RunKey.of(run.status)
        for first, stop in _missing(self._places.files(ROWS, run.spec.task, key), run.status.batches):
            path = self._places.of_run(ROWS, key, run.spec.task, f"{first:012d}-{stop:012d}")
            yield "rows", self._write_frames(ROWS, path, _row_frames(run, first, stop))
        yield "dead_letters", self._write_letters(run, key)
        path = self._places.of_run(RUNS, key, run.spec.task, state_part(run.status))
        if path.is_file():  # only other files of it were missing
            return
        yield "runs", self._write_frames(RUNS, path, [tables.run_frame(run.spec, run.status, time.time())])

    def _write_letters(self, run: Source, key: RunKey) -> int:
        """Those that no file of the run has: after a retry, items may have died once more."""
        files = self._places.files(LETTERS, run.spec.task, key)
        known = set(_identities(tables.read(LETTERS, [f.path for f in files]))) if files else set()
        frames = (
            frame[[identity not in known for identity in _identities(frame)]] if known else frame
            for frame in tables.letter_frames(run.spec, run.bulk.each_dead_letter())
        )
        frames = (frame for frame in frames if len(frame))
        first = next(frames, None)
        if first is None:
            return 0
        number = 1 + max((int(f.part) for f in files if f.part.isdigit()), default=-1)
        path = self._places.of_run(LETTERS, key, run.spec.task, f"{number:06d}")
        return self._write_frames(LETTERS, path, chain([first], frames))

    def _write_frames(self, table: str, path: Path, frames: Iterable[pd.DataFrame]) -> int:
        n = 0

        def fill(file: IO[bytes]) -> None:
            nonlocal n
            writer = tables.Writer(table, file)
            try:
                for frame in frames:
                    writer.add(frame)
                    n += len(frame)
            finally:
                writer.close()

        self._places.write(path, fill)
        return n

    # ------------------------------------------------------------------ read

    def runs(self, task: str | None = None) -> pd.DataFrame:
        """One row per run, as it was when it was archived last; optionally only those of one task.

        Returns
        -------
        pandas.DataFrame
            Columns of `toolkit.frames.RUNS`, newest first.
        """
        return self.known_runs(task)[0]

    def known_runs(self, task: str | None = None) -> tuple[pd.DataFrame, list[RunKey]]:
        """The same, and the key of each row."""
        from toolkit import frames

        frame = tables.read(RUNS, [f.path for f in self._places.files(RUNS, task)])
        if task is not None:
            frame = frame[frame["task"] == task]
        frame = frame.sort_values(["created_at", "run_id", "archived_at"], ascending=[False, True, True], kind="stable")
        frame = frame.drop_duplicates(["run_id", "created_at"], keep="last").reset_index(drop=True)
        created = frame["created_at"].astype("int64") // 1000  # microseconds to milliseconds, which it was made of
        keys = [RunKey(ms, run_id) for ms, run_id in zip(created, frame["run_id"], strict=True)]
        return frame[[c.name for c in frames.RUNS]], keys

    def metrics(self, keys: Sequence[RunKey]) -> pd.DataFrame:
        """Metric rows of runs in the order of `keys`, of a run in that of commits; `toolkit.frames.METRICS`."""
        files, doubtful = self._files(ROWS, keys), False
        for before, after in pairwise(files):
            doubtful |= before.key == after.key and span(before)[1] > span(after)[0]
        frame = tables.read(ROWS, [f.path for f in files])
        if doubtful:  # somebody put two archives together
            frame = frame.drop_duplicates(["run_id", "batch", "claimed_at"]).reset_index(drop=True)
        return frame

    def dead_letters(self, keys: Sequence[RunKey]) -> pd.DataFrame:
        """Dead letters of runs in the order of `keys`, also those that were retried or dropped later.

        Columns of `toolkit.frames.DEAD_LETTERS`.
        """
        return tables.with_items(tables.read(LETTERS, [f.path for f in self._files(LETTERS, keys)]))

    def _files(self, table: str, keys: Sequence[RunKey]) -> list[Stored]:
        place = {key: number for number, key in enumerate(keys)}
        found = [f for f in self._places.files(table) if f.key in place] if keys else []
        return sorted(found, key=lambda f: place[f.key])  # which keeps the order of a run's files


def _row_frames(run: Source, first: int, stop: int) -> Iterator[pd.DataFrame]:
    from toolkit import frames

    spec, schema = run.spec, run.spec.row_schema
    info = frames.RunInfo(spec.run_id, spec.task, spec.name, run.status.max_workers, schema)
    size = metric_row_bytes(schema)
    for chunk in run.bulk.each_metric_rows(first, size):
        rows = chunk[: (stop - first) * size]
        yield frames.metrics_frame(info, rows, run.bulk.workers(), first)
        first += len(rows) // size
        if first >= stop:
            return
    raise LedgerCorrupt(f"run {spec.run_id}: it counts {stop:,} metric rows, and only {first:,} are stored")


def _missing(files: Sequence[Stored], stop: int) -> Iterator[tuple[int, int]]:
    """Spans of row numbers below `stop` that no file has."""
    at = 0
    for file in files:
        first, after = span(file)
        if at < first:
            yield at, min(first, stop)
        at = max(at, after)
    if at < stop:
        yield at, stop


def _identities(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """What tells dead letters of a run apart: the item, and the execution that was its last."""
    at = frame["at"].astype("int64")
    return zip(frame["index"], at, frame["attempts"], frame["message"], strict=True)
