"""Sending tickets: what a client asks the broker for, and what it does while the broker is away."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from toolkit.errors import TransportError

if TYPE_CHECKING:
    from toolkit.ledger import Ledger, Registry
    from toolkit.records import RunSpec
    from toolkit.transport import App

logger = logging.getLogger(__name__)

BROKER_REST_S: Final = 30.0
"""How long a submission sends no tickets to a broker that took none."""


class Sender:
    """Sends tickets of runs through one Celery application.

    Parameters
    ----------
    app : celery.Celery
        Whose broker takes them.
    ledger, registry
        Where tickets are counted, and nodes are known.
    """

    def __init__(self, app: App, ledger: Ledger, registry: Registry) -> None:
        self._app, self._ledger, self._registry = app, ledger, registry

    def issue(self, spec: RunSpec, n: int) -> int:
        """Count `n` new tickets of a run and send them; returns how many it took.

        Raises
        ------
        TransportError
            The broker does not take them.
        """
        from toolkit.transport import issue

        return issue(self._app, self._ledger, spec, n)

    def of_submission(self, spec: RunSpec) -> Callable[[int], None]:
        """Return what sends a submission's tickets; where the broker takes none, the sweeper sends others."""
        not_before = -math.inf

        def send(n: int) -> None:
            nonlocal not_before
            if time.monotonic() < not_before:
                return
            try:
                self.issue(spec, n)
            except TransportError as error:
                if not self._registry.nodes():
                    raise
                logger.warning("run %s: %s. Nodes that reach it send tickets instead", spec.run_id, error)
                # a broker that is away costs each attempt some seconds, and the items wait for no ticket of ours
                not_before = time.monotonic() + BROKER_REST_S

        return send
