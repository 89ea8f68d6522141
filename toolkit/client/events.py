"""What happened to a run: replayed, followed live, and as the curve of its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from toolkit.errors import LedgerError, LedgerUnavailable, WaitTimeout
from toolkit.ledger import Reader
from toolkit.records import Counters, RunEvent, RunStatus

_PAGE = 5_000
_BLOCK_S = 1.0
"""How long the server is asked to wait for an event; then the run's state is looked at."""

Sample = tuple[float, Counters]


def stored(reader: Reader) -> Iterator[tuple[str, dict[str, str]]]:
    """Every event that the cap kept, as the stream holds it, oldest first."""
    after = "-"
    while page := reader.events(after, _PAGE):
        yield from page
        after = page[-1][0]


def replay(reader: Reader) -> Iterator[RunEvent]:
    """The same as records."""
    return (RunEvent.parse(*entry) for entry in stored(reader))


def follow(
    reader: Reader, status: Callable[[], RunStatus], timeout_s: float | None, away_s: float
) -> Iterator[RunEvent]:
    """The same, then each further event as it happens, until the run has ended and all was told.

    Parameters
    ----------
    status : callable
        Reads the run as it stands.
    timeout_s : float or None
        Seconds for the whole.
    away_s : float
        For how long a server may be away.

    Raises
    ------
    WaitTimeout
        The run did not end in time.
    LedgerUnavailable
        The server was away for too long.
    RunNotFound
        The run's data are gone.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    after, answered_at = "0-0", time.monotonic()
    while True:
        left = _BLOCK_S if deadline is None else min(_BLOCK_S, deadline - time.monotonic())
        if left <= 0:
            raise WaitTimeout(f"run {reader.run_id} did not end within {timeout_s} s; it goes on")
        try:
            # The id of the latest event is all that a watcher needs to go on with a server that was restarted.
            found = reader.await_events(after, left)
        except LedgerUnavailable:
            if time.monotonic() - answered_at > away_s:
                raise
            continue
        for entry in found:
            yield RunEvent.parse(*entry)
        answered_at = time.monotonic()
        if found:
            after = found[-1][0]
            if not RunEvent.parse(*found[-1]).final:
                continue
        # A final event may be followed by others, and a run that was revived by another final one.
        if status().state.final and not reader.await_events(after, 0.0):
            return


class Alarm:
    """Sleeps between two looks at a run, and wakes when the run has something to tell.

    Made before the first look: what happens between a look and the sleep after it is not missed.

    Parameters
    ----------
    reader : Reader
        The run.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._after = "0-0"
        with suppress(LedgerError):  # then all events wake once
            self._after = next((event_id for event_id, _ in reader.latest_events(1)), "0-0")

    def sleep(self, seconds: float) -> None:
        """Sleep until the next event, at most so long; as long while the server is away."""
        began = time.monotonic()
        try:
            found = self._reader.await_events(self._after, seconds)
        except LedgerError:  # whoever sleeps asks for the run's state next, and is told what is wrong
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        else:
            self._after = found[-1][0] if found else self._after


def curve(events: Iterable[RunEvent], status: RunStatus) -> list[Sample]:
    """How the counters of a run grew, from its creation to now or to its end.

    Each event carries all counters, so what the cap cut costs resolution and no item: the curve begins with nothing at
    the run's creation and ends with `status`, whatever was kept in between.

    Parameters
    ----------
    events : iterable of RunEvent
        What is kept, oldest first.
    status : RunStatus
        Read after them.
    """
    samples: list[Sample] = [(status.created_at, Counters())]
    for event in events:
        if event.counters is not None and event.counters != samples[-1][1]:
            samples.append((max(event.at.timestamp(), samples[-1][0]), event.counters))
    last = Counters(status.submitted, status.ok, status.dead, status.skipped, status.retried)
    at = max(status.finished_at or status.at, samples[-1][0])
    if last != samples[-1][1] or at > samples[-1][0]:
        samples.append((at, last))
    return samples
