"""Executions as packed rows of their series."""

from __future__ import annotations

import logging
import math
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from toolkit._version import __version__
from toolkit.execution.versions import source_digest
from toolkit.instruments.measuring import Execution
from toolkit.instruments.outbox import Delivery, Key
from toolkit.ledger import Connection, Flush, Registry, SeriesName, SeriesStore
from toolkit.records import (
    CATEGORIES,
    FLAG_BATCHED,
    FLAG_CUT_OFF,
    FLAG_FIRST,
    METRIC_NAMES,
    METRIC_ROW,
    OUTCOMES,
    WorkerIdentity,
)
from toolkit.settings import LedgerSettings, ServerAddress

logger = logging.getLogger(__name__)

_CLOCK_S: Final = 60.0
_IDENTITIES_KEPT: Final = 4096
_OUTCOME: Final = {"ok": "ok", "retried": "failed", "failed": "failed", "lost": "lost"}
_NO_FLOATS: Final = dict.fromkeys(METRIC_NAMES, 0)


class Packer:
    """Packs executions and hands them to the server. For the outbox's thread only.

    Parameters
    ----------
    address : ServerAddress
        The ledger's server; connected to at the first delivery.
    keep_rows : int
        Rows of a series that the server keeps.
    function_of : callable
        The function behind a task's name, None where there is none.
    batched : bool
        Whether a call is one of several items.
    """

    def __init__(
        self, address: ServerAddress, keep_rows: int, function_of: Callable[[str], Any], batched: bool
    ) -> None:
        self._connection = Connection(address, LedgerSettings(retry_s=0.0))
        self._store = SeriesStore(self._connection)
        self._keep_rows = keep_rows
        self._function_of = function_of
        self._batched = batched
        self._host = socket.gethostname()
        self._versions: dict[str, str] = {}
        self._identities: dict[tuple[str, int, str], str] = {}
        self._admitted: dict[Key, SeriesName] = {}
        self._rows: dict[SeriesName, int] = {}
        self._ahead_s = 0.0  # server's clock minus ours
        self._clock_at = -math.inf

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def prepare(self, executions: Sequence[Execution], drops: Counter[Key]) -> list[tuple[Key, int, Delivery]]:
        """Make one delivery for each series.

        Raises
        ------
        LedgerError
            The server does not answer.
        """
        self._set_clock()
        groups: dict[Key, list[Execution]] = {key: [] for key in drops}
        for execution in executions:
            groups.setdefault((execution.task, execution.tags), []).append(execution)
        return [
            (key, len(rows) + drops[key], self._delivery(key, self._flush(rows, drops[key])))
            for key, rows in groups.items()
        ]

    def _delivery(self, key: Key, flush: Flush) -> Delivery:
        def deliver() -> None:
            name = self._admitted.get(key)
            if name is None:
                name = self._store.admit(SeriesName.of(key[0], dict(key[1])))
                if name.tags == "{}" and key[1]:
                    logger.warning(
                        "the server holds as many series as it takes: rows of task %s are recorded without tags", key[0]
                    )
                self._admitted[key] = name
            rows = self._store.record(name, flush)
            mine = sum(len(waits) // 4 for _, _, waits in flush.parts)
            if rows < self._rows.get(name, 0) + mine:  # the server lost its data, and with them the index
                self._store.admit(name)
            self._rows[name] = rows

        return deliver

    def _flush(self, executions: Sequence[Execution], dropped: int) -> Flush:
        by_worker: dict[str, list[Execution]] = {}
        for execution in executions:
            by_worker.setdefault(self._identity(execution), []).append(execution)
        starts = [e.started_at + self._ahead_s for e in executions]
        ends = [e.started_at + self._ahead_s + e.service_s for e in executions]
        parts = [
            (identity, b"".join(map(self._row, mine)), struct.pack(f"<{len(mine)}f", *(e.wait_s for e in mine)))
            for identity, mine in by_worker.items()
        ]
        return Flush(
            os.urandom(16), self._keep_rows, min(starts, default=0.0), max(ends, default=0.0), dropped, tuple(parts)
        )

    def _row(self, e: Execution) -> bytes:
        flags = FLAG_FIRST if e.first else 0
        flags |= FLAG_CUT_OFF if e.outcome == "lost" else 0
        flags |= FLAG_BATCHED if self._batched else 0
        share_s = e.service_s / max(1, e.items)  # one call for all items counts as equal shares, as in a run
        values = {
            **_NO_FLOATS,
            "flags": flags,
            "outcome": OUTCOMES.index(_OUTCOME[e.outcome]),
            "category": CATEGORIES.index(e.category),
            "attempt": min(e.attempt, 0xFFFF),
            "asked": e.items,
            "items": e.items,
            "ok": e.items if e.outcome == "ok" else 0,
            "retried": e.items if e.outcome == "retried" else 0,
            "dead": e.items if e.outcome in ("failed", "lost") else 0,
            "claimed_at": e.started_at + self._ahead_s,
            "service_s": e.service_s,
            "idle_s": e.idle_s,
            "cpu_user_s": e.cpu_user_s,
            "cpu_system_s": e.cpu_system_s,
            "peak_rss_kib": min(e.peak_rss_kib, 0xFFFFFFFF),
            "item_sum_s": e.service_s if e.items else 0.0,
            "item_sumsq_s2": share_s * share_s * e.items,
            "item_max_s": share_s if e.items else 0.0,
        }
        return METRIC_ROW.pack(*(values[name] for name in METRIC_NAMES))

    def _identity(self, e: Execution) -> str:
        key = (e.node, e.thread, e.task)
        identity = self._identities.get(key)
        if identity is None:
            if len(self._identities) >= _IDENTITIES_KEPT:
                self._identities.clear()  # threads come and go
            version = self._versions.get(e.task)
            if version is None:
                function = self._function_of(e.task)
                version = self._versions[e.task] = source_digest(function) if function is not None else ""
            identity = WorkerIdentity(self._host, e.node, e.thread, version, __version__).encode()
            self._identities[key] = identity
        return identity

    def _set_clock(self) -> None:
        """Learn how far the server's clock is ahead of this host's, to half a round trip."""
        if time.monotonic() - self._clock_at < _CLOCK_S:
            return
        before = time.time()
        now = Registry(self._connection).now()
        self._ahead_s = now - (before + time.time()) / 2
        self._clock_at = time.monotonic()
