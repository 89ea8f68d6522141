"""How the server stores a claim: numbers side by side, little-endian, which its functions read and write in one step.

The layouts stand here and nowhere else; the functions get them as the library is loaded (``library.py``). For what the
fields mean see ``1_common.lua``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from toolkit.errors import LedgerCorrupt
from toolkit.ledger.calls import Range

CLAIM = "BddIIIIIII"  # kind, lease, at, off, asked, worker, active, ok, retried, dead
CLAIM_WEIGHTS = "ddd"  # size, limit, weight
CLAIM_RANGE = "QIIBB"  # start, items, attempts, suspicions, alone

_CLAIM, _WEIGHTS, _RANGE = (struct.Struct("<" + layout) for layout in (CLAIM, CLAIM_WEIGHTS, CLAIM_RANGE))
_PLAIN, _WEIGHED = 1, 2


class StoredClaim(NamedTuple):
    """A claim as the server keeps it.

    Attributes
    ----------
    lease_ms, at_ms : int
        End of its lease and its begin, milliseconds since the epoch by the server's clock.
    offset : int
        Items committed from its start.
    asked : int
        Batch size before tapering.
    worker : int
        Code of the claimer's identity.
    active : int
        Claims of the run at that moment.
    ok, retried, dead : int
        Of the committed items.
    weights : tuple of float, or None
        Size and limit of the batch and what its items weigh; None where they have no weights.
    ranges : tuple of Range
        What it holds, from offset 0 on.
    """

    lease_ms: int
    at_ms: int
    offset: int
    asked: int
    worker: int
    active: int
    ok: int
    retried: int
    dead: int
    weights: tuple[float, float, float] | None
    ranges: tuple[Range, ...]

    @classmethod
    def parse(cls, data: bytes) -> StoredClaim:
        """Read one.

        Raises
        ------
        LedgerCorrupt
            It is none.
        """
        try:
            kind, lease, at, offset, asked, worker, active, ok, retried, dead = _CLAIM.unpack_from(data)
            start, weights = _CLAIM.size, None
            if kind == _WEIGHED:
                weights = _WEIGHTS.unpack_from(data, start)
                start += _WEIGHTS.size
            parts = _RANGE.iter_unpack(data[start:])
            ranges = tuple(
                [Range(a, a + n, attempts, suspicions, alone == 1) for a, n, attempts, suspicions, alone in parts]
            )
            lease_ms, at_ms = int(lease), int(at)
        except (ValueError, OverflowError, struct.error) as error:
            raise _corrupt(data) from error
        if kind not in (_PLAIN, _WEIGHED) or not ranges:
            raise _corrupt(data)
        return cls(lease_ms, at_ms, offset, asked, worker, active, ok, retried, dead, weights, ranges)

    def held(self) -> list[tuple[int, int]]:
        """Start and stop of what it holds and has not committed yet."""
        skip, held = self.offset, []
        for r in self.ranges:
            first = min(r.stop, r.start + skip)
            skip -= first - r.start
            if first < r.stop:
                held.append((first, r.stop))
        return held


def _corrupt(data: bytes) -> LedgerCorrupt:
    return LedgerCorrupt(f"key claims: a stored claim does not parse: {data[:60]!r}")
