"""Frozen records that travel between rooms, one line per field."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from toolkit.errors import InvalidInput

# --------------------------------------------------------------------------- words


class RunState(StrEnum):
    """State of a run; `closed` (the input is complete) is a flag beside it."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FINISHED = "finished"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in (RunState.CANCELLED, RunState.FINISHED)


PRIORITIES: Final = ("low", "normal", "high", "urgent")
"""Priorities between runs, from the least to the most pressing."""

CATEGORIES: Final = ("", "retryable", "fatal", "timeout", "worker_lost", "out_of_memory", "bad_payload")
"""Error categories; the position is the code in a metric row, 0 means no error."""

OUTCOMES: Final = ("ok", "partial", "failed", "lost")
"""Outcome of a batch: all its items ok, some failed, all failed, its process died."""

INLINE_QUEUE: Final = "inline"
"""Queue name of runs that execute in the submitting process: no ticket is ever sent to it."""

FLAG_FIRST: Final = 1  # first batch of this run in this process: carries imports and setup
FLAG_TAIL: Final = 2  # smaller than asked because the input ran out or was tapered
FLAG_CUT_OFF: Final = 4  # ended by a death, a time limit or a cancel: its duration is a lower bound
FLAG_BATCHED: Final = 8  # one call for the batch, not one per item

_RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{5,63}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]{1,200}")


def check_run_id(run_id: str) -> str:
    """Return `run_id` when it is well formed.

    Raises
    ------
    InvalidInput
        It is not 6 to 64 of ``a-z 0-9 -``; no key is ever built from such a value.
    """
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidInput(f"run id {run_id!r}: expected 6 to 64 characters of a-z, 0-9 and '-'; see client.runs()")
    return run_id


def check_name(name: str, what: str = "name") -> str:
    """Return `name` when it is printable text of 1 to 200 characters.

    Raises
    ------
    InvalidInput
        It is empty, too long, or holds control or bidirectional characters.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(f"{what} {name!r}: expected 1 to 200 printable characters")
    return name


# --------------------------------------------------------------------------- a run as asked for


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often an item is tried again.

    Attributes
    ----------
    max_attempts : int
        Executions of an item before it becomes a dead letter, the first one included.
    on : tuple of exception classes or of their qualified names
        Errors worth another try. Stored by name; a subclass counts.
    backoff_s : float
        Delay before the second attempt; doubled for each further one.
    max_backoff_s : float
        Longest delay.
    jitter : float
        The delay is multiplied by a random factor from ``1 - jitter`` to 1.
    """

    max_attempts: int = 4
    on: tuple[type[BaseException] | str, ...] = (OSError,)
    backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidInput(f"Retry(max_attempts={self.max_attempts}): at least 1, the first attempt counts")
        if self.backoff_s < 0 or self.max_backoff_s < 0 or not 0 <= self.jitter <= 1:
            raise InvalidInput("Retry: backoff_s and max_backoff_s must be >= 0 and jitter between 0 and 1")
        on = self.on if isinstance(self.on, tuple) else (self.on,)
        for cls in on:
            if not (isinstance(cls, str) or (isinstance(cls, type) and issubclass(cls, BaseException))):
                raise InvalidInput(f"Retry(on=...): {cls!r} is neither an exception class nor its name")
        object.__setattr__(self, "on", on)

    def names(self) -> tuple[str, ...]:
        """Qualified names of the retryable errors."""
        return tuple(c if isinstance(c, str) else qualified_name(c) for c in self.on)

    def delay_s(self, attempt: int, uniform: float) -> float:
        """Delay after failed attempt number `attempt` (from 1), with `uniform` drawn from [0, 1)."""
        base = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(attempt - 1, 30))
        return base * (1.0 - self.jitter * uniform)


def qualified_name(cls: type) -> str:
    """``module.QualName`` of a class, without the module for builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run was asked to be; written once, at create.

    Attributes
    ----------
    run_id : str
        Its id.
    task : str
        Name of the task, as shown everywhere.
    path : str
        ``module:qualname`` by which a worker finds it, where that is not its name.
    kind : str
        ``task`` (a `toolkit.task` found by name), ``celery`` (registered in the application)
        or ``function`` (shipped by value, signed).
    call : str
        How an item becomes arguments: ``item``, ``args`` or ``kwargs``.
    batched : bool
        One call per batch, list in and list out.
    name : str
        The user's name for the run.
    queue : str
        Celery queue of its tickets.
    priority : str
        One of `PRIORITIES`.
    lease_s : float
        How long a claim lives without renewal.
    retention_s : float or None
        How long its data stay after the end.
    keep_results : bool
        Whether results are stored.
    retry_names : tuple of str
        Errors worth another try.
    max_attempts, backoff_s, max_backoff_s, jitter
        See `Retry`.
    item_time_limit_s, batch_time_limit_s, deadline_s : float or None
        Limits; `deadline_s` steers and does not kill.
    max_result_bytes : int
        Largest encoded result of one item.
    tags : mapping of str to str
        The user's labels.
    code_version : str
        Digest of the task's source, as the client saw it.
    sys_path : tuple of str
        Directories that a local worker adds to find the task's module.
    python : str
        ``major.minor`` of the client.
    toolkit_version : str
        Version of this package that submitted it.
    protocol : int
        Version of the ledger's layout.
    """

    run_id: str
    task: str
    path: str = ""
    kind: str = "task"
    call: str = "item"
    batched: bool = False
    name: str = ""
    queue: str = "celery"
    priority: str = "normal"
    lease_s: float = 10.0
    retention_s: float | None = None
    keep_results: bool = True
    retry_names: tuple[str, ...] = ()
    max_attempts: int = 4
    backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    jitter: float = 0.5
    item_time_limit_s: float | None = None
    batch_time_limit_s: float | None = None
    deadline_s: float | None = None
    max_result_bytes: int = 16 * 1024 * 1024
    tags: Mapping[str, str] = field(default_factory=dict)
    code_version: str = ""
    sys_path: tuple[str, ...] = ()
    python: str = ""
    toolkit_version: str = ""
    protocol: int = 1

    @property
    def retry(self) -> Retry:
        """The retry policy, with errors by name."""
        return Retry(self.max_attempts, self.retry_names, self.backoff_s, self.max_backoff_s, self.jitter)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the codec."""
        values = asdict(self)
        values["tags"] = dict(self.tags)
        for name in ("retry_names", "sys_path"):
            values[name] = list(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Inverse of `to_dict`; fields of a newer minor version are ignored."""
        known = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        for name in ("retry_names", "sys_path"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)


