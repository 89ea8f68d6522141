"""Celery applications: the user's, found by name, and one of our own for a LocalCluster."""

from __future__ import annotations

import sys
from pathlib import Path

from celery import Celery

from toolkit.errors import InvalidInput

App = Celery
"""What other rooms call an application, without knowing whose it is."""


def task_names(app: Celery) -> list[str]:
    """Tasks registered in the application, without Celery's and this package's own."""
    return [t for t in app.tasks if not t.startswith(("celery.", "toolkit."))]


def make_app(broker_url: str, queue: str, name: str = "toolkit") -> Celery:
    """Return a Celery application with the settings that tickets want.

    Parameters
    ----------
    broker_url : str
        Broker, without a secret where it can be seen.
    queue : str
        The one queue it uses.
    """
    app = Celery(name, broker=broker_url, set_as_current=False, fixups=[])
    app.conf.update(
        task_default_queue=queue,
        accept_content=["json"],  # a message is data: one that would have to be unpickled is refused
        result_accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_disable_prefetch=True,  # a ticket waits at the broker, not behind a busy worker
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=True,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A server that is out of memory refuses what the transport notes of a message: without this the node would end.
        broker_channel_error_retry=True,
        broker_connection_timeout=4.0,
        broker_heartbeat=0,
        broker_transport_options={
            "socket_timeout": 10.0,
            "socket_connect_timeout": 4.0,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "priority_steps": [0, 3, 6, 9],
            "queue_order_strategy": "priority",
        },
        enable_utc=True,
    )
    return app


def load_app(app: Celery | str) -> Celery:
    """Return an application, imported when it is given by name.

    Raises
    ------
    InvalidInput
        It cannot be imported, or is no Celery application.
    """
    found = _imported(app) if isinstance(app, str) else app
    if not isinstance(found, Celery):
        raise InvalidInput(
            f"Client(app=...): expected a Celery application or its 'package.module:attribute', got "
            f"{type(found).__name__}; a LocalCluster is passed as Client(cluster=...)"
        )
    return found


def _imported(app: str) -> object:
    from celery.app.utils import find_app

    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: object = find_app(app)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"Client(app={app!r}): cannot import it ({error}); expected 'package.module:attribute' of a Celery "
            "application, importable from here"
        ) from error
    return found
