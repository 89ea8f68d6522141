"""One execution of a task: when, how long, what it cost, how it ended."""

from __future__ import annotations

import logging
import math
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from toolkit.execution import Slot
from toolkit.execution.failures import judge
from toolkit.guards import Resources
from toolkit.records import Retry

logger = logging.getLogger(__name__)

SENT_AT: Final = "toolkit_sent_at"
"""Header of a message: when it was published, seconds since the epoch."""
ITEMS_MOST: Final = 0xFFFFFFFF
_MOST_TAGS = 16
_MOST_TAG_CHARS = 200
_MOST_TAG_SETS = 64  # of one task in one process; a tag with a value of its own for each call would fill the server
_SAME_DEATH_S = 0.5  # an attempt of the same id begins later, or lasts longer
_POLICY: Final = Retry()
_NAN: Final = math.nan
_THREAD: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)

Tags = tuple[tuple[str, str], ...]
CountItems = Callable[[Any, Sequence[Any], Mapping[str, Any]], int]
MakeTags = Callable[[Any, Sequence[Any], Mapping[str, Any]], Mapping[str, Any]]


class Execution(NamedTuple):
    """What was measured of one execution.

    Attributes
    ----------
    task : str
        Name of the task.
    tags : tuple of (str, str)
        Labels, sorted.
    node : str
        Celery node.
    thread : int
        The system's id of the thread, which for a process's first thread is the process id.
    started_at : float
        Seconds since the epoch, by this host's clock.
    wait_s : float
        In its queue, NaN where the publisher did not say.
    idle_s : float
        Since this worker's previous execution ended or, where known and later, the message was published.
    service_s : float
        From Celery's signal before the task to the one after it.
    cpu_user_s, cpu_system_s : float
        Processor time meanwhile, NaN where it cannot be told apart.
    peak_rss_kib : int
        Peak resident set, of the execution where the process could reset it.
    items : int
        Items of the call.
    attempt : int
        From 1.
    outcome : str
        ``ok``, ``retried``, ``failed`` or ``lost``.
    category : str
        One of `records.CATEGORIES`.
    first : bool
        First execution of this task in this process.
    """

    task: str
    tags: Tags
    node: str
    thread: int
    started_at: float
    wait_s: float
    idle_s: float
    service_s: float
    cpu_user_s: float
    cpu_system_s: float
    peak_rss_kib: int
    items: int
    attempt: int
    outcome: str
    category: str
    first: bool


@dataclass(slots=True)
class _Running:
    """An execution that has begun on this thread."""

    request_id: str
    node: str
    attempt: int
    items: int
    tags: Tags
    wait_s: float
    first: bool
    meter: _Meter
    began: float = 0.0
    started_at: float = 0.0


class _Meter:
    """Processor time and peak memory of one execution."""

    __slots__ = ("_guard", "_recorder", "_system_s", "_turn", "_user_s")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._guard: Resources | None = None
        if threading.current_thread() is threading.main_thread():
            alone = recorder.running == 0
            recorder.running += 1
            recorder.turns += 1
            self._turn = recorder.turns if alone else -1
            # One execution at a time in the process's first thread: the counters of the whole process are its own.
            self._guard = Resources(reset_peak=alone)
            self._guard.enter(Slot("", (), 1, None, True))
        else:
            usage = resource.getrusage(_THREAD)
            self._user_s, self._system_s = usage.ru_utime, usage.ru_stime

    def read(self) -> tuple[float, float, int]:
        """Seconds in user and in system mode since the start, and the peak resident set in KiB."""
        if self._guard is None:
            usage = resource.getrusage(_THREAD)
            peak_kib = Resources(reset_peak=False).leave()["peak_rss_kib"]
            return usage.ru_utime - self._user_s, usage.ru_stime - self._system_s, int(peak_kib)
        self._recorder.running -= 1
        used = self._guard.leave()
        if self._turn != self._recorder.turns:  # greenlets: another execution began in this thread meanwhile
            return _NAN, _NAN, int(used["peak_rss_kib"])
        return used["cpu_user_s"], used["cpu_system_s"], int(used["peak_rss_kib"])


