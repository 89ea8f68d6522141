"""Time limits of items and batches, and other reasons to end a worker process from outside.

The node's main process keeps the limits, for a hung worker cannot. At a limit it sends a signal that raises
`toolkit.TimeLimitExceeded` in the user code of the item; `KILL_AFTER_S` later, where that did not end the item, it
kills the process.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from toolkit.errors import TimeLimitExceeded
from toolkit.execution.calls import is_user_code
from toolkit.guards import capture
from toolkit.records import RunSpec
from toolkit.transport.marker import Marker, Work

logger = logging.getLogger(__name__)

INTERRUPT: Final = signal.SIGUSR2
"""The signal that interrupts an item. In a worker that serves a run with limits, its handler is ours."""
KILL_AFTER_S: Final = 1.0
"""How long user code that was interrupted may clean up before its process is killed."""
FINISH_S: Final = 1.0
"""How long the running item of a per-item task may go on once its batch is over time."""

_OWN_FILES: Final = frozenset((capture.__file__,))  # it holds a lock while user code prints
_REMEMBERED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run, as moments of what a worker is doing.

    Attributes
    ----------
    item_s, batch_s : float or None
        See `toolkit.Client.map`.
    batched : bool
        One call per batch: then only `batch_s` counts.
    """

    item_s: float | None
    batch_s: float | None
    batched: bool

    @classmethod
    def of(cls, spec: RunSpec) -> Limits | None:
        """The limits of a run, None when it has none."""
        if spec.item_time_limit_s is None and spec.batch_time_limit_s is None:
            return None
        return cls(spec.item_time_limit_s, spec.batch_time_limit_s, spec.batched)

    def stop_at(self, work: Work) -> float:
        """When the worker is to stop before its next item, on the clock of `time.perf_counter`; inf for never.

        One item is always executed: a batch that were stopped before it would be given back for ever.
        """
        if self.batched or self.batch_s is None or work.position < 0:
            return math.inf
        return work.batch_since + self.batch_s

    def interrupt_at(self, work: Work) -> float:
        """When the running item is over time, on the same clock; inf for never."""
        if not work.item_since:
            return math.inf
        if self.batched:
            return math.inf if self.batch_s is None else work.item_since + self.batch_s
        if self.item_s is not None:
            return work.item_since + self.item_s
        return math.inf if self.batch_s is None else work.batch_since + self.batch_s + FINISH_S

    def told(self) -> str:
        """What is said of an item that is over time."""
        if self.batched:
            return f"the batch ran for longer than batch_time_limit_s={self.batch_s:g}"
        if self.item_s is not None:
            return f"the item ran for longer than item_time_limit_s={self.item_s:g}"
        return f"the item was still running {FINISH_S:g} s after batch_time_limit_s={self.batch_s:g}"


class Interrupter:
    """The worker's side: raises in user code that is over time, once an item.

    Parameters
    ----------
    marker : Marker
        Where this process notes what it is doing.
    """

    def __init__(self, marker: Marker) -> None:
        self._marker = marker
        self._slot = 0
        self._limits: Limits | None = None
        self._raised_for: Work | None = None

    def serve(self, slot: int, limits: Limits | None) -> None:
        """Know the limits of the run that is served next; call it in the main thread."""
        self._slot, self._limits = slot, limits
        if limits is not None:
            signal.signal(INTERRUPT, self._interrupt)  # each time: user code may have set another
            self._marker.arm(slot)

    def _interrupt(self, _signal: int, frame: FrameType | None) -> None:
        limits, work = self._limits, self._marker.read(self._slot)
        if limits is None or work is None or work.pid != os.getpid():
            return
        if time.perf_counter() < limits.interrupt_at(work):
            return  # meant for an item that has ended
        if self._raised_for is not None and self._raised_for.same_item(work):
            return  # it is cleaning up
        if is_user_code(frame, _OWN_FILES):  # else the main process asks again soon
            self._raised_for = work
            raise TimeLimitExceeded(limits.told())


@dataclass(frozen=True, slots=True)
class _Killed:
    """A process that was killed from here: what it was doing, why, and when."""

    work: Work
    why: str
    at: float


