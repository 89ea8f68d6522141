"""Tasks whose import leaves a worker process without metrics: nothing is measured, packed, sent or stored.

Only `costs` names them, for workers of its own. Its own process is left without as well.
"""

from __future__ import annotations

import time

from toolkit.execution import task
from toolkit.guards import Capture, default_guards
from toolkit.records import RunSpec
from toolkit.transport import loop
from toolkit.transport.batch import Tally


def only_capture(spec: RunSpec, passthrough: bool) -> list[object]:
    """Guards without the one that asks the operating system for times and memory."""
    return [guard for guard in default_guards(spec, passthrough=passthrough) if isinstance(guard, Capture)]


loop.default_guards = only_capture  # type: ignore[assignment]
Tally.row = lambda self, part: b""  # type: ignore[method-assign, assignment]


@task
def nap_item(seconds: float) -> float:
    """Sleep."""
    time.sleep(seconds)
    return seconds
