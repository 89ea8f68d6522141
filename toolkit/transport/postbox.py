"""Tickets that a node's main process sends: handed over at once, published by a thread of their own.

The main process renews leases. A broker that is frozen, cut off or slow must not keep it from that, and a driver of the
broker may wait for ever where the application sets no time limit.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from celery import Celery

from toolkit.errors import LedgerError, TransportError
from toolkit.ledger import Ledger
from toolkit.records import RunSpec
from toolkit.transport.tickets import count_lacking, publish

logger = logging.getLogger(__name__)

_MOST_RUNS = 1000
_SLOW_S = 5.0
_TIMEOUTS = {"socket_timeout": 10.0, "socket_connect_timeout": 4.0, "socket_keepalive": True}
_REDIS = ("redis", "rediss", "redis+socket", "sentinel")


class Postbox:
    """Publishes the tickets that runs lack.

    A run has one entry at most, the latest, so that nothing piles up behind a broker that is away. Its tickets are
    counted in the ledger only when their turn comes, and no more of them than the run still lacks. What finds no room,
    or is not published, is lost without harm: a sweep soon sees that the run lacks it.

    Parameters
    ----------
    app : celery.Celery
        Names the broker; the connection is the postbox's own.
    ledger : Ledger
        Where tickets are counted.
    """

    def __init__(self, app: Celery, ledger: Ledger) -> None:
        self._app = app
        self._ledger = ledger
        self._lacking: dict[str, tuple[RunSpec, int]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._away = False
        self._began = math.inf
        self._broker: Any = None
        self._thread = threading.Thread(target=self._run, name="toolkit-postbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, unless it waits for the broker: then it ends with its process."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    @property
    def away(self) -> bool:
        """Whether the broker took no tickets when they were last sent, or has not for some seconds now."""
        return self._away or time.monotonic() - self._began > _SLOW_S

    def put(self, spec: RunSpec, n: int) -> None:
        """Publish `n` tickets of a run soon, in place of those of it that were not published yet."""
        with self._changed:
            if spec.run_id in self._lacking or len(self._lacking) < _MOST_RUNS:
                self._lacking[spec.run_id] = spec, n
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lacking or self._stopped)
                if self._stopped:
                    return
                spec, n = self._lacking.pop(next(iter(self._lacking)))
            try:
                self._began = time.monotonic()
                self._send(spec, n)
                if self._away:
                    logger.warning("the broker takes tickets again")
                self._away = False
            except (LedgerError, TransportError) as error:
                self._hang_up()
                if not self._away:
                    logger.warning(
                        "run %s: tickets were not sent, a sweep will ask for them again: %s", spec.run_id, error
                    )
                self._away = True
            except Exception:
                self._hang_up()
                logger.exception("run %s: tickets were not sent, a sweep will ask for them again", spec.run_id)
            finally:
                self._began = math.inf

    def _send(self, spec: RunSpec, n: int) -> None:
        ticket_ids = count_lacking(self._ledger, spec, n)
        if not ticket_ids:
            return
        fresh = self._broker is None
        try:
            publish(self._app, spec, ticket_ids, producer=self._producer())
        except TransportError:
            if fresh:
                raise
            self._hang_up()  # the connection was perhaps only idle for longer than the broker likes
            publish(self._app, spec, ticket_ids, producer=self._producer())

    def _producer(self) -> Any:
        if self._broker is None:
            self._broker = self._app.connection_for_write(transport_options=time_limits(self._app))
        return self._app.amqp.Producer(self._broker, auto_declare=False)

    def _hang_up(self) -> None:
        broker, self._broker = self._broker, None
        try:
            if broker is not None:
                broker.release()
        except Exception as error:  # noqa: BLE001 - it is broken, in whichever way its driver says so
            logger.debug("the broken connection to the broker was not closed (%s)", error)


def time_limits(app: Celery) -> dict[str, Any]:
    """Transport options with which no call waits for ever, as far as the application sets none of its own."""
    scheme = str(app.conf.broker_write_url or app.conf.broker_url or "amqp").split(":", 1)[0]
    return (
        {k: v for k, v in _TIMEOUTS.items() if k not in app.conf.broker_transport_options} if scheme in _REDIS else {}
    )