class Recorder:
    """Measures the executions of one process and hands each over when it has ended.

    Parameters
    ----------
    items : callable or None
        ``items(task, args, kwargs)``: items of the call; None counts 1.
    tags : callable or None
        ``tags(task, args, kwargs)``: labels of the call.
    put : callable
        Takes an `Execution`; must neither block nor raise.

    Attributes
    ----------
    parent_tells : bool
        Whether a main process tells of executions that end with this process: then they are not told of here as well.
    """

    def __init__(self, items: CountItems | None, tags: MakeTags | None, put: Callable[[Execution], None]) -> None:
        self._items = items
        self._tags = tags
        self._put = put
        self._local = threading.local()
        self._seen: set[str] = set()
        self._tag_sets: dict[str, set[Tags]] = {}
        self._told: set[str] = set()
        self._lost_at: dict[str, float] = {}
        self.parent_tells = False
        self.running = 0
        self.turns = 0

    def begin(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note that an execution begins on this thread."""
        request = task.request
        if request.is_eager:
            return  # in its caller's process, as a plain function
        name = task.name
        first = name not in self._seen
        if first:
            self._seen.add(name)
        stale: _Running | None = getattr(self._local, "running", None)
        if stale is not None:  # it never ended here, which would count it as running for ever
            stale.meter.read()
        running = _Running(
            str(request.id), request.hostname or "", int(request.retries or 0) + 1, self._count(task, args, kwargs),
            self._labels(task, args, kwargs), _wait_s(request), first, _Meter(self),
        )  # fmt: skip
        running.started_at = time.time()
        running.began = time.perf_counter()
        self._local.running = running

    def end(self, task: Any, request_id: str, state: str | None, result: Any) -> None:
        """Measure the execution that ends on this thread; `result` is the error of one that failed."""
        ended = time.perf_counter()
        running: _Running | None = getattr(self._local, "running", None)
        if running is None or running.request_id != request_id:
            return
        self._local.running = None
        user_s, system_s, peak_kib = running.meter.read()
        before = getattr(self._local, "ended", _NAN)
        self._local.ended = ended
        idle_s = min(running.began - before, running.wait_s)  # NaN does not count, unless it comes first
        outcome, category = _outcome(state, result)
        if outcome == "lost" and self.parent_tells:
            return
        self._put(Execution(
            task.name, running.tags, running.node, threading.get_native_id(), running.started_at, running.wait_s,
            idle_s, ended - running.began, user_s, system_s, peak_kib, running.items, running.attempt, outcome,
            category, running.first,
        ))  # fmt: skip

    def runs_here(self, request_id: str) -> bool:
        """Whether this thread is executing that request."""
        running: _Running | None = getattr(self._local, "running", None)
        return running is not None and running.request_id == request_id

    def lost(
        self, task: Any, request_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], error: object, node: str
    ) -> None:
        """Record an execution whose process died, as its main process learns of it; once, however often it does."""
        now = time.monotonic()
        self._lost_at = {known: at for known, at in self._lost_at.items() if now - at < _SAME_DEATH_S}
        if request_id in self._lost_at:  # Celery tells twice of a hard time limit
            return
        self._lost_at[request_id] = now
        overtime = type(error).__name__ == "TimeLimitExceeded"
        limit = error.args[0] if isinstance(error, BaseException) and overtime and error.args else 0.0
        service_s = float(limit) if isinstance(limit, int | float) else 0.0
        self._put(Execution(
            task.name, self._labels(task, args, kwargs), node, 0, time.time() - service_s, _NAN, _NAN, service_s,
            _NAN, _NAN, 0, self._count(task, args, kwargs), int(task.request.retries or 0) + 1, "lost",
            "timeout" if overtime else "worker_lost", False,
        ))  # fmt: skip

    # ------------------------------------------------------------------ the user's functions

    def _count(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        if self._items is None:
            return 1
        try:
            return min(max(0, int(self._items(task, args, kwargs))), ITEMS_MOST)
        except Exception as error:  # noqa: BLE001 - foreign code: the task must not suffer from it
            self._tell("items", task.name, "counted as 1 item", error)
            return 1

    def _labels(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tags:
        if self._tags is None:
            return ()
        try:
            made = self._tags(task, args, kwargs).items()
            labels = tuple(sorted((str(k)[:_MOST_TAG_CHARS], str(v)[:_MOST_TAG_CHARS]) for k, v in made))[:_MOST_TAGS]
        except Exception as error:  # noqa: BLE001 - foreign code: the task must not suffer from it
            self._tell("tags", task.name, "recorded without tags", error)
            return ()
        known = self._tag_sets.setdefault(task.name, set())
        if labels not in known:
            if len(known) >= _MOST_TAG_SETS:
                if "too many" not in self._told:
                    self._told.add("too many")
                    logger.warning(
                        "task %s has more than %d different sets of tags: further ones are recorded without tags. Use "
                        "tags of few values, not one a call", task.name, _MOST_TAG_SETS,
                    )  # fmt: skip
                return ()
            known.add(labels)
        return labels

    def _tell(self, function: str, task: str, consequence: str, error: Exception) -> None:
        if (key := f"{function}\0{task}") not in self._told:
            self._told.add(key)
            logger.error(
                "toolkit.instrument: %s= failed for a call of task %s, which is %s; said once a process",
                function, task, consequence, exc_info=error,
            )  # fmt: skip


def _wait_s(request: Any) -> float:
    """Seconds in the queue, beyond a wanted delay; NaN where the publisher did not say when it published."""
    sent_at = request.get(SENT_AT)
    if not isinstance(sent_at, int | float) or isinstance(sent_at, bool):
        return _NAN
    eta = request.eta
    if eta:
        try:
            sent_at = max(sent_at, datetime.fromisoformat(eta).timestamp())
        except (TypeError, ValueError):
            return _NAN
    return max(0.0, time.time() - sent_at)  # two hosts' clocks may differ by more than the wait


def _outcome(state: str | None, result: Any) -> tuple[str, str]:
    if state in ("SUCCESS", "IGNORED"):
        return "ok", ""
    if state == "RETRY":
        return "retried", "retryable"
    if state == "REJECTED":
        return "retried", ""
    if state == "FAILURE":
        overtime = type(result).__name__ in ("SoftTimeLimitExceeded", "TimeLimitExceeded")
        return "failed", "timeout" if overtime else judge(result, _POLICY).category
    return "lost", "worker_lost"  # left by an exception that ends the process
