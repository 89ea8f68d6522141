"""A report as Markdown, for the description of a pull request: pictures in words, tables as tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from toolkit.notebook.theme import Display


def markdown(content: Content) -> str:
    """Return the report as Markdown (GitHub's flavour)."""
    parts = [f"# {escape.markdown(content.title)}", escape.markdown(content.subtitle)]
    parts += [block(part) for part in content.opening]
    parts += [section_text(section) for section in content.sections]
    return "\n\n".join(parts) + "\n"


def section_text(section: Section) -> str:
    """Return a section as Markdown."""
    return "\n\n".join([f"## {escape.markdown(section.heading)}", *(block(part) for part in section.blocks)])


def block(part: Block) -> str:
    """Return one block as Markdown; all its text is escaped here."""
    match part:
        case Paragraph(text, note):
            words = escape.markdown(text, 1000)
            return f"*{words}*" if note else words
        case Answer(text):
            return f"> **{escape.markdown(text, 600)}**"
        case Tiles(pairs):
            return "\n".join(f"- {escape.markdown(label)}: **{escape.markdown(value)}**" for value, label in pairs)
        case Bullets(items):
            return "\n".join(f"- {escape.markdown(item, 600)}" for item in items)
        case Code(text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}python\n{text}\n{fence}"
        case Table():
            return _table(part)
        case Picture(display):
            return f"**{escape.markdown(display.finding(), 600)}.** {escape.markdown(_rest(display), 2000)}".strip()


def _rest(display: Display) -> str:
    """The caption of a figure without the finding, which it begins with."""
    return display.caption().removeprefix(f"{display.finding()}.").strip()


def _table(table: Table) -> str:
    # A table must have a heading line; one without words has empty cells there.
    lines = [
        "| " + " | ".join(escape.markdown(column.title) for column in table.columns) + " |",
        "| " + " | ".join("---" if column.text else "---:" for column in table.columns) + " |",
    ]
    lines += ["| " + " | ".join(escape.markdown(text, 400) for text in row) + " |" for row in table.rows]
    body = "\n".join(lines)
    if table.more:
        body += f"\n\n*{fmt.quantity(table.more, 'more row')} not shown.*"
    caption = escape.markdown(table.caption, 400)
    if table.folded:
        return f"<details><summary>{caption}</summary>\n\n{body}\n\n</details>"
    return f"{caption}:\n\n{body}"
