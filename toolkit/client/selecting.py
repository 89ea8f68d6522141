"""Which runs are there, and which of them are meant."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from toolkit.client.handle import Handle
from toolkit.errors import InvalidInput, RunNotFound, UnknownTask
from toolkit.ledger import Ledger, Registry
from toolkit.records import RunSpec, RunState, RunStatus

if TYPE_CHECKING:
    import pandas as pd

Known = tuple[RunSpec, RunStatus]


def known_runs(ledger: Ledger, registry: Registry) -> list[Known]:
    """Every run on the server, newest first; forgets those whose data are gone."""
    found, gone = [], []
    for run_id in registry.run_ids():
        try:
            spec = ledger.spec(run_id)
            found.append((spec, ledger.status(run_id, spec)))
        except RunNotFound:
            gone.append(run_id)
    registry.forget_runs(gone)
    return found


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs are meant.

    Attributes
    ----------
    task : str or None
        Only those of this task.
    since, until : float or None
        Only those created at or after, and before, these moments; seconds since the epoch.
    tags : mapping of str to str
        Only those that carry all of these.
    states : frozenset of RunState
        Only those in one of these states; empty for any.
    run_id : str or None
        Only this one.
    """

    task: str | None = None
    since: float | None = None
    until: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    states: frozenset[RunState] = frozenset()
    run_id: str | None = None

    @classmethod
    def parse(
        cls, task: Any = None, since: datetime | str | float | None = None,
        until: datetime | str | float | None = None,
        tags: Mapping[str, str] | None = None, states: str | Collection[str] | None = None,
    ) -> Selection:  # fmt: skip
        """Check what a user asks for.

        Raises
        ------
        UnknownTask
            `task` is no task at all.
        InvalidInput
            A moment is none, `until` is not after `since`, `tags` is no mapping of text to text, a state is none.
        """
        first, last = _moment("since", since), _moment("until", until)
        if first is not None and last is not None and last <= first:
            raise InvalidInput(f"until={until!r} is not after since={since!r}: nothing can lie between them")
        if tags is not None and not (
            isinstance(tags, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in tags.items())
        ):
            raise InvalidInput(f"tags={tags!r:.100}: expected labels and their values as text, like {{'night': '7'}}")
        run_id = task.run_id if isinstance(task, Handle) else None
        name = None if task is None else task_name(task)
        return cls(name, first, last, dict(tags or {}), _states(states), run_id)

    def matches(self, spec: RunSpec, status: RunStatus) -> bool:
        """Whether a run is meant."""
        return (
            (self.task is None or spec.task == self.task)
            and self.run_id in (None, spec.run_id)
            and (self.since is None or status.created_at >= self.since)
            and (self.until is None or status.created_at < self.until)
            and (not self.states or status.state in self.states)
            and self._tagged(spec.tags)
        )

    def mask(self, runs: pd.DataFrame) -> list[bool]:
        """Whether each run of a frame as `toolkit.frames.RUNS` is meant."""
        wanted = {str(state) for state in self.states}
        # moments as numbers, exactly as they are compared above
        created = runs["created_at"].astype("int64") / 1e6
        rows = zip(runs["task"], runs["run_id"], created, runs["state"], runs["tags"], strict=True)
        return [
            (self.task is None or task == self.task)
            and self.run_id in (None, run_id)
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and (not wanted or state in wanted)
            and (not self.tags or self._tagged(json.loads(tags)))
            for task, run_id, at, state, tags in rows
        ]

    def _tagged(self, tags: Mapping[str, str]) -> bool:
        return all(tags.get(name) == value for name, value in self.tags.items())


def _moment(name: str, value: datetime | str | float | None) -> float | None:
    if value is None:
        return None
    from toolkit import frames

    try:
        return frames.timestamp(value)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from error


def _states(states: str | Collection[str] | None) -> frozenset[RunState]:
    if states is None:
        return frozenset()
    asked = [states] if isinstance(states, str) else states
    known = {str(state): state for state in RunState}
    try:
        found = frozenset(known[str(state)] for state in asked)
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"states={states!r:.100}: expected some of {', '.join(known)}") from error
    if not found:
        raise InvalidInput(f"states={states!r:.100}: names no state; expected some of {', '.join(known)}")
    return found


def task_name(task: Any) -> str:
    """Name under which runs of `task` are listed.

    Raises
    ------
    UnknownTask
        It is no task at all.
    """
    if isinstance(task, str):
        return task
    if isinstance(task, Handle):
        return task.spec.task
    name = getattr(task, "name", None)
    if isinstance(name, str):
        return name
    if callable(task):
        from toolkit.execution import as_task

        return as_task(task).name
    raise UnknownTask(f"{type(task).__name__} is no task; pass a function, a task, or a task's name")


def version_of(task: Any) -> str:
    """Version of the code of a function as it is here; empty for a name, and for a task of a Celery application."""
    from toolkit.execution import Task, code_version

    if isinstance(task, Task) or (callable(task) and not hasattr(task, "apply_async")):
        return code_version(task)
    return ""
