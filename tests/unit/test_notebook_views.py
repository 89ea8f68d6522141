"""What the panel and the static summary say, and that no foreign text gets through."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.notebook_samples import EVERYTHING, HOSTILE, NOON, Reader, ended, hostile_view, metrics, status, view
from toolkit.notebook import html, leaves
from toolkit.notebook.panel import period_s
from toolkit.notebook.view import (
    MAX_BATCHES_READ,
    MAX_ERRORS,
    ErrorLine,
    RunView,
    Trouble,
    answered,
    describe_error,
    error_lines,
    read_errors,
    read_workers,
    unanswered,
    worker_lines,
)
from toolkit.records import RunState

PIECES = [
    leaves.head,
    leaves.bar,
    leaves.tiles,
    leaves.foot,
    lambda v: leaves.workers(v.workers),
    lambda v: leaves.errors(v.errors),
    html.summary,
]
NAMES = ["head", "bar", "tiles", "foot", "workers", "errors", "summary"]

# What the sanitiser of an untrusted notebook keeps, in JupyterLab 4.
KEPT = {
    "b", "caption", "code", "details", "div", "i", "meter", "progress", "span", "summary", "table", "tbody", "td", "th",
    "thead", "tr",
}  # fmt: skip


def text_of(markup: str) -> str:
    reader = Reader(markup)
    assert reader.problems == []
    return reader.text


@pytest.mark.parametrize("piece", PIECES, ids=NAMES)
@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
@pytest.mark.parametrize("snapshot", [status(), ended()], ids=["running", "ended"])
def test_hostile_text_in_every_field_stays_text(piece, text: str, snapshot):
    reader = Reader(piece(hostile_view(text, snapshot)))
    assert reader.problems == []
    assert set(reader.tags) <= KEPT


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_a_reason_why_a_section_is_missing_is_escaped_too(text: str):
    for markup in (leaves.workers(text), leaves.errors(text)):
        assert Reader(markup).problems == []


def test_running_panel_shows_what_a_watcher_asks():
    text = text_of(html.summary(view()))
    assert "thumbnails · docs.thumbnail · run r7f3c-29ab41" in text
    for words in (
        "running", "500 / 1,000 · 50 % items done", "25.0 s elapsed", "25.0 s left", "20 items/s throughput",
        "4 / 6 workers busy / known", "16 batch size, steered", "30 retried", "10 dead letters", "1 batches lost",
        "as of 14:13:20 UTC",
    ):  # fmt: skip
        assert words in text


def test_bar_is_split_by_what_became_of_the_items():
    markup = leaves.bar(view())
    for words in ("490 ok", "10 dead letters", "80 on a worker now"):
        assert f'title="{words}"' in markup
    widths = [float(part.split("%")[0]) for part in markup.split("width:")[2:]]
    assert widths == [49.0, 1.0, 8.0]


def test_open_input_and_unknown_numbers_are_said_so():
    text = text_of(html.summary(view(status(closed=False, started_at=0.0, batch_size=0, active=0))))
    assert "500 / 1,000+ · 50 % items done, more to come" in text
    assert "– elapsed – left – throughput" in text


def test_paused_run_promises_no_end():
    assert leaves.left(status(state=RunState.PAUSED)) == "–"


def test_finished_run_says_when_and_what_failed():
    text = text_of(html.summary(view(ended(), errors=(ErrorLine("ValueError", "fatal", 10, 3, "bad page"),))))
    assert "finished, 10 dead letters" in text
    assert "Dead letters (10)" in text
    assert "ValueError fatal 10 3 bad page" in text
    assert "finished 2026-09-21 14:13:50 UTC" in text
    assert "left" not in text.replace("letters", "")


def test_finished_run_without_failures_says_only_that():
    text = text_of(html.summary(view(ended(ok=1000, dead=0), errors=())))
    assert "✔ finished" in text
    assert "Dead letters (" not in text


def test_cancelled_run_counts_what_was_skipped_apart():
    text = text_of(html.summary(view(ended(state=RunState.CANCELLED, ok=300, dead=0, skipped=700))))
    assert "300 / 1,000 · 30 % items done" in text
    assert "700 skipped" in text


def test_server_trouble_is_shown_with_the_last_answer():
    shown = view(trouble=Trouble(NOON, "LedgerUnavailable: no route"))
    text = text_of(html.summary(shown))
    assert "no answer since 14:13:20 UTC · LedgerUnavailable: no route" in text
    assert "500 / 1,000" in text


def test_a_run_that_never_answered_is_still_named():
    shown = RunView("r1-abcdef", "thumbnails", "docs.thumbnail", trouble=Trouble(NOON, "ConnectionError: refused"))
    text = text_of(html.summary(shown))
    assert "thumbnails" in text
    assert "no answer yet" in text
    assert "no answer from the server: ConnectionError: refused" in shown.line()


def test_missing_workers_are_pointed_out():
    assert "No worker listens" in text_of(leaves.foot(view(status(known_workers=0, active=0))))
    assert "No worker listens" not in leaves.foot(view())


def test_trouble_counts_from_the_last_answer_until_the_next():
    first = unanswered(view(), ConnectionError("refused"), NOON + 5)
    second = unanswered(first, TimeoutError("slow"), NOON + 9)
    assert first.trouble == Trouble(NOON, "ConnectionError: refused")
    assert second.trouble == Trouble(NOON, "TimeoutError: slow")
    assert answered(second, status(), NOON + 12).trouble is None


def test_trouble_before_any_answer_counts_from_the_question():
    nothing = replace(view(), status=None, at=0.0)
    assert unanswered(nothing, OSError("x"), NOON).trouble == Trouble(NOON, "OSError: x")


def test_an_error_whose_text_raises_is_named_by_its_type():
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert describe_error(Broken()) == "Broken"


# --------------------------------------------------------------------------- tables


def test_workers_are_summed_from_metric_rows_busiest_first():
    lines = worker_lines(metrics(batches=5, workers=2, failing=1), elapsed_s=4.0)
    assert [(line.worker, line.batches, line.items, line.failed) for line in lines] == [
        ("node-1/4000", 3, 150, 1),
        ("node-1/4001", 2, 100, 0),
    ]
    assert [round(line.busy, 3) for line in lines] == [0.75, 0.5]


def test_workers_of_no_batch_are_none():
    assert worker_lines(metrics(batches=0), elapsed_s=0.0) == ()


def test_dead_letters_are_grouped_by_kind_with_the_lowest_index_as_example():
    letters = [
        {"index": 9, "error_type": "ValueError", "category": "fatal", "message": "nine"},
        {"index": 4, "error_type": "ValueError", "category": "fatal", "message": "four"},
        {"index": 2, "error_type": "TimeoutError", "category": "timeout", "message": "slow"},
    ]
    assert error_lines(letters) == (
        ErrorLine("ValueError", "fatal", 2, 4, "four"),
        ErrorLine("TimeoutError", "timeout", 1, 2, "slow"),
    )


def test_many_kinds_of_error_are_cut_and_counted():
    lines = tuple(ErrorLine(f"Error{i}", "fatal", 1, i, "") for i in range(MAX_ERRORS + 3))
    text = text_of(leaves.errors(lines))
    assert f"Error{MAX_ERRORS - 1}" in text
    assert f"Error{MAX_ERRORS} " not in text
    assert "and 3 more kinds of error" in text


def test_a_long_run_is_not_read_for_a_table():
    reason = read_workers(None, status(batches=MAX_BATCHES_READ + 1))
    assert "too many" in str(reason)
    assert "too many" in str(read_errors(None, status(dead=100_000)))


def test_a_section_that_cannot_be_read_says_why():
    assert "AttributeError" in str(read_workers(None, status()))
    assert "AttributeError" in str(read_errors(None, status()))


@pytest.mark.parametrize(
    ("age_s", "trouble", "pause_s"),
    [(0, False, 0.25), (119, False, 0.25), (121, False, 1.0), (1801, False, 5.0), (0, True, 1.0), (9999, True, 5.0)],
)
def test_panel_refreshes_fast_at_first_and_slowly_for_a_run_of_hours(age_s: float, trouble: bool, pause_s: float):
    assert period_s(age_s, trouble) == pause_s


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING, ""])
def test_a_paused_run_says_why_and_how_it_goes_on(text: str):
    markup = html.summary(view(status(state=RunState.PAUSED, reason=text)))
    assert "run.resume()" in text_of(markup)
    assert "somebody asked for it" in markup or text
    assert set(Reader(markup).tags) <= KEPT


def test_a_paused_run_says_its_reason():
    assert "Paused: no money." in text_of(html.summary(view(status(state=RunState.PAUSED, reason="no money"))))
    assert "Paused" not in text_of(html.summary(view(status(reason="no money"))))
