"""Functions shipped by value: pickled with cloudpickle, and signed, because unpickling runs code.

A blob is ``TKF1``, the length of the Python version (one byte), the version, the signature (32 bytes) and the
payload. The signature is HMAC-SHA256 over run id, version and payload, so that a blob is good for one run and
one Python version only. Nothing is unpickled before the signature was verified.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import pickle
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from toolkit.errors import FunctionNotAllowed, InvalidInput, MissingDependency, UnknownTask
from toolkit.execution.tasks import Task, as_task, extend_sys_path, held_by_module
from toolkit.execution.versions import source_digest
from toolkit.records import check_run_id

MAX_FUNCTION_BYTES: Final = 32 * 1024 * 1024
"""Largest pickled function; every worker process fetches it once a run."""

PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""``major.minor`` of this process. Bytecode is good for one of them only."""

_MAGIC: Final = b"TKF1"
_MIN_KEY_BYTES: Final = 16
_MAX_KEY_BYTES: Final = 4096
_SEARCH_DEPTH: Final = 3  # captured by the function, by what it captures, and once more


def dump_function(task: Task | Callable[..., Any], run_id: str, key: bytes) -> bytes:
    """Pickle a function with what it captures, signed for one run.

    Parameters
    ----------
    task : Task or callable
        What to ship. Options of a task (batched, setup, name) travel with it.
    run_id : str
        The only run that may use it.
    key : bytes
        Secret shared with the workers, see `read_key`.

    Returns
    -------
    bytes
        A signed blob for `load_function`.

    Raises
    ------
    FunctionNotAllowed
        There is no key, or the function with what it captures is larger than `MAX_FUNCTION_BYTES`.
    InvalidInput
        Something that it captures cannot be pickled; the message names it.
    MissingDependency
        cloudpickle is not installed.
    """
    checked = as_task(task)
    check_run_id(run_id)
    _check_key(key)
    payload = _pickle(checked)
    _check_size(len(payload), checked.name)
    return b"".join((_MAGIC, bytes((len(PYTHON),)), PYTHON.encode(), _sign(key, run_id, PYTHON, payload), payload))


def load_function(
    blob: bytes, run_id: str, key: bytes | None, python: str = PYTHON, sys_path: Sequence[str] = (), edition: int = 0
) -> Task:
    """Verify a blob from `dump_function`, then unpickle it.

    Parameters
    ----------
    blob : bytes
        As fetched from the ledger.
    run_id : str
        The run it was fetched for.
    key : bytes or None
        This worker's key; None where the operator supplied none.
    python : str
        ``major.minor`` that the function must have been made for.
    sys_path : sequence of str
        Directories in which modules that the function imports are found.
    edition : int
        Changes with what those modules hold (`Modules.edition`); what a setup returned is kept for one edition.

    Returns
    -------
    Task
        With the code version that is loaded here: of a function that a module holds, only its name was shipped.

    Raises
    ------
    FunctionNotAllowed
        There is no key, the signature is wrong, the function was made by another Python, or it is too large.
    UnknownTask
        It was verified, and does not load here: for example a module that it imports is missing.
    """
    _check_key(key)
    assert key is not None
    _check_size(len(blob) - 256, f"of run {run_id}")
    made_by, signature, payload = _split(blob, run_id)
    if not hmac.compare_digest(signature, _sign(key, run_id, made_by, payload)):
        raise FunctionNotAllowed(
            f"run {run_id}: the function is not signed with this worker's key, or not for this run. Client and "
            "workers must use the same key file (TOOLKIT_FUNCTION_KEY_FILE)"
        )
    for here in dict.fromkeys((python, PYTHON)):
        if made_by != here:
            raise FunctionNotAllowed(
                f"run {run_id}: the function was made by Python {made_by} and this worker runs {here}. Submit from "
                "the same version, or move the function to a module that the worker can import"
            )
    return _unpickle(payload, run_id, sys_path, edition)


def read_key(path: Path | str) -> bytes:
    """Read the key that signs functions; a line end behind it does not count.

    Raises
    ------
    FunctionNotAllowed
        There is no such file, others than its owner may read or write it, it is not this user's, or it holds
        fewer than 16 bytes.
    """
    hint = "Make one with: (umask 077; openssl rand -hex 32 > FILE)"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise FunctionNotAllowed(f"function key {str(path)!r}: {exc.strerror}. {hint}") from exc
    try:
        info = os.fstat(descriptor)  # of the open file: what is checked is what is read
        problem = _key_problem(info)
        if problem:
            raise FunctionNotAllowed(f"function key {str(path)!r}: {problem}. {hint}")
        key = os.read(descriptor, _MAX_KEY_BYTES).rstrip(b"\r\n")
    finally:
        os.close(descriptor)
    if len(key) < _MIN_KEY_BYTES:
        raise FunctionNotAllowed(f"function key {str(path)!r}: {len(key)} bytes, fewer than {_MIN_KEY_BYTES}. {hint}")
    return key


def _key_problem(info: os.stat_result) -> str:
    if not stat.S_ISREG(info.st_mode):
        return "not a regular file"
    if info.st_uid != os.geteuid():
        return f"belongs to user {info.st_uid}, not to this one"
    if info.st_mode & 0o077:
        mode = f"{stat.S_IMODE(info.st_mode):04o}"
        return f"mode {mode} lets others at it, and whoever read it can run code on the workers"
    return ""


# --------------------------------------------------------------------------- the blob


