"""What a function is called, and which version of its code it is."""

from __future__ import annotations

import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType
from typing import Any


def path_of(fn: Any) -> str:
    """``module:qualname`` of a callable; a partial has that of its function, an object of a class that of the class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not hasattr(fn, "__qualname__"):
        fn = type(fn)
    home = getattr(fn, "__objclass__", fn)  # a method of a builtin class, as str.upper, does not know its module
    module, qualname = getattr(home, "__module__", None), getattr(fn, "__qualname__", None)
    return f"{module}:{qualname}" if module and qualname else ""


def source_digest(fn: Callable[..., Any], setup: Callable[..., Any] | None = None) -> str:
    """Return 12 hexadecimal digits that change with the source of a task's function, or of its setup.

    The digest is over the source text, without its common indentation; where there is none, over the bytecode
    and its constants, and for callables without bytecode over their name. It is the same in every process.
    Functions that `fn` calls do not count.
    """
    digest = hashlib.sha256(_source(fn).encode("utf-8", "backslashreplace"))
    if setup is not None:
        digest.update(b"\0setup\0" + _source(setup).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:12]


def _source(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    target = fn if inspect.isroutine(fn) or isinstance(fn, type) else type(fn)
    try:
        return textwrap.dedent(inspect.getsource(target))
    except Exception:  # noqa: BLE001 - no file, not the file it was, or not Python: whatever the reason, there is no source
        code = getattr(fn, "__code__", None)
        return _code_text(code) if isinstance(code, CodeType) else (path_of(fn) or path_of(type(fn)))


def _code_text(code: CodeType) -> str:
    constants = [_constant_text(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _constant_text(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code_text(value)
    if isinstance(value, frozenset):  # the order of a set of str differs between processes
        return "{" + ",".join(sorted(map(_constant_text, value))) + "}"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_constant_text, value)) + ")"
    return repr(value)
