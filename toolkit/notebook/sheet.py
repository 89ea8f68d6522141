"""The looks of the live views and of what stays of them, said once.

Pieces of markup carry a short class. The live views have one style element for all of them, so a refresh sends words
and not styles: jupyter_server keeps every message for a tab that is closed. A static summary gets the same styles
written into its elements by `still`, because the sanitiser of an untrusted notebook drops style elements.
"""

from __future__ import annotations

import re
from typing import Final

# Okabe-Ito hues, darkened until white text on them reaches a contrast of 4.5.
BLUE: Final = "#0067a3"
GREEN: Final = "#00785a"
RED: Final = "#b84a00"
GREY: Final = "#666c75"

SKY: Final = "#56b4e9"
"""Items on a worker, in the bar."""

LIVELY: Final = "#d55e00"
"""A count that is bad news: legible on white and on black."""

FONT: Final = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px;line-height:1.45"

_CHIP: Final = "color:#fff;border-radius:9px;padding:1px 9px;font-size:12px;font-weight:600;white-space:nowrap"
_NOTE: Final = "padding:2px 8px;margin-top:6px"

LOOKS: Final = {
    "box": f"border:1px solid #8888;border-radius:8px;padding:10px 14px;max-width:820px;{FONT}",
    "gap": "margin-top:6px",
    "sum": "cursor:pointer",
    "head": f"{FONT};margin-bottom:6px;overflow-wrap:anywhere",
    "name": "font-size:15px;font-weight:600",
    "dim": "opacity:.75",
    "run": f"background-color:{BLUE};{_CHIP}",
    "good": f"background-color:{GREEN};{_CHIP}",
    "bad": f"background-color:{RED};{_CHIP}",
    "off": f"background-color:{GREY};{_CHIP}",
    "all": FONT,
    "bar": "height:14px;width:100%;overflow:hidden;border-radius:4px;background-color:#8883",
    "thin": "height:8px;width:100%;min-width:70px;overflow:hidden;border-radius:4px;background-color:#8883",
    "bo": f"float:left;height:100%;background-color:{BLUE}",
    "bg": f"float:left;height:100%;background-color:{GREEN}",
    "bd": f"float:left;height:100%;background-color:{RED}",
    "bs": f"float:left;height:100%;background-color:{GREY}",
    "bc": f"float:left;height:100%;background-color:{SKY}",
    "t": "display:inline-block;vertical-align:top;margin:8px 10px 0 0;min-width:146px",
    "tt": "display:inline-block;vertical-align:top;margin:8px 10px 0 0;min-width:302px",
    "v": "display:block;font-size:16px;font-weight:600;white-space:nowrap",
    "w": f"display:block;font-size:16px;font-weight:600;white-space:nowrap;color:{LIVELY}",
    "l": "display:block;font-style:normal;font-size:11.5px;opacity:.75",
    "hist": f"font-size:10px;letter-spacing:0;font-weight:400;color:{SKY};white-space:nowrap;line-height:1",
    "dead": f"font-weight:600;color:{LIVELY}",
    "nw": "white-space:nowrap",
    "msg": "display:block;min-width:220px;overflow-wrap:anywhere",
    "note": f"border-left:4px solid {GREY};{_NOTE}",
    "warn": f"border-left:4px solid {RED};{_NOTE};overflow-wrap:anywhere",
    "foot": "font-size:11.5px;opacity:.75;margin-top:6px",
    "fail": f"{FONT};margin-top:8px;overflow-wrap:anywhere",
    "tab": f"border-collapse:collapse;margin-top:4px;{FONT}",
    "row": "border-bottom:1px solid #8888",
    "tl": "text-align:left;padding:2px 10px 2px 0;vertical-align:top",
    "tr": "text-align:right;padding:2px 10px;vertical-align:top;white-space:nowrap",
    "hl": "text-align:left;padding:2px 10px 2px 0;font-weight:600",
    "hr": "text-align:right;padding:2px 10px;font-weight:600;white-space:nowrap",
    "cap": "text-align:left;opacity:.8",
    "wide": f"overflow-x:auto;max-width:100%;{FONT}",
    "met": "width:80px",
    "deck": f"display:block;width:100%;margin-top:4px;{FONT}",
    "blk": "display:block",
    "card": "display:flex;flex-wrap:wrap;gap:2px 14px;padding:4px 0;border-bottom:1px solid #8888",
    "ca": "flex:5 1 220px;min-width:0;padding:0;text-align:left;overflow-wrap:anywhere",
    "cb": "flex:2 1 160px;min-width:0;padding:0;text-align:left",
    "cc": "flex:1 1 100px;min-width:0;padding:0;text-align:left",
    "cd": "flex:1 1 64px;min-width:0;padding:0;text-align:left",
}
"""Declarations by class."""

# Foreign text holds no "<", so what looks like a class in it is left alone.
_CLASS = re.compile(r'(<[a-z]+) class=([a-z]+)(?: style="([^"]*)")?')


def sheet(scope: str) -> str:
    """Return the style element for live views whose box has the class `scope`."""
    rules = "".join(f".{scope} .{name}{{{looks}}}" for name, looks in LOOKS.items())
    return f"<style>{rules}{fits(scope)}</style>"


def fits(scope: str) -> str:
    """Return the rules that fit widgets into a box with the class `scope`, and into the theme of the page."""
    # A leaf may be narrower than its widest word, which then scrolls or wraps.
    parts = f".{scope} .widget-html,.{scope} .widget-html-content{{min-width:0;max-width:100%;width:100%}}"
    # What is wider than the page scrolls in its own box, whose edge fades while there is more to see.
    box = f":is(.{scope} .wide,.{scope} [style^=overflow-x])"
    more = (
        f"{box}{{overflow-x:auto;max-width:100%}}@supports (animation-timeline:scroll()){{"
        f"{box}{{animation:tk-more linear both;animation-timeline:scroll(self inline)}}}}@keyframes tk-more{{"
        "from,92%{mask-image:linear-gradient(90deg,#000 calc(100% - 36px),#0003)}to{mask-image:none}}"
    )
    # The triangle that ipywidgets draws into a list of choices is black, also on the dark theme's ground.
    return f'{parts}{more}body[data-jp-theme-light="false"] .{scope}{{--jp-widgets-dropdown-arrow:url("{_ARROW}")}}'


_ARROW: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath fill='%23ddd' d='M5 6.5 9 10.5 13 6.5 14.2 7.7 9 12.9 3.8 7.7z'/%3E%3C/svg%3E"
)


def still(markup: str) -> str:
    """Return pieces of markup with their looks written into each element."""

    def write(found: re.Match[str]) -> str:
        own = f";{found[3]}" if found[3] else ""
        return f'{found[1]} style="{LOOKS[found[2]]}{own}"'

    return _CLASS.sub(write, markup)
