"""A matplotlib figure as inline SVG that fits the page around it.

The picture is rebuilt element by element from a list of what is allowed: no style attribute (a strict content security
policy refuses them), no metadata, no comment, no address outside. Theme colours become classes, so the page decides in
light, dark and print; numbers are rounded; ids get a prefix, so that two figures on a page do not share clip paths.
"""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from toolkit.notebook import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TAGS: Final = {"svg", "g", "path", "use", "text", "tspan", "defs", "clipPath", "rect", "pattern", "line"}
_PLAIN: Final = {
    "d", "x", "y", "x1", "y1", "x2", "y2", "width", "height", "transform", "id", "clip-path", "patternUnits",
    "viewBox", "fill", "stroke",
}  # fmt: skip
_STYLE: Final = {
    "fill", "fill-opacity", "fill-rule", "font-size", "font-style", "font-weight", "opacity", "stroke",
    "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-opacity", "stroke-width",
    "text-anchor",
}  # fmt: skip
_DEFAULTS: Final = {("stroke-linejoin", "round"), ("stroke-linecap", "butt")}
_HREF: Final = "{http://www.w3.org/1999/xlink}href"
_NUMBER: Final = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")

THEME: Final = {
    "#1b1f24": "ink", "#d3d7dc": "grid", "#fefefe": "paper", "#0072b2": "blue", "#56b4e9": "sky", "#009e73": "green",
    "#e69f00": "orange", "#d55e00": "vermillion", "#cc79a7": "purple",
}  # fmt: skip
"""Colours that the page may choose differently, and their names: class ``f-blue`` fills, ``s-blue`` strokes."""

_FONT: Final = "font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif"
_COLOURS: Final = "".join(
    f".f-{name}{{fill:var(--{name})}}.s-{name}{{stroke:var(--{name})}}" for name in THEME.values()
)
CSS: Final = (
    f"figure svg{{display:block;width:100%;height:auto;{_FONT}}}"
    f"figure svg *{{stroke-linejoin:round;stroke-linecap:butt}}{_COLOURS}"
)
"""Rules that a page with such figures needs, beside a definition of each theme colour as a custom property."""

LEAST_PX: Final = 480
"""Narrower, the words in a figure are too small to read: it scrolls in its box instead."""


def inline_svg(figure: Figure, ident: str, *, title: str, description: str) -> str:
    """Return `figure` as an ``svg`` element to put into a page.

    Parameters
    ----------
    figure : matplotlib Figure
        What to draw.
    ident : str
        Letters, digits and hyphens; the prefix of every id.
    title, description : str
        What assistive technology reads; plain text.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # Text stays text (searchable, and in the page's font); the salt makes the ids the same in every run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": ident}):
        figure.patch.set_alpha(0.0)
        # Not by `savefig`, which draws a figure twice: first for the layout, which drawing settles anyway.
        canvas: Any = FigureCanvasSVG(figure)  # untyped in matplotlib
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib wrote it a moment ago
    used = _referenced(root)
    body = "".join(_element(child, ident, used) for child in root)
    label = f"{ident}-title {ident}-desc"
    head = f'<svg viewBox="{_round(root.get("viewBox", ""))}" role="img" aria-labelledby="{label}">'
    words = (
        f'<title id="{ident}-title">{escape.html(title, 400)}</title>'
        f'<desc id="{ident}-desc">{escape.html(description, 2000)}</desc>'
    )
    return f"{head}{words}{body}</svg>"


def _referenced(root: ET.Element) -> set[str]:
    found = set()
    for element in root.iter():
        if _HREF in element.attrib:
            found.add(element.attrib[_HREF].removeprefix("#"))
        for value in (element.get("clip-path", ""), element.get("style", "")):
            found.update(re.findall(r"url\(#([\w.-]+)\)", value))
    return found


def _round(text: str) -> str:
    return " ".join(_NUMBER.sub(lambda m: f"{float(m.group()):.2f}".rstrip("0").rstrip("."), text).split())


def _attributes(element: ET.Element) -> dict[str, str]:
    """Return the element's attributes, with its style spread over them."""
    found = {name: value for name, value in element.attrib.items() if name in _PLAIN}
    for declaration in element.get("style", "").split(";"):
        name, _, value = declaration.partition(":")
        if name.strip() in _STYLE:
            found[name.strip()] = value.strip()
    return found


def _words(element: ET.Element, ident: str, used: set[str]) -> list[str]:
    """Return the attributes of an element as markup."""
    words, classes = [], []
    for name, value in _attributes(element).items():
        if name in ("fill", "stroke") and value.lower() in THEME:
            classes.append(f"{name[0]}-{THEME[value.lower()]}")
        elif name == "id":
            if value in used:
                words.append(f'id="{ident}-{html.escape(value)}"')
        elif (name, value) not in _DEFAULTS:
            clean = _round(value) if name != "patternUnits" else value
            words.append(f'{name}="{html.escape(clean.replace("url(#", f"url(#{ident}-"))}"')
    target = element.get(_HREF, "")
    if target.startswith("#"):
        words.append(f'href="#{ident}-{html.escape(target[1:])}"')
    if classes:
        words.append(f'class="{" ".join(classes)}"')
    return words


def _element(element: ET.Element, ident: str, used: set[str]) -> str:
    tag = element.tag.rpartition("}")[2]
    if tag not in _TAGS:
        return ""
    inner = "".join(_element(child, ident, used) for child in element)
    if tag in ("text", "tspan"):
        inner = html.escape(element.text or "") + inner
    if not inner and tag in ("g", "defs"):
        return ""
    head = " ".join([tag, *_words(element, ident, used)])
    # A group without attributes only nests.
    return inner if head == "g" else f"<{head}>{inner}</{tag}>"
