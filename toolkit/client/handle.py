"""A run from afar: an id and a connection, its state, and the verbs that steer it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toolkit.client.arguments import Size
from toolkit.errors import InvalidInput, ToolkitError
from toolkit.execution import Task
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.records import RunSpec, RunStatus, one_line

if TYPE_CHECKING:
    from toolkit.client.background import Submitting

_FRESH_S = 0.04


class Handle:
    """What every part of a run's handle builds on; losing it loses nothing.

    Attributes
    ----------
    run_id : str
        Its id.
    spec : RunSpec
        What it was asked to be.
    """

    def __init__(
        self, ledger: Ledger, registry: Registry, spec: RunSpec, send: Callable[[RunSpec, int], Any],
        task: Task | None = None,
    ) -> None:  # fmt: skip
        self.spec = spec
        self._task = task  # what it was submitted with, where this is the handle that submission returned
        self.run_id = spec.run_id
        self._ledger = ledger
        self._registry = registry
        self._send = send
        self._reader = Reader(ledger.connection, spec.run_id)
        self._lock = threading.Lock()
        self._snapshot: RunStatus | None = None
        self._snapshot_at = 0.0
        self.why_waiting: Callable[[], str] = lambda: ""  # what its LocalCluster is about, where there is one
        self._input: Submitting | None = None

    def attach_input(self, submitting: Submitting) -> None:
        """Remember that this process submits the run's input beside the caller: whoever waits hears what goes wrong."""
        self._input = submitting

    # ------------------------------------------------------------------ look

    def status(self) -> RunStatus:
        """One consistent snapshot, one cheap call; watchers within 40 ms of each other share it.

        Raises
        ------
        RunNotFound
            Its data have expired.
        LedgerUnavailable
            The server does not answer.
        """
        with self._lock:
            if self._snapshot is None or time.monotonic() - self._snapshot_at > _FRESH_S:
                self._snapshot = self._ledger.status(self.run_id, self.spec)
                self._snapshot_at = time.monotonic()
            return self._snapshot

    # ------------------------------------------------------------------ steer

    def cancel(self, terminate: bool = False, grace_s: float = 30.0, *, reason: str = "") -> RunStatus:
        """Stop the run: nothing more is claimed, running batches end at their next item.

        Parameters
        ----------
        terminate : bool
            Kill what still runs after the grace time; nobody is blamed for it.
        grace_s : float
            Seconds from now, used with `terminate`.
        reason : str
            Why, for whoever looks at the run later.

        Raises
        ------
        InvalidInput
            `grace_s` is negative or no number.
        """
        if not 0 <= grace_s < math.inf:
            raise InvalidInput(f"cancel(grace_s={grace_s!r}): seconds from 0 on, for example grace_s=30")
        self._ledger.steer(self.run_id, "cancel", one_line(reason), grace_s if terminate else None)
        return self._fresh()

    def pause(self, reason: str = "") -> RunStatus:
        """Claim nothing more; what is claimed is finished."""
        self._ledger.steer(self.run_id, "pause", one_line(reason))
        return self._fresh()

    def resume(self) -> RunStatus:
        """Go on after a pause, whoever asked for it: you, a rule of `Retry`, or its breaker."""
        self._ledger.steer(self.run_id, "resume")
        self._wake()
        return self._fresh()

    def update(self, *, batch_size: float | str | None = None, max_workers: int | str | None = None) -> RunStatus:
        """Change batch size or worker cap for what is not yet claimed; ``"auto"`` gives it back to the controller.

        The batch size is in weight where items have weights.

        Raises
        ------
        InvalidInput
        """
        size = Size.parse(
            "auto" if batch_size is None else batch_size, "auto" if max_workers is None else max_workers,
            weighted=self.spec.weighted,
        )  # fmt: skip
        wanted = size.batch_size if size.weight_size is None else size.weight_size
        detail = ", ".join(
            f"{k}={v}" for k, v in (("batch_size", batch_size), ("max_workers", max_workers)) if v is not None
        )
        self._ledger.update(
            self.run_id, batch_size=None if batch_size is None else wanted,
            auto=None if batch_size is None else size.auto,
            max_workers=None if max_workers is None else size.max_workers, detail=detail,
        )  # fmt: skip
        self._wake()
        return self._fresh()

    # ------------------------------------------------------------------ inside

    def _check_input(self, wanted: bool = True) -> None:
        """Raise what ended the input too early, where this process submits it."""
        if wanted and self._input is not None:
            self._input.check()

    def _fresh(self) -> RunStatus:
        with self._lock:
            self._snapshot = None
        return self.status()

    def _wake(self) -> None:
        """Send a ticket now; the sweeper would within a second."""
        try:
            self._send(self.spec, 1)
        except ToolkitError:
            return  # the sweeper repairs it
