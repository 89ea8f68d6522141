"""Where things lie in an archive, and how a file gets there: whole or not at all. Standard library only."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, Self

from toolkit.errors import ArchiveError
from toolkit.records import RunStatus

logger = logging.getLogger(__name__)

RUNS: Final = "runs"
ROWS: Final = "rows"
LETTERS: Final = "dead_letters"
SERIES: Final = "series"

_UNFINISHED: Final = ".unfinished"
_SLUG_CHARS: Final = 80
_NAME = re.compile(r"([a-z0-9][a-z0-9-]{5,63})\.([0-9]{1,15})\.([a-z0-9-]{1,40})\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class RunKey:
    """What names a run for ever: its id may be used again once the server forgot it.

    Attributes
    ----------
    created_ms : int
        Its creation by the server's clock, milliseconds since the epoch.
    run_id : str
        Its id.
    """

    created_ms: int
    run_id: str

    @classmethod
    def of(cls, status: RunStatus) -> RunKey:
        """Key of the run that a snapshot is of."""
        return cls(round(status.created_at * 1000), status.run_id)

    @property
    def day(self) -> str:
        """Day of its creation, UTC."""
        return datetime.fromtimestamp(self.created_ms / 1000, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of an archive.

    Attributes
    ----------
    path : pathlib.Path
        Where.
    key : RunKey
        Whose.
    part : str
        What of it: the part of the name that differs between the files of a run.
    """

    path: Path
    key: RunKey
    part: str


def span(file: Stored) -> tuple[int, int]:
    """Numbers of the first row of a file, and of the one after its last."""
    first, dash, stop = file.part.partition("-")
    if not (dash and first.isdigit() and stop.isdigit()):
        raise ArchiveError(f"archive: {file.path} does not say which rows it has; move it out of the archive")
    return int(first), int(stop)


def slug(task: str) -> str:
    """Name of a task as a part of a path: letters, digits and ``. _ -``, short, different for different tasks.

    A task whose name is of that kind keeps it; of others a digest is part of it, because two may look alike.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", task)[:_SLUG_CHARS]
    if safe and safe == task:
        return task
    digest = hashlib.sha256(task.encode("utf-8", "backslashreplace")).hexdigest()[:10]
    return f"{safe}-{digest}"


def state_part(status: RunStatus) -> str:
    """Part of the name of a run's own row: another one whenever something of the run changed after its end."""
    counted = (
        status.state, status.generation, status.submitted, status.ok, status.dead, status.skipped, status.retried,
        status.batches, status.lost, status.finished_at,
    )  # fmt: skip
    return hashlib.sha256(repr(tuple(map(str, counted))).encode()).hexdigest()[:12]


class Places:
    """The directory of an archive.

    Parameters
    ----------
    root : pathlib.Path
        Its path; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[Path, tuple[int, dict[RunKey, list[Stored]]]] = {}

    def of_run(self, table: str, key: RunKey, task: str, part: str) -> Path:
        """Path of a file."""
        name = f"{key.run_id}.{key.created_ms}.{part}.parquet"
        return self.root / table / f"day={key.day}" / f"task_slug={slug(task)}" / name

    def files(self, table: str, task: str | None = None, key: RunKey | None = None) -> list[Stored]:
        """Files of a table, by run and name; optionally only those of one task, or of one run."""
        day, name = ("*", "*.parquet") if key is None else (key.day, f"{key.run_id}.{key.created_ms}.*.parquet")
        folder = "*" if task is None else slug(task)  # which has no character that a pattern knows
        found = []
        for path in (self.root / table).glob(f"day={day}/task_slug={folder}/{name}"):
            stored = _stored(path)
            if stored is None:
                logger.warning("%s was not written by this package and is left out", path)
                continue
            found.append(stored)
        return sorted(found, key=lambda s: (s.key, s.part))

    def beside(self, table: str, task: str, key: RunKey) -> list[Stored]:
        """Files of a run, as `files`, for who asks for many runs: a directory is listed anew only when it changed."""
        folder = self.of_run(table, key, task, "").parent
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            return []
        if folder not in self._listed or self._listed[folder][0] != changed:
            found: dict[RunKey, list[Stored]] = {}
            for path in sorted(folder.glob("*.parquet")):
                if stored := _stored(path):
                    found.setdefault(stored.key, []).append(stored)
            self._listed[folder] = changed, found
        return self._listed[folder][1].get(key, [])

    @contextmanager
    def locked(self, wait_s: float) -> Iterator[Self]:
        """Be the only one who writes; clear away what a killed one left behind.

        Raises
        ------
        ArchiveError
            Somebody else goes on writing for `wait_s` seconds, or the place cannot be written.
        """
        try:
            make_directory(self.root)
            make_directory(self.root / _UNFINISHED)
            fd = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _cannot(self.root, error) from error
        try:
            deadline = time.monotonic() + wait_s
            while not _try_lock(fd):
                if time.monotonic() >= deadline:
                    raise ArchiveError(
                        f"archive {self.root}: another process is writing to it; try again when it is done"
                    )
                time.sleep(0.02)
            for left in (self.root / _UNFINISHED).iterdir():  # nobody else writes, so their writers are dead
                left.unlink(missing_ok=True)
            yield self
        finally:
            os.close(fd)

    def write(self, path: Path, fill: Callable[[IO[bytes]], None]) -> None:
        """Make file `path` (mode 0600), on the disk and complete, or nothing.

        It grows elsewhere on the same file system: a reader that takes a whole directory would stumble over a part.

        Raises
        ------
        ArchiveError
            The disk is full, the place cannot be written.
        """
        partial = self.root / _UNFINISHED / f"{secrets.token_hex(8)}.{path.name}"
        try:
            try:
                fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(fd, "wb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                make_directory(path.parent)
                partial.rename(path)
                _sync(path.parent)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot(path, error) from error


def make_directory(path: Path) -> None:
    """Make a directory and those above it (mode 0700) that are missing; their names are on the disk afterwards."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _cannot(path: Path, error: OSError) -> ArchiveError:
    return ArchiveError(
        f"archive: {path} cannot be written: {error.strerror or error}. What was archived before is complete; mend the "
        "cause and archive again, or choose another place"
    )


def _stored(path: Path) -> Stored | None:
    """The file at `path`; None where its name is none of this package's."""
    match = _NAME.fullmatch(path.name)
    return Stored(path, RunKey(int(match[2]), match[1]), match[3]) if match else None
