"""The handle of a run: an id and a connection. Losing it loses nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from toolkit import renderers
from toolkit.client import events
from toolkit.client.feed import MetricsFeed, metrics_from
from toolkit.client.idioms import Idioms
from toolkit.client.notices import Notices, detached_text, say
from toolkit.client.profile import Profile
from toolkit.client.tally import BatchCounter
from toolkit.errors import (
    InvalidInput,
    LedgerCorrupt,
    RemoteError,
    RunCancelled,
    RunFailed,
    RunStateError,
    ToolkitError,
    WaitTimeout,
)
from toolkit.ledger import check_structure
from toolkit.records import DeadLetter, RunEvent, RunState, RunStatus, one_line, quantity
from toolkit.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

_LOOK_S = 0.25
"""The longest time between two looks of whoever waits; the run's events wake it sooner."""


class Run(Idioms):
    """One submission: a task mapped over N items.

    Made by ``client.map`` and ``client.get_run``. As with the futures of the standard library, `done` tells whether it
    has ended; iterating over it yields the results in the order of the input, as they come; ``len`` is how many items
    were submitted so far; and ``with client.map(...) as run`` waits at the end of the block, or cancels on an error.

    Attributes
    ----------
    run_id : str
        Its id; `client.get_run` finds it again from any process.
    spec : RunSpec
        What it was asked to be.
    """

    # ------------------------------------------------------------------ look

    def __repr__(self) -> str:
        snapshot = self._snapshot
        state = f" {snapshot.state} {snapshot.done}/{snapshot.submitted}" if snapshot else ""
        return f"<Run {self.run_id} of {one_line(self.spec.task)}{state}>"

    def __str__(self) -> str:
        try:
            return self.status().line()
        except ToolkitError as error:
            return one_line(f"{self.spec.task} {self.run_id}: {error}", 1000)

    def _ipython_display_(self) -> None:
        show = renderers.get("run_display")
        if show is not None:
            show(self)
        else:
            print(str(self))  # noqa: T201 - this is how a handle shows itself without a notebook room

    def _repr_html_(self) -> str:
        render = renderers.get("run_html")
        return str(render(self)) if render is not None else f"<pre>{escape(str(self))}</pre>"

    def panel(self) -> None:
        """Show the live panel of the run below the cell; without a notebook, one line of text.

        The same as `run` at the end of a cell. However many panels of a run are open, one thread keeps them fresh.
        """
        self._ipython_display_()

    # ------------------------------------------------------------------ wait

    def wait(self, timeout: float | None = None, *, progress: bool | None = None) -> RunStatus:
        """Wait for the end, drawing progress.

        An interrupt (Ctrl-C, the notebook's stop button) only detaches: the run goes on.

        Parameters
        ----------
        timeout : float, optional
            Seconds.
        progress : bool, optional
            Draw progress; by default unless ``TOOLKIT_PROGRESS=0``.

        Raises
        ------
        WaitTimeout
            It did not end in time; it goes on.
        Exception
            What the stream of items raised that this process submits; the run was cancelled then.
        """
        return self._wait(timeout, progress)

    def _wait(self, timeout: float | None, progress: bool | None = None, *, check_input: bool = True) -> RunStatus:
        factory = renderers.get("progress") if _wants_progress(progress) else None
        bar = factory(sys.stderr) if factory is not None else None
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.01
        notice, status = self._notices(), self.status()  # first: a server that is away is waited for once
        if status.state.final:
            self._check_input(check_input)
            return status
        alarm = events.Alarm(self._reader)
        status = self._fresh()
        try:
            with self._detaching():
                while not status.state.final:
                    self._check_input(check_input)
                    if deadline is not None and time.monotonic() >= deadline:
                        raise WaitTimeout(self._late(timeout, status))
                    notice.look(status)
                    if bar is not None:
                        bar.update(status)
                    left = pause if deadline is None else min(pause, max(0.0, deadline - time.monotonic()))
                    alarm.sleep(left)
                    pause = min(_LOOK_S, pause * 1.3)
                    status = self._fresh()
        finally:
            if bar is not None:
                bar.close(status)
        self._check_input(check_input)
        return status

    def _late(self, timeout: float | None, status: RunStatus) -> str:
        return f"run {self.run_id} did not end within {timeout} s; it goes on. {status.line()}"

    @contextmanager
    def _detaching(self) -> Iterator[None]:
        """An interrupt ends the wait and not the run, and says so."""
        try:
            yield
        except KeyboardInterrupt:
            self._say_detached()
            raise

    def __await__(self) -> Generator[Any, None, RunStatus]:
        return self._wait_async().__await__()

    async def _wait_async(self) -> RunStatus:
        notice = self._notices()
        try:
            while not (status := await asyncio.to_thread(self.status)).state.final:
                self._check_input()
                await asyncio.to_thread(notice.look, status)
                await asyncio.sleep(0.1)
            self._check_input()
        except (KeyboardInterrupt, asyncio.CancelledError):  # a kernel cancels what it awaits when it is interrupted
            self._say_detached()
            raise
        return status

    def _say_detached(self) -> None:
        say(detached_text(self.run_id, submitting=self._submits()))

    def _submits(self) -> bool:
        return self._input is not None and self._input.alive

    def _notices(self) -> Notices:
        return Notices(self._submits, self._why_idle)

    def _why_idle(self, status: RunStatus) -> str:
        left = status.remaining + status.ready
        nodes = [node for node in self._registry.nodes() if self.spec.queue in node.queues]
        workers, busy = sum(node.workers for node in nodes), sum(node.busy for node in nodes)
        if starting := self.why_waiting():
            reason = starting
        elif workers == 0:
            reason = f"no worker listens to queue {self.spec.queue!r}"
        else:
            declined = [f["detail"] for _, f in self._reader.events() if f.get("event") == "declined"]
            at = "all are busy with other runs" if busy >= workers else f"{busy} of them busy with other runs"
            if not busy:
                at = "none is busy: its tickets may not reach them, as when the broker is away"
            reason = declined[-1] if declined else f"{quantity(workers, 'worker')} listen, {at}"
        what = f"stands still, with {left:,} items to do" if status.started_at else "has not started"
        return f"Run {self.run_id} {what}: {reason}. `toolkit doctor {self.run_id}` tells more."

    # ------------------------------------------------------------------ results

    def results(self, timeout: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """Wait for the end and return one result per item, in input order.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.
        return_exceptions : bool
            Put an error in the place of an item without result, instead of raising: a `RemoteError`; `RunCancelled`;
            or `RunFailed` where its dead letter was dropped.

        Returns
        -------
        list
            As long as the input.

        Raises
        ------
        RunFailed
            Some items are dead letters, or were dropped as such; names the first error and how to see the rest.
        RunCancelled
            The run was cancelled before all items were done.
        RunStateError
            The run was submitted with ``keep_results=False``.
        WaitTimeout
            See `wait`, also for errors of a stream; with `return_exceptions` those are not raised.
        """
        self._need_results()
        status = self._wait(timeout, check_input=not return_exceptions)
        if not return_exceptions:
            self._raise_for(status)
        missing: Any = (
            RunCancelled(f"run {self.run_id} was cancelled before this item was done")
            if status.state is RunState.CANCELLED
            else RunFailed(f"the dead letter of this item of run {self.run_id} was dropped")
        )
        found: list[Any] = [missing] * status.submitted
        for ranges, values in self._reader.outputs():
            at = 0
            for a, b in ranges:
                found[a:b] = values[at : at + b - a]
                at += b - a
        if status.dead:
            for letter in self._reader.dead_letters():
                found[letter.index] = _remote_error(letter)
        return found

    def as_completed(self, return_exceptions: bool = False, timeout: float | None = None) -> Iterator[tuple[int, Any]]:
        """Yield ``(index, result)`` as batches are committed, in bounded memory.

        Parameters
        ----------
        return_exceptions : bool
            Also yield dead letters, as `RemoteError`, at the end; otherwise raise as `results` does.
        timeout : float, optional
            Seconds from the first one asked for to the end of the run.

        Raises
        ------
        WaitTimeout
            The run did not end in time; it goes on.
        """
        self._need_results()
        return self._told(self._completed(return_exceptions, timeout))

    def _told(self, found: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        with self._detaching():
            yield from found

    def _completed(self, return_exceptions: bool, timeout: float | None) -> Iterator[tuple[int, Any]]:
        first, pause = 0, 0.01
        notice = self._notices()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self.status()
            notice.look(status)
            seen = first
            for ranges, values in self._reader.outputs(first):
                first += 1
                yield from zip((i for a, b in ranges for i in range(a, b)), values, strict=True)
            if first > seen:
                pause = 0.01
            elif status.state.final:
                break
            elif deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(self._late(timeout, status))
            else:
                time.sleep(pause)
                pause = min(0.1, pause * 1.5)
        if return_exceptions:
            for letter in self._reader.dead_letters():
                yield letter.index, _remote_error(letter)
        else:
            self._raise_for(status)

    def _need_results(self) -> None:
        if not self.spec.keep_results:
            raise RunStateError(
                f"run {self.run_id} was submitted with keep_results=False: there are no results to read"
            )

    def _raise_for(self, status: RunStatus) -> None:
        self._check_input()
        if status.dead:
            first = self._reader.dead_letters(self._reader.dead_indexes()[:1])[0]
            error = _remote_error(first)
            raise RunFailed(
                f"{status.dead:,} of {status.submitted:,} items of run {self.run_id} failed; first: {error}. "
                "See run.dead_letters(), run.replay(index), run.retry_dead(), or results(return_exceptions=True)"
                + (f"\n\n{first.traceback_text}" if first.traceback_text else "")
            ) from error
        if status.state is RunState.CANCELLED:
            raise RunCancelled(
                f"run {self.run_id} was cancelled: {status.ok:,} of {status.submitted:,} items are done; "
                "results(return_exceptions=True) gives those"
            )
        if status.skipped:
            raise RunFailed(
                f"{status.skipped:,} of {status.submitted:,} items of run {self.run_id} have no result: their dead "
                "letters were dropped; results(return_exceptions=True) gives the others"
            )

    # ------------------------------------------------------------------ frames

    def metrics(self) -> pd.DataFrame:
        """One row per executed batch; columns and units in `toolkit.frames`."""
        return metrics_from(self._reader, self.spec, self.status().max_workers)[0]

    def follow_metrics(self, cursor: Mapping[str, int] | None = None) -> MetricsFeed:
        """Metric rows as they come: each `MetricsFeed.pull` returns those that were recorded since the one before.

        Parameters
        ----------
        cursor : mapping of str to int, optional
            `MetricsFeed.cursor` of an earlier feed, to go on where that one stopped; without, the first pull returns
            all rows so far.

        Raises
        ------
        InvalidInput
            The cursor is none.
        """
        ledger, spec = self._ledger, self.spec
        return MetricsFeed(lambda: [(spec, ledger.status(spec.run_id, spec))], ledger.connection, cursor)

    def batch_counter(self) -> BatchCounter:
        """Sums up the run's batches by worker, again and again: each `BatchCounter.pull` reads only what is new."""
        return BatchCounter(self._reader, self.spec)

    def items(self) -> pd.DataFrame:
        """One row per item: index, key, state, attempts, error."""
        from toolkit import frames

        status = self.status()
        dead = {letter.index: letter for letter in self._reader.dead_letters()}
        ok = self._reader.output_ranges() if self.spec.keep_results else _ok_without_results(status, dead)
        return frames.items_frame(self.run_id, status.submitted, ok, dead, str(status.state), self._reader.item_keys())

    # ------------------------------------------------------------------ what happened

    def events(self, follow: bool = False, timeout_s: float | None = None) -> Iterator[RunEvent]:
        """What happened to the run, oldest first; about the latest 10,000 events are kept.

        Parameters
        ----------
        follow : bool
            Go on with each event as it happens, until the run has ended. Survives a restart of the server.
        timeout_s : float, optional
            Seconds to follow.

        Returns
        -------
        iterator of RunEvent
            Each with the counters of its moment. Claims and commits are no events: while a run works, its counters are
            sampled about once a second as ``progress``.

        Raises
        ------
        InvalidInput
            `timeout_s` is negative, or given without `follow`.
        WaitTimeout
            The run did not end in time; it goes on.
        LedgerUnavailable
            The server was away for longer than the client's ``LedgerSettings.retry_s``.
        """
        if timeout_s is not None and not (follow and timeout_s >= 0):
            raise InvalidInput(f"events(timeout_s={timeout_s!r}): seconds from 0 on, together with follow=True")
        if follow:
            return events.follow(self._reader, self._fresh, timeout_s, self._ledger.settings.retry_s)
        return events.replay(self._reader)

    def latest_events(self, count: int = 20) -> list[RunEvent]:
        """At most `count` events, the latest, oldest of them first: one cheap call, however much happened."""
        return [RunEvent.parse(*entry) for entry in reversed(self._reader.latest_events(count))]

    def events_frame(self) -> pd.DataFrame:
        """What happened to the run: one row per event."""
        from toolkit import frames

        return frames.events_frame(self.run_id, list(events.stored(self._reader)))

    def progress_curve(self) -> pd.DataFrame:
        """How the run's counters grew, from its creation to its end or to now: one row per change that is known.

        Columns ``at``, ``ok``, ``dead``, ``retried``, ``submitted``, ``skipped``. Of a run with very many events the
        oldest are gone: its curve is then coarser there, and its first and last rows are exact all the same.
        """
        from toolkit import frames

        known = list(events.replay(self._reader))
        return frames.progress_frame(events.curve(known, self._fresh()))

    def profile(self) -> Profile:
        """Where the sampled batches of a run submitted with ``profile=True`` spent their time.

        Returns
        -------
        Profile
            Draws itself as a flame graph; `folded()` gives the usual text, `frame()` a table.

        Raises
        ------
        RunStateError
            The run has no profile (yet).
        """
        return Profile.read(self.run_id, self.spec.task, events.stored(self._reader))

    # ------------------------------------------------------------------ check

    def verify(self) -> None:
        """Check the ledger's invariants for this run.

        Raises
        ------
        LedgerCorrupt
            Counters and ranges do not add up; the message lists what does not.
        """
        problems = check_structure(self._reader.structure())
        if problems:
            raise LedgerCorrupt(f"run {self.run_id}: " + "; ".join(problems))


def _ok_without_results(status: RunStatus, dead: dict[int, DeadLetter]) -> list[tuple[int, int]]:
    """Without kept results only a finished run tells which items ended ok: all but the dead ones."""
    if status.state is not RunState.FINISHED:
        return []
    edges = [-1, *sorted(dead), status.submitted]
    return [(a + 1, b) for a, b in pairwise(edges) if b > a + 1]


def _remote_error(letter: DeadLetter) -> RemoteError:
    return RemoteError(letter.index, letter.error_type, letter.message, letter.traceback_text, letter.category)


def _wants_progress(asked: bool | None) -> bool:
    return Settings.from_env().progress if asked is None else asked