# --------------------------------------------------------------------------- a run as it stands


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
        percent = f" ({100 * self.done / self.submitted:.0f} %)" if self.submitted else ""
        parts = [f"{self.name or self.task} {self.run_id}: {self.state} {self.done:,}/{total} items{percent}"]
        if self.elapsed_s:
            parts.append(f"{self.elapsed_s:.1f} s")
        if self.rate:
            parts.append(f"{self.rate:,.0f} items/s")
        if self.eta_s:
            parts.append(f"{self.eta_s:.0f} s left")
        if self.dead:
            parts.append(f"{self.dead:,} dead letters")
        if self.retried:
            parts.append(f"{self.retried:,} retried")
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


# --------------------------------------------------------------------------- metric rows

METRIC_FIELDS: Final[tuple[tuple[str, str], ...]] = (
    ("worker", "H"),  # code of the worker's identity in the run's dictionary
    ("flags", "H"),  # FLAG_* bits
    ("outcome", "B"),  # position in OUTCOMES
    ("category", "B"),  # position in CATEGORIES: the first error of the batch
    ("attempt", "H"),  # highest attempt number among its items, from 1
    ("active_claims", "H"),  # batches of the run being executed when this one was claimed, itself included
    ("known_workers", "H"),  # workers known to listen to the run's queue at that moment
    ("asked", "I"),  # items asked for: the batch size before tapering
    ("items", "I"),  # items executed
    ("ok", "I"),  # items that ended well
    ("retried", "I"),  # items sent back for another attempt
    ("dead", "I"),  # items that became dead letters
    ("weight_asked", "f"),  # as asked, in the unit of weight; 0 where items have none
    ("weight", "f"),  # as items, in the unit of weight
    ("first_index", "Q"),  # index of the first item
    ("claimed_at", "d"),  # server's clock, seconds since the epoch
    ("service_s", "f"),  # user code, from first item to last
    ("decode_s", "f"),  # fetching and decoding items
    ("store_s", "f"),  # encoding results
    ("idle_s", "f"),  # since this worker's previous batch ended, NaN for the first of a ticket
    ("cpu_user_s", "f"),  # getrusage difference over the service time
    ("cpu_system_s", "f"),  # getrusage difference over the service time
    ("peak_rss_kib", "I"),  # peak resident set of the process at the end of the batch
    ("input_bytes", "I"),  # encoded items, share of their pages
    ("output_bytes", "I"),  # encoded results
    ("item_sum_s", "f"),  # sum of the items' durations
    ("item_sumsq_s2", "f"),  # sum of their squares
    ("item_max_s", "f"),  # longest item
)
METRIC_SCHEMA: Final = 1
METRIC_ROW: Final = struct.Struct("<" + "".join(code for _, code in METRIC_FIELDS))
METRIC_NAMES: Final = tuple(name for name, _ in METRIC_FIELDS)
METRIC_SEGMENT_ROWS: Final = 500_000
"""Rows per server-side string, so that none exceeds 64 MB."""


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who executed a batch; stored once per run and process.

    Attributes
    ----------
    host, node : str
        Where.
    pid : int
        Process id of the worker.
    code_version : str
        Digest of the task's source as this worker sees it.
    toolkit_version : str
        Version of this package on the worker.
    """

    host: str
    node: str
    pid: int
    code_version: str
    toolkit_version: str

    @property
    def worker(self) -> str:
        """Name of the worker: ``node/pid``."""
        return f"{self.node}/{self.pid}"

    def encode(self) -> str:
        """One line of text; the separator cannot occur in the fields."""
        fields = (self.host, self.node, str(self.pid), self.code_version, self.toolkit_version)
        return "\t".join(re.sub(r"[\t\r\n]", " ", f) for f in fields)

    @classmethod
    def decode(cls, text: str) -> WorkerIdentity:
        """Inverse of `encode`; unknown trailing fields are ignored."""
        host, node, pid, code_version, toolkit_version = (text.split("\t") + [""] * 5)[:5]
        return cls(host, node, int(pid or 0), code_version, toolkit_version)
