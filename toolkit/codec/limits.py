"""Limits of the codec and the words its files share."""

from __future__ import annotations

from typing import Any, Final

MAX_DEPTH: Final = 64
"""Containers inside each other, counted from the value itself; the list that a page is does not count."""

MAX_ELEMENTS: Final = 16 * 1024 * 1024
"""Elements of all containers of one value together; the numbers inside an array do not count."""

MAX_INT_BYTES: Final = 1024
"""Longest integer, in bytes: 8,192 bits, so that Python still prints it (its own limit is 4,300 digits)."""

MAX_VALUE_BYTES: Final = 64 * 1024 * 1024
"""Longest encoded value, whatever limit the caller sets."""

MAX_PAGE_BYTES: Final = 128 * 1024 * 1024
"""Longest page before compression. It also caps what a compressed page may unpack to."""

PAGE_RAW: Final = 1
PAGE_ZLIB: Final = 2
"""First byte of a page: the MessagePack array follows as it is, or compressed by zlib."""

SCALARS: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes})
"""Types that MessagePack holds by itself. They are also the types of dict keys."""


class Refused(Exception):
    """A value that cannot be stored, on its way up to the caller, who knows the item's index.

    Attributes
    ----------
    reason : str
        What is wrong and what to do instead.
    steps : list
        Positions and keys that lead to the value, the innermost first.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []

    def inside(self, step: Any) -> Refused:
        """Return the same refusal, one container further out."""
        try:
            text = repr(step)
        except ValueError:  # an integer with too many digits to print
            text = f"an {type(step).__name__}"
        self.steps.append(f"[{text[:40]}...]" if len(text) > 43 else f"[{text}]")
        return self

    @property
    def path(self) -> str:
        """Where inside the value, for example ``['rows'][3]``."""
        steps = list(reversed(self.steps))
        return "".join([*steps[:8], "...", *steps[-2:]] if len(steps) > 12 else steps)


def megabytes(size: int) -> str:
    """Write a size for a person: ``17.2 MB``."""
    return f"{size / 1e6:,.1f} MB"
