"""An existing Celery application, as a user has it, with one line added."""

from __future__ import annotations

import os

from celery import Celery, Task

import toolkit

app = Celery("shared", broker=os.environ["SHARED_BROKER"], set_as_current=False)
app.conf.task_ignore_result = True
app.conf.task_routes = {"shop.routed": {"queue": "special"}}
app.conf.imports = ("tests.acceptance.shop",)
if os.environ.get("SHARED_TIME_LIMIT"):
    app.conf.task_time_limit = float(os.environ["SHARED_TIME_LIMIT"])
    app.conf.task_soft_time_limit = app.conf.task_time_limit / 2
if os.environ.get("SHARED_VERSION"):
    # another version of the package on this node
    from toolkit import _version
    from toolkit.transport import node, servant

    _version.__version__ = node.__version__ = servant.__version__ = os.environ["SHARED_VERSION"]
toolkit.install(app, ledger_url=os.environ["SHARED_LEDGER"])


@app.task(name="shop.square")
def square(x: int) -> int:
    """Return the square."""
    return x * x


@app.task(name="shop.routed")
def routed(x: int) -> int:
    """Live on a queue of its own."""
    return -x


@app.task(bind=True, name="shop.retrying", max_retries=3)
def retrying(self: Task, x: int) -> tuple[int, int]:
    """Ask for a retry by Celery's own verb until the third attempt."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.01, exc=ValueError("not yet"))
    return x, self.request.retries


@app.task(name="shop.auto", autoretry_for=(KeyError,), max_retries=1, retry_backoff=False, default_retry_delay=0.01)
def auto(x: int) -> int:
    """Fail for ever, with one automatic retry."""
    raise KeyError(x)
