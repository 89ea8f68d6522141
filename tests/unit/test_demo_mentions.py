"""The demo's first task: mentions with exact offsets, in linear time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.demo.mentions import KINDS, mentions
from toolkit.demo.tasks import find_mentions
from toolkit.demo.texts import paragraphs


def found(text: str) -> list[tuple[str, str]]:
    return [(m["kind"], m["text"]) for m in mentions(text)]


def check(text: str) -> None:
    """Offsets are exact, mentions are in order and do not overlap."""
    end = 0
    for m in mentions(text):
        assert set(m) == {"kind", "text", "start", "end"}
        assert m["kind"] in KINDS
        assert m["text"] == text[m["start"] : m["end"]] != ""
        assert m["start"] >= end
        end = m["end"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("On March 4, 1861, it began.", [("date", "March 4, 1861")]),
        ("on the 30th of September last", [("date", "30th of September last")]),
        ("In July, 1815, and in 1930s style", [("date", "July, 1815"), ("date", "1930s")]),
        ("signed 1820-05-08 there", [("date", "1820-05-08")]),
        ("the years 1861-65 were hard", [("date", "1861-65")]),
        ("It may march on", []),
        ("cost $12,000,000.50 or $3.5 billion", [("amount", "$12,000,000.50"), ("amount", "$3.5 billion")]),
        ("about 640 acres and 58 per cent", [("amount", "640 acres"), ("amount", "58 per cent")]),
        ("Two hundred and fifty thousand dollars", [("amount", "Two hundred and fifty thousand dollars")]),
        ("1,861 men in 1861", [("amount", "1,861 men"), ("date", "1861")]),
        ("number 18,612 and 186", []),
        ("Mr. Elihu Root met General Scott.", [("person", "Mr. Elihu Root"), ("person", "General Scott")]),
        ("the General Land Office, Secretary of State", []),
        ("Thank you, Mr. President. Anybody else", []),
        ("Abraham Lincoln and Lincoln", [("person", "Abraham Lincoln"), ("person", "Lincoln")]),
        ("Mr. Van Buren of New York", [("person", "Mr. Van Buren"), ("place", "New York")]),
        ("President Washington left Washington", [("person", "President Washington"), ("place", "Washington")]),
        ("West Virginia, Virginia; Virginian", [("place", "West Virginia"), ("place", "Virginia")]),
        ("the Fox River, Lake Huron and Fort Wayne",
         [("place", "Fox River"), ("place", "Lake Huron"), ("place", "Fort Wayne")]),
        ("The Island", []),
        ("Perusal of Chinaware", []),
        ("a New Yorker and United Statesmen", []),
        ("near New York City", [("place", "New York City")]),
        ("down the Mississippi River", [("place", "Mississippi River")]),
        ("a letter from Mr. A.", [("person", "Mr. A.")]),
    ],
)  # fmt: skip
def test_what_is_found(text, expected):
    check(text)
    assert found(text) == expected


def test_real_paragraphs_have_exact_offsets_and_all_kinds():
    some = paragraphs(1_000)
    for p in some:
        check(p["text"])
    kinds = [m["kind"] for p in some for m in mentions(p["text"])]
    assert {kind: kinds.count(kind) > 20 for kind in KINDS} == dict.fromkeys(KINDS, True)


def test_the_task_takes_a_paragraph_or_its_text():
    p = paragraphs(50)[25]
    assert find_mentions(p) == find_mentions(p["text"]) == mentions(p["text"])


PIECES = ["Mr. ", "General ", "Adams", "New York", "United ", "$1,000", " million", "May ", "4, ", "1861",
          "of the ", "one ", "hundred ", "and ", "dollars", "é", "’", "\u2028", "\x00", "🎉", "İ", "ß", "\ud800",
          "Fort ", "."]  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_any_text_has_exact_offsets(text):
    check(text)


HOSTILE = ["A ", "Mr. ", "Mr. A. ", "1", "1,", "1,111", "one ", "one hundred and ", "$", "May ", "United ", "\n",
           "Fort ", "1861-", "é", "General New "]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_hostile_text_comes_to_an_end(piece):
    """Where time grew with the square of the length, this would be hours."""
    check(piece * (200_000 // len(piece)))
