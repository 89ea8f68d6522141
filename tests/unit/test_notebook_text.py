"""Foreign text made harmless, and numbers made readable."""

from __future__ import annotations

import math
import re

import mistune
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.notebook_samples import HOSTILE, Reader
from toolkit.notebook import escape
from toolkit.notebook import format as fmt

# --------------------------------------------------------------------------- escaping


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_an_element_and_in_an_attribute(text: str):
    reader = Reader(f'<p title="{escape.html(text)}">{escape.html(text)}</p>')
    assert reader.problems == []
    assert reader.tags == ["p"]
    assert reader.attributes == [("title", escape.plain(text))]


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_becomes_one_printable_line(text: str):
    line = escape.plain(text)
    assert len(line) <= escape.LIMIT
    assert "\n" not in line
    line.encode("utf-8")  # raises on half a surrogate pair
    assert Reader(f"<p>{escape.html(text)}</p>").problems == []


def test_terminal_sequences_and_reordering_marks_do_not_pass():
    assert escape.plain("\x1b[31m\u202eabc") == "\ufffd[31m\ufffdabc"


@pytest.mark.parametrize(
    "text",
    [*HOSTILE, "1. x", "- x", "# x", "    code", "a_b __c__ ~~d~~ *e*", "www.x.test http://x.t", "a|b", ":x:"],
)
def test_text_for_markdown_stays_text_in_a_paragraph_and_in_a_cell(text: str):
    render = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url"])
    shown = " ".join(escape.plain(text).split())
    for markup, tags in (
        (escape.markdown(text), ["p"]),
        (f"| a |\n| --- |\n| {escape.markdown(text)} |", ["table", "thead", "tr", "th", "tbody", "tr", "td"]),
    ):
        reader = Reader(re.sub("<!-- -->", "", str(render(markup))))
        assert reader.problems == []
        assert reader.tags == tags
        assert reader.text.removeprefix("a ") == shown


def test_text_for_markdown_calls_nobody_and_leads_nowhere():
    words = escape.markdown("@octocat fixes #12, see www.x.test and HTTPS://x.test; mail a@x.test")
    assert not re.search(r"(?<!\w)@\w|#\w|www\.|https?://", words, re.IGNORECASE)


def test_ordinary_text_is_left_alone():
    assert escape.plain("Größe 3 × 4 – ✔ 漢字") == "Größe 3 × 4 – ✔ 漢字"


def test_long_text_is_cut_and_says_so():
    assert escape.plain("a" * 1000, 10) == "a" * 9 + "…"


def test_a_value_whose_str_raises_is_named_by_its_type():
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert escape.plain(Broken()) == "<Broken>"


def test_of_a_traceback_the_end_is_kept_line_by_line():
    block = escape.block("first\n" + "x" * 50 + "\n<last>", 20)
    assert block.startswith("…\n")
    assert block.endswith("\n&lt;last&gt;")


def test_dollars_in_a_figure_are_no_mathematics():
    from matplotlib.cbook import is_math_text

    assert not is_math_text(escape.figure("$x$ and $y$"))


# --------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (3e-6, "3 µs"), (0.0123, "12.3 ms"), (0.9996, "1.00 s"), (9.94, "9.94 s"), (9.996, "10.0 s"),
        (59.4, "59.4 s"), (59.96, "1 min 00 s"), (185, "3 min 05 s"), (3599.7, "1 h 00 min"), (9000, "2 h 30 min"),
        (86_399, "1 d 0 h"), (-2.5, "-2.50 s"), (None, "–"), (math.nan, "–"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_durations_show_the_two_units_that_matter(seconds: float | None, text: str):
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(0, 10, "0 %"), (1, 1000, "<1 %"), (999, 1000, "99 %"), (1000, 1000, "100 %"), (0, 0, "–")],
)
def test_progress_says_0_and_100_percent_only_when_exact(done: int, total: int, text: str):
    assert fmt.progress(done, total) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (40, 55, "40.0–55.0 s"), (0.05, 0.062, "50–62 ms"), (50, 62, "50.0 s – 1 min 02 s"), (5, 5, "5.00 s"),
        (61, 70, "1 min 01 s – 1 min 10 s"), (math.nan, 3, "– – 3.00 s"),
    ],
)  # fmt: skip
def test_an_interval_says_a_shared_unit_once(low: float, high: float, text: str):
    assert fmt.interval(low, high) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (581.4, "581 items/s"), (12_345.6, "12,300 items/s"), (0.1, "6 items/min"), (0.001, "3.6 items/h"),
        (0, "0 items/s"), (None, "–"),
    ],
)  # fmt: skip
def test_a_slow_throughput_is_told_per_minute_or_hour(per_second: float | None, text: str):
    assert fmt.rate(per_second) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.00123, "0.00123"), (99.96, "100"), (1.5, "1.5"), (-1234567, "-1,230,000"), (math.nan, "–")]
)
def test_numbers_have_three_significant_digits(value: float, text: str):
    assert fmt.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.42, "42 %"), (0.0042, "0.4 %"), (1.0, "100 %"), (0.07, "7 %")])
def test_percentages(value: float, text: str):
    assert fmt.percent(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 s"), (10, "10 s"), (2.5, "2.50 s"), (60, "1 min"), (90, "1 min 30 s"), (3600, "1 h"), (86400, "1 d")],
)
def test_limits_have_no_zeros_that_say_nothing(seconds: float, text: str):
    assert fmt.limit(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.05, "<1 s"), (0.96, "0.96 s"), (9.68, "9.7 s"), (10.6, "11 s"), (99.4, "99 s"), (99.6, "1.7 min"),
     (3600, "60 min"), (6000, "1.7 h"), (200_000, "2.3 d"), (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_estimates_have_two_digits_and_one_unit(seconds: float | None, text: str):
    assert fmt.rough(seconds) == text


def test_an_estimated_interval_has_more_digits_where_two_do_not_tell_its_ends_apart():
    assert fmt.rough_interval(10.1, 13.2) == "10–13 s"
    assert fmt.rough_interval(50, 130) == "50 s – 2.2 min"
    assert fmt.rough_interval(24.8, 25.2) == "24.8–25.2 s"


def test_sizes_counts_and_moments():
    assert fmt.size(123_456_789) == "118 MiB"
    assert fmt.quantity(1, "batch", "batches") == "1 batch"
    assert fmt.quantity(12_000, "batch", "batches") == "12,000 batches"
    assert fmt.clock(1_790_000_000) == "14:13:20 UTC"
    assert fmt.moment(1_790_000_000) == "2026-09-21 14:13:20 UTC"
    assert fmt.moment(0) == "–"


@given(st.floats() | st.none())
def test_no_number_makes_a_formatter_raise(value: float | None):
    for say in (fmt.duration, fmt.count, fmt.number, fmt.percent, fmt.rate, fmt.size, fmt.clock, fmt.moment, fmt.rough):
        text = say(value)
        assert text
        assert not re.search(r"nan|inf|None", text)
