"""How many elements encoded bytes hold, told from their heads alone, before any of them is built.

A page of half a megabyte can unpack to 128 MB of empty lists, which would take ten gigabytes as Python values. So
what is longer than `MAX_ELEMENTS` bytes is walked first: a container says its length in its head, and heads follow
each other without a gap, so no stack is needed. Shorter bytes cannot hold more elements, and cost nothing here.
"""

from __future__ import annotations

from typing import Final

from toolkit.codec import extensions, limits

_NESTING: Final = frozenset((extensions.TUPLE, extensions.SET, extensions.FROZENSET, extensions.DICT))
_ARRAYS: Final = {0xDC: 2, 0xDD: 4}
_MAPS: Final = {0xDE: 2, 0xDF: 4}
_TEXTS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_NUMBERS: Final = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip

# Bytes from one head to the next where the head alone says it; 0 where it does not.
_STEP: Final = bytes(
    1 + (head & 0x1F) if 0xA0 <= head <= 0xBF else 1 + _NUMBERS[head] if head in _NUMBERS else int(head not in (
        *_ARRAYS, *_MAPS, *_TEXTS, *_EXTENSIONS, *_FIXED, *range(0x80, 0xA0)
    ))
    for head in range(256)
)  # fmt: skip


def check_elements(data: bytes | bytearray | memoryview) -> None:
    """Refuse bytes whose values would have more elements than `MAX_ELEMENTS` in all; nothing is allocated.

    The outermost container of a page counts for itself: it may hold `MAX_ELEMENTS` values.

    Raises
    ------
    ValueError
        There are more.
    """
    limit = limits.MAX_ELEMENTS
    if len(data) <= limit:
        return
    raw, step, size = memoryview(data), _STEP, len(data)
    at, elements, outermost = 0, 0, True
    while at < size:
        head = raw[at]
        forward = step[head]
        if forward:
            at += forward
            outermost = False
            continue
        forward, declared = _measure(raw, at, head)
        at += forward
        elements = elements + declared if not outermost else 0
        outermost = False
        if max(elements, declared) > limit:
            raise ValueError(f"more than {limit:,} elements")


def _measure(raw: memoryview, at: int, head: int) -> tuple[int, int]:
    """Bytes to the next head, and the elements that a container declares."""

    def number(width: int) -> int:
        return int.from_bytes(raw[at + 1 : at + 1 + width], "big")

    if head < 0xA0:
        return 1, head & 0x0F
    if head in _ARRAYS or head in _MAPS:
        width = _ARRAYS.get(head) or _MAPS[head]
        return 1 + width, number(width)
    if head in _TEXTS:
        width = _TEXTS[head]
        return 1 + width + number(width), 0
    width = _EXTENSIONS.get(head, 0)
    code = at + 1 + width
    length = number(width) if width else _FIXED[head]
    # The payload of one of ours that nests is an array again, whose head comes next.
    nests = code < len(raw) and raw[code] in _NESTING
    return 2 + width + (0 if nests else length), 0
