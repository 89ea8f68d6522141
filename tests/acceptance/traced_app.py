"""A Celery application that its owner traces with OpenTelemetry, and, when executed, a client of it.

Spans are written to one file a process in the folder ``TRACED_SPANS``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from celery import Celery
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import toolkit

FOLDER = Path(os.environ["TRACED_SPANS"])


class FileExporter(SpanExporter):
    """Appends each span to a file of its process."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with (FOLDER / f"{os.getpid()}.jsonl").open("a") as file:
            file.writelines(span.to_json(indent=None) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()

app = Celery("traced", broker=os.environ["SHARED_BROKER"], set_as_current=False)
app.conf.task_ignore_result = True
app.conf.task_default_queue = "traced"
toolkit.install(app, ledger_url=os.environ["SHARED_LEDGER"])


@app.task(name="traced.price")
def price(x: int) -> int:
    """Work under a span of the user's own."""
    with trace.get_tracer("shop").start_as_current_span("lookup", attributes={"shop.item": x}):
        return 2 * x


@app.task(name="traced.deadly")
def deadly(x: int, folder: str = "") -> int:
    """Kill the process with item 5, the first time."""
    first = Path(folder) / "died"
    if x == 5 and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@app.task(name="traced.gated")
def gated(x: int, folder: str = "") -> int:
    """Wait until the file `gate` is there."""
    (Path(folder) / f"{os.getppid()}").touch()  # this node is at work
    deadline = time.monotonic() + 60
    while not (Path(folder) / "gate").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return x


def main(task: str, n: int, kwargs: dict[str, str]) -> None:
    """Submit a run under a span, wait for its results, and say what it was."""
    from toolkit.client import Client

    with Client(app=app) as client, trace.get_tracer("notebook").start_as_current_span("cell"):
        run = client.map(task, range(n), kwargs=kwargs, batch_size=4)
        results = run.results(90)
    ours = run.spec.trace["traceparent"].split("-")[1]
    print(json.dumps({"run_id": run.run_id, "results": results, "batches": run.status().batches, "trace": ours}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
