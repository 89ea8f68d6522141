"""Metric rows: one fixed-size record per executed batch, and who executed it."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from toolkit.errors import LedgerCorrupt

OUTCOMES: Final = ("ok", "partial", "failed", "lost")
"""Outcome of a batch: all its items ok, some failed, all failed, its process died."""

FLAG_FIRST: Final = 1  # first batch of this run in this process: carries imports and setup
FLAG_TAIL: Final = 2  # smaller than asked because the input ran out or was tapered
FLAG_CUT_OFF: Final = 4  # ended by a death, a time limit or a cancel: its duration is a lower bound
FLAG_BATCHED: Final = 8  # one call for the batch, not one per item


METRIC_FIELDS: Final[tuple[tuple[str, str], ...]] = (
    ("worker", "H"),  # code of the worker's identity in the run's dictionary
    ("flags", "H"),  # FLAG_* bits
    ("outcome", "B"),  # position in OUTCOMES
    ("category", "B"),  # position in CATEGORIES: the first error of the batch
    ("attempt", "H"),  # highest attempt number among its items, from 1
    ("active_claims", "H"),  # batches of the run being executed when this one was claimed, itself included
    ("known_workers", "H"),  # workers known to listen to the run's queue at that moment
    ("asked", "I"),  # items asked for: the batch size before tapering
    ("items", "I"),  # items executed
    ("ok", "I"),  # items that ended well
    ("retried", "I"),  # items sent back for another attempt
    ("dead", "I"),  # items that became dead letters
    ("weight_asked", "f"),  # as asked, in the unit of weight; 0 where items have none
    ("weight", "f"),  # as items, in the unit of weight
    ("first_index", "Q"),  # index of the first item
    ("claimed_at", "d"),  # server's clock, seconds since the epoch
    ("service_s", "f"),  # user code, from first item to last
    ("decode_s", "f"),  # fetching and decoding items
    ("store_s", "f"),  # encoding results
    ("idle_s", "f"),  # since this worker's previous batch ended, NaN for the first of a ticket
    ("cpu_user_s", "f"),  # getrusage difference over the service time
    ("cpu_system_s", "f"),  # getrusage difference over the service time
    ("peak_rss_kib", "I"),  # peak resident set of the process at the end of the batch
    ("input_bytes", "I"),  # encoded items, share of their pages
    ("output_bytes", "I"),  # encoded results
    ("item_sum_s", "f"),  # sum of the items' durations
    ("item_sumsq_s2", "f"),  # sum of their squares
    ("item_max_s", "f"),  # longest item
)
METRIC_SCHEMA: Final = 1
"""Version of the layout that is written: whoever changes `METRIC_FIELDS` raises it, and the protocol with it."""
METRIC_LAYOUTS: Final[Mapping[int, tuple[tuple[str, str], ...]]] = {METRIC_SCHEMA: METRIC_FIELDS}
"""Every layout that was ever written, by its version: rows are read for as long as somebody has them."""
METRIC_ROW: Final = struct.Struct("<" + "".join(code for _, code in METRIC_FIELDS))
METRIC_NAMES: Final = tuple(name for name, _ in METRIC_FIELDS)
METRIC_SEGMENT_ROWS: Final = 500_000
"""Rows per server-side string, so that none exceeds 64 MB."""


def metric_layout(schema: int) -> tuple[tuple[str, str], ...]:
    """Fields and codes (of `struct`) of the rows of one version.

    Raises
    ------
    LedgerCorrupt
        No such version, or one of a later release.
    """
    found = METRIC_LAYOUTS.get(schema)
    if found is None:
        known = ", ".join(map(str, sorted(METRIC_LAYOUTS)))
        raise LedgerCorrupt(
            f"metric rows of layout {schema!r}: this version reads {known}. They were written by a later one: "
            "upgrade batch-analytics-toolkit here"
        )
    return found


def metric_row_bytes(schema: int) -> int:
    """Bytes of a packed row of one version."""
    return struct.calcsize("<" + "".join(code for _, code in metric_layout(schema)))


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who executed a batch; stored once per run and process.

    Attributes
    ----------
    host, node : str
        Where.
    pid : int
        Process id of the worker.
    code_version : str
        Digest of the task's source as this worker sees it.
    toolkit_version : str
        Version of this package on the worker.
    """

    host: str
    node: str
    pid: int
    code_version: str
    toolkit_version: str

    @property
    def worker(self) -> str:
        """Name of the worker: ``node/pid``."""
        return f"{self.node}/{self.pid}"

    def encode(self) -> str:
        """One line of text; the separator cannot occur in the fields."""
        fields = (self.host, self.node, str(self.pid), self.code_version, self.toolkit_version)
        return "\t".join(re.sub(r"[\t\r\n]", " ", f) for f in fields)

    @classmethod
    def decode(cls, text: str) -> WorkerIdentity:
        """Inverse of `encode`; unknown trailing fields are ignored."""
        host, node, pid, code_version, toolkit_version = (text.split("\t") + [""] * 5)[:5]
        return cls(host, node, int(pid or 0), code_version, toolkit_version)
