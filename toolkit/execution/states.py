"""What setup functions returned, kept for as long as the process may need it."""

from __future__ import annotations

import os
import threading
from typing import Any, Final
from weakref import WeakKeyDictionary

from toolkit.execution.tasks import Task

VERSIONS_KEPT: Final = 2
"""States kept of functions shipped by value under one name: the newest two, so that a run of the old version and
one of the new one can take turns, and a cell that was edited ten times does not leave ten models in memory."""


class States:
    """Calls the setup of a task once, and keeps what it returned.

    A task of a module is one object a process, and its state lives as long as the task. A function shipped by
    value arrives as a new object with each run, so its state is kept by digest.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._of_tasks: WeakKeyDictionary[Task, Any] = WeakKeyDictionary()
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
                if task not in self._of_tasks:
                    self._of_tasks[task] = task.setup()
                return self._of_tasks[task]
            versions = self._of_functions.setdefault(task.name, {})
            # Taken out and put back: the dict is in the order of use.
            state = versions.pop(task.digest) if task.digest in versions else task.setup()
            versions[task.digest] = state
            while len(versions) > VERSIONS_KEPT:
                del versions[next(iter(versions))]
            return state


PROCESS_STATES: Final = States()
"""The states of this process: "once a process" leaves no other place to keep them."""
