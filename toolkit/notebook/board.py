"""What all runs of a client look like at one moment: plain records, and the pure functions that make and filter them.

The dashboard in a notebook and ``toolkit top`` in a terminal draw the same `Board`, which grows by a look at the
server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from toolkit.errors import InvalidInput
from toolkit.notebook.trend import TimeLeft, Trend
from toolkit.notebook.view import Trouble, describe_error
from toolkit.records import NodeInfo, RunState, RunStatus

if TYPE_CHECKING:
    from toolkit.client.watching import Look

LATEST: Final = 200
"""Runs that have ended and are still in sight."""

FILTERS: Final = ("all", "unfinished", "failing", *(str(state) for state in RunState))
"""What a view may be limited to; failing are runs with dead letters or failed executions."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run.

    Attributes
    ----------
    run_id, title, task, queue, priority : str
        Which run, and where it is worked on; the title is the user's name for it, or the task.
    tags : str
        Its labels as text.
    status : RunStatus
        The latest snapshot.
    trend : Trend
        What was seen of its progress.
    """

    run_id: str
    title: str
    task: str
    queue: str
    priority: str
    tags: str
    status: RunStatus
    trend: Trend

    @property
    def pace(self) -> float | None:
        """Items per second now; of a run that has ended, on average."""
        status = self.status
        if status.state.final or self.trend.pace is None:
            return status.rate if status.elapsed_s else None
        return self.trend.pace

    @property
    def time_left(self) -> TimeLeft | None:
        """How long it may still take; None when nothing can be said."""
        return self.trend.time_left(self.status)

    @property
    def failed(self) -> int:
        """Executions that failed, those that were tried again included."""
        return max(sum(self.status.errors.values()), self.status.dead)

    def matches(self, words: Iterable[str], state: str) -> bool:
        """Whether every word occurs in one of its texts, and it is in a state of `FILTERS`."""
        status = self.status
        fits = {
            "all": True,
            "unfinished": not status.state.final,
            "failing": bool(self.failed),
        }.get(state, str(status.state) == state)
        texts = f"{self.title}\n{self.task}\n{self.run_id}\n{self.queue}\n{self.priority}\n{self.tags}".casefold()
        return fits and all(word in texts for word in words)


@dataclass(frozen=True, slots=True)
class Board:
    """All runs in sight.

    Attributes
    ----------
    at : float
        Seconds since the epoch, by the server's clock, of the latest look; 0 before the first.
    lines : tuple of RunLine
        Unfinished ones first, then by creation, the newest first.
    nodes : tuple of NodeInfo
        Nodes that are alive.
    unreadable : int
        Runs whose data did not parse, and which are left out.
    trouble : Trouble or None
        Set while the server does not answer.
    """

    at: float = 0.0
    lines: tuple[RunLine, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    unreadable: int = 0
    trouble: Trouble | None = None

    @property
    def busy(self) -> int:
        """Workers that hold a claim now."""
        return sum(node.busy for node in self.nodes)

    @property
    def workers(self) -> int:
        """Workers of all nodes."""
        return sum(node.workers for node in self.nodes)

    @property
    def dead(self) -> int:
        """Dead letters of all runs."""
        return sum(line.status.dead for line in self.lines)

    @property
    def states(self) -> Mapping[str, int]:
        """Runs by state, in the order of `RunState`, without those that do not occur."""
        counted = {str(state): sum(line.status.state is state for line in self.lines) for state in RunState}
        return {state: n for state, n in counted.items() if n}


@dataclass(frozen=True, slots=True)
class Backlog:
    """Work that waits or is being done, of all runs or of one task.

    Attributes
    ----------
    items : int
        Items of unfinished runs that have not ended.
    work_s : float
        Seconds of worker time in them, by the moving average of the time an item takes, paused runs left out.
    time_s : float or None
        Seconds until the workers that listen have done it; None where nobody listens, nothing was measured, or all
        that waits is paused.
    unmeasured : int
        Running runs with such items of which nobody knows yet how long an item takes; they are not in `work_s`.
    """

    items: int = 0
    work_s: float = 0.0
    time_s: float | None = None
    unmeasured: int = 0


def grown(board: Board, look: Look) -> Board:
    """Return the board after a look at the server."""
    before = {line.run_id: line.trend for line in board.lines}
    fresh = {spec.run_id for _, spec, _ in look.read}
    lines = []
    for spec, status in look.runs:
        trend = before.get(spec.run_id, Trend())
        lines.append(
            RunLine(
                run_id=spec.run_id, title=status.name or status.task or spec.task, task=spec.task, queue=spec.queue,
                priority=spec.priority, tags=json.dumps(dict(spec.tags), ensure_ascii=False) if spec.tags else "",
                status=status, trend=trend.add(status) if spec.run_id in fresh else trend,
            )
        )  # fmt: skip
    lines.sort(key=lambda line: line.status.state.final)  # stable: within each part the newest stay first
    return Board(look.at, tuple(lines), look.nodes, look.unreadable)


def unanswered(board: Board, error: BaseException, at: float) -> Board:
    """Return the board after a look at moment `at` that failed; the trouble counts from the first one."""
    since_at = board.trouble.since_at if board.trouble else at
    return replace(board, trouble=Trouble(since_at, describe_error(error)))


def chosen(board: Board, text: str = "", state: str = "all") -> tuple[RunLine, ...]:
    """Return the runs that hold every word of `text` and are in `state`, one of `FILTERS`.

    Raises
    ------
    InvalidInput
        `state` is none of them.
    """
    if state not in FILTERS:
        raise InvalidInput(f"state={state!r:.60}: one of {', '.join(FILTERS)}")
    words = text.casefold().split()
    return tuple(line for line in board.lines if line.matches(words, state))


def backlog(board: Board, task: str | None = None) -> Backlog:
    """Return the backlog of all runs, or of those of one task.

    A worker that listens to several queues is counted for each of them, so the time is the longest of what each queue
    needs by itself and of what all need together.
    """
    waiting = [line for line in board.lines if not line.status.state.final and task in (None, line.task)]
    usual = {line.task: line.status.item_s for line in reversed(board.lines) if line.status.item_s > 0}
    work: dict[str, float] = {}
    unmeasured = 0
    for line in waiting:
        status = line.status
        left = status.submitted - status.done
        if status.state is not RunState.RUNNING or not left:
            continue
        item_s = status.item_s or usual.get(line.task, 0.0)
        unmeasured += not item_s
        work[line.queue] = work.get(line.queue, 0.0) + left * item_s
    work_s = sum(work.values())
    return Backlog(
        items=sum(line.status.submitted - line.status.done for line in waiting),
        work_s=work_s,
        time_s=_time(board, work) if work_s or not waiting else None,
        unmeasured=unmeasured,
    )


def _time(board: Board, work: Mapping[str, float]) -> float | None:
    listening = {queue: sum(node.workers for node in board.nodes if queue in node.queues) for queue in work}
    if not all(listening[queue] for queue, work_s in work.items() if work_s):
        return None
    alone = max((work_s / listening[queue] for queue, work_s in work.items() if work_s), default=0.0)
    together = sum(node.workers for node in board.nodes if not work.keys().isdisjoint(node.queues))
    return max(alone, sum(work.values()) / together) if together else alone


def failing(lines: Iterable[RunLine]) -> tuple[RunLine, ...]:
    """Return the runs with dead letters, most of them first."""
    return tuple(sorted((line for line in lines if line.status.dead), key=lambda line: -line.status.dead))


def error_mix(status: RunStatus) -> str:
    """Return failed executions by category as plain text, the most frequent first."""
    most = sorted(status.errors.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{n:,} {category.replace('_', ' ')}" for category, n in most)
