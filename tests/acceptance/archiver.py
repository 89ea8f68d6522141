"""Processes that archive and are killed on the way: ``python -m tests.acceptance.archiver DIRECTORY FIRST STEP``.

Each child writes the same runs into an archive of its own, ``DIRECTORY/N``, and is killed at the Nth step that touches
the disk or reads the ledger. The last one, named ``whole``, had no further step to be killed at.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.data import make
from toolkit.archive import Archive, Source, tables
from toolkit.frames import stored

LETTERS_PER_RUN = 30


@dataclass(frozen=True)
class Bulk(make.Bulk):
    """Rows one at a time, so that a file is interrupted between them, and more letters."""

    step: Any = None

    def each_metric_rows(self, first: int, row_bytes: int) -> Iterator[bytes]:
        rows = make.packed_rows()
        for at in range(first * row_bytes, len(rows), row_bytes):
            if self.step:
                self.step()
            yield rows[at : at + row_bytes]

    def each_dead_letter(self) -> Any:
        for index in range(LETTERS_PER_RUN):
            yield replace(make.LETTERS[0], index=index)


def sources(step: Any = None) -> list[Source]:
    """Two runs of one task, and one of another on another day."""
    found = []
    for number, (run_id, task) in enumerate(
        (("run-000001", "a.task"), ("run-000002", "a.task"), ("run-000003", "b/é"))
    ):
        status = replace(
            make.STATUS, run_id=run_id, task=task, created_at=make.STATUS.created_at + 86_400 * number,
            dead=LETTERS_PER_RUN,
        )  # fmt: skip
        found.append(Source(replace(make.SPEC, run_id=run_id, task=task), status, Bulk(step)))
    return found


def archive_until(path: Path, last: int) -> None:
    """Archive, and die at step `last`."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            step()
            return call(*args, **kwargs)

        return counting

    os.fsync, os.rename = counted(os.fsync), counted(os.rename)
    Archive(path).write(sources(step))


def main() -> None:
    """Kill one child after the other, each later than the one before, until one gets through."""
    folder, last, stride = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    stored.require_pyarrow("the archive")  # loaded once, and not used before the children are forked
    tables.columns("rows")
    while True:
        child = os.fork()
        if child == 0:
            try:
                archive_until(folder / str(last), last)
            finally:
                os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            (folder / str(last)).rename(folder / "whole")
            return
        last += stride


if __name__ == "__main__":
    main()
