"""A report as one HTML page: no script, no address outside, and a policy that allows exactly the style sheet in it.

The blocks as markup serve the notebook too, where pictures are PNG because its sanitiser strips SVG.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from toolkit.notebook import escape
from toolkit.notebook import format as fmt
from toolkit.notebook.report.content import (
    Answer,
    Block,
    Bullets,
    Code,
    Content,
    Paragraph,
    Picture,
    Section,
    Table,
    Tiles,
)
from toolkit.notebook.report.style import STYLE

Draw = Callable[[Picture], str]


def page(content: Content) -> str:
    """Return the report as a page of its own."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = escape.html(content.title)
    opening, *rest = content.opening
    body = (
        f'<header><h1>{title}</h1><p class="note">{escape.html(content.subtitle)}</p>{block(opening, svg)}</header>'
        f"{blocks(tuple(rest), svg)}{''.join(_section(section) for section in content.sections)}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n'
    )


def svg(picture: Picture) -> str:
    """Return a picture as inline SVG, in the colours of the page around it."""
    caption = escape.html(picture.display.caption(), 2000)
    ident = picture.ident
    drawn = f'<div class="wide">{picture.display.svg(ident)}</div>'
    return f'<figure id="{ident}">{drawn}<figcaption>{caption}</figcaption></figure>'


def blocks(parts: tuple[Block, ...], draw: Draw) -> str:
    """Return blocks as markup, pictures drawn by `draw`."""
    return "".join(block(part, draw) for part in parts)


def block(part: Block, draw: Draw) -> str:
    """Return one block as markup; all its text is escaped here."""
    match part:
        case Paragraph(text, note):
            opened = '<p class="note">' if note else "<p>"
            return f"{opened}{escape.html(text, 1000)}</p>"
        case Answer(text, refused):
            return f'<p class="answer{" refused" if refused else ""}">{escape.html(text, 600)}</p>'
        case Tiles(pairs):
            tiles = "".join(f"<div><b>{escape.html(value)}</b>{escape.html(label)}</div>" for value, label in pairs)
            return f'<section class="tiles" aria-label="Key figures">{tiles}</section>'
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{escape.html(item, 600)}</li>' for item in items)}</ul>"
        case Code(text):
            return f"<pre>{escape.block(text)}</pre>"
        case Table():
            return _table(part)
        case Picture():
            return draw(part)


def _section(section: Section) -> str:
    return f"<section><h2>{escape.html(section.heading)}</h2>{blocks(section.blocks, svg)}</section>"


def _table(table: Table) -> str:
    marks = [' class="text"' if column.text else "" for column in table.columns]
    facts = not any(column.title for column in table.columns)  # pairs of a name and a value
    head = "".join(
        f'<th scope="col"{mark}>{escape.html(column.title)}</th>'
        for column, mark in zip(table.columns, marks, strict=True)
    )
    body = "".join(f"<tr>{_row(row, marks, facts)}</tr>" for row in table.rows)
    rest = f'<p class="note">{fmt.quantity(table.more, "more row")} not shown.</p>' if table.more else ""
    opened, titles = ('<table class="facts">', "") if facts else ("<table>", f"<thead><tr>{head}</tr></thead>")
    markup = (
        f'<div class="wide">{opened}<caption>{escape.html(table.caption, 400)}</caption>{titles}'
        f"<tbody>{body}</tbody></table></div>{rest}"
    )
    if table.folded:
        return f"<details><summary>The same as a table</summary>{markup}</details>"
    return markup


def _row(row: tuple[str, ...], marks: list[str], facts: bool) -> str:
    cells = [f"<td{mark}>{escape.html(text, 400)}</td>" for text, mark in zip(row, marks, strict=True)]
    if facts:
        cells[0] = f'<th scope="row"{marks[0]}>{escape.html(row[0], 400)}</th>'
    return "".join(cells)
