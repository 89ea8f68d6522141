"""Guards: one concern, one file, one shape, put around the user code of a batch.

A guard has `enter`, `leave` and `logs` (`toolkit.execution.Guard`) and a class method ``for_run`` that makes it.
What runs, and in which order, is the list below. A new guard is a new file and a line here.
"""

from __future__ import annotations

from typing import Final

from toolkit.execution import Guard
from toolkit.guards.capture import Capture
from toolkit.guards.resources import Resources
from toolkit.records import RunSpec

__all__ = ["GUARDS", "Capture", "Resources", "default_guards"]

GUARDS: Final = (
    Capture,  # outermost, so that what other guards print is kept as well
    Resources,  # innermost, so that it measures user code and not the other guards
)
"""The guards of every run, the first one outermost."""


def default_guards(spec: RunSpec, passthrough: bool) -> list[Guard]:
    """Make the guards for one run in this process.

    Parameters
    ----------
    spec : RunSpec
        The run.
    passthrough : bool
        True where the process belongs to the user (inline runs): what items print still appears, and nothing of
        the process is reset. False on a worker.
    """
    return [guard.for_run(spec, passthrough) for guard in GUARDS]
