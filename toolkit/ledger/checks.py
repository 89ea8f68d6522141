"""The invariants of a run's bookkeeping, checked from outside."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from toolkit.ledger.ledger import Range


def check_structure(structure: dict[str, Any]) -> list[str]:
    """Compare counters and ranges of a run's bookkeeping; returns what does not add up."""
    submitted, cursor, ready, delayed, claimed, ok, dead, skipped, _finals, _generation = structure["counters"]
    problems: list[str] = []
    placed: list[tuple[int, int]] = []
    sums = {"ready": 0, "delayed": 0, "claims": 0}
    for place in ("ready", "delayed"):
        for text in structure[place]:
            r = Range.parse(text)
            placed.append((r.start, r.stop))
            sums[place] += len(r)
    for text in structure["claims"]:
        held = _held(text)
        placed += held
        sums["claims"] += sum(stop - start for start, stop in held)
    placed += [(i, i + 1) for i in structure["dead"]]
    for name, counter in (("ready", ready), ("delayed", delayed), ("claims", claimed)):
        if sums[name] != counter:
            problems.append(f"{name} holds {sums[name]} items, its counter says {counter}")
    if len(structure["dead"]) != dead:
        problems.append(f"{len(structure['dead'])} dead letters, the counter says {dead}")
    if len(structure["claims"]) != structure["leases"]:
        problems.append(f"{len(structure['claims'])} claims and {structure['leases']} leases")
    remaining = submitted - cursor
    if remaining + ready + delayed + claimed + ok + dead + skipped != submitted:
        problems.append("remaining + ready + delayed + claimed + ok + dead + skipped is not what was submitted")
    placed.sort()
    if any(a[1] > b[0] for a, b in pairwise(placed)):
        problems.append("two ranges overlap")
    if placed and placed[-1][1] > cursor:
        problems.append("a range lies beyond the cursor")
    return problems


def _held(claim: str) -> list[tuple[int, int]]:
    """Ranges of a claim that it has not committed yet."""
    fields = claim.split(";")
    skip = int(fields[0])
    held = []
    for r in (Range.parse(x) for x in fields[-1].split(",")):
        start = min(r.stop, r.start + skip)
        skip -= start - r.start
        if start < r.stop:
            held.append((start, r.stop))
    return held
