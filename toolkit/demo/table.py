"""Plain text tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def text_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, indent: str = "  ") -> str:
    """Return rows as aligned text: text to the left, numbers to the right.

    Parameters
    ----------
    rows : iterable of mapping
        Column to value; what is missing stays empty. Floats get three significant digits.
    columns : sequence of str
        Which columns, in order; they are the header.
    indent : str
        Put before each line.
    """
    table = [[row.get(column) for column in columns] for row in rows]
    cells = [[_cell(value) for value in line] for line in table]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)] if cells else []
    widths = widths or [len(column) for column in columns]
    numeric = [bool(table) and all(not isinstance(line[i], str) for line in table) for i in range(len(columns))]

    def join(line: Sequence[str]) -> str:
        parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        return (indent + "  ".join(parts)).rstrip()

    return "\n".join([join(columns), join(["-" * width for width in widths]), *map(join, cells)])


def seconds(value: float) -> str:
    """Return seconds as people read them: ``820 ms``, ``3.42 s``."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def workers_text(count: int) -> str:
    """Return ``1 worker``, ``2 workers``."""
    return f"{count:,} worker" + ("" if count == 1 else "s")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
