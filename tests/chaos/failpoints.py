"""Failpoints in the real worker: a process of a node dies right before or right after a call to the ledger.

`arm` is called by the campaign's Celery application only. The environment variable ``CHAOS_FAILPOINTS`` holds words
such as ``commit:after:3``: the first process that makes its third `commit` dies once the server has answered. Each
failpoint fires once in a deployment: who fires it first creates its file beside the journal.

The same wrapper notes each commit and what became of it, which shows that a thawed worker was refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.journal import DIRECTORY, NO_RUN, Event, note
from toolkit.ledger.connection import Connection

POINTS = "CHAOS_FAILPOINTS"
COMMITS = ("commit", "commit_only")  # with and without asking for the next batch


def fired(directory: Path) -> set[str]:
    """Failpoints at which a process died."""
    return {path.name.removeprefix("fired-").replace("-", ":") for path in directory.glob("fired-*")}


def called(directory: Path) -> set[str]:
    """Functions of the ledger that nodes called."""
    return {path.name.removeprefix("called-") for path in directory.glob("called-*")}


def _die_once(point: str) -> None:
    path = Path(os.environ[DIRECTORY]) / f"fired-{point.replace(':', '-')}"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    os._exit(9)


def arm(points: Sequence[str] | None = None) -> None:
    """Wrap the ledger's calls in this process and in those that it forks.

    Parameters
    ----------
    points : sequence of str, optional
        ``function:before|after:n``; by default those of the environment.
    """
    words = os.environ.get(POINTS, "").split() if points is None else points
    armed = {(f, when, int(n)): f"{f}:{when}:{n}" for f, when, n in (word.split(":") for word in words)}
    calls: Counter[tuple[int, str]] = Counter()
    original = Connection.call

    def pass_point(function: str, when: str) -> None:
        point = armed.get((function, when, calls[os.getpid(), function]))
        if point is not None:
            _die_once(point)

    def call(self: Connection, function: str, keys: tuple[bytes, ...], *args: Any, retry_s: float | None = None) -> Any:
        calls[os.getpid(), function] += 1
        if armed and calls[os.getpid(), function] == 1:
            (Path(os.environ[DIRECTORY]) / f"called-{function}").touch()
        pass_point(function, "before")
        answer = original(self, function, keys, *args, retry_s=retry_s)
        pass_point(function, "after")
        if function in COMMITS:
            note(NO_RUN, Event.ACCEPTED if answer[0] == b"ok" else Event.REFUSED, 0, 0)
        return answer

    Connection.call = call  # type: ignore[method-assign]
