"""The dead letters of a run: look, retry, drop, export, replay. They stay until somebody decides."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.client.export import write_letters
from toolkit.client.handle import Handle
from toolkit.errors import InvalidInput, RunStateError
from toolkit.records import CATEGORIES, DeadLetter, RunState

if TYPE_CHECKING:
    import pandas as pd

Where = Callable[[DeadLetter], bool]


class Letters(Handle):
    """The part of a run's handle that is about its dead letters."""

    def dead_letters(self, *, category: str | None = None, error_type: str | None = None) -> pd.DataFrame:
        """One row per item that will not be tried again, with error, traceback, and what it printed.

        Parameters
        ----------
        category : str, optional
            Only those of one error category.
        error_type : str, optional
            Only those of one class of errors, by its qualified name or the last part of it.
        """
        from toolkit import frames  # pandas takes a second to import: only who asks for a frame pays

        letters = list(self.each_dead_letter(category=category, error_type=error_type))
        return frames.dead_letters_frame(self.run_id, self.spec.task, letters)

    def each_dead_letter(
        self, *, where: Where | None = None, category: str | None = None, error_type: str | None = None
    ) -> Iterator[DeadLetter]:
        """Dead letters as records, ascending by index, a few hundred in memory at a time; chosen as above."""
        return self._letters(None, where, category, error_type)

    def sample_dead(self, most: int = 50) -> list[DeadLetter]:
        """At most `most` dead letters, ascending by index and evenly spread over all of them: a look at the kinds."""
        indexes = self._reader.dead_indexes()
        return self._reader.dead_letters(indexes[:: max(1, -(-len(indexes) // max(1, most)))])

    def logs(self, index: int) -> str:
        """Tail of what item `index` printed and logged before it failed."""
        letters = self._reader.dead_letters([index])
        return letters[0].logs if letters else ""

    def retry_dead(
        self, indexes: Iterable[int] | None = None, *, where: Where | None = None, category: str | None = None
    ) -> int:
        """Send dead letters back to work, with a clean record; returns how many.

        Parameters
        ----------
        indexes : iterable of int, optional
            Only these items; by default all.
        where : callable of DeadLetter, optional
            Only those for which it is true.
        category : str, optional
            Only those of one error category.

        Raises
        ------
        InvalidInput
            No such category; an index that is none.
        RunStateError
            The run was cancelled: nothing of it is executed any more.
        """
        chosen = self._choose(indexes, where, category)
        if chosen:  # listed before too: whoever dies right after has left a run that is swept
            self._registry.activate(self.spec)
        n = self._ledger.retry_dead(self.run_id, chosen)
        if n:
            self._registry.activate(self.spec)  # and after, since a sweep in between found that it had ended
            self._wake()
            self._fresh()
        elif chosen:
            self._registry.deactivate(self.spec.queue, self.run_id)
            if self._fresh().state in (RunState.CANCELLING, RunState.CANCELLED):
                raise RunStateError(
                    f"run {self.run_id} was cancelled: its dead letters can be exported, replayed and dropped, but not "
                    "retried. Submit their items as a new run: client.map(task, list(run.dead_letters().item))"
                )
        return n

    def drop_dead(
        self, indexes: Iterable[int] | None = None, *, where: Where | None = None, category: str | None = None
    ) -> int:
        """Forget dead letters, chosen as for `retry_dead`; they count as skipped. Returns how many.

        `export_dead` keeps a copy. With its last dead letter gone, the retention of a run that ended begins.
        """
        n = self._ledger.drop_dead(self.run_id, self._choose(indexes, where, category))
        self._fresh()
        return n

    def export_dead(
        self, path: str | Path, *, where: Where | None = None, category: str | None = None, overwrite: bool = False
    ) -> int:
        """Write dead letters into a file, completely or not at all; returns how many. They stay where they are.

        Parameters
        ----------
        path : str or Path
            ``.jsonl``: one JSON object a line, every value exact (`toolkit.client.read_letters` reads it back).
            ``.csv``: for spreadsheets; cells that one would take for formulas are made text.
        where, category
            Only some, as for `retry_dead`.
        overwrite : bool
            Replace a file that is there.

        Raises
        ------
        InvalidInput
            Another ending, a file that is there already, a place that cannot be written.
        """
        return write_letters(Path(path), self.spec, self._letters(None, where, category), overwrite)

    def replay(self, index: int, task: Any = None) -> Any:
        """Execute one item again in this process, under a debugger if you like; nothing is recorded.

        Parameters
        ----------
        index : int
            Any item of the run whose input is still stored; of a dead letter it always is.
        task : callable, optional
            What to call; by default what the run was submitted with. A handle from `Client.get_run` finds that where
            this process can import it, or has imported the module of a plain function.

        Raises
        ------
        InvalidInput
            `index` is no index of an item.
        RunStateError
            The task cannot be found from this process, or the input is gone.
        """
        from toolkit.client.replay import replay_item

        item, _key = self._reader.item(self._index(index))
        return replay_item(self._ledger, self.spec, item, self._task if task is None else task)

    def _index(self, index: Any) -> int:
        n = self._fresh().submitted
        valid = f"run {self.run_id} has the items 0 to {n - 1:,}" if n else f"run {self.run_id} has no items yet"
        try:
            found = operator.index(index)
        except TypeError as error:
            raise InvalidInput(f"index={index!r:.60}: expected the index of an item as an integer; {valid}") from error
        if not 0 <= found < n:
            raise InvalidInput(f"index={found}: no such item; {valid}")
        return found

    def _choose(self, indexes: Iterable[int] | None, where: Where | None, category: str | None) -> list[int]:
        wanted = None if indexes is None else _checked(indexes)
        if where is None and category is None:
            return self._reader.dead_indexes() if wanted is None else wanted
        return [letter.index for letter in self._letters(wanted, where, category)]

    def _letters(
        self, indexes: list[int] | None, where: Where | None, category: str | None, error_type: str | None = None
    ) -> Iterator[DeadLetter]:
        if category is not None and category not in CATEGORIES[1:]:
            raise InvalidInput(f"category={category!r}: one of {', '.join(CATEGORIES[1:])}")
        return (
            letter
            for letter in self._reader.each_dead_letter(indexes)
            if (category is None or letter.category == category)
            and (error_type is None or error_type in (letter.error_type, letter.error_type.rpartition(".")[2]))
            and (where is None or where(letter))
        )


def _checked(indexes: Iterable[int]) -> list[int]:
    try:
        found = sorted({i.__index__() for i in indexes})
    except (TypeError, AttributeError) as error:
        raise InvalidInput(f"indexes={indexes!r:.60}: expected the indexes of items, for example [3, 17]") from error
    if found and found[0] < 0:
        raise InvalidInput(f"indexes: {found[0]} is no index of an item; they count from 0")
    return found
