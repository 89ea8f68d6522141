"""Which item is being executed: what user code may ask, and what guards read.

The runner writes one attribute a item; everything else is built when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

NO_ITEM: Final = -1
"""Position while no item is being executed: before the first one, and during setup."""


@dataclass(frozen=True, slots=True)
class ItemContext:
    """The item that is being executed, for side effects that must not happen twice.

    Attributes
    ----------
    run_id : str
        Its run.
    index : int
        Its index in the run; of a batched call, the first one.
    key : object
        The user's key, None when none was given; of a batched call, the first one.
    attempt : int
        Number of this execution of the item, from 1; of a batched call, the highest.
    indexes : sequence of int
        Indexes of all items of the call; one unless the task is batched.
    keys : sequence or None
        Their keys, in the same order, None when none were given.
    """

    run_id: str
    index: int
    key: Any
    attempt: int
    indexes: Sequence[int]
    keys: Sequence[Any] | None


class Slot:
    """The batch in progress and the position of its running item.

    Attributes
    ----------
    run_id : str
        Its run.
    indexes : sequence of int
        Index of each item.
    attempts : sequence of int, or int
        Attempt number of each item, or of all.
    keys : sequence or None
        The user's key of each item.
    batched : bool
        One call for the whole batch.
    position : int
        Offset of the running item in the batch, `NO_ITEM` between items of the toolkit's own.
    """

    __slots__ = ("attempts", "batched", "indexes", "keys", "position", "run_id")

    def __init__(
        self,
        run_id: str,
        indexes: Sequence[int],
        attempts: Sequence[int] | int,
        keys: Sequence[Any] | None,
        batched: bool,
    ) -> None:
        self.run_id = run_id
        self.indexes = indexes
        self.attempts = attempts
        self.keys = keys
        self.batched = batched
        self.position = NO_ITEM

    def attempt(self, position: int) -> int:
        """Attempt number of the item at `position`, from 1."""
        return self.attempts if isinstance(self.attempts, int) else int(self.attempts[position])

    def item(self) -> ItemContext | None:
        """The running item as a record, None between items."""
        if self.position == NO_ITEM:
            return None
        first, stop = (0, len(self.indexes)) if self.batched else (self.position, self.position + 1)
        keys = None if self.keys is None else self.keys[first:stop]
        return ItemContext(
            run_id=self.run_id,
            index=int(self.indexes[first]),
            key=None if keys is None else keys[0],
            attempt=max(map(self.attempt, range(first, stop))),
            indexes=self.indexes[first:stop],
            keys=keys,
        )


SLOT: Final[ContextVar[Slot | None]] = ContextVar("toolkit_slot", default=None)
"""The slot of the batch that this thread executes. Set once a stretch of items, not once an item."""


def current_item() -> ItemContext | None:
    """Return the item that is being executed, or None outside a run.

    Threads that user code starts itself see None, unless they run in a copy of its context
    (`contextvars.copy_context`).
    """
    slot = SLOT.get()
    return None if slot is None else slot.item()
