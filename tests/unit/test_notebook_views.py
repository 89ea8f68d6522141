"""What the panel and the static summary say, and that no foreign text gets through."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.unit.notebook_samples import (
    EVERYTHING,
    HOSTILE,
    NOON,
    Reader,
    ended,
    event,
    hostile_view,
    status,
    tally,
    trend,
    view,
)
from toolkit.client.tally import Tally
from toolkit.notebook import html, leaves
from toolkit.notebook.live import Costly, period_s
from toolkit.notebook.sheet import LOOKS, sheet, still
from toolkit.notebook.trend import Trend
from toolkit.notebook.view import (
    MAX_ERRORS,
    ErrorLine,
    Errors,
    RunView,
    Trouble,
    answered,
    describe_error,
    error_lines,
    read_errors,
    read_events,
    read_tally,
    unanswered,
    worker_lines,
)
from toolkit.records import DeadLetter, RunState

PIECES = [
    leaves.head,
    leaves.pulse,
    leaves.failures,
    leaves.notes,
    leaves.later,
    lambda v: leaves.workers(v.workers),
    lambda v: leaves.errors(v.errors),
    lambda v: leaves.events(v.events),
    html.summary,
]
NAMES = ["head", "pulse", "failures", "notes", "later", "workers", "errors", "events", "summary"]

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
    assert Reader(still(piece(hostile_view(text, snapshot)))).text == reader.text


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_a_reason_why_a_section_is_missing_is_escaped_too(text: str):
    for markup in (leaves.workers(text), leaves.errors(text), leaves.events(text)):
        assert Reader(markup).problems == []


def test_running_panel_shows_what_a_watcher_asks():
    shown = view(
        trend=trend(status()), tally=tally(), errors=Errors((ErrorLine("ValueError", "fatal", 9, 3, "bad"),), 9, 9)
    )
    text = text_of(html.summary(shown))
    assert "thumbnails running run r7f3c-29ab41 · docs.thumbnail" in text
    for words in (
        "500 / 1,000 · 50 % items done", "25.0 s elapsed", "25 s left, 90 %: 2", "20 items/s █",
        "█ throughput", "4 / 6 workers busy / known", "16 batch size, steered",
        "4 ms / 1.25 s wait / service of a batch",
        "as of 14:13:20 UTC · 52 batches · 30 retried · 20 waiting for a retry · 1 batch lost with their process",
        "10 dead letters · failed executions: 30 retryable, 10 fatal · for example item 3: ValueError: bad",
    ):  # fmt: skip
        assert words in text


def test_batch_size_is_told_as_it_was_planned_again():
    seen = Trend()
    for size in (1, 16, 17, 256, 200):  # 17 is wavering, no plan
        seen = seen.add(status(batch_size=size))
    assert leaves.sizes_text(view(status(batch_size=200), trend=seen)) == "16 → 256 → 200"


def test_a_button_that_was_clicked_shows_at_once():
    assert "cancelling" in text_of(leaves.head(view(asked="Cancelling")))
    assert "cancelling" not in text_of(leaves.head(view(ended(), asked="Cancelling")))


def test_a_run_that_nobody_takes_says_how_long_it_waits():
    waiting = status(started_at=0.0, ok=0, dead=0, claimed=0, remaining=1000, delayed=0, active=0)
    assert "Queued for 30.0 s: no worker was free yet" in text_of(leaves.notes(view(waiting)))


def test_what_happened_tells_re_plans_with_their_reason_latest_first():
    happened = (event("created", NOON - 9), event("updated", NOON, detail="re-planned: 16 items take 0.2 s"))
    text = text_of(leaves.events(happened))
    assert text.startswith("at what why 14:13:20 UTC updated re-planned: 16 items take 0.2 s 14:13:11 UTC created")


def test_dead_letters_of_which_only_some_were_read_say_so():
    lines = (ErrorLine("ValueError", "fatal", 50, 3, "bad"),)
    text = text_of(leaves.errors(Errors(lines, 25, 70_000)))
    assert "ValueError fatal ~140,000 3 bad ~ by 25 of them, evenly spread." in text
    assert "ValueError fatal 50 3 bad All of them" in text_of(leaves.errors(Errors(lines, 50, 50)))


def test_bar_is_split_by_what_became_of_the_items():
    markup = leaves.bar(status())
    for words in ("490 ok", "10 dead letters", "80 on a worker now"):
        assert f'title="{words}"' in markup
    widths = [float(part.split("%")[0]) for part in markup.split("width:")[1:]]
    assert widths == [49.0, 1.0, 8.0]


def test_open_input_and_unknown_numbers_are_said_so():
    text = text_of(html.summary(view(status(closed=False, started_at=0.0, batch_size=0, active=0))))
    assert "500 / 1,000+ · 50 % items done, more to come" in text
    assert "– elapsed – left – throughput" in text


def test_paused_run_promises_no_end():
    assert leaves.left_text(view(status(state=RunState.PAUSED))) == "–"


def test_finished_run_says_when_and_what_failed():
    text = text_of(
        html.summary(view(ended(), errors=Errors((ErrorLine("ValueError", "fatal", 10, 3, "bad page"),), 10, 10)))
    )
    assert "finished, 10 dead letters" in text
    assert "Dead letters (10)" in text
    assert "ValueError fatal 10 3 bad page" in text
    assert "finished 2026-09-21 14:13:50 UTC" in text
    assert "left" not in text.replace("letters", "")


def test_finished_run_without_failures_says_only_that():
    text = text_of(html.summary(view(ended(ok=1000, dead=0, errors={}), errors=Errors())))
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
    assert "No worker listens" in text_of(leaves.notes(view(status(known_workers=0, active=0))))
    assert "No worker listens" not in leaves.notes(view())


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


def test_workers_are_busy_for_a_share_of_the_time_since_the_first_claim():
    lines = worker_lines(tally(), elapsed_s=25.0)
    assert [(line.worker, line.batches, line.items, line.failed, line.busy) for line in lines] == [
        ("node-1/4000", 3, 150, 1, 0.75),
        ("node-1/4001", 2, 100, 0, 0.5),
    ]


def test_workers_of_no_batch_are_none():
    assert worker_lines(Tally(), elapsed_s=0.0) == ()


def letter(index: int, error_type: str, category: str, message: str) -> DeadLetter:
    return DeadLetter(index, None, index, error_type, message, "", category, 1, "n/1", "", NOON)


def test_dead_letters_are_grouped_by_kind_with_the_lowest_index_as_example():
    letters = [
        letter(9, "ValueError", "fatal", "nine"),
        letter(4, "ValueError", "fatal", "four"),
        letter(2, "TimeoutError", "timeout", "slow"),
    ]
    assert error_lines(letters) == (
        ErrorLine("ValueError", "fatal", 2, 4, "four"),
        ErrorLine("TimeoutError", "timeout", 1, 2, "slow"),
    )


def test_many_kinds_of_error_are_cut_and_counted():
    lines = tuple(ErrorLine(f"Error{i}", "fatal", 1, i, "") for i in range(MAX_ERRORS + 3))
    text = text_of(leaves.errors(Errors(lines, 23, 23)))
    assert f"Error{MAX_ERRORS - 1}" in text
    assert f"Error{MAX_ERRORS} " not in text
    assert "and 3 more kinds of error" in text


def test_a_section_that_cannot_be_read_says_why():
    assert "TypeError" in str(read_tally(None, status()))
    assert "AttributeError" in str(read_errors(None, status()))
    assert "AttributeError" in str(read_events(None))


@pytest.mark.parametrize(
    ("age_s", "trouble", "pause_s"),
    [(0, False, 0.25), (59, False, 0.25), (61, False, 1.0), (301, False, 5.0), (901, False, 10.0), (0, True, 1.0),
     (9999, True, 10.0)],
)  # fmt: skip
def test_panel_refreshes_fast_at_first_and_slowly_for_a_run_of_hours(age_s: float, trouble: bool, pause_s: float):
    assert period_s(age_s, trouble) == pause_s


def test_what_is_costly_is_read_only_when_it_changed_and_for_a_hundredth_of_the_time():
    costly = Costly(least_s=0.0)
    assert costly.due("one")
    costly.read("one", took_s=10.0)  # imports, once
    assert not costly.due("one")
    assert costly.due("two")
    costly.read("two", took_s=10.0)
    assert not costly.due("three")


# --------------------------------------------------------------------------- looks


def test_every_class_that_a_piece_uses_has_a_look():
    shown = hostile_view("x")
    markup = "".join(piece(shown) for piece in PIECES[:-1]) + leaves.reloaded()
    used = {value for name, value in Reader(markup).attributes if name == "class"}
    assert used <= set(LOOKS)


def test_what_stays_carries_its_looks_in_each_element():
    markup = still('<div class=bo style="width:9%">a class=v <b>&lt;p class=v</b></div>')
    assert markup == f'<div style="{LOOKS["bo"]};width:9%">a class=v <b>&lt;p class=v</b></div>'


def test_the_sheet_stays_within_its_box():
    css = sheet("box").removeprefix("<style>").removesuffix("</style>")
    css = re.sub(r"@keyframes tk-\w+{(\w.*?}){2}}|@supports .*?{(?=:is)", "", css)  # named as ours, or a condition
    rules = [rule for rule in css.split("}") if rule]
    assert all(".box" in place for rule in rules for place in rule.partition("{")[0].split(","))


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING, ""])
def test_a_paused_run_says_why_and_how_it_goes_on(text: str):
    markup = html.summary(view(status(state=RunState.PAUSED, reason=text)))
    assert "run.resume()" in text_of(markup)
    assert "somebody asked for it" in markup or text
    assert set(Reader(markup).tags) <= KEPT


def test_a_paused_run_says_its_reason():
    assert "Paused: no money." in text_of(html.summary(view(status(state=RunState.PAUSED, reason="no money"))))
    assert "Paused" not in text_of(html.summary(view(status(reason="no money"))))
