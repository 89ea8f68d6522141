"""The span of a submission, where OpenTelemetry is in use; its tickets and batches are made its children."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from toolkit.records import one_line

if TYPE_CHECKING:
    from toolkit.client.run import Run

P = ParamSpec("P")


def submission(method: Callable[P, Run]) -> Callable[P, Run]:
    """Put a span around a method that submits a run; without OpenTelemetry, nothing."""

    @wraps(method)
    def submit(*args: P.args, **kwargs: P.kwargs) -> Run:
        if not _loaded():
            return method(*args, **kwargs)
        from toolkit.transport import tracing

        if not tracing.active():
            return method(*args, **kwargs)
        with tracing.tracer().start_as_current_span("submit") as span:
            run = method(*args, **kwargs)
            span.update_name(f"submit {one_line(run.spec.task)}")
            span.set_attributes({"toolkit.run_id": run.run_id, "toolkit.task": one_line(run.spec.task)})
            return run

    return submit


def carrier() -> dict[str, str]:
    """What a run's spec keeps of the trace that it was submitted in; empty without one."""
    if not _loaded():
        return {}
    from toolkit.transport import tracing

    return tracing.carrier()


def _loaded() -> bool:
    return "opentelemetry.trace" in sys.modules  # asked before anything of transport, which would load Celery
