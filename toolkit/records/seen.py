"""What is seen of runs, nodes and dead letters at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from toolkit.records.words import RunState, one_line, progress, quantity


def utc(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as an aware datetime; None and 0 give None."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One consistent snapshot of a run.

    The counters satisfy ``remaining + ready + delayed + claimed + ok + dead + skipped == submitted``.

    Attributes
    ----------
    run_id, name, task : str
        Which run.
    state : RunState
        Its state.
    closed : bool
        The input is complete.
    submitted : int
        Items stored so far.
    remaining : int
        Items that no worker has taken yet.
    ready, delayed, claimed : int
        Items given back and waiting, waiting for a retry, and being executed.
    ok, dead, skipped : int
        Items that ended well, ended as dead letters, were cancelled.
    retried : int
        Attempts that failed and were tried again.
    batches : int
        Batches executed.
    active : int
        Batches being executed now.
    known_workers : int
        Workers alive on nodes that listen to the run's queue.
    lost : int
        Batches whose process died.
    batch_size : int
        Items of the next batch before tapering.
    auto : bool
        The batch size is steered by the controller.
    max_workers : int
        Most batches at a time, 0 for no cap.
    item_s : float
        Moving average of seconds per item, 0 when unknown.
    generation : int
        How often dead letters were sent back to work.
    created_at, started_at, finished_at, at : float
        Seconds since the epoch by the server's clock, 0 when not yet; `at` is the snapshot's.
    reason : str
        Why it was paused or cancelled, as far as somebody said.
    errors : mapping of str to int
        Failed executions by error category, those that were tried again included.
    """

    run_id: str
    name: str
    task: str
    state: RunState
    closed: bool
    submitted: int
    remaining: int
    ready: int
    delayed: int
    claimed: int
    ok: int
    dead: int
    skipped: int
    retried: int
    batches: int
    active: int
    known_workers: int
    lost: int
    batch_size: int
    auto: bool
    max_workers: int
    item_s: float
    generation: int
    created_at: float
    started_at: float
    finished_at: float
    at: float
    reason: str = ""
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Items that ended, whichever way."""
        return self.ok + self.dead + self.skipped

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first claim to the end, or to now; 0 before the first claim."""
        if not self.started_at:
            return 0.0
        return max(0.0, (self.finished_at or self.at) - self.started_at)

    @property
    def rate(self) -> float:
        """Items ended per second since the first claim."""
        return (self.ok + self.dead) / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the present rate; None when unknown, 0 when ended."""
        if self.state.final:
            return 0.0
        if not self.closed or self.rate <= 0:
            return None
        return (self.submitted - self.done) / self.rate

    def line(self) -> str:
        """One line of text for terminals and logs."""
        total = f"{self.submitted:,}" if self.closed else f"{self.submitted:,}+"
        percent = f" ({progress(self.done, self.submitted)})" if self.submitted else ""
        parts = [f"{one_line(self.name or self.task)} {self.run_id}: {self.state} {self.done:,}/{total} items{percent}"]
        if self.elapsed_s:
            parts.append(f"{self.elapsed_s:.1f} s")
        if self.rate:
            slow = self.rate < 1
            parts.append(f"{60 * self.rate:,.1f} items/min" if slow else f"{self.rate:,.0f} items/s")
        if self.eta_s and self.state is not RunState.PAUSED:
            parts.append(f"{self.eta_s:.0f} s left")
        if self.dead:
            parts.append(quantity(self.dead, "dead letter"))
        if self.retried:
            parts.append(f"{self.retried:,} retried")
        if self.reason:
            parts.append(one_line(self.reason))
        if not self.state.final:
            parts.append(f"{self.active} of {self.known_workers} workers busy")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One ``celery worker`` instance that can serve tickets.

    Attributes
    ----------
    node : str
        Celery node name.
    host : str
        Host name.
    pid : int
        Process id of the main process.
    workers : int
        Worker processes.
    busy : int
        Workers that hold a claim now.
    queues : tuple of str
        Queues it listens to.
    tasks : tuple of str
        Names of the tasks registered in its application.
    toolkit_version : str
        Version of this package.
    protocol : int
        Version of the ledger's layout it understands.
    python : str
        ``major.minor``.
    functions : bool
        Whether it runs signed functions.
    started_at, seen_at : float
        Seconds since the epoch by the server's clock.
    place : str
        Names what makes `pid` comparable: machine, boot and namespace of process ids; empty when unknown.
    """

    node: str
    host: str
    pid: int
    workers: int
    busy: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    toolkit_version: str
    protocol: int
    python: str
    functions: bool
    started_at: float
    seen_at: float
    place: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that will not be tried again.

    Attributes
    ----------
    index : int
        Index of the item in its run.
    key : object
        The user's key, None when none was given.
    item : object
        The item itself.
    error_type, message, traceback_text : str
        The last error, as text.
    category : str
        One of `CATEGORIES`.
    attempts : int
        Executions of the item.
    worker : str
        ``node/pid`` of the last one.
    logs : str
        Tail of what it printed and logged.
    at : float
        Seconds since the epoch.
    """

    index: int
    key: Any
    item: Any
    error_type: str
    message: str
    traceback_text: str
    category: str
    attempts: int
    worker: str
    logs: str
    at: float
