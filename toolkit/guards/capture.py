"""Guard: keeps the tail of what the running item prints and logs, for the case that it fails.

``sys.stdout`` and ``sys.stderr`` belong to the process, and several threads may execute batches at once. So one
router a stream takes their place while any capture is active; it hands each text to the capture of the thread that
wrote it. The same holds for log records. They are taken where they are made and not by a handler: a handler at the
root misses loggers that do not propagate (Celery's task loggers), and its presence changes what ``basicConfig`` and
handlers of last resort do.

Output of subprocesses and of C code, written to the descriptor itself, is not seen.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from toolkit.execution import Guard, Slot
from toolkit.execution.context import SLOT
from toolkit.records import RunSpec

TAIL_CHARS: Final = 4096

_RecordFactory = Callable[..., logging.LogRecord]
_FORMAT: Final = logging.Formatter("%(levelname)s %(name)s: %(message)s")


class Capture(Guard):
    """Keeps a bounded tail of print, stderr and logging of the running item.

    Costs nothing for an item that writes nothing: the tail remembers whose it is, and is emptied by the first thing
    that the next item writes.

    Parameters
    ----------
    passthrough : bool
        Whether what is printed also appears where it would have without the capture.
    """

    def __init__(self, passthrough: bool) -> None:
        self.passthrough = passthrough
        self._slot: Slot | None = None
        self._position: int | None = None
        self._chunks: list[str] = []
        self._size = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may print while this thread is in here

    @classmethod
    def for_run(cls, spec: RunSpec, passthrough: bool) -> Capture:
        """Make the guard; `spec` has no say in it."""
        del spec
        return cls(passthrough)

    def enter(self, slot: Slot) -> None:
        """Begin to listen."""
        if slot is not self._slot:
            self._position, self._chunks, self._size = None, [], 0
        self._slot = slot
        _switchboard.add(self)

    def leave(self) -> Mapping[str, float]:
        """Stop listening; the streams are what they were when the last capture has left."""
        _switchboard.remove(self)
        return {}

    def logs(self) -> str:
        """Tail of what the running item wrote, at most `TAIL_CHARS` characters."""
        with self._lock:
            if self._slot is None or self._position != self._slot.position:
                return ""
            return "".join(self._chunks)[-TAIL_CHARS:]

    def listens_to(self, slot: Slot | None) -> bool:
        """Whether this capture belongs to the batch of `slot`."""
        return slot is not None and slot is self._slot

    def add(self, text: str) -> None:
        """Append to the tail of the running item."""
        slot = self._slot
        if slot is None or not text:
            return
        with self._lock:
            if self._position != slot.position:
                self._position, self._chunks, self._size = slot.position, [], 0
            self._chunks.append(text[-TAIL_CHARS:])
            self._size += len(self._chunks[-1])
            if self._size > 4 * TAIL_CHARS or len(self._chunks) > TAIL_CHARS:
                tail = "".join(self._chunks)[-TAIL_CHARS:]
                self._chunks, self._size = [tail], len(tail)


class _Router:
    """Stands in for a standard stream, also for those who keep a reference to it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.original: Any = None

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        capture = _switchboard.current()
        # A log record is captured where it is made; here its handler prints the same text once more.
        if capture is not None and sys._getframe(1).f_globals.get("__name__") != "logging":  # noqa: SLF001
            capture.add(text)
        if capture is None or capture.passthrough:
            target = self._target()
            if target is not None:
                target.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        target = self._target()
        if target is not None:
            target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)

    def _target(self) -> Any:
        """The stream behind: the one replaced, or once that is over, whatever stands in its place."""
        if self.original is not None:
            return self.original
        stream = getattr(sys, self._name)
        return getattr(sys, f"__{self._name}__") if stream is self else stream


class _Switchboard:
    """Installs the routers while at least one capture is active, and knows whose a text is."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._active: list[Capture] = []
        self._routers = {"stdout": _Router("stdout"), "stderr": _Router("stderr")}
        self._factory: _RecordFactory = logging.LogRecord
        self._hooked = False

    def add(self, capture: Capture) -> None:
        with self._lock:
            if not self._active:
                self._install()
            self._active.append(capture)

    def remove(self, capture: Capture) -> None:
        with self._lock:
            if capture in self._active:
                self._active.remove(capture)
                if not self._active:
                    self._restore()

    def current(self) -> Capture | None:
        """The capture of this thread; that of a thread started by user code is the only active one, if it is one."""
        active = self._active
        if not active:
            return None
        slot = SLOT.get()
        for capture in tuple(active):
            if capture.listens_to(slot):
                return capture
        return active[0] if slot is None and len(active) == 1 else None

    def _install(self) -> None:
        for name, router in self._routers.items():
            stream = getattr(sys, name)
            # User code may have kept a router and put it there itself.
            router.original = stream if stream is not router else getattr(sys, f"__{name}__")
            setattr(sys, name, router)
        if not self._hooked:
            self._factory = logging.getLogRecordFactory()
            logging.setLogRecordFactory(self._make_record)
            self._hooked = True

    def _restore(self) -> None:
        for name, router in self._routers.items():
            setattr(sys, name, router.original)
            router.original = None
        # User code may have set a factory around this one: then this one stays where it is, and does nothing.
        if logging.getLogRecordFactory() == self._make_record:
            logging.setLogRecordFactory(self._factory)
            self._hooked = False

    def _make_record(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._factory(*args, **kwargs)
        capture = self.current()
        # A record without a name is an empty one that its receiver fills in (logging.makeLogRecord).
        if capture is not None and record.name is not None:
            try:
                capture.add(_FORMAT.format(record) + "\n")
            except Exception:  # noqa: BLE001 - a wrong format string is reported by the handlers, not by this
                capture.add(f"{record.levelname} {record.name}: {record.msg!r:.1000}\n")
        return record


_switchboard: Final = _Switchboard()
