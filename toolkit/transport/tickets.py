"""Tickets: Celery messages that say only "a free worker may take batches of run R".

Losing, doubling, delaying or forging one does no harm: what is done, and by whom, is decided in the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from toolkit.errors import TransportError
from toolkit.ledger import TICKET_EXPIRY_S, Ledger
from toolkit.records import PRIORITIES, RunSpec
from toolkit.settings import redact_url
from toolkit.transport import tracing

_NO_LIMIT_S = 10 * 365 * 86_400
"""Celery's own limits would end the worker of an application that sets some for its tasks: none for a ticket."""

TICKET = "toolkit.ticket"
"""Name of the Celery task that every node registers."""


def new_ticket_id() -> str:
    """A fresh ticket id."""
    return os.urandom(16).hex()


def message_priority(app: Celery, priority: str) -> int:
    """Broker priority of a run's priority: on Redis 0 is the most pressing, on AMQP 9 is."""
    step = 3 * PRIORITIES.index(priority)
    scheme = str(app.conf.broker_url or "amqp").split(":", 1)[0]
    return step if scheme in ("amqp", "amqps", "pyamqp") else 9 - step


def publish(app: Celery, spec: RunSpec, ticket_ids: Sequence[str], hop: int = 0, producer: Any = None) -> None:
    """Send tickets of a run to its queue, by a producer of the application's pool where none is given.

    Raises
    ------
    TransportError
        The broker does not take them; the run itself is safe, and a sweeper sends them later.
    """
    options: dict[str, Any] = {
        "queue": spec.queue,
        "priority": message_priority(app, spec.priority),
        "expires": TICKET_EXPIRY_S,
        "time_limit": _NO_LIMIT_S,
        "soft_time_limit": _NO_LIMIT_S,
        "ignore_result": True,
        "shadow": spec.task,
        "retry": False,
        "argsrepr": f"({spec.run_id!r},)",
    }
    broker = app.connection_for_write()  # names the errors of its transport; it connects to nothing
    try:
        with tracing.ticket(spec), app.producer_or_acquire(producer) as sender:
            for ticket_id in ticket_ids:
                app.send_task(TICKET, (spec.run_id, ticket_id, hop), producer=sender, **options)
    except (OSError, OperationalError, *broker.connection_errors, *broker.channel_errors) as error:
        raise TransportError(
            f"the broker {redact_url(str(app.conf.broker_url))} does not take tickets ({type(error).__name__}); "
            "items are safe in the ledger. Check the broker; toolkit doctor tells more"
        ) from error


def issue(app: Celery, ledger: Ledger, spec: RunSpec, n: int) -> int:
    """Count `n` new tickets in the ledger and publish them; returns how many the run took."""
    ticket_ids = [new_ticket_id() for _ in range(n)]
    if not ledger.register_tickets(spec.run_id, ticket_ids):
        return 0
    publish(app, spec, ticket_ids)
    return n


def count_lacking(ledger: Ledger, spec: RunSpec, n: int) -> list[str]:
    """Count at most `n` new tickets in the ledger, as many as the run lacks by now, and return these."""
    ticket_ids = [new_ticket_id() for _ in range(n)]
    return ticket_ids[: ledger.register_tickets(spec.run_id, ticket_ids, lacking=True)]
