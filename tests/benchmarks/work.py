"""The work that benchmarks measure: 50 microseconds or 5 milliseconds of pure CPU an item, or a sleep."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from random import Random

from celery import Celery

from toolkit.execution import task

ROUNDS = int(os.environ.get("SPIN_ROUNDS", "110"))
LONG = 100
"""How many times longer a long item takes than a short one."""


def _hashed(x: int, rounds: int) -> int:
    h = b"%d" % x
    for _ in range(rounds):
        h = sha256(h).digest()
    return h[0] << 8 | h[1]


def spin(x: int) -> int:
    """Hash a number `ROUNDS` times: about 50 microseconds."""
    return _hashed(x, ROUNDS)


def spin_long(x: int) -> int:
    """Hash a number `LONG` times as often: about 5 milliseconds."""
    return _hashed(x, ROUNDS * LONG)


def nap(seconds: float) -> float:
    """Sleep."""
    time.sleep(seconds)
    return seconds


# The same as tasks of this module, which workers import. A task made of a function above would be shipped by value.


@task
def spin_item(x: int) -> int:
    """As `spin`."""
    return _hashed(x, ROUNDS)


@task
def spin_long_item(x: int) -> int:
    """As `spin_long`."""
    return _hashed(x, ROUNDS * LONG)


@task
def nap_item(seconds: float) -> float:
    """As `nap`."""
    time.sleep(seconds)
    return seconds


@task
def no_item(x: object) -> None:
    """Do nothing: the items are as short as items can be."""


def naps(n: int = 400) -> list[float]:
    """Seconds to sleep: heavy-tailed, the same in every round."""
    random = Random(7)
    return [min(random.lognormvariate(-4.6, 1.2), 1.0) for _ in range(n)]


def calibrate(target_s: float = 50e-6) -> int:
    """Rounds that take `target_s` of processor time on this machine."""
    best = min(_time(1000) for _ in range(5))
    return max(1, int(ROUNDS * target_s / best))


def _time(n: int) -> float:
    began = time.process_time()
    for i in range(n):
        spin(i)
    return (time.process_time() - began) / n


def plain_app() -> Celery:
    """A plain Celery application for the peers, with results."""
    app = Celery("peer", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_BACKEND"], set_as_current=False)
    app.conf.update(task_default_queue="peer", worker_send_task_events=False, broker_connection_retry_on_startup=True)
    for function in (spin, spin_long, nap):
        app.task(name=f"peer.{function.__name__}")(function)
    return app


if "PEER_BROKER" in os.environ:
    app = plain_app()
