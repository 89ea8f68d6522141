"""What is kept of a task's metric rows: cells of like batches, one summary per run, and how memory grows.

A million rows become a few hundred cells, so that fitting is quick and a saved model is small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import TuningError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cells:
    """Batches of one run, size, number of busy workers and host, aggregated; arrays of one length.

    Attributes
    ----------
    run : ndarray of int64
        Position of the run in `TaskHistory.runs`.
    items : ndarray
        Mean items of a batch.
    busy : ndarray
        Mean number of workers busy with the run while these batches were executed.
    first, cold : ndarray
        1 for the first batch of the run in a process, and 1 if that process had never run the task before; else 0.
    host : ndarray of int64
        Position of the host in `TaskHistory.hosts`.
    n : ndarray
        Batches in the cell.
    mean_s : ndarray
        Mean seconds that a batch took its worker: decoding, user code, storing.
    variance : ndarray
        Relative variance of these seconds; NaN for a single batch.
    """

    run: NDArray[np.int64]
    items: Array
    busy: Array
    first: Array
    cold: Array
    host: NDArray[np.int64]
    n: Array
    mean_s: Array
    variance: Array

    def __len__(self) -> int:
        return len(self.run)

    def take(self, index: NDArray[Any]) -> Cells:
        """Return the cells at `index`, a mask or positions."""
        return Cells(*(getattr(self, f.name)[index] for f in fields(self)))

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain lists; NaN becomes None."""
        out: dict[str, list[Any]] = {}
        for f in fields(self):
            values = getattr(self, f.name).tolist()
            out[f.name] = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, list[Any]]) -> Cells:
        """Inverse of `to_dict`."""
        arrays: dict[str, Any] = {}
        for f in fields(cls):
            dtype = np.int64 if f.name in ("run", "host") else np.float64
            arrays[f.name] = np.array([np.nan if v is None else v for v in values[f.name]]).astype(dtype)
        return cls(**arrays)

    @classmethod
    def join(cls, parts: list[Cells]) -> Cells:
        """Concatenate."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run, condensed to what is needed to predict its makespan again.

    Attributes
    ----------
    run_id : str
        The run.
    started_at, ended_at : float
        First claim and end of the last batch, seconds since the epoch.
    pauses_s : float
        Time in between in which nobody worked for longer than dispatching explains.
    workers : int
        Most batches at a time.
    batch_size : int
        The batch size under which most items were executed.
    items, batches : int
        Executed, retries included.
    spent_s : float
        Seconds that its batches took their workers.
    gap_s : float
        Mean seconds between two batches of a worker; NaN when no worker had two.
    gaps : int
        How many gaps that is the mean of.
    stagger_s : float
        Mean delay from one worker's first claim to the next worker's.
    cold : float
        Share of its workers that had never run the task.
    cut_off, failed : int
        Batches cut off, and items that failed.
    body : tuple of (items, count)
        Sizes of the earlier batches.
    tail : tuple of int
        Sizes of the last batches, in the order of their claims.
    measured_s : float or None
        The run's makespan as the ledger knows it, where that was given.
    hosts : tuple of (name, workers)
        How many of its workers were on each host.
    cpu_s : float
        Processor seconds of its batches; 0 where they were not recorded.
    """

    run_id: str
    started_at: float
    ended_at: float
    pauses_s: float
    workers: int
    batch_size: int
    items: int
    batches: int
    spent_s: float
    gap_s: float
    gaps: int
    stagger_s: float
    cold: float
    cut_off: int = 0
    failed: int = 0
    body: tuple[tuple[int, int], ...] = ()
    tail: tuple[int, ...] = ()
    measured_s: float | None = None
    hosts: tuple[tuple[str, int], ...] = ()
    cpu_s: float = 0.0

    @property
    def makespan_s(self) -> float:
        """Seconds from the first claim to the last commit, without pauses.

        A commit takes about what the gap between two batches takes. `measured_s` counts where it is known.
        """
        if self.measured_s is not None:
            return max(1e-9, self.measured_s)
        commit_s = self.gap_s if self.gaps else 0.0
        return max(1e-9, self.ended_at - self.started_at - self.pauses_s + commit_s)

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.makespan_s

    @property
    def judged(self) -> bool:
        """Whether its makespan says something about its setting: hardly any batch was cut off."""
        return self.cut_off <= 0.05 * self.batches

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        values["gap_s"] = None if math.isnan(self.gap_s) else self.gap_s
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSummary:
        """Inverse of `to_dict`."""
        known = dict(values)
        known["gap_s"] = np.nan if known["gap_s"] is None else known["gap_s"]
        known["body"] = tuple((int(size), int(count)) for size, count in known["body"])
        known["tail"] = tuple(int(size) for size in known["tail"])
        known["hosts"] = tuple((str(name), int(count)) for name, count in known.get("hosts", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """Everything that is kept about one task.

    Attributes
    ----------
    task : str
        Its name.
    cells : Cells
        Batches, aggregated.
    runs : tuple of RunSummary
        In the order of their start.
    hosts : tuple of str
        Hosts that executed batches.
    processes : tuple of str
        Workers that have run the task.
    memory : tuple of (items, bytes)
        Largest batch that a process had executed so far, and its peak resident set then.
    code_version : str
        Version of the task's source that the rows are of; empty when mixed or unknown.
    dropped : mapping of str to int
        Why rows were left out, and how many.
    """

    task: str
    cells: Cells
    runs: tuple[RunSummary, ...]
    hosts: tuple[str, ...]
    processes: tuple[str, ...]
    memory: tuple[tuple[float, float], ...]
    code_version: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task,
            "cells": self.cells.to_dict(),
            "runs": [run.to_dict() for run in self.runs],
            "hosts": list(self.hosts),
            "processes": list(self.processes),
            "memory": [list(point) for point in self.memory],
            "code_version": self.code_version,
            "dropped": dict(self.dropped),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskHistory:
        """Inverse of `to_dict`.

        Raises
        ------
        TuningError
            A field is missing or does not parse.
        """
        try:
            return cls(
                task=values["task"],
                cells=Cells.from_dict(values["cells"]),
                runs=tuple(RunSummary.from_dict(run) for run in values["runs"]),
                hosts=tuple(values["hosts"]),
                processes=tuple(values["processes"]),
                memory=tuple((float(items), float(size)) for items, size in values["memory"]),
                code_version=values["code_version"],
                dropped=dict(values["dropped"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise TuningError(f"this is no saved task history: {exc!r}") from exc

    def merge(self, later: TaskHistory) -> TaskHistory:
        """Return this history with `later` added; a run in both becomes one."""
        runs = list(self.runs)
        place = {run.run_id: i for i, run in enumerate(runs)}
        moved = []
        for run in later.runs:
            if run.run_id in place:
                at = place[run.run_id]
                runs[at] = _join_runs(runs[at], run)
            else:
                at = place[run.run_id] = len(runs)
                runs.append(run)
            moved.append(at)
        hosts = tuple(dict.fromkeys((*self.hosts, *later.hosts)))
        where = {host: i for i, host in enumerate(hosts)}
        added = replace(
            later.cells,
            run=np.array(moved, dtype=np.int64)[later.cells.run],
            host=np.array([where[h] for h in later.hosts], dtype=np.int64)[later.cells.host],
        )
        dropped = {k: self.dropped.get(k, 0) + later.dropped.get(k, 0) for k in (*self.dropped, *later.dropped)}
        return TaskHistory(
            task=self.task,
            cells=Cells.join([self.cells, added]),
            runs=tuple(runs),
            hosts=hosts,
            processes=tuple(dict.fromkeys((*self.processes, *later.processes))),
            memory=self.memory + later.memory,
            code_version=self.code_version if self.code_version == later.code_version else "",
            dropped=dropped,
        )


def _join_runs(a: RunSummary, b: RunSummary) -> RunSummary:
    """One run whose rows came in two parts."""
    gaps = a.gaps + b.gaps
    weighted = sum(run.gap_s * run.gaps for run in (a, b) if run.gaps)
    items = a.items + b.items
    counts: dict[int, int] = {}
    for size, count in (*a.body, *((size, 1) for size in a.tail), *b.body):
        counts[size] = counts.get(size, 0) + count
    return replace(
        a,
        started_at=min(a.started_at, b.started_at),
        ended_at=max(a.ended_at, b.ended_at),
        pauses_s=a.pauses_s + b.pauses_s,
        workers=max(a.workers, b.workers),
        batch_size=a.batch_size if a.items >= b.items else b.batch_size,
        items=items,
        batches=a.batches + b.batches,
        spent_s=a.spent_s + b.spent_s,
        gap_s=weighted / gaps if gaps else float("nan"),
        gaps=gaps,
        cut_off=a.cut_off + b.cut_off,
        failed=a.failed + b.failed,
        cpu_s=a.cpu_s + b.cpu_s,
        hosts=max(a.hosts, b.hosts, key=lambda hosts: sum(count for _, count in hosts)),
        body=tuple(counts.items()),
        tail=b.tail,
    )
