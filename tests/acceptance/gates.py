"""Tasks that wait for a file, or that compute for a while."""

from __future__ import annotations

import time
from pathlib import Path

from toolkit.execution import task

_PATIENCE_S = 100.0


@task
def gated(x: object, gate: str = "") -> object:
    """Return the item once `gate` exists, or the path that the item itself is."""
    path = gate or x
    deadline = time.monotonic() + _PATIENCE_S
    while isinstance(path, str) and path and not Path(path).exists():
        assert time.monotonic() < deadline, "nobody opened the gate"
        time.sleep(0.01)
    return x


@task
def spinning(seconds: float) -> float:
    """Compute for so long in a function of its own."""
    _hot(time.monotonic() + seconds)
    return seconds


def _hot(until: float) -> None:
    while time.monotonic() < until:
        pass
