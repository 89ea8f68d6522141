"""The negative control's application: plain Celery as its documentation advises for work that must not be lost."""

from __future__ import annotations

import os
import time

from celery import Celery

from tests.chaos import BROKER, QUEUE
from tests.chaos.journal import Event, note

app = Celery("plain", broker=os.environ[BROKER], set_as_current=False)
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)


@app.task(name="plain.chunk")  # type: ignore[untyped-decorator]  # celery is untyped
def chunk(run: int, start: int, stop: int, pause_s: float) -> None:
    """Execute a few items."""
    for index in range(start, stop):
        note(run, Event.STARTED, index, 1)
        time.sleep(pause_s)
        note(run, Event.FINISHED, index, 1)
