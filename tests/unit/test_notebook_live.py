"""Live views without a browser: their sections, and the pictures that they leave for a notebook before they end."""

from __future__ import annotations

import ipywidgets as w

from toolkit.notebook.folds import FOLD, STYLE, Folds
from toolkit.notebook.live import SLOW_S, LiveView, keep_s, period_s


class Picture(LiveView):
    """A view that shows a text."""

    text = "at first"

    def summary(self) -> tuple[str, str]:
        return self.text, f"<b>{self.text}</b>"


class Kept:
    """An output that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def update(self, markup: str, text: str) -> None:
        self.told.append((markup, text))


def test_sections_have_buttons_as_headings_and_say_what_is_open():
    # Given two sections
    asked, parts = [], [w.HTML("one"), w.HTML("two")]
    made = Folds(("Workers", "Dead letters"), parts, lambda: asked.append(made.opened))
    headings = made.box.children[::2]
    assert made.opened == ()
    assert all(isinstance(heading, w.ToggleButton) and FOLD in heading._dom_classes for heading in headings)

    # When they are opened one after the other
    for heading in reversed(headings):
        heading.value = True

    # Then each stands behind its heading, where the style looks for what a closed one hides
    assert asked == [(1,), (0, 1)]
    assert list(made.box.children[1::2]) == parts
    assert f".{FOLD}:not(.mod-active)+*{{display:none}}" in STYLE


def test_words_of_a_heading_are_sent_only_when_they_changed():
    sent = []
    made = Folds(("Workers", "Dead letters"), [w.HTML(), w.HTML()])
    for heading in made.box.children[::2]:
        heading.observe(lambda change: sent.append(change.new), names="description")
    for _ in range(2):
        made.entitle(("Workers (2)", "Dead letters"))
    assert sent == ["Workers (2)"]


def test_a_view_keeps_its_picture_for_a_page_that_will_be_loaded_before_the_end():
    view, kept = Picture("test"), Kept()
    view._outputs.append(kept)
    for view.text in ("at first", "at first", "later"):
        view._keep_picture()
    assert kept.told == [("<b>at first</b>", "at first"), ("<b>later</b>", "later")]


def test_a_tab_that_is_closed_for_an_hour_is_sent_few_refreshes():
    # Given a panel that nobody watches, which looks again after each pause
    age_s, looks = 0.0, 0
    while age_s < 3600:
        age_s, looks = age_s + period_s(age_s), looks + 1
    # Then its refreshes stay below the 2 MB that a server may keep, at 2 KB each: a fifth more than usual ones
    assert looks * 2_000 < 1_900_000


def test_pictures_of_a_view_that_nobody_watches_are_few():
    assert SLOW_S / keep_s(0) + (3600 - SLOW_S) / keep_s(SLOW_S) < 15
