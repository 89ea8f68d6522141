"""An existing Celery application of which nothing is known but its tasks, with one line added."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task

import toolkit

app = Celery("plain", broker=os.environ["PLAIN_BROKER"], set_as_current=False)
app.conf.update(
    result_backend=os.environ.get("PLAIN_BACKEND"),
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
    task_acks_late=False,
    worker_prefetch_multiplier=1,
)
toolkit.instrument(
    app,
    items=lambda task, args, kwargs: len(args[0]) if args and isinstance(args[0], list) else 1,
    tags=lambda task, args, kwargs: {"customer": kwargs["customer"]} if "customer" in kwargs else {},
    buffer_rows=int(os.environ.get("PLAIN_BUFFER", "10000")),
)


@app.task(name="plain.total")
def total(numbers: list[int], customer: str = "") -> int:
    """Add numbers up."""
    return sum(numbers)


@app.task(name="plain.burn")
def burn(seconds: float, megabytes: int = 0) -> int:
    """Use the processor, and memory."""
    block = bytearray(megabytes * 1024 * 1024)
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return len(block)


@app.task(name="plain.fail")
def fail() -> None:
    """Fail."""
    raise ValueError("no")


@app.task(name="plain.again", bind=True, max_retries=3)
def again(self: Task) -> int:
    """Ask for one retry."""
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(name="plain.die")
def die() -> None:
    """Take the process along."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="plain.leave")
def leave() -> None:
    """End the process."""
    raise SystemExit(3)


@app.task(name="plain.over", time_limit=0.2)
def over(seconds: float) -> None:
    """Take too long."""
    time.sleep(seconds)


@app.task(name="plain.linger")
def linger(path: str, seconds: float) -> None:
    """Say that it has begun, and go on."""
    Path(path).touch()
    time.sleep(seconds)


@app.task(name="plain.note", ignore_result=True)
def note(path: str, value: Any) -> None:
    """Leave a trace without the server."""
    with Path(path).open("a") as file:
        file.write(f"{value}\n")
