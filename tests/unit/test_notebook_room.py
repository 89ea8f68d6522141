"""What the notebook room offers to the rooms below it, and to users."""

from __future__ import annotations

import io

import pytest
from IPython.lib.pretty import pretty

from tests.unit.notebook_samples import Reader, studied
from toolkit import notebook, renderers


def test_registering_offers_a_renderer_for_each_thing_that_is_drawn():
    notebook.register()
    for name in ("run_display", "run_html", "recommendation_html", "report", "progress"):
        assert callable(renderers.get(name)), name


def test_progress_renderer_draws_on_the_stream_it_is_given():
    notebook.register()
    stream = io.StringIO()
    make = renderers.get("progress")
    assert make is not None
    assert make(stream).stream is stream


def test_summary_of_something_broken_does_not_raise():
    """A representation that raises hides every other output of its cell."""
    notebook.register()
    draw = renderers.get("run_html")
    assert draw is not None
    reader = Reader(draw(object()))
    assert reader.problems == []
    assert "no answer yet" in reader.text


@pytest.mark.parametrize("name", notebook.__all__)
def test_every_public_name_is_there_and_documented(name: str):
    assert getattr(notebook, name).__doc__
    assert name in dir(notebook)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        notebook.Nothing  # noqa: B018 - looking it up is the test


def test_advice_is_written_in_words_where_no_html_is_shown():
    advice = studied()[2]
    assert pretty(advice) == str(advice)
