"""What to pass instead of a value that is refused."""

from __future__ import annotations

import collections
import dataclasses
import enum
import io
import os
import re
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

from toolkit.records import qualified_name

_STORE: Final = "store it and pass a path"

_BY_NAME: Final[dict[str, str]] = {
    "Timestamp": "pass item.to_pydatetime()",
    "Timedelta": "pass item.to_pytimedelta()",
    "NaTType": "pass None",
    "NAType": "pass None",
    "DataFrame": f"{_STORE}, or pass item.to_dict('records')",
    "Series": "pass item.to_numpy() or item.to_list()",
    "Index": "pass item.to_numpy() or item.to_list()",
}
"""Classes of pandas. Named, so that pandas is not imported to recognise them."""

_BY_BASE: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((enum.Enum,), "pass item.value or item.name"),
    ((io.IOBase,), f"{_STORE}: a task opens its own files"),
    ((os.PathLike,), "pass os.fspath(item)"),
    ((BaseException,), "pass str(item)"),
    ((types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, type), "pass its name"),
    ((memoryview,), "pass bytes(item)"),
    ((range, collections.deque, Iterator), "pass list(item)"),
    ((type({}.keys()), type({}.values()), type({}.items())), "pass list(item)"),
    ((types.MappingProxyType, dict), "pass dict(item)"),
)

_BY_BUILTIN: Final = (int, float, complex, str, bytes, bytearray, list, set, frozenset)


def _describe_class(value: Any) -> str | None:
    """Hint for records: classes that know how to become plain data themselves."""
    kind = type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "pass dataclasses.asdict(item)"
    if isinstance(value, tuple):
        return "pass item._asdict() or tuple(item)" if hasattr(kind, "_asdict") else "pass tuple(item)"
    if hasattr(kind, "__struct_fields__"):
        return "pass msgspec.to_builtins(item)"
    if hasattr(kind, "__attrs_attrs__"):
        return "pass attrs.asdict(item)"
    if hasattr(kind, "model_dump"):
        return "pass item.model_dump()"
    return None


def _describe_module(value: Any) -> str | None:
    """Hint for classes of libraries that need not be installed here."""
    kind = type(value)
    root = kind.__module__.partition(".")[0]
    if isinstance(value, tuple):  # a row of DataFrame.itertuples() is of the module pandas, and plain data all the same
        return None
    if root == "pandas":
        names = (_BY_NAME[base.__name__] for base in kind.__mro__ if base.__name__ in _BY_NAME)
        return next(names, _STORE)
    if root in ("torch", "tensorflow", "jax", "jaxlib", "cupy"):
        return f"pass it as a numpy array, or {_STORE}"
    return None


def refusal(value: Any) -> str:
    """Say why `value` is refused and what to pass instead; never its content."""
    name = qualified_name(type(value))
    hints: tuple[Callable[[Any], str | None], ...] = (_describe_module, _describe_class, _describe_base)
    for hint in hints:
        if text := hint(value):
            return f"{name} is not stored exactly: {text}"
    return f"{name} cannot be stored: pass plain data (see toolkit.codec), or {_STORE}"


def _describe_base(value: Any) -> str | None:
    """Hint by the builtin class that the value's own class extends."""
    for bases, hint in _BY_BASE:
        if isinstance(value, bases):
            return hint
    for base in _BY_BUILTIN:
        if isinstance(value, base):
            return f"pass {base.__name__}(item)"
    return None


def for_result(reason: str) -> str:
    """A reason why a value is refused, said of what a task returns instead of what it is given."""
    name, colon, hint = reason.partition(": ")
    return name + colon + re.sub(r"\bitem\b", "result", re.sub(r"\bpass\b", "return", hint))


def key_refusal(key: Any) -> str:
    """Say why `key` is refused as the key of a dict."""
    name = qualified_name(type(key))
    return f"keys of a dict must be str, int, float, bool, None or bytes, not {name}: pass a list of pairs instead"
