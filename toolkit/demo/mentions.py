"""Find people, places, dates and amounts in English text, by rule.

Regular expressions are compiled once and cannot backtrack far: repetitions are bounded or possessive, and each
pattern starts with something rare, so the time grows with the length of the text even for hostile input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from toolkit.demo import gazetteer
from toolkit.demo.texts import presidents

KINDS: Final = ("date", "amount", "person", "place")
"""Kinds of mention; where two overlap and begin together, the longer wins, then the earlier of this list."""


class Span(NamedTuple):
    """Where a mention is; ``text[start:end]`` is it."""

    start: int
    end: int
    kind: str


_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_YEAR = r"(?:1[4-9]|20)\d\d(?![\d,.]?\d)"
_DAY = r"[0-3]?\d(?:st|nd|rd|th|d)?(?!\d)"
_DATE = re.compile(
    rf"\b{_MONTH}\ {_DAY}(?:\ instant|,?\ {_YEAR})?"  # March 4, 1861
    rf"|\b{_MONTH},?\ {_YEAR}"  # March, 1861
    r"|\b1[6-9]\d\d-[01]\d-[0-3]\d\b"  # 1820-05-08
    rf"|(?<![\d,.$£])\b{_DAY}\ (?:day\ )?of\ {_MONTH}(?!\w)(?:\ (?:last|next|instant)|,?\ {_YEAR})?"  # 4th of March
    rf"|(?<![\d,.$£-])\b{_YEAR}(?:s|[-–]\d\d(?:\d\d)?)?(?![\w%])"  # 1861, 1930s, 1861-65
)

_NUMBER_WORD = (
    "(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion|dozen)"
)
_SCALE = r"(?:\ (?:hundred|thousand|million|billion|trillion))?"
_DIGITS = r"\d++(?:,\d{3})*+(?:\.\d++)?"
_AMOUNT = re.compile(
    rf"[$£]\ ?{_DIGITS}{_SCALE}"  # $12,000,000.50, $3 billion
    rf"|(?<![\w.,$£]){_DIGITS}(?:{_SCALE}[\ -](?:{gazetteer.UNITS})(?!\w)|%)"  # 640 acres, 3.5 percent
    rf"|\b(?i:{_NUMBER_WORD}(?:(?:[\ -]|\ and\ ){_NUMBER_WORD}){{0,8}})\ (?:{gazetteer.UNITS})(?!\w)"  # ten years
)

_NAME = r"[A-Z](?:\.|(?:['’]|Mc|Mac)?[A-Za-zéÉóíáñ]++(?:[-'’][A-Z][a-zé]++)?)"
_PERSON = re.compile(
    rf"\b(?:{'|'.join(sorted(gazetteer.TITLES, key=len, reverse=True))}|(?:{'|'.join(gazetteer.TITLES_WITH_DOT)})\.?)\ "
    rf"(?P<name>{_NAME}(?:\ (?:{_NAME}|de|von|van|la)(?!\w)){{0,3}})"
)
_CAPITAL = re.compile(r"\b[A-Z][\w-]*+")
_AROUND = re.compile(
    rf"\b(?:(?:{'|'.join(gazetteer.GEOGRAPHY_BEFORE)})\ [A-Z][a-z]++"
    rf"|[A-Z][a-z]++\ (?:{'|'.join(gazetteer.GEOGRAPHY)}))(?!\w)"
)
_NOT_BEFORE_GEOGRAPHY = frozenset(
    {"The", "This", "That", "These", "Those", "Our", "In", "Public", "Said", "Each", "Any"}
)


def mentions(text: str) -> list[dict[str, Any]]:
    """Return the people, places, dates and amounts of `text`, in order, without overlaps.

    Parameters
    ----------
    text : str
        Any text; the empty one has no mentions.

    Returns
    -------
    list of dict
        ``kind`` (one of `KINDS`), ``text``, ``start`` and ``end`` in characters, with ``text == text[start:end]``.
    """
    found = [*_dates_and_amounts(text), *_people(text), *_places(text)]
    found.sort(key=lambda span: (span.start, -span.end, KINDS.index(span.kind)))
    kept: list[dict[str, Any]] = []
    end = 0
    for span in found:
        if span.start >= end:
            end = span.end
            kept.append({"kind": span.kind, "text": text[span.start : end], "start": span.start, "end": end})
    return kept


def _dates_and_amounts(text: str) -> Iterator[Span]:
    for match in _DATE.finditer(text):
        yield Span(*match.span(), "date")
    for match in _AMOUNT.finditer(text):
        yield Span(*match.span(), "amount")


def _people(text: str) -> Iterator[Span]:
    for match in _PERSON.finditer(text):
        if match["name"].partition(" ")[0] not in gazetteer.NOT_A_SURNAME:
            yield Span(*match.span(), "person")


def _places(text: str) -> Iterator[Span]:
    """Yield what stands in the gazetteer, presidents' names among it, and what looks like a place by its neighbour."""
    names = _names()
    for match in _CAPITAL.finditer(text):
        for name, kind in names.get(match.group(), ()):
            end = match.start() + len(name)
            if text.startswith(name, match.start()) and not text[end : end + 1].isalnum():
                yield Span(match.start(), end, kind)
                break
    for match in _AROUND.finditer(text):
        if match.group().partition(" ")[0] not in _NOT_BEFORE_GEOGRAPHY:
            yield Span(*match.span(), "place")


@cache
def _names() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """First capitalised word to the names that begin with it and their kinds, the longest first."""
    kinds = dict.fromkeys((*gazetteer.STATES, *gazetteer.COUNTRIES, *gazetteer.TOWNS_AND_REGIONS), "place")
    for full in presidents():
        surname = full.removesuffix(" Jr.").split(" ")[-1]
        surname = "Van Buren" if surname == "Buren" else surname
        kinds[full] = "person"
        if surname not in gazetteer.SURNAMES_LEFT_OUT:
            kinds[surname] = "person"
    table: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(kinds, key=len, reverse=True):
        first = _CAPITAL.match(name)
        if first:
            table.setdefault(first.group(), []).append((name, kinds[name]))
    return {first: tuple(rest) for first, rest in table.items()}