class Warden:
    """The main process's side: interrupts and kills workers, and remembers why.

    Parameters
    ----------
    marker : Marker
        What the workers are doing.
    clock : callable
        The clock of the marker's moments.
    """

    def __init__(self, marker: Marker, clock: Callable[[], float] = time.perf_counter) -> None:
        self._marker = marker
        self._clock = clock
        self._overdue: dict[int, tuple[Work, float]] = {}
        self._killed: dict[int, _Killed] = {}
        self._spared: deque[bytes] = deque(maxlen=256)

    def keep(self, work: Work, limits: Limits) -> None:
        """Stop, interrupt or kill a worker whose time is over; called once a tick."""
        now = self._clock()
        if now >= limits.stop_at(work):
            self._marker.stop(work.slot, work.claim_id)
        if now < limits.interrupt_at(work):
            return
        seen, since = self._overdue.get(work.slot, (work, now))
        if not seen.same_item(work):
            since = now
        self._overdue[work.slot] = (work, since)
        if now - since >= KILL_AFTER_S:
            self.kill(work, "timeout")
        elif work.armed and self._still(work):
            with suppress(ProcessLookupError):
                os.kill(work.pid, INTERRUPT)

    def kill(self, work: Work, why: str) -> None:
        """Kill a worker that is still at that item: ``timeout``, or at that claim: ``terminate``."""
        if work.pid == os.getpid():
            if work.claim_id not in self._spared:  # asked again with each look
                self._spared.append(work.claim_id)
                logger.warning("run %s: a worker that is a thread cannot be killed", work.run_id)
            return
        if work.pid in self._killed or not self._still(work, any_item=why == "terminate"):
            return
        now = self._clock()
        self._killed = {pid: k for pid, k in self._killed.items() if now - k.at < _REMEMBERED_S}
        self._killed[work.pid] = _Killed(work, why, now)
        logger.warning("run %s: worker %s is killed (%s)", work.run_id, work.pid, why)
        with suppress(ProcessLookupError):
            os.kill(work.pid, signal.SIGKILL)

    def why(self, work: Work) -> str:
        """Why a dead worker died, as far as this is known.

        Returns
        -------
        str
            ``timeout`` for the item it was on, ``nobody`` when it was killed and is not to blame for it, empty when it
            was not killed from here.
        """
        killed = self._killed.get(work.pid)
        if killed is None:
            return ""
        return "timeout" if killed.why == "timeout" and killed.work.same_item(work) else "nobody"

    def forget(self, work: Work) -> None:
        """The death is reported: another process may get this id."""
        self._killed.pop(work.pid, None)

    def _still(self, work: Work, *, any_item: bool = False) -> bool:
        now = self._marker.read(work.slot)
        if now is None:
            return False
        return now.same_item(work) or (any_item and (now.pid, now.claim_id) == (work.pid, work.claim_id))


class OutOfMemory:
    """Notices that the kernel killed a process of this control group since it ran out of memory.

    Parameters
    ----------
    groups : pathlib.Path
        Control groups of this process, as ``/proc/self/cgroup`` lists them.
    root : pathlib.Path
        Where their files are mounted.
    """

    def __init__(
        self, groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
    ) -> None:  # fmt: skip
        self._file = next((path for path in _counters(groups, root) if _kills(path) is not None), None)
        self._seen: deque[int] = deque(maxlen=5)

    def look(self) -> None:
        """Read the counter; called once a tick."""
        if self._file is not None:
            self._seen.append(_kills(self._file) or 0)

    @property
    def lately(self) -> bool:
        """Whether there was a kill within the latest ticks."""
        return len(self._seen) > 1 and self._seen[-1] > self._seen[0]


def _counters(groups: Path, root: Path) -> list[Path]:
    found = []
    with suppress(OSError):
        for line in groups.read_text(encoding="utf-8").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            inside = path.lstrip("/")
            if number == "0":
                found += [root / inside / "memory.events", root / "memory.events"]
            elif "memory" in controllers.split(","):
                # a container that sees its own group as the root still reads the host's path
                found += [root / "memory" / inside / "memory.oom_control", root / "memory" / "memory.oom_control"]
    return found


def _kills(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def place() -> str:
    """Name what makes process ids comparable: machine, boot and namespace of process ids; empty where unknown.

    Copies of a running virtual machine may share it. There a node may wrongly take another one for dead: batches are
    then executed twice, and still accounted once.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{socket.gethostname()}\t{boot}\t{namespace}".encode()).hexdigest()[:16]
