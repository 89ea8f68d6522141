"""Tasks: callables marked as something a run may name, and how a worker finds them again."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, overload

from toolkit.errors import InvalidInput, UnknownTask
from toolkit.execution.versions import path_of, source_digest
from toolkit.records import Retry, check_name

STATES: Final = "_toolkit_states"
"""Where a task holds what its setup returned (`States`): both go together, also where one refers to the other."""

# --------------------------------------------------------------------------- the marker


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A callable that runs may name; calling it calls the function directly.

    Made by `task`. It carries the function's ``__name__``, ``__doc__`` and signature, and can be pickled: by
    reference where a module holds it under its name, else with its function.

    Attributes
    ----------
    fn : callable
        ``fn(item, **kwargs)``, or ``fn(items, **kwargs)`` when batched. With `setup`, the second positional
        argument is what setup returned.
    name : str
        Shown everywhere; ``module:qualname`` unless the user gave another.
    batched : bool
        One call per batch, list in and list of the same length out.
    setup : callable or None
        Called without arguments once a process, before the first item.
    retry : Retry or None
        Default retry policy of runs of this task.
    code_version : str
        12 hexadecimal digits, see `code_version`.
    digest : str
        Of a function shipped by value: digest of what was shipped, captured values included. Else empty.
    """

    fn: Callable[..., Any]
    name: str = ""
    batched: bool = False
    setup: Callable[[], Any] | None = None
    retry: Retry | None = None
    code_version: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        _check_function(self.fn, "task")
        if self.setup is not None:
            _check_function(self.setup, "setup")
            _check_setup(self.fn, self.setup)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise InvalidInput(f"task(retry={self.retry!r}): expected a toolkit.Retry(...) or None")
        # The dataclass is frozen, so that a task shared by threads cannot change: hence no plain assignment here.
        values = self.__dict__
        if not self.name:
            values["name"] = path_of(self.fn)
        if not self.name:
            raise InvalidInput(f"{self.fn!r} has no name of its own: give one, task(..., name='what it does')")
        check_name(self.name, "task name")
        values["batched"] = bool(self.batched)
        if not self.code_version:
            # Now and not when asked: the file may be edited later, and then shows what this process does not run.
            values["code_version"] = source_digest(self.fn, self.setup)
        for attribute in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(self.fn, attribute):
                values.setdefault(attribute, getattr(self.fn, attribute))
        values["__wrapped__"] = self.fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function directly, in this process, without a run."""
        return self.fn(*args, **kwargs)

    @property
    def path(self) -> str:
        """``module:qualname`` under which `resolve` looks for it, empty for callables without a name."""
        return path_of(self.fn)

    @property
    def importable(self) -> bool:
        """Whether a module other than ``__main__`` holds exactly this task under its `path`."""
        module, _, qualname = self.path.partition(":")
        if not qualname or module == "__main__" or module not in sys.modules:
            return False
        return _attribute(sys.modules[module], qualname) is self

    def __repr__(self) -> str:
        return f"<task {self.name}{' batched' if self.batched else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.importable:
            return _import_task, (self.path,)
        # State apart from the constructor: a function may refer to its own task, and is half built at that time.
        return object.__new__, (Task,), {name: value for name, value in vars(self).items() if name != STATES}


@overload
def task(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    batched: bool = False,
    setup: Callable[[], Any] | None = None,
    retry: Retry | None = None,
) -> Task: ...


@overload
def task(
    fn: None = None,
    *,
    name: str | None = None,
    batched: bool = False,
    setup: Callable[[], Any] | None = None,
    retry: Retry | None = None,
) -> Callable[[Callable[..., Any]], Task]: ...


def task(
    fn: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    batched: bool = False,
    setup: Callable[[], Any] | None = None,
    retry: Retry | None = None,
) -> Task | Callable[[Callable[..., Any]], Task]:
    """Mark a function as a task, so that runs may name it.

    Parameters
    ----------
    fn : callable
        ``fn(item, **kwargs) -> result``, or with `batched` ``fn(items, **kwargs) -> results``.
    name : str, optional
        Shown everywhere; by default ``module:qualname``.
    batched : bool
        One call per batch: a list in, a list of the same length out.
    setup : callable, optional
        Called without arguments once a process and version of the function, for a model or a connection. What
        it returns is the second positional argument: ``fn(item, state, **kwargs)``.
    retry : Retry, optional
        When and how often items are tried again, unless the run says otherwise.

    Returns
    -------
    Task
        Or, called without `fn`, a decorator that makes one.

    Raises
    ------
    InvalidInput
        `fn` or `setup` is not callable, is a coroutine or generator function, or does not take its arguments.

    Examples
    --------
    >>> @task
    ... def square(item):
    ...     return item * item
    >>> square(3)
    9
    """
    if fn is None and name is None and not batched and setup is None and retry is None:
        return task
    if fn is None:
        return functools.partial(task, name=name, batched=batched, setup=setup, retry=retry)
    if isinstance(fn, Task):
        raise InvalidInput(f"{fn!r} is a task already; give its options in one @toolkit.task(...)")
    if name is not None:
        check_name(name, "task name")
    if isinstance(fn, staticmethod):
        fn = fn.__func__
    return Task(fn, name or "", batched, setup, retry)


def code_version(fn: Task | Callable[..., Any]) -> str:
    """Return 12 hexadecimal digits that change with the source of a function; of a task, also with its setup's.

    Of a task it is the digest of the source as it was when the task was made, in whichever process that was.
    """
    return fn.code_version if isinstance(fn, Task) else source_digest(fn)


def as_task(fn: Task | Callable[..., Any]) -> Task:
    """Return a task as it is, and a plain callable as a task with default options."""
    return fn if isinstance(fn, Task) else task(fn)


def _check_function(fn: Any, what: str) -> None:
    if not callable(fn):
        raise InvalidInput(f"{what}: {type(fn).__name__} {fn!r:.100} is not callable; expected a function")
    for candidate in (fn, type(fn).__call__):  # a function, or an object whose class says how it is called
        inner: Any = inspect.unwrap(candidate)
        if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
            raise InvalidInput(
                f"{what}: {path_of(fn) or fn!r} is async; workers are synchronous. "
                "Give a plain function, for example one that calls asyncio.run(...) on a whole batch"
            )
        if inspect.isgeneratorfunction(inner):
            raise InvalidInput(
                f"{what}: {path_of(fn) or fn!r} is a generator function; return a value (or a list) instead of yielding"
            )


def _check_setup(fn: Any, setup: Any) -> None:
    try:
        inspect.signature(setup).bind()
    except TypeError as exc:
        raise InvalidInput(f"setup: {path_of(setup) or setup!r} must be callable without arguments ({exc})") from exc
    except ValueError:  # no signature to look at, as for some builtins
        pass
    try:
        inspect.signature(fn).bind_partial(None, None)
    except TypeError as exc:
        raise InvalidInput(
            f"task: {path_of(fn) or fn!r} has a setup, so it needs a second positional parameter for what setup returns"
        ) from exc
    except ValueError:
        pass


# --------------------------------------------------------------------------- finding a task by name


def resolve(name: str, *, allow_import: bool, sys_path: Sequence[str] = ()) -> Task:
    """Find a task by ``module:qualname``; only objects marked with `task` can be found.

    A name without a colon, given by the user, is looked for among the modules loaded already.

    Parameters
    ----------
    name : str
        `Task.path`, or a name that the user gave.
    allow_import : bool
        Whether its module may be imported; else it must be loaded already.
    sys_path : sequence of str
        Directories put in front of ``sys.path``, when importing.

    Raises
    ------
    UnknownTask
        There is no such module, it does not load, or what it holds under that name is not a task.
    """
    module_name, colon, qualname = name.partition(":")
    if not colon:
        return _find_named(name)
    if module_name == "__main__" or "<" in qualname:
        raise UnknownTask(
            f"task {name!r} is defined in a notebook cell, a script or inside another function, where no worker "
            "can import it. Move it to the top of a module, or submit the function itself"
        )
    module = sys.modules.get(module_name)
    if allow_import:
        extend_sys_path(sys_path)
        if module is None:
            module = _import(module_name, name)
        _check_origin(module_name, name, sys_path)
    elif module is None:
        raise UnknownTask(
            f"task {name!r}: module {module_name!r} is not loaded by this worker's application. "
            "Import it there (Celery setting 'imports'), and restart the workers"
        )
    found = _attribute(module, qualname)
    if isinstance(found, Task):
        return found
    if found is None:
        raise UnknownTask(
            f"task {name!r}: {module_name} ({_file_of(module)}), as this worker loaded it, has no {qualname!r}. "
            "If the module was edited since, call client.restart_workers()"
        )
    raise UnknownTask(
        f"task {name!r}: {qualname} in {module_name} ({_file_of(module)}) is a {type(found).__name__}, not a task. "
        "Decorate it with @toolkit.task; if that was done since, call client.restart_workers()"
    )


def extend_sys_path(directories: Iterable[str]) -> None:
    """Put absolute directories that are not there yet in front of ``sys.path``, in their order."""
    new = [d for d in directories if Path(d).is_absolute() and d not in sys.path]
    # They stay: functions import their neighbours while they run.
    sys.path[:0] = list(dict.fromkeys(new))


def _import(module_name: str, name: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may be younger than this process
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        raise UnknownTask(
            f"task {name!r}: no module {exc.name!r} on this worker (searched {len(sys.path)} directories, first "
            f"{sys.path[:2]}). Install it there, or start the workers where it can be imported"
        ) from exc
    except (Exception, SystemExit) as exc:  # a script without a __main__ guard may exit
        raise UnknownTask(
            f"task {name!r}: importing {module_name} failed with {type(exc).__name__}: {exc}. "
            "Correct the module, then call client.restart_workers()"
        ) from exc


def _check_origin(module_name: str, name: str, sys_path: Sequence[str]) -> None:
    """Refuse a namesake: another file of the same module name, loaded earlier for another project."""
    top = module_name.partition(".")[0]
    spec = importlib.machinery.PathFinder.find_spec(top, list(sys_path)) if sys_path else None
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if spec is None or not spec.has_location or not spec.origin or not loaded:
        return
    if Path(spec.origin).resolve() != Path(loaded).resolve():
        raise UnknownTask(
            f"task {name!r}: this worker has loaded another module {top!r} from {loaded}, not {spec.origin}. "
            "Rename one of the two, or call client.restart_workers()"
        )


def _attribute(module: ModuleType, qualname: str) -> Any:
    """Follow a qualified name through classes only, so that nothing else is touched; None when absent."""
    first, *rest = qualname.split(".")
    found = vars(module).get(first)
    for part in rest:
        found = getattr(found, part, None) if isinstance(found, type) else None
    return found


def held_by_module(fn: Any) -> bool:
    """Whether a loaded module other than ``__main__`` holds exactly this function (of a partial: its function)."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    module, _, qualname = path_of(fn).partition(":")
    return module != "__main__" and module in sys.modules and _attribute(sys.modules[module], qualname) is fn


def _find_named(name: str) -> Task:
    found = {
        id(value): value
        for module in list(sys.modules.values())
        for value in list(getattr(module, "__dict__", {}).values())
        if type(value) is Task and value.name == name
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        places = ", ".join(sorted(t.path for t in found.values()))
        raise UnknownTask(f"task {name!r}: several tasks have this name ({places}). Rename all but one")
    raise UnknownTask(
        f"task {name!r}: no module loaded by this worker holds a task of this name. Import its module in the "
        "worker's application and restart the workers, or name it as 'module:function'"
    )


def _import_task(path: str) -> Task:
    return resolve(path, allow_import=True)


def _file_of(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built in"