def _sign(key: bytes, run_id: str, python: str, payload: bytes) -> bytes:
    # Run id and version hold no NUL (check_run_id, _split), so the parts cannot be shifted against each other.
    mac = hmac.new(key, b"toolkit function 1\0", hashlib.sha256)
    mac.update(run_id.encode() + b"\0" + python.encode() + b"\0")
    mac.update(payload)
    return mac.digest()


def _split(blob: bytes, run_id: str) -> tuple[str, bytes, bytes]:
    start = len(_MAGIC) + 1
    length = blob[len(_MAGIC)] if len(blob) > len(_MAGIC) else 0
    python = blob[start : start + length].decode("ascii", "replace")
    if not blob.startswith(_MAGIC) or len(blob) < start + length + 32 or not python.replace(".", "").isalnum():
        raise FunctionNotAllowed(
            f"run {run_id}: what the ledger holds is not a function as this version of the toolkit ships it"
        )
    start += length
    return python, bytes(blob[start : start + 32]), bytes(blob[start + 32 :])


def _check_key(key: bytes | None) -> None:
    if key is None or not key:
        raise FunctionNotAllowed(
            "functions typed in a cell are off here: there is no key to sign them with. Move the function to a module "
            "that the workers import, or let the operator give client and workers a key (TOOLKIT_FUNCTION_KEY_FILE)"
        )
    if not isinstance(key, bytes) or len(key) < _MIN_KEY_BYTES:
        raise FunctionNotAllowed(f"the function key must be at least {_MIN_KEY_BYTES} bytes; see read_key")


def _check_size(n_bytes: int, what: str) -> None:
    if n_bytes > MAX_FUNCTION_BYTES:
        raise FunctionNotAllowed(
            f"function {what}: with what it captures it takes {n_bytes / 2**20:.1f} MiB, and the limit is "
            f"{MAX_FUNCTION_BYTES // 2**20} MiB. Load data in setup=..., or pass a path, instead of a large variable"
        )


# --------------------------------------------------------------------------- pickling


def _pickle(task: Task) -> bytes:
    try:
        import cloudpickle
    except ImportError as exc:
        raise MissingDependency("cloudpickle", "cluster", f"shipping the function {task.name} by value") from exc
    values = {name: getattr(task, name) for name in ("fn", "name", "batched", "setup", "retry", "code_version")}
    try:
        return bytes(cloudpickle.dumps(values))
    except Exception as exc:  # reducers are foreign code and raise what they like
        reason = f"{type(exc).__name__}: {str(exc)[:300]}"
        culprit = _culprit(task, cloudpickle.dumps)
        where = f"it uses {culprit}, which" if culprit else "something that it uses"
        raise InvalidInput(
            f"function {task.name} cannot be shipped to the workers: {where} cannot be pickled ({reason}). "
            "Create it inside the function, or in setup=...; pass paths and addresses instead of open files and "
            "connections; or move the function to a module that the workers import"
        ) from exc


def _unpickle(payload: bytes, run_id: str, sys_path: Sequence[str], edition: int) -> Task:
    extend_sys_path(sys_path)
    try:
        values = pickle.loads(payload)  # noqa: S301 - the caller has verified who made it
        if all(held_by_module(fn) for fn in (values["fn"], values["setup"]) if fn is not None):
            values["code_version"] = source_digest(values["fn"], values["setup"])
        return Task(**values, digest=hashlib.sha256(payload + b"\0%d" % edition).hexdigest())
    except (Exception, SystemExit) as exc:  # imports of user modules happen here
        raise UnknownTask(
            f"run {run_id}: its function does not load on this worker ({type(exc).__name__}: {exc}). Install what it "
            "imports here, or correct the module; if that does not help, call client.restart_workers()"
        ) from exc


def _culprit(task: Task, dumps: Callable[[Any], bytes]) -> str:
    """Name the captured variable that cannot be pickled, as a path of names; empty when none is found."""

    def fails(value: Any) -> bool:
        try:
            dumps(value)
        except Exception:  # noqa: BLE001 - as above
            return True
        return False

    def search(fn: Any, depth: int) -> str:
        for name, value in _captured(fn):
            if id(value) in seen or isinstance(value, ModuleType):
                continue
            seen.add(id(value))
            if fails(value):
                deeper = search(value, depth - 1) if depth > 1 else ""
                return f"{name} -> {deeper}" if deeper else f"{name} ({type(value).__name__})"
        return ""

    seen = {id(task), id(task.fn)}  # a recursive function captures itself
    return search(task.fn, _SEARCH_DEPTH) or (search(task.setup, _SEARCH_DEPTH) if task.setup else "")


def _captured(fn: Any) -> Iterator[tuple[str, Any]]:
    """Names and values that pickling a function takes along."""
    if isinstance(fn, Task):
        fn = fn.fn
    if isinstance(fn, functools.partial):
        yield from ((f"argument {i}", value) for i, value in enumerate(fn.args))
        yield from fn.keywords.items()
        yield "its function", fn.func
        return
    if hasattr(fn, "__self__"):
        yield "self", fn.__self__
    fn = getattr(fn, "__func__", fn)
    code = getattr(fn, "__code__", None)
    if not isinstance(code, CodeType):
        yield from getattr(fn, "__dict__", {}).items()
        return
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # an empty cell
            continue
    yield from ((name, fn.__globals__[name]) for name in _names(code) if name in fn.__globals__)
    yield from ((f"default argument {i}", value) for i, value in enumerate(fn.__defaults__ or ()))
    yield from (fn.__kwdefaults__ or {}).items()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
