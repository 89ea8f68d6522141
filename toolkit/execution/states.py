"""What setup functions returned, kept for as long as the process may need it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from toolkit.execution.tasks import STATES, Task

VERSIONS_KEPT: Final = 2
"""States kept under one name, of functions shipped by value or of a module's: the newest two, so that a run of the old
version and one of the new one can take turns, and what was edited ten times does not leave ten models in memory."""


class _Process:
    """Stands for `States` in one process; a fork's is another."""


class States:
    """Calls the setup of a task once, and keeps what it returned.

    A task of a module is one object a process, and its state lives as long as the task, which holds it. One that was
    edited is another object under the same name. A function shipped by value arrives as a new object with each run, so
    its state is kept by digest.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._process = _Process()
        self._tasks: dict[tuple[str, str], list[ref[Task]]] = {}
        self._of_functions: dict[str, dict[str, Any]] = {}
        self._pid = os.getpid()
        self._lock = threading.RLock()  # reentrant: a setup may run a task inline that has one itself

    def get(self, task: Task) -> Any:
        """Return the state of `task`, calling its setup if this process has not done so.

        Whatever the setup raises comes through, and the next call tries again.
        """
        if task.setup is None:
            return None
        if self._pid != os.getpid():
            self._reset()  # connections and threads do not survive a fork, and a lock may be held for ever
        with self._lock:
            if not task.digest:
                return self._of_task(task, task.setup)
            versions = self._of_functions.setdefault(task.name, {})
            # Taken out and put back: the dict is in the order of use.
            state = versions.pop(task.digest) if task.digest in versions else task.setup()
            versions[task.digest] = state
            while len(versions) > VERSIONS_KEPT:
                del versions[next(iter(versions))]
            return state

    def _of_task(self, task: Task, setup: Callable[[], Any]) -> Any:
        # Not in a WeakKeyDictionary of tasks: a state of a class of the task's module would hold the task there for
        # ever.
        states = vars(task).get(STATES)
        if states is None:
            states = vars(task)[STATES] = WeakKeyDictionary()
        if self._process not in states:
            states[self._process] = setup()
        versions = self._tasks.setdefault((task.name, task.path), [])
        if not versions or versions[-1]() is not task:
            versions[:] = [other for other in versions if other() not in (None, task)] + [ref(task)]
            while len(versions) > VERSIONS_KEPT:
                oldest = versions.pop(0)()
                if oldest is not None:
                    vars(oldest)[STATES].pop(self._process, None)
        return states[self._process]


PROCESS_STATES: Final = States()
"""The states of this process: "once a process" leaves no other place to keep them."""
