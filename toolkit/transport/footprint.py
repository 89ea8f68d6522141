"""Whether a batch left its process as it was, so that the next one takes as long.

The first batch of a process may import modules, load a model or compile: what later ones do not repeat. That leaves
traces in the process, in its modules or its memory. Where there are none, what the batch took counts like any other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

_GREW_BYTES: Final = 16 << 20
"""Growth of memory from which something was loaded; results and garbage of a first batch are less."""


class Footprint(NamedTuple):
    """What a process holds: how many modules, and how many bytes of memory, -1 where that is not known."""

    modules: int
    resident_bytes: int


def footprint() -> Footprint:
    """Return that of this process; its memory is known on Linux only."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return Footprint(len(sys.modules), -1)
    return Footprint(len(sys.modules), pages * os.sysconf("SC_PAGE_SIZE"))


def unchanged(before: Footprint, after: Footprint) -> bool:
    """Whether nothing was loaded in between, as far as can be seen."""
    if before.resident_bytes < 0 or after.resident_bytes < 0:
        return False
    return after.modules <= before.modules and after.resident_bytes - before.resident_bytes < _GREW_BYTES
