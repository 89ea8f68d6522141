"""The shape of a guard, and how guards are put around user code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from toolkit.execution.context import SLOT, Slot

logger = logging.getLogger(__name__)


class Guard(Protocol):
    """One concern around the user code of a batch.

    `enter` and `leave` enclose a stretch of items. A batch has one stretch for each part that it hands over, and
    nothing of a guard is in place between two of them. A guard that raises is logged and left out from then on.
    """

    def enter(self, slot: Slot) -> None:
        """Begin a stretch; `slot` is a new object for each batch and says which item is running."""

    def leave(self) -> Mapping[str, float]:
        """End the stretch; returns what was measured over it, by names of `Stats`."""
        return {}

    def logs(self) -> str:
        """What the running item has printed and logged, as far as this guard kept it; empty if it keeps nothing."""
        return ""


class GuardStack:
    """Guards in their order, the first one outermost.

    Parameters
    ----------
    guards : sequence of Guard
        May be empty.
    run_id : str
        For the log.
    """

    def __init__(self, guards: Sequence[Guard], run_id: str) -> None:
        self._guards = list(guards)
        self._run_id = run_id

    def around(self, slot: Slot, measured: Callable[[Mapping[str, float]], None]) -> Around:
        """Make `slot` the current one and put the guards around what happens inside."""
        return Around(self, slot, measured)

    def enter(self, entered: list[Guard], slot: Slot) -> None:
        """Enter the guards, and note those that are in place as they are."""
        for guard in tuple(self._guards):
            try:
                guard.enter(slot)
                entered.append(guard)
            except Exception as exc:  # noqa: BLE001 - the guard's, and no item's
                self._leave_out(guard, exc)

    def leave(self, entered: Sequence[Guard], measured: Callable[[Mapping[str, float]], None]) -> None:
        """Leave them, the innermost first."""
        for guard in reversed(entered):
            try:
                measured(guard.leave())
            except Exception as exc:  # noqa: BLE001 - as above
                self._leave_out(guard, exc)

    def logs(self) -> str:
        """What the running item has printed and logged."""
        texts = []
        for guard in tuple(self._guards):
            try:
                texts.append(guard.logs())
            except Exception as exc:  # noqa: BLE001 - as above
                self._leave_out(guard, exc)
        return "".join(texts)

    def _leave_out(self, guard: Guard, error: Exception) -> None:
        name = type(guard).__name__
        logger.error("guard %s failed in run %s and is left out from now on", name, self._run_id, exc_info=error)
        self._guards = [g for g in self._guards if g is not guard]


class Around:
    """One stretch of items with its guards; no generator, since short batches pay for it each time."""

    __slots__ = ("_entered", "_guards", "_measured", "_slot", "_token")

    def __init__(self, guards: GuardStack, slot: Slot, measured: Callable[[Mapping[str, float]], None]) -> None:
        self._guards = guards
        self._slot = slot
        self._measured = measured
        self._entered: list[Guard] = []

    def __enter__(self) -> None:
        self._token = SLOT.set(self._slot)
        try:
            self._guards.enter(self._entered, self._slot)
        except BaseException:  # an interrupt: what is in place goes
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._guards.leave(self._entered, self._measured)
        SLOT.reset(self._token)
