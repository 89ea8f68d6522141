"""The invariants of a run's bookkeeping, checked from outside."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from toolkit.errors import LedgerCorrupt
from toolkit.ledger.calls import Range
from toolkit.records import quantity


def check_structure(structure: dict[str, Any]) -> list[str]:
    """Compare counters and ranges of a run's bookkeeping; returns what does not add up."""
    submitted, cursor, ready, delayed, claimed, ok, dead, skipped, _finals, _generation = structure["counters"]
    problems: list[str] = []
    placed = {
        "ready": [_range(text, "ready") for text in structure["ready"]],
        "delayed": [_range(text, "delayed") for text in structure["delayed"]],
        "claims": [held for claim in structure["claims"] for held in claim.held()],
    }
    for name, counter in (("ready", ready), ("delayed", delayed), ("claims", claimed)):
        found = sum(stop - start for start, stop in placed[name])
        if found != counter:
            problems.append(f"{name} holds {found} items, its counter says {counter}")
    if len(structure["dead"]) != dead:
        problems.append(f"{quantity(len(structure['dead']), 'dead letter')}, the counter says {dead}")
    remaining = submitted - cursor
    if remaining + ready + delayed + claimed + ok + dead + skipped != submitted:
        problems.append("remaining + ready + delayed + claimed + ok + dead + skipped is not what was submitted")
    every = sorted([(i, i + 1) for i in structure["dead"]] + [r for ranges in placed.values() for r in ranges])
    if any(a[1] > b[0] for a, b in pairwise(every)):
        problems.append("two ranges overlap")
    if every and every[-1][1] > cursor:
        problems.append("a range lies beyond the cursor")
    return problems


def _range(text: str, key: str) -> tuple[int, int]:
    try:
        r = Range.parse(text)
    except LedgerCorrupt as error:
        raise LedgerCorrupt(f"key {key}: {error}") from error
    return r.start, r.stop
