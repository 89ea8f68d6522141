"""The explorers without a browser: what they ask, what they say, and that hostile text stays text."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from statistics import NormalDist

import pandas as pd
import pytest
from sklearn.base import clone

from tests.unit.notebook_samples import EVERYTHING, HOSTILE, NOON, Reader, history, hostile_rows, metrics, studied
from toolkit.errors import InvalidInput, TuningError
from toolkit.frames import METRICS, concat_metrics, empty
from toolkit.notebook import advice, explore, picking
from toolkit.notebook.advice import Answer, Question
from toolkit.notebook.latest import Latest
from toolkit.notebook.outputs import LIVE_CLASS, STATIC_CLASS
from toolkit.notebook.picking import VIEWS, Pick
from toolkit.tuning import Recommender

KEPT = {"b", "caption", "code", "details", "div", "i", "img", "li", "span", "summary", "table", "tbody", "td", "th",
        "thead", "tr", "ul"}  # fmt: skip


def question(**changes) -> Question:
    return replace(Question("docs.classify", 2000, max_workers=4), **changes)


def answered(**changes) -> Answer:
    """The advice of `studied`, with changes."""
    return Answer(question(), replace(studied()[2], **changes))


def hostile(text: str) -> Answer:
    """An answer with `text` in every field that holds text."""
    baseline = {"setting": text, "batch_size": 5, "workers": 2, "makespan_s": 9.0, text: text}
    found = replace(
        studied()[2], task=text, reasons=(text, text), evidence={text: text}, experiment=text, baseline=baseline
    )
    return Answer(question(task=text), found, text)


# --------------------------------------------------------------------------- questions and answers


def test_an_answer_is_the_recommendation_for_the_question():
    _, model, _ = studied()
    found = advice.ask(model, question(objective="cost"))
    same = model.recommend("docs.classify", n_items=2000, objective="cost", max_workers=4)
    assert found.recommendation == same


def test_what_cannot_be_answered_is_said():
    _, model, _ = studied()
    found = advice.ask(model, question(task="docs.other"))
    assert found.recommendation is None
    assert "docs.other" in found.trouble
    assert "docs.other" in Reader(advice.static_html(found)).text
    assert advice.plain_text(found).startswith("No answer.")
    assert advice.code(found) == "run = client.map(task, items)"


def test_a_smaller_risk_asks_for_more_certainty():
    _, model, _ = studied()
    plain = model.recommend("docs.classify", n_items=2000, max_workers=4, objective="cost")
    # Given a deadline that the cheapest setting keeps more often than not, but not surely
    deadline_s = (plain.makespan_s * plain.intervals["makespan_s"][1]) ** 0.5
    bold, careful = (
        advice.ask(model, question(objective="cost", deadline_s=deadline_s, risk=risk)).recommendation
        for risk in (0.45, 0.001)
    )
    assert (bold.batch_size, bold.workers) == (plain.batch_size, plain.workers)
    assert careful.refused or careful.makespan_s < bold.makespan_s or any("sure" in text for text in careful.reasons)


def test_chance_to_be_late_follows_the_interval():
    found = replace(studied()[2], makespan_s=10.0, intervals={"makespan_s": (8.0, 20.0), "cost_worker_s": (1.0, 2.0)})
    assert advice.chance_late(found, 20.0) == pytest.approx(0.05)
    assert advice.chance_late(found, 10.0) == pytest.approx(0.5)
    assert advice.chance_late(found, 8.0) == pytest.approx(0.95)
    half_way = 1 - NormalDist().cdf(NormalDist().inv_cdf(0.95) / 2)
    assert advice.chance_late(found, 10 * math.sqrt(2)) == pytest.approx(half_way)
    assert math.isnan(advice.chance_late(replace(found, refused="why"), 10.0))


def test_answer_says_whether_the_deadline_is_kept_within_the_risk():
    intervals = {"makespan_s": (8.0, 12.0), "cost_worker_s": (16.0, 24.0)}
    found = replace(studied()[2], makespan_s=10.0, intervals=intervals)
    kept = Reader(advice.answer_html(Answer(question(deadline_s=12.0), found))).text
    assert "Chance to miss the deadline of 12 s: 5 % , within the risk" in kept
    late = Reader(advice.answer_html(Answer(question(deadline_s=11.0), found))).text
    assert "more than the risk that you accept" in late
    assert "deadline" not in Reader(advice.answer_html(Answer(question(), found))).text


def test_the_question_is_said_in_words():
    asked = question(objective="cost", max_worker_memory_bytes=2**30, deadline_s=90.0, risk=0.01)
    assert asked.words() == (
        "2,000 items, least worker time, at most 4 workers, 1 GiB a worker, within 1 min 30 s, at a risk of 1 %"
    )
    assert asked.options()["max_worker_memory_bytes"] == 2**30
    assert question().options()["max_worker_memory_bytes"] is None


def test_choices_hold_what_was_asked_first_and_are_in_order():
    values = [value for _, value in advice.item_choices(26_420)]
    assert 26_420 in values
    assert values == sorted(set(values))
    for scale in (advice.MEMORIES, advice.DEADLINES, advice.RISKS):
        assert [value for _, value in scale] == sorted({value for _, value in scale})
        assert len({words for words, _ in scale}) == len(scale)


def test_mistakes_are_the_cells_around_the_recommended_one():
    found = studied()[2]
    around = {m.what.partition(":")[0]: m for m in advice.mistakes(found)}
    grid = found.grid
    for m in around.values():
        assert m.change == pytest.approx(m.makespan_s / found.makespan_s - 1)
    if "fewer workers" in around:
        cell = grid[(grid["batch_size"] == found.batch_size) & (grid["workers"] == found.workers - 1)]
        assert around["fewer workers"].makespan_s == pytest.approx(cell["makespan_s"].iloc[0])
    assert around["the same setting, at the slow end of its interval"].makespan_s == found.intervals["makespan_s"][1]
    assert "the rule of thumb N / (4 w)" in around
    assert advice.mistakes(replace(found, refused="why")) == ()


def test_a_rule_of_thumb_with_workers_that_nobody_measured_is_told_as_a_guess():
    found = studied()[2]
    unseen = {"setting": "the rule", "batch_size": 5, "workers": 99, "makespan_s": found.makespan_s / 2}
    guess = replace(found, baseline=unseen, saving=-1.0)
    assert [m.extrapolated for m in advice.mistakes(guess) if m.what.startswith("the rule")] == [True]
    assert "no better than the rule, whose 99 workers were never measured" in advice.answer_html(
        Answer(question(), guess)
    )
    seen = replace(found, baseline={**unseen, "workers": 2}, saving=-1.0)
    assert [m.extrapolated for m in advice.mistakes(seen) if m.what.startswith("the rule")] == [False]
    assert "never measured" not in advice.answer_html(Answer(question(), seen))


def test_settings_around_a_guess_are_weighed_though_they_are_guesses_too():
    found = studied()[2]
    guess = replace(found, grid=found.grid.assign(extrapolated=True))
    assert all(m.around for m in advice.mistakes(guess) if ": batch size" in m.what)
    sure = replace(found, grid=found.grid.assign(extrapolated=found.grid["batch_size"] != found.batch_size))
    assert not any(m.around for m in advice.mistakes(sure) if m.what.startswith("larger"))


def test_how_sharp_the_choice_is_is_said_in_a_sentence():
    flat = (advice.Mistake("smaller batches: batch size 5 with 2 workers", 1.01, 0.01, around=True),)
    assert advice.mistake_finding(flat) == ("The choice is not a sharp one: no setting around it costs more than 1 %.")
    least = (advice.Mistake("larger batches: batch size 20 with 2 workers", 1.0, 0.001, around=True),)
    assert advice.mistake_finding(least) == "The choice is not a sharp one: no setting around it is noticeably slower."
    sharp = (*flat, advice.Mistake("fewer workers: batch size 10 with 1 worker", 1.9, 0.9, around=True))
    assert advice.mistake_finding(sharp) == (
        "It matters most to avoid fewer workers: batch size 10 with 1 worker: 90 % longer."
    )
    assert advice.mistake_finding(()) == ""


def test_static_answer_survives_the_sanitiser_and_says_it_all():
    answer = answered()
    reader = Reader(advice.static_html(answer))
    assert reader.problems == []
    assert set(reader.tags) <= KEPT
    found = answer.recommendation
    for words in (
        *found.reasons,
        "2,000 items, soonest done",
        f"batch_size={found.batch_size}",
        "★",
        "against the advice",
    ):
        assert words in reader.text
    refused = Reader(advice.static_html(answered(refused="all batches had one size.", intervals={})))
    assert "all batches had one size." in refused.text
    assert "client.map(task, items, batch_size='auto', max_workers='auto')" in refused.text


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_hostile_text_in_an_answer_stays_text(text: str):
    for markup in (advice.static_html(hostile(text)), advice.why_html(hostile(text)), advice.wrong_html(hostile(text)),
                   advice.answer_html(Answer(question(task=text), None, text))):  # fmt: skip
        assert Reader(markup).problems == []


# --------------------------------------------------------------------------- rows and figures


def test_rows_are_narrowed_to_task_and_runs():
    frame = concat_metrics([history(), metrics("run-z-abcdef", task="docs.other")])
    assert len(picking.narrow(frame, Pick())) == 40
    assert len(picking.narrow(frame, Pick(task="docs.other"))) == 8
    assert len(picking.narrow(frame, Pick("docs.thumbnail", ("run-0-abcdef", "run-2-abcdef")))) == 16
    assert picking.narrow(frame, Pick("docs.other", ("run-0-abcdef",))).empty


def test_runs_are_offered_the_latest_first():
    labels = picking.run_choices(history(), "docs.thumbnail")
    assert [run_id for _, run_id in labels] == [f"run-{i}-abcdef" for i in (3, 2, 1, 0)]
    assert labels[0][0] == "200 × 4 workers · 14:18:20 · night run"
    yesterday = metrics("run-9-abcdef", start_s=NOON - 86_400)
    assert picking.run_choices(concat_metrics([history(), yesterday]), "")[-1][0].endswith("09-20 14:13 · night run")


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_rows_and_says_when_there_are_none(view: str):
    shown = picking.display_of(history(), Pick(view=view))
    assert shown.finding() != picking.display_of(empty(METRICS), Pick(view=view)).finding()
    reader = Reader(picking.figure_html(shown, "tk1").partition("</style>")[2])
    assert reader.problems == []
    assert shown.caption() in reader.text


def test_static_picture_survives_the_sanitiser():
    frame, pick = history(), Pick(task="docs.thumbnail")
    display = picking.display_of(frame, pick)
    reader = Reader(picking.static_html(frame, display, pick))
    assert reader.problems == []
    assert set(reader.tags) <= KEPT
    assert dict(reader.attributes)["alt"] == display.caption()
    assert "docs.thumbnail : 32 batches of 4 runs, 2,480 items executed" in reader.text


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_hostile_text_in_rows_stays_text(text: str):
    frame = metrics(text, who=text, task=text, name=text)
    for markup in (picking.summary_html(frame, Pick(task=text)), picking.runs_table(frame)):
        assert Reader(markup).problems == []
    ((label, run_id),) = picking.run_choices(frame, text)
    assert run_id == text
    assert Reader(label.replace("<", "").replace("&", "")).problems == []


@pytest.mark.parametrize("view", VIEWS)
def test_hostile_text_in_every_column_stays_text_in_every_view(view: str):
    frame, pick = hostile_rows(EVERYTHING), Pick(task=EVERYTHING, view=view, axis="host", by="code_version")
    display = picking.display_of(frame, pick)
    for markup in (picking.figure_html(display, "fig-x"), picking.static_html(frame, display, pick)):
        reader = Reader(markup.replace(picking.FIGURE_STYLE, ""))
        assert reader.problems == []
        assert reader.tags.count("img") == (not markup.startswith(picking.FIGURE_STYLE))
        assert " ".join(display.caption().split()) in reader.text


def test_a_frame_of_something_else_is_refused_with_what_to_pass():
    with pytest.raises(InvalidInput, match=r"no column run_id.*run\.metrics\(\)"):
        explore(pd.DataFrame({"a": [1]}))
    with pytest.raises(InvalidInput, match="str is neither metric rows, nor a client or run"):
        explore("metrics")
    with pytest.raises(InvalidInput, match=r"no metric rows of task 'docs\.other'; there are some of: docs\.thumbnail"):
        explore(history(), "docs.other")


# --------------------------------------------------------------------------- the widgets


def test_tuning_explorer_answers_what_its_controls_ask():
    _, model, _ = studied()
    explorer = explore(model, n_items=2000)
    assert explorer.question == question(max_workers=2)  # as many as were measured
    explorer.controls["objective"].value = "cost"
    explorer.controls["n_items"].value = 500
    explorer._latest.join()
    assert explorer.answer.question == question(n_items=500, objective="cost", max_workers=2)
    assert explorer.recommendation.n_items == 500
    assert "500 items" in explorer.leaves["answer"].value
    explorer.button.click()
    assert f"batch_size={explorer.recommendation.batch_size}" in explorer.code.value


def test_closed_sections_follow_when_the_controls_rest_and_open_ones_at_once():
    explorer = explore(studied()[1], n_items=2000)
    explorer.more.box.children[0].value = True  # the heading of what it would cost to be wrong
    explorer._latest.join()
    wrong, why = (explorer.leaves[name] for name in ("wrong", "why"))
    before = wrong.value, why.value
    explorer._answer_now(question(n_items=500, max_workers=1))
    assert wrong.value == advice.wrong_html(explorer.answer) != before[0]
    assert why.value == before[1] != advice.why_html(explorer.answer)
    explorer._keep()
    assert why.value == advice.why_html(explorer.answer)


def test_risk_can_be_chosen_only_with_a_deadline():
    explorer = explore(studied()[1], n_items=2000)
    assert explorer.sliders["risk"].disabled
    explorer.controls["deadline_s"].value = 60.0
    explorer._latest.join()
    assert not explorer.sliders["risk"].disabled


def test_a_slider_that_goes_on_finds_its_answer_and_no_other_question_does(monkeypatch: pytest.MonkeyPatch):
    # Given an explorer whose items were moved up by a step
    model, asked, ask = clone(studied()[1]).fit(studied()[0]), [], advice.ask
    monkeypatch.setattr(advice, "ask", lambda model, question: [asked.append(question), ask(model, question)][1])
    explorer = explore(model, n_items=2000)
    explorer._latest.rest_s = 0.01

    def move(**values) -> list[int]:
        asked.clear()
        for name, value in values.items():
            explorer.controls[name].value = value
        explorer._latest.join()
        assert explorer.answer.question == explorer.question
        assert f"{explorer.question.n_items:,} items" in explorer.leaves["answer"].value
        return [question.n_items for question in asked]

    assert move(n_items=5000) == [5000, 10_000]  # the second while nobody waits
    # When they go on, then only what comes after is asked of the model, in either direction
    assert move(n_items=10_000) == [20_000]
    assert explorer.recommendation == ask(model, explorer.question).recommendation
    assert move(n_items=5000) == [5000, 2000]
    assert move(n_items=2000) == [1000]
    # Another step, another control and a model that was fitted anew are asked
    assert move(n_items=200) == [200, 100]
    assert move(objective="cost") == [200]
    assert move(n_items=500) == [500, 1000]
    model.fit(studied()[0])
    assert move(n_items=1000) == [1000, 2000]


def test_what_is_asked_next_is_a_step_further():
    choices = {"n_items": [10, 2000, 5000], "max_workers": [1, 2, 4]}
    assert advice.next_question(question(n_items=10), question(), choices) == question(n_items=5000)
    assert advice.next_question(question(n_items=5000), question(), choices) == question(n_items=10)
    assert advice.next_question(question(), question(n_items=5000), choices) is None  # the end
    assert advice.next_question(question(), question(), choices) is None
    assert advice.next_question(question(), question(n_items=10, max_workers=2), choices) is None
    assert advice.next_question(question(n_items=10, objective="cost"), question(), choices) is None
    assert advice.next_question(question(n_items=7), question(), choices) is None  # is not offered any more


def test_model_that_knows_nothing_is_refused():
    with pytest.raises(TuningError, match="knows no task"):
        explore(Recommender())
    with pytest.raises(TuningError, match=r"does not know task 'docs\.other'; it knows docs\.classify"):
        explore(studied()[1], "docs.other")


def test_metrics_explorer_follows_its_controls():
    frame = concat_metrics([history(), metrics("run-z-abcdef", task="docs.other", start_s=NOON + 900)])
    explorer = explore(frame)
    assert explorer.controls["task"].value == "docs.other"  # of the latest batch
    explorer.controls["task"].value = "docs.thumbnail"
    explorer.controls["runs"].value = ("run-3-abcdef",)
    explorer.controls["view"].value = "errors"
    explorer._latest.join()
    assert len(explorer.rows) == 8
    assert explorer.display.finding() == "3 of 1,600 executions failed (0.2 %), 3 for good: all fatal"
    assert explorer.controls["axis"].disabled
    assert explorer.button.layout.display == "none"  # a frame does not grow


def test_metrics_explorer_of_a_run_loads_again_what_came_since():
    class Live:
        rows = history()

        def metrics(self) -> pd.DataFrame:
            return self.rows

    live = Live()
    explorer = explore(live)
    explorer.controls["runs"].value = ("run-1-abcdef",)
    live.rows = concat_metrics([history(), metrics("run-z-abcdef", start_s=NOON + 900)])
    explorer.button.click()
    explorer._latest.join()
    assert explorer.controls["runs"].options[0][1] == "run-z-abcdef"
    assert explorer.controls["runs"].value == ("run-1-abcdef",)
    assert len(explorer.rows) == 8

    def away() -> pd.DataFrame:
        raise ConnectionError("<b>away</b>")

    explorer._load = away
    explorer.button.click()
    assert "&lt;b&gt;away" in explorer.leaves["summary"].value


def test_latest_question_wins_and_those_overtaken_are_dropped():
    answered, free, begun, rests = [], threading.Event(), threading.Event(), []

    def answer(asked: int) -> None:
        begun.set()
        free.wait(10)
        answered.append(asked)

    latest = Latest(answer, lambda: rests.append(len(answered)), rest_s=0.01)
    latest.ask(1)
    assert begun.wait(10)
    for asked in (2, 3, 4):
        latest.ask(asked)
    free.set()
    latest.join()
    assert answered == [1, 4]
    assert rests == [2]
    latest.ask(5)
    latest.join()
    assert answered == [1, 4, 5]


def test_static_part_is_marked_so_that_the_style_hides_it_while_its_widgets_live():
    explorer, other = (explore(studied()[1], n_items=2000) for _ in range(2))
    live, static = f"{LIVE_CLASS}-{explorer.box.model_id}", f"{STATIC_CLASS}-{explorer.box.model_id}"
    assert {LIVE_CLASS, live} <= set(explorer.box._dom_classes)
    assert live not in other.box._dom_classes
    markup = explorer._beside._bundle("<b>x</b>", "x")["text/html"]
    assert f":root:has(.{live}) .{static}" in markup
    assert markup.endswith(f'<div class="{STATIC_CLASS} {static}"><b>x</b></div>')
