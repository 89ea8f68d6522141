"""The invariants of a run's bookkeeping, checked from outside."""

from __future__ import annotations

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
        fields = text.split(";")
        skip = int(fields[0])
        for r in (Range.parse(x) for x in fields[5].split(",")):
            start = min(r.stop, r.start + skip)
            skip -= start - r.start
            if start < r.stop:
                placed.append((start, r.stop))
                sums["claims"] += r.stop - start
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
    if any(a[1] > b[0] for a, b in zip(placed, placed[1:], strict=False)):
        problems.append("two ranges overlap")
    if placed and placed[-1][1] > submitted:
        problems.append("a range lies beyond what was submitted")
    return problems
