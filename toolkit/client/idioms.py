"""What people expect of a handle who know `concurrent.futures`: length, iteration, `done`, and a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from toolkit.client.letters import Letters

if TYPE_CHECKING:
    from toolkit.records import RunStatus


class Idioms(Letters):
    """The part of a run's handle that makes it at home in Python; each is a short name for a verb that it has."""

    if TYPE_CHECKING:  # of the whole handle
        wait: Callable[[], RunStatus]
        as_completed: Callable[[], Iterator[tuple[int, Any]]]

    def done(self) -> bool:
        """Whether the run has ended, finished or cancelled."""
        return self.status().state.final

    def __len__(self) -> int:
        return self.status().submitted

    def __bool__(self) -> bool:
        return True  # a handle is never nothing, and the question costs no round trip

    def __iter__(self) -> Iterator[Any]:
        """Results in input order, each as soon as it and those before it are there; raises as `Run.results` does."""
        early: dict[int, Any] = {}
        following = 0
        for index, result in self.as_completed():
            early[index] = result
            while following in early:
                yield early.pop(following)
                following += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        else:
            self.cancel(reason=f"{kind.__name__} in a with block")
