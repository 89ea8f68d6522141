"""What is checked of a run whose items each left a file, however many processes died meanwhile."""

from __future__ import annotations

from pathlib import Path

from toolkit.client import Run


def check(run: Run, folder: Path, n: int) -> None:
    """Every result is there once, every item was executed, the books add up."""
    assert run.results(120) == list(range(n))
    assert sorted(int(p.name) for p in folder.iterdir()) == list(range(n))
    indexes = [i for ranges, _ in run._reader.outputs() for a, b in ranges for i in range(a, b)]
    assert sorted(indexes) == list(range(n))
    assert run.events_frame()["event"].tolist().count("finished") == 1
    run.verify()
