"""Spans of tickets, batches and lost batches, in the trace of the run's submission.

OpenTelemetry is never imported from here: where the application (or ``opentelemetry-instrument``) has loaded it and set
a tracer provider, it is used, else a batch costs a look at that. Spans of messages are made by OpenTelemetry's
instrumentation of Celery; what is added is what it cannot know: which trace a run belongs to, and its batches.

The context of the submission travels with the run's spec, not only with its tickets: those that a sweeper sends, hours
later and from another machine, are in the same trace.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from toolkit.errors import LedgerError
from toolkit.ledger import Claim, Ledger, Range, Reader
from toolkit.records import RunSpec, one_line

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Tracer

logger = logging.getLogger(__name__)

_NAME: Final = "toolkit"
_OFF: Final[AbstractContextManager[None]] = nullcontext()
_KEYS: Final = ("traceparent", "tracestate")
_LOST: Final = "lost_batch"
"""Kind of the remark in a run's events that names the span of a lost batch: its context, then its ranges of items."""
_RANGES_NOTED: Final = 30
_LOOKED_AT: Final = 200


def active() -> bool:
    """Whether this process is traced: libraries load OpenTelemetry wherever it is there, only owners configure it."""
    trace = sys.modules.get("opentelemetry.trace")
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def tracer() -> Tracer:
    """The application's tracer for this package; only where `active`."""
    from opentelemetry import trace

    return trace.get_tracer(_NAME)


def carrier() -> dict[str, str]:
    """The current trace in the words of W3C Trace Context; empty without one. Baggage is left out: it is not ours."""
    if not active():
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(found)
    return {name: found[name] for name in _KEYS if name in found}


def _context(stored: Mapping[str, str]) -> Context | None:
    """The context that a carrier tells of, None where it tells of none; whoever wrote it may have written anything."""
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    known = {k: v for k, v in stored.items() if k in _KEYS and isinstance(v, str)} if isinstance(stored, dict) else {}
    context = TraceContextTextMapPropagator().extract(known, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def ticket(spec: RunSpec) -> AbstractContextManager[None]:
    """Publish inside: the messages belong to the run's trace, whoever sends them."""
    return _attached(spec) if active() and spec.trace else _OFF


@contextmanager
def _attached(spec: RunSpec) -> Iterator[None]:
    from opentelemetry import context as current

    context = _context(spec.trace)
    if context is None:
        yield
        return
    token = current.attach(context)
    try:
        yield
    finally:
        current.detach(token)


def batch(ledger: Ledger, spec: RunSpec, claim: Claim) -> AbstractContextManager[None]:
    """Execute a batch inside: its span is the parent of what user code makes."""
    return _batch(ledger, spec, claim) if active() else _OFF


@contextmanager
def _batch(ledger: Ledger, spec: RunSpec, claim: Claim) -> Iterator[None]:
    from opentelemetry import trace

    around = trace.get_current_span().get_span_context()
    submitted = _context(spec.trace)
    parent: Context | None = None
    links: list[Link] = []
    if submitted is not None and trace.get_current_span(submitted).get_span_context().trace_id != around.trace_id:
        # The ticket came without its trace: a node or a broker that passes no headers on.
        parent = submitted
        links += [trace.Link(around)] if around.is_valid else []
    if any(r.suspicions or r.alone for r in claim.ranges):
        links += _lost_before(ledger, spec, claim.ranges)
    attributes = _attributes(spec, claim.claim_id) | {
        "toolkit.items": len(claim) - claim.offset,
        "toolkit.first_index": claim.ranges[0].start,
        "toolkit.attempt": max(claim.attempts()),
        "toolkit.suspicions": max(r.suspicions for r in claim.ranges),
    }
    name = f"batch {one_line(spec.task)}"
    with tracer().start_as_current_span(name, context=parent, links=links, attributes=attributes):
        yield


def _attributes(spec: RunSpec, claim_id: bytes) -> dict[str, Any]:
    return {"toolkit.run_id": spec.run_id, "toolkit.task": one_line(spec.task), "toolkit.claim_id": claim_id.hex()}


# --------------------------------------------------------------------------- lost batches


def lost(ledger: Ledger, spec: RunSpec, claim_id: bytes, category: str, position: int) -> None:
    """Make the span that a dead worker could not end, and leave its name for those that try its items again.

    Called before the loss is reported, while the claim still stands; does nothing in a process that is not traced.

    Parameters
    ----------
    category : str
        Why the process died.
    position : int
        Offset in the claim of the item it was on, negative when unknown.
    """
    _lose(ledger, spec, category, lambda claim, _worker: claim == claim_id, position)


def lost_with(ledger: Ledger, spec: RunSpec, workers: Sequence[int]) -> None:
    """The same for all that workers held whose node died; `workers` are their codes in the run."""
    _lose(ledger, spec, "worker_lost", lambda _claim, worker: worker in workers, -1)


def _lose(
    ledger: Ledger, spec: RunSpec, category: str, wanted: Callable[[bytes, int], bool], position: int
) -> None:  # fmt: skip
    if not active():
        return
    from opentelemetry import trace

    try:
        for claim_id, claim in Reader(ledger.connection, spec.run_id).claims().items():
            if not wanted(claim_id, claim.worker):
                continue
            span = tracer().start_span(
                f"batch {one_line(spec.task)}", context=_context(spec.trace), start_time=claim.at_ms * 1_000_000,
                attributes=_attributes(spec, claim_id)
                | {"toolkit.lost": True, "toolkit.category": category, "toolkit.committed": claim.offset}
                | ({"toolkit.position": position} if position >= 0 else {}),
            )  # fmt: skip
            span.set_status(trace.StatusCode.ERROR, f"its process died: {category}")
            with trace.use_span(span, end_on_exit=True):
                parts = [f"{r.start}-{r.stop}" for r in claim.ranges[:_RANGES_NOTED]]
                ledger.note(spec.run_id, _LOST, f"{carrier().get('traceparent', '')} {','.join(parts)}")
    except (LedgerError, ValueError) as error:
        logger.debug("run %s: a lost batch is not in its trace (%s)", spec.run_id, error)


def _lost_before(ledger: Ledger, spec: RunSpec, ranges: Sequence[Range]) -> list[Link]:
    """Links to the lost batches that had some of these items."""
    from opentelemetry import trace

    links = []
    try:
        for _, fields in Reader(ledger.connection, spec.run_id).latest_events(_LOOKED_AT):
            if fields.get("event") != _LOST:
                continue
            parent, _, text = fields.get("detail", "").partition(" ")
            spans = [tuple(map(int, part.split("-"))) for part in text.split(",")]
            context = _context({"traceparent": parent})
            if context is not None and any(a < r.stop and r.start < b for a, b in spans for r in ranges):
                links.append(trace.Link(trace.get_current_span(context).get_span_context()))
    except (LedgerError, ValueError) as error:
        logger.debug("run %s: its lost batches are not linked (%s)", spec.run_id, error)
    return links
