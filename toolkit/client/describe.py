"""From what the user hands over as a task to what a run's spec says about it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.client.notices import say
from toolkit.errors import FunctionNotAllowed, InvalidInput, UnknownTask
from toolkit.execution import Task, as_task, code_version, dump_function, read_key
from toolkit.execution.versions import source_digest
from toolkit.records import NodeInfo, Retry, check_name


@dataclass(frozen=True, slots=True)
class Described:
    """A task, ready to be named in a run's spec.

    Attributes
    ----------
    name : str
        Shown everywhere.
    kind : str
        ``task``, ``function`` or ``celery``.
    path : str
        ``module:qualname`` for the kind ``task``.
    task : Task or None
        The function itself, where this process has it.
    batched : bool
        One call per batch.
    code_version : str
        Digest of its source, empty when unknown here.
    retry : Retry or None
        Its own retry policy.
    sys_path : tuple of str
        Directories that a local worker adds to import it.
    """

    name: str
    kind: str
    path: str
    task: Task | None
    batched: bool
    code_version: str
    retry: Retry | None
    sys_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a client knows about where its runs go.

    Attributes
    ----------
    local : bool
        A LocalCluster of this user and this Python environment.
    celery_tasks : callable
        Names registered in the client's own application.
    nodes : callable
        Nodes alive now.
    function_key_file : pathlib.Path or None
        Key that signs functions shipped by value; None forbids them.
    """

    local: bool
    celery_tasks: Callable[[], Sequence[str]]
    nodes: Callable[[], list[NodeInfo]]
    function_key_file: Path | None


def describe(task: Any, deployment: Deployment) -> Described:
    """Tell the three kinds of task apart.

    Raises
    ------
    UnknownTask
        Nobody knows a task by this name.
    FunctionNotAllowed
        A function that no module holds, on a deployment without a key.
    InvalidInput
        It is not a task at all, or has a name that no run can carry.
    """
    if isinstance(task, str):
        return _by_name(task, deployment)
    if not isinstance(task, Task) and hasattr(task, "apply_async") and hasattr(task, "name"):
        return _celery(str(task.name), deployment)
    if not callable(task):
        raise InvalidInput(
            f"task: {type(task).__name__} is neither a function, a @toolkit.task, nor the name of a registered task"
        )
    made = as_task(task)
    by_reference = isinstance(task, Task) and made.importable
    if not by_reference and deployment.function_key_file is None:
        raise FunctionNotAllowed(
            f"task {made.name!r} would have to be shipped by value, and this deployment does not allow that. Put it in "
            "a module that the Celery application imports and decorate it with @toolkit.task; or give client and "
            "workers a common function_key_file"
        )
    return Described(
        name=made.name, kind="task" if by_reference else "function", path=made.path if by_reference else "", task=made,
        batched=made.batched, code_version=code_version(made), retry=made.retry, sys_path=_sys_path(),
    )  # fmt: skip


def say_if_edited(described: Described, deployment: Deployment) -> None:
    """Tell the user of a module that was edited and not imported again here: local workers run what its file holds."""
    task = described.task
    if described.kind != "task" or task is None or not deployment.local:
        return
    if source_digest(task.fn, task.setup) != task.code_version:
        module = task.path.partition(":")[0]
        say(
            f"The file of task {described.name} was edited since it was imported here: workers run what it holds now. "
            f"For the same in this process: importlib.reload({module})."
        )


def ship(described: Described, run_id: str, deployment: Deployment) -> bytes:
    """The signed function of a run, empty when workers find it by name."""
    if described.kind != "function" or described.task is None:
        return b""
    if deployment.function_key_file is None:
        raise FunctionNotAllowed(f"task {described.name!r}: no key to sign it with; pass function_key_file=...")
    return dump_function(described.task, run_id, read_key(deployment.function_key_file))


def _by_name(name: str, deployment: Deployment) -> Described:
    known = set(deployment.celery_tasks())
    for node in deployment.nodes():
        known.update(node.tasks)
    if name in known:
        return _celery(name, deployment)
    module, colon, qualname = name.partition(":")
    if colon and module in sys.modules and isinstance(getattr(sys.modules[module], qualname, None), Task):
        return describe(getattr(sys.modules[module], qualname), deployment)
    close = difflib.get_close_matches(name, sorted(known), n=3)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    listing = f" Known: {', '.join(sorted(known)[:10])}." if known and not close else ""
    raise UnknownTask(
        f"task {name!r} is registered neither in the client's Celery application nor on any node that is alive."
        f"{hint}{listing} Import its module in the application, restart the workers, or pass the function itself"
    )


def _celery(name: str, deployment: Deployment) -> Described:
    check_name(name, "task name")  # a node declines a run whose spec holds another
    if deployment.local:
        raise UnknownTask(
            f"task {name!r} belongs to a Celery application, and the LocalCluster's workers do not load it. "
            "Use tk.Client(app=...) for that application, or pass a plain function"
        )
    nodes = deployment.nodes()
    if nodes and not any(name in node.tasks for node in nodes):
        raise UnknownTask(
            f"task {name!r} is registered on none of the {len(nodes)} nodes that are alive; restart the workers with "
            "the application that defines it"
        )
    if not nodes and name not in set(deployment.celery_tasks()):
        raise UnknownTask(f"task {name!r} is not registered in the client's Celery application, and no node is alive")
    return Described(name, "celery", "", None, False, "", None, ())


def _sys_path() -> tuple[str, ...]:
    """Where this process finds its modules, beyond what every process of the environment has."""
    own = [str(Path.cwd()) if entry == "" else entry for entry in sys.path]
    return tuple(
        dict.fromkeys(e for e in own if e and not e.startswith((sys.prefix, sys.base_prefix)) and Path(e).is_dir())
    )
