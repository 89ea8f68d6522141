"""How an item becomes a call, and what a call returned becomes results: pure functions of the runner."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import FrameType
from typing import Any, Final

from toolkit.errors import BatchError, InvalidInput, UnknownTask
from toolkit.execution.tasks import Task
from toolkit.records import RunSpec

Call = Callable[[Any], Any]


def check(task: Task, spec: RunSpec) -> None:
    """Raise unless the run and the task agree about how items are passed.

    Raises
    ------
    InvalidInput
        `call` is unknown, or not ``item`` though the task is batched or has a setup.
    UnknownTask
        Run and task disagree about `batched`.
    """
    if spec.call not in ("item", "args", "kwargs"):
        raise InvalidInput(f"call={spec.call!r}: must be 'item', 'args' or 'kwargs'")
    if spec.call != "item" and (task.batched or task.setup is not None):
        raise InvalidInput(f"call={spec.call!r}: a task that is batched or has a setup takes whole items (call='item')")
    if task.batched != spec.batched:
        raise UnknownTask(
            f"task {task.name}: the run says batched={spec.batched} and this worker's version of the code "
            f"batched={task.batched}. It was edited since: import it anew and submit again, or call "
            "client.restart_workers() where the worker has the older one"
        )


def bind(fn: Callable[..., Any], how: str, kwargs: Mapping[str, Any]) -> Call:
    """Return what to call with an item; the function itself where nothing stands between."""
    if how == "args":
        return lambda item: fn(*item, **kwargs)
    if how == "kwargs":
        return lambda item: fn(**kwargs, **item)
    return fn if not kwargs else lambda item: fn(item, **kwargs)


def bind_state(fn: Callable[..., Any], state: Any, kwargs: Mapping[str, Any]) -> Call:
    """Return what to call with an item of a task that has a setup."""
    return (lambda item: fn(item, state, **kwargs)) if kwargs else (lambda item: fn(item, state))


def limited(call: Call) -> Call:
    """Return the same call with a Python frame around it.

    Whatever interrupts user code may raise in this frame and below, and nowhere else: an error that rises from here is
    the item's, while above it results are kept and committed.
    """

    def user_code(item: Any) -> Any:
        return call(item)

    return user_code


def is_user_code(frame: FrameType | None, apart_from: Collection[str] = ()) -> bool:
    """Whether a frame of the interrupted thread is user code called through `limited`, where an error may be raised.

    Parameters
    ----------
    frame : frame or None
        The innermost one.
    apart_from : collection of str
        File names of our own code that user code may be in, as it prints: there it must not be raised.
    """
    while frame is not None:
        if frame.f_code is _USER_CODE:
            return True
        if frame.f_code.co_filename in apart_from:
            return False
        frame = frame.f_back
    return False


_USER_CODE: Final = limited(str).__code__


def results_of(returned: Any, n: int) -> tuple[list[Any], str]:
    """Results of a batched call as a list, or an empty list and what is wrong with them."""
    if isinstance(returned, list):
        found = returned
    elif hasattr(returned, "iloc") and hasattr(returned, "columns"):
        return [], "a batched task returned a DataFrame; return one result for each item: frame.to_dict('records')"
    elif (isinstance(returned, Sequence) and not isinstance(returned, str | bytes | bytearray | memoryview)) or (
        hasattr(returned, "__array__") and getattr(returned, "ndim", 0) >= 1
    ):
        found = list(returned)
    else:
        forgot = "; does it return at all?" if returned is None else ""
        kind = type(returned).__name__
        return [], f"a batched task must return a list with a result for each of its {n} items, not {kind}{forgot}"
    if len(found) != n:
        return [], f"a batched task got {n} items and returned {len(found)} results; one for each is needed, in order"
    return found, ""


def named_positions(error: BatchError, n: int) -> dict[int, Any]:
    """Positions that a BatchError names, to errors; empty when it names none, or one that is not in the batch."""
    try:
        named = {position.__index__(): value for position, value in error.errors.items()}
    except (AttributeError, TypeError):
        return {}
    return named if all(0 <= position < n for position in named) else {}
