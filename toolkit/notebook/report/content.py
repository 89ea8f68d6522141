"""What a report says, apart from how it looks: sections of blocks, which hold plain text and pictures.

Text is as it was found, hostile or not: each renderer escapes what it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from toolkit.notebook.theme import Display

MAX_TABLE_ROWS: Final = 100
"""Rows of a table; the rest is counted below it."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence or two; as a `note` it is said with less emphasis."""

    text: str
    note: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The one sentence that the report is about; a refusal is marked as such."""

    text: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Tiles:
    """Key figures: pairs of a value and what it is."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Bullets:
    """Sentences, one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, and whether it holds text or numbers."""

    title: str
    text: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of plain texts.

    Attributes
    ----------
    caption : str
        What it shows.
    columns : tuple of Column
        Its columns.
    rows : tuple of tuple of str
        Its rows, at most `MAX_TABLE_ROWS` of them.
    more : int
        Rows that are not shown.
    folded : bool
        It repeats a picture and may be opened by who wants it.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0
    folded: bool = False

    @classmethod
    def of(
        cls, caption: str, columns: tuple[Column, ...], rows: Sequence[tuple[str, ...]], *, folded: bool = False
    ) -> Table:
        """Keep the first rows, and count the others."""
        kept = tuple(rows[:MAX_TABLE_ROWS])
        return cls(caption, columns, kept, len(rows) - len(kept), folded)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A figure, which draws itself and says in words what it shows."""

    display: Display
    ident: str


Block = Paragraph | Answer | Tiles | Bullets | Code | Table | Picture


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """A heading and what stands below it."""

    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """All of a report.

    Attributes
    ----------
    title : str
        Its heading.
    subtitle : str
        Which task, and when the report was made.
    opening : tuple of Block
        What stands before the first heading: the answer and the key figures.
    sections : tuple of Section
        The rest; none is empty.
    """

    title: str
    subtitle: str
    opening: tuple[Block, ...]
    sections: tuple[Section, ...]
