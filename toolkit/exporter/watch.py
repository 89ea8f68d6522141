"""Reads a ledger again and again, and keeps what a scrape needs: figures by task, bounded in number.

Only a run's own counters are read, never its items: a look costs one short call a run that may have changed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from toolkit.client.watching import Look, RunsWatch
from toolkit.ledger import Ledger
from toolkit.records import RunState, RunStatus, one_line

OTHER: Final = "other"
"""Label of all tasks beyond the limit."""
_LABEL_CHARS: Final = 200


@dataclass(slots=True)
class Figures:
    """Figures of one task, or of all tasks beyond the limit.

    Attributes
    ----------
    backlog : int
        Items that have not ended, those being executed included.
    claimed : int
        Items being executed.
    oldest_age_s : float
        Since the creation of the oldest run with such items, 0 without any: no such item is older.
    work_s : float or None
        Seconds of work in the backlog, by the moving average of the time an item takes; None where no item was
        measured yet.
    dead : int
        Dead letters.
    recommended_workers : int
        So many would finish the backlog of the runs that are not paused in the time asked for.
    counts : Counter
        By (metric, value of its second label or empty): what happened since this process looked first.
    """

    backlog: int = 0
    claimed: int = 0
    oldest_age_s: float = 0.0
    work_s: float | None = None
    dead: int = 0
    recommended_workers: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(slots=True)
class Seen:
    """A whole look.

    Attributes
    ----------
    tasks : dict of str to Figures
        By task.
    runs : Counter
        Unfinished runs by state.
    nodes, known_workers, busy_workers : int
        Nodes that are alive, and their workers.
    unreadable : int
        Runs whose data did not parse, and which are left out.
    """

    tasks: dict[str, Figures]
    runs: Counter[str]
    nodes: int
    known_workers: int
    busy_workers: int
    unreadable: int


class Watch:
    """What is known of a ledger.

    Parameters
    ----------
    ledger : Ledger
        Which one; read only.
    task_limit : int
        Most tasks with a label of their own, first come first served.
    drain_s : float
        Time in which the recommended workers would finish the backlog.
    """

    def __init__(self, ledger: Ledger, *, task_limit: int = 100, drain_s: float = 300.0) -> None:
        self._watch = RunsWatch(ledger)
        self._task_limit = task_limit
        self._drain_s = drain_s
        self._labels: dict[str, str] = {}
        self._item_s: dict[str, float] = {}
        self._counts: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)

    def look(self) -> Seen:
        """Read what may have changed since the last look.

        Raises
        ------
        LedgerUnavailable, LedgerRefused, LedgerError
            The server does not answer, or not to us; what was counted stays.
        """
        first = self._watch.first
        found = self._watch.look()
        for before, spec, status in found.read:
            label = self._label(spec.task)
            if status.item_s > 0:
                self._item_s[label] = status.item_s
            # What was there before this process looked first is no increase: a counter that began with it would jump.
            self._count(self._counts[label], status if first and before is None else before, status)
        return self._sum_up(found)

    def counted(self) -> dict[str, Counter[tuple[str, str]]]:
        """Counts by task, also while the server is away."""
        return dict(self._counts)

    def _label(self, task: str) -> str:
        label = self._labels.get(task)
        if label is None:
            if len(self._labels) >= self._task_limit:
                return OTHER
            label = self._labels[task] = one_line(task, _LABEL_CHARS)
        return label

    @staticmethod
    def _count(counts: Counter[tuple[str, str]], before: RunStatus | None, now: RunStatus) -> None:
        def add(metric: str, label: str, value: int, old: int) -> None:
            counts[metric, label] += max(0, value - old)  # dead letters that are sent back are no negative event

        for outcome in ("ok", "dead", "skipped"):
            add("items", outcome, getattr(now, outcome), getattr(before, outcome) if before else 0)
        for name in ("submitted", "retried", "batches", "lost"):
            add(name, "", getattr(now, name), getattr(before, name) if before else 0)
        for category, n in now.errors.items():
            add("errors", category, n, before.errors.get(category, 0) if before else 0)

    # ------------------------------------------------------------------ figures

    def _sum_up(self, found: Look) -> Seen:
        by_task: defaultdict[str, list[RunStatus]] = defaultdict(list)
        for label in self._counts:
            by_task[label] = []
        for spec, status in found.runs:
            by_task[self._label(spec.task)].append(status)
        tasks = {label: self._figures(label, runs, found.at) for label, runs in by_task.items()}
        states = Counter(str(status.state) for _, status in found.runs if not status.state.final)
        nodes = found.nodes
        return Seen(
            tasks, states, len(nodes), sum(n.workers for n in nodes), sum(n.busy for n in nodes), found.unreadable
        )  # fmt: skip

    def _figures(self, label: str, runs: list[RunStatus], now: float) -> Figures:
        waiting = [s for s in runs if not s.state.final and s.submitted > s.done]
        figures = Figures(
            backlog=sum(s.submitted - s.done for s in waiting), claimed=sum(s.claimed for s in waiting),
            oldest_age_s=max((now - s.created_at for s in waiting), default=0.0), dead=sum(s.dead for s in runs),
            counts=self._counts[label],
        )  # fmt: skip
        usual_s = self._item_s.get(label, 0.0)
        if usual_s or not waiting:
            figures.work_s = sum((s.submitted - s.done) * (s.item_s or usual_s) for s in waiting)
        going = [s for s in waiting if s.state is RunState.RUNNING]
        if going:
            wanted = math.ceil(sum((s.submitted - s.done) * (s.item_s or usual_s) for s in going) / self._drain_s)
            most = sum(min(s.submitted - s.done, s.max_workers or s.submitted) for s in going)
            figures.recommended_workers = max(1, min(wanted, most))
        return figures
