"""Tasks, and the execution of a batch. Pure: knows neither the server nor Celery.

===============  ===================================================================
`tasks`          what may run, and how a worker finds it by name
`functions`      functions shipped by value, signed
`modules`        the user's modules, and whether they were edited since they were loaded
`runner`         the loop over the items of a batch
`failures`       what becomes of an item that failed
`parts`          what the runner hands over: results, failures, measurements
`states`         what setup functions returned
`context`        which item is being executed
`guarding`       the shape of a guard; the guards themselves are a room above
===============  ===================================================================
"""

from toolkit.execution.context import ItemContext, Slot, current_item
from toolkit.execution.failures import Failure
from toolkit.execution.functions import dump_function, load_function, read_key
from toolkit.execution.guarding import Guard
from toolkit.execution.modules import Modules
from toolkit.execution.parts import Part, Stats
from toolkit.execution.runner import Runner
from toolkit.execution.states import States
from toolkit.execution.tasks import Task, as_task, code_version, extend_sys_path, resolve, task

__all__ = [
    "Failure",
    "Guard",
    "ItemContext",
    "Modules",
    "Part",
    "Runner",
    "Slot",
    "States",
    "Stats",
    "Task",
    "as_task",
    "code_version",
    "current_item",
    "dump_function",
    "extend_sys_path",
    "load_function",
    "read_key",
    "resolve",
    "task",
]
