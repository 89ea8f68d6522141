"""The work that benchmarks measure: about 50 microseconds of pure CPU an item."""

from __future__ import annotations

import os
from hashlib import sha256
from time import perf_counter

from celery import Celery

from toolkit.execution import task

ROUNDS = int(os.environ.get("SPIN_ROUNDS", "110"))


def spin(x: int) -> int:
    """Hash a number `ROUNDS` times."""
    h = b"%d" % x
    for _ in range(ROUNDS):
        h = sha256(h).digest()
    return h[0] << 8 | h[1]


@task
def spin_item(x: int) -> int:
    """Hash a number, as a task of this package."""
    h = b"%d" % x
    for _ in range(ROUNDS):
        h = sha256(h).digest()
    return h[0] << 8 | h[1]


def calibrate(target_s: float = 50e-6) -> int:
    """Rounds that take `target_s` on this machine, now."""
    best = min(_time(1000) for _ in range(5))
    return max(1, int(ROUNDS * target_s / best))


def _time(n: int) -> float:
    began = perf_counter()
    for i in range(n):
        spin(i)
    return (perf_counter() - began) / n


def chunks_app() -> Celery:
    """A plain Celery application for the peer, with results."""
    app = Celery("peer", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_BACKEND"], set_as_current=False)
    app.conf.update(task_default_queue="peer", worker_send_task_events=False, broker_connection_retry_on_startup=True)
    app.task(name="peer.spin")(spin)
    return app


if "PEER_BROKER" in os.environ:
    app = chunks_app()
