"""What becomes of an item that failed: pure decisions over an exception and plain values."""

from __future__ import annotations

import math
import signal
import sys
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Any, Final

from toolkit.errors import TimeLimitExceeded
from toolkit.records import Retry, one_line, qualified_name

MAX_TRACEBACK_BYTES: Final = 16 * 1024
MAX_MESSAGE_BYTES: Final = 4 * 1024
MAX_LOGS_BYTES: Final = 4 * 1024
MAX_REASON_CHARS: Final = 300
SHARED_BYTES: Final = 256 * 1024
"""What the copies of one text may take together, where all items of a batch carry it."""

_LONGEST_S: Final = 1e9  # thirty years: what is asked beyond them has no number of milliseconds in the end
_UNSET: Final = object()


@dataclass(frozen=True, slots=True)
class Failure:
    """An item of a batch that did not end well.

    Attributes
    ----------
    position : int
        Offset of the item in its batch.
    retry : bool
        Try it again after `delay_s`; else it is a dead letter.
    delay_s : float
        Seconds to wait before the next attempt.
    category : str
        One of `toolkit.records.CATEGORIES`.
    error_type : str
        Qualified name of the exception's class.
    message : str
        Its text, at most 4 KiB.
    traceback_text : str
        Where in user code, at most 16 KiB: head and tail.
    logs : str
        Tail of what the item printed and logged, at most 4 KiB.
    charged : bool
        The execution counts as an attempt. Not where the item is not to blame.
    pause : bool
        The run is to be paused, because of this error.
    unless_ok : bool
        Only where no item of it has ended well, elsewhere either.
    """

    position: int
    retry: bool
    delay_s: float
    category: str
    error_type: str
    message: str
    traceback_text: str
    logs: str
    charged: bool = True
    pause: bool = False
    unless_ok: bool = False

    def reason(self, index: int) -> str:
        """One bounded line for people: why the run pauses, after its item `index` failed so."""
        said = f"{self.error_type}: {self.message}" if self.message else self.error_type
        return f"{one_line(said, MAX_REASON_CHARS)} (item {index})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exception means, before anybody knows at which attempt.

    Attributes
    ----------
    retryable : bool
        Worth another attempt.
    category : str
        One of `toolkit.records.CATEGORIES`.
    requested : bool
        The exception itself asks for another attempt, whatever the number of attempts.
    delay_s : float or None
        The delay that it asks for, None to use the run's.
    charged : bool
        The execution counts as an attempt.
    pause : bool
        The run is to be paused; its items wait for ``run.resume()``, whatever the number of attempts.
    """

    retryable: bool
    category: str
    requested: bool = False
    delay_s: float | None = None
    charged: bool = True
    pause: bool = False

    def retries(self, attempt: int, retry: Retry) -> bool:
        """Whether an item that failed its attempt number `attempt` is tried again."""
        return self.requested or not self.charged or (self.retryable and attempt < retry.max_attempts)

    def delay(self, attempt: int, retry: Retry, uniform: float) -> float:
        """Seconds before the next attempt, with `uniform` drawn from [0, 1)."""
        if not self.charged:
            return 0.0
        return retry.delay_s(attempt, uniform) if self.delay_s is None else self.delay_s


@dataclass(frozen=True, slots=True)
class Described:
    """An exception as text; holds no reference to it, so that frames and what they hold are free."""

    error_type: str
    message: str
    traceback_text: str

    def within(self, limit_bytes: int) -> Described:
        """The same, with message and traceback cut to `limit_bytes` each."""
        return Described(self.error_type, clip(self.message, limit_bytes), clip(self.traceback_text, limit_bytes))


def share_bytes(n: int) -> int:
    """How long a text may be that `n` items carry, each its copy."""
    return max(512, SHARED_BYTES // max(1, n))


def judge(error: Any, retry: Retry) -> Verdict:
    """Decide whether an error is worth another attempt, and what it counts as.

    The rules of `retry` name classes of errors. The one that names the most specific class decides; where several name
    the same class, ``pause`` goes before ``bury``, and ``bury`` before ``on``.

    An exception may carry an attribute ``toolkit_retry_delay_s``: seconds to wait before the next attempt, or None
    for the run's own delay. Then it is retried whatever the policy says, and whoever sets it counts the attempts.
    """
    if not isinstance(error, BaseException):  # a value of a BatchError that is no exception
        return Verdict(False, "fatal")
    requested = _attribute(error, "toolkit_retry_delay_s", _UNSET)
    if requested is not _UNSET:
        return Verdict(True, "retryable", requested=True, delay_s=_seconds(requested))
    rule = _rule(type(error), retry)
    worth = rule in ("on", "pause")
    category = next((c for cls, c in _OWN_CATEGORY if isinstance(error, cls)), "retryable" if worth else "fatal")
    return Verdict(worth, category, charged=rule != "pause", pause=rule == "pause")


_OWN_CATEGORY: Final = ((MemoryError, "out_of_memory"), (TimeLimitExceeded, "timeout"))
_RULES: Final = ("pause", "bury", "on")


def _rule(kind: type, retry: Retry) -> str:
    """The rule that decides about errors of a class, empty for none."""
    named = [(rule, names, _classes(names)) for rule in _RULES if (names := retry.names(rule))]
    if not named:
        return ""
    for cls in kind.__mro__:
        name = _class_name(cls)
        for rule, names, classes in named:
            if name in names or cls in classes:
                return rule
    return ""


def _classes(names: Collection[str]) -> list[Any]:
    """Classes that are found under the names themselves.

    A class is often re-exported: requests.ConnectionError lives in requests.exceptions.
    """
    parts = (name.rpartition(".") for name in names)
    return [getattr(sys.modules.get(module), "__dict__", {}).get(attribute) for module, _, attribute in parts]


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _LONGEST_S) if math.isfinite(seconds) else None


def _attribute(error: BaseException, name: str, default: Any) -> Any:
    try:
        return getattr(error, name, default)
    except Exception:  # noqa: BLE001 - a metaclass may break even this
        return default


def describe(error: Any, own_files: Collection[str] = ()) -> Described:
    """Return an exception as text, without the leading frames that are in `own_files`.

    Never raises, however broken the exception's own methods are.
    """
    if not isinstance(error, BaseException):  # a value of a BatchError that is no exception
        return Described(type_name(error), clip(_text(error), MAX_MESSAGE_BYTES), "")
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in own_files:
        trace = trace.tb_next
    return Described(type_name(error), clip(_text(error), MAX_MESSAGE_BYTES), _format(error, trace))


def type_name(value: Any) -> str:
    """Qualified name of the class of `value`, at most 200 bytes."""
    return clip(_class_name(type(value)), 200)


def _class_name(cls: type) -> str:
    try:
        return qualified_name(cls)
    except Exception:  # noqa: BLE001 - a metaclass may break even this
        return "unknown error"


def _text(value: Any) -> str:
    try:
        return str(value)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - formatting calls foreign code: __str__, __repr__, __notes__
        return f"<unprintable {type_name(value)}: __str__ raised {type_name(exc)}>"


def _format(error: BaseException, trace: TracebackType | None) -> str:
    try:
        report = traceback.TracebackException(type(error), error, trace, compact=True)
        return clip("".join(report.format()), MAX_TRACEBACK_BYTES)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - formatting calls foreign code: __str__, __repr__, __notes__
        return f"<no traceback: formatting it raised {type_name(exc)}>"


def clip(text: str, limit_bytes: int) -> str:
    """Return `text` as valid UTF-8 of at most `limit_bytes` bytes, its head and its tail if it is longer.

    Lone surrogates, as in names of files that are not UTF-8, are written as escapes.
    """
    if len(text) > 2 * limit_bytes:  # do not encode a gigabyte to keep a page
        text = f"{text[:limit_bytes]}{text[-limit_bytes:]}"
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit_bytes:
        return data.decode()
    mark = "\n[… shortened …]\n".encode()
    room = max(0, limit_bytes - len(mark))
    head, tail = data[: room // 2], data[len(data) - (room - room // 2) :]
    return (head + mark + tail)[:limit_bytes].decode("utf-8", "ignore")


def is_termination(error: BaseException, handlers: Collection[CodeType]) -> bool:
    """Whether `error` is a SystemExit that one of the process's own signal handlers raised.

    A pool ends its worker so. It says nothing about the item that happened to be running.
    """
    if not isinstance(error, SystemExit):
        return False
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def termination_behind(error: BaseException, handlers: Collection[CodeType]) -> BaseException | None:
    """Return the termination that `error` is, or that was under way when `error` was raised; else None.

    Clean-up code that fails while a SystemExit unwinds replaces it, and the process is to end all the same.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if is_termination(current, handlers):
            return current
        seen.add(id(current))
        current = current.__context__
    return None


def python_handlers() -> frozenset[CodeType]:
    """Code of this process's signal handlers that are written in Python."""
    codes = (getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals())
    return frozenset(code for code in codes if isinstance(code, CodeType))
