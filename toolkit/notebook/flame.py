"""A flame graph as inline SVG: width is time, a function lies on the one that called it.

No script, no style attribute, nothing from outside: it survives a strict content security policy. Names come from user
code and pass `escape`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from toolkit.notebook import escape
from toolkit.notebook import format as fmt

if TYPE_CHECKING:
    from toolkit.client.profile import Profile

_WIDTH: Final = 1000.0
_ROW: Final = 18
_LEAST: Final = 1.0
"""Narrower boxes are left out: nobody could see or hit them."""
_CHAR: Final = 6.2
_COLOURS: Final = ("#f4b183", "#f7c59f", "#f2d0a4", "#e9b872", "#f6bd60", "#f0a868")


@dataclass(slots=True)
class Box:
    """Samples of a function on a path to it, and the functions that it called."""

    samples: int = 0
    above: dict[str, Box] = field(default_factory=dict)


def flame_graph(profile: Profile) -> str:
    """Return a profile as an ``svg`` element to put into a page.

    Hovering a box shows its function and its share; the description says the most important ones in words.
    """
    root = tree(profile.stacks)
    boxes: list[str] = []
    depth = _draw(root, 0.0, _WIDTH, 0, root.samples, boxes)
    height = max(1, depth) * _ROW + 4
    title = f"Flame graph of {profile.task}: {profile.samples:,} samples of {profile.batches:,} batches"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height}" role="img" '
        f'aria-label="{escape.html(f"{title}. {words(root)}", 1000)}" font-family="monospace" font-size="11">'
        f"<title>{escape.html(title)}</title><desc>{escape.html(words(root), 1000)}</desc>{''.join(boxes)}</svg>"
    )


def profile_html(profile: Profile) -> str:
    """Return a profile as it shows itself in a notebook: the graph, and the same as a table."""
    rows = "".join(
        f"<tr><td>{escape.html(name, 120)}</td><td>{own}</td><td>{total}</td></tr>"
        for name, own, total in profile.frame()[["function", "own", "total"]].head(15).itertuples(index=False)
    )
    return (
        f"<figure>{flame_graph(profile)}</figure><table><thead><tr><th>function</th><th>samples in it</th>"
        f"<th>and below</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def tree(stacks: Mapping[tuple[str, ...], int]) -> Box:
    """Stacks as boxes on one another, below all of them one without a name."""
    root = Box()
    for stack, n in sorted(stacks.items()):
        root.samples += n
        box = root
        for name in stack:
            box = box.above.setdefault(name, Box())
            box.samples += n
    return root


def _draw(box: Box, x: float, width: float, level: int, total: int, out: list[str]) -> int:
    """Append the boxes on top of one, and return how many levels there are."""
    deepest = level
    for name, child in box.above.items():
        wide = width * child.samples / box.samples
        if wide >= _LEAST:
            share = f"{child.samples:,} samples, {fmt.percent(child.samples / total)}"
            room = int((wide - 6) / _CHAR)
            label = (
                f'<text x="{x + 3:.1f}" y="{level * _ROW + 14}" fill="#1b1f24">{escape.html(name, room)}</text>'
                if room >= 3
                else ""
            )
            out.append(
                f"<g><title>{escape.html(name)} ({share})</title>"
                f'<rect x="{x:.1f}" y="{level * _ROW + 1}" width="{wide - 0.5:.1f}" height="{_ROW - 1}" '
                f'rx="2" fill="{colour(name)}"/>{label}</g>'
            )
            deepest = max(deepest, _draw(child, x, wide, level + 1, total, out))
        x += wide
    return max(deepest, level)


def colour(name: str) -> str:
    """Colour of a function: the same in every picture."""
    return _COLOURS[zlib.crc32(name.encode("utf-8", "replace")) % len(_COLOURS)]


def words(root: Box) -> str:
    """The widest path from the outermost function on."""
    parts: list[str] = []
    box = root
    while box.above and len(parts) < 6:
        name, box = max(box.above.items(), key=lambda pair: pair[1].samples)
        parts.append(f"{name} {fmt.percent(box.samples / root.samples)}")
    return "Most time: " + ", in it ".join(parts) if parts else "No samples"
