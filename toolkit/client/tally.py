"""What the batches of a run came to, kept up to date by reading only metric rows that are new.

For views that look every few seconds: no DataFrame is built, and a row is read once, however long the run is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from toolkit.errors import LedgerCorrupt
from toolkit.records import RunSpec, RunStatus, WorkerIdentity, metric_row_bytes

if TYPE_CHECKING:
    import numpy as np

    from toolkit.ledger import Reader

LATEST: Final = 200
"""Batches whose median tells how long a batch waits and takes now."""


@dataclass(frozen=True, slots=True)
class WorkerTally:
    """What one worker did in a run.

    Attributes
    ----------
    worker, host : str
        Which one.
    batches, items, failed : int
        Batches and items executed, and items that failed (retried or dead).
    busy_s : float
        Seconds that it spent in batches.
    last_at : float
        Seconds since the epoch, by the server's clock, at which its latest batch was claimed.
    """

    worker: str
    host: str
    batches: int
    items: int
    failed: int
    busy_s: float
    last_at: float


@dataclass(frozen=True, slots=True)
class Tally:
    """What the batches of a run came to so far.

    Attributes
    ----------
    batches : int
        Metric rows counted.
    workers : tuple of WorkerTally
        The busiest first.
    busy_s, idle_s : float
        Seconds that all workers together spent in batches, and between two of them while work was available.
    service_s, wait_s : float or None
        Median over the latest batches: seconds that a batch takes its worker, and that a worker waited for it. None
        without any.
    """

    batches: int = 0
    workers: tuple[WorkerTally, ...] = ()
    busy_s: float = 0.0
    idle_s: float = 0.0
    service_s: float | None = None
    wait_s: float | None = None

    @property
    def waiting(self) -> float | None:
        """Share of the workers' time that passed between batches, 0 to 1; None without any."""
        both = self.busy_s + self.idle_s
        return self.idle_s / both if both > 0 else None


class BatchCounter:
    """Reads the metric rows of a run as they come and sums them up; made by ``run.batch_counter()``.

    Parameters
    ----------
    reader : Reader
        The run's bulk.
    spec : RunSpec
        The run; says how its rows are packed.
    """

    _FIELDS: Final = ("batches", "items", "failed", "busy_s", "last_at")

    def __init__(self, reader: Reader, spec: RunSpec) -> None:
        self._reader = reader
        self._spec = spec
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._next = 0
        self._names: dict[int, WorkerIdentity] = {}
        self._by_worker: dict[int, list[float]] = {}
        self._latest: list[tuple[float, float]] = []
        self._idle_s = 0.0

    def pull(self, status: RunStatus) -> Tally:
        """Read the rows that are new and return the sum of all.

        Parameters
        ----------
        status : RunStatus
            Read before; with fewer batches than were counted, the server lost the latest and all are read again.

        Raises
        ------
        LedgerCorrupt
            The rows do not parse.
        LedgerUnavailable
            The server does not answer; the next pull misses nothing.
        """
        from toolkit import frames

        with self._lock:
            dtype = frames.row_dtype(self._spec.row_schema)
            if status.batches < self._next:
                self._forget()
            if status.batches > self._next:
                chunks, following = self._reader.metric_rows(self._next, metric_row_bytes(self._spec.row_schema))
                rows = self._parsed(b"".join(chunks), dtype)
                self._name(rows)
                self._count(rows)
                self._next = following
            return self._tally()

    def _parsed(self, data: bytes, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        if len(data) % dtype.itemsize:
            raise LedgerCorrupt(f"run {self._spec.run_id}: metric rows end inside a row")
        return np.frombuffer(data, dtype=dtype)

    def _name(self, rows: np.ndarray[Any, Any]) -> None:
        """Look up workers that are new."""
        if set(rows["worker"].tolist()) <= self._names.keys():
            return
        for code, text in self._reader.workers().items():
            try:
                self._names[code] = WorkerIdentity.decode(text)
            except ValueError:  # its process id is no number: the rows count, whoever wrote them
                self._names[code] = WorkerIdentity("", "", 0, "", "")

    def _count(self, rows: np.ndarray[Any, Any]) -> None:
        import numpy as np

        if not len(rows):
            return
        busy = sum(np.nan_to_num(rows[name].astype("f8")) for name in ("service_s", "decode_s", "store_s"))
        idle = rows["idle_s"].astype("f8")
        self._idle_s += float(np.nansum(idle))
        self._latest = [*self._latest, *zip(busy[-LATEST:].tolist(), idle[-LATEST:].tolist(), strict=True)][-LATEST:]
        codes, where = np.unique(rows["worker"], return_inverse=True)
        failed = rows["retried"].astype("f8") + rows["dead"]
        sums = [np.bincount(where, weights=values) for values in (np.ones(len(rows)), rows["items"], failed, busy)]
        last = np.zeros(len(codes))
        np.maximum.at(last, where, rows["claimed_at"])
        for i, code in enumerate(codes.tolist()):
            so_far = self._by_worker.setdefault(code, [0.0] * len(self._FIELDS))
            for j, of_worker in enumerate(sums):
                so_far[j] += float(of_worker[i])
            so_far[-1] = max(so_far[-1], float(last[i]))

    def _tally(self) -> Tally:
        from statistics import median

        found = []
        for code, (batches, items, failed, busy_s, last_at) in self._by_worker.items():
            who = self._names.get(code)
            name, host = (who.worker if who.node else "", who.host) if who else ("", "")
            found.append(WorkerTally(name, host, int(batches), int(items), int(failed), busy_s, last_at))
        waits = [wait for _, wait in self._latest if wait == wait]  # noqa: PLR0124 - the first batch of a ticket has none, NaN
        return Tally(
            batches=self._next,
            workers=tuple(sorted(found, key=lambda w: -w.busy_s)),
            busy_s=sum(w.busy_s for w in found),
            idle_s=self._idle_s,
            service_s=median(busy for busy, _ in self._latest) if self._latest else None,
            wait_s=median(waits) if waits else None,
        )
