"""The report and the HTML of a recommendation: complete, self-contained, and deaf to hostile text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from tests.unit.notebook_samples import (
    EVERYTHING,
    HOSTILE,
    NOON,
    SETTINGS,
    Reader,
    ended,
    hostile_rows,
    metrics,
    studied,
)
from toolkit import notebook
from toolkit.client.profile import Profile
from toolkit.errors import InvalidInput
from toolkit.frames import METRICS, concat_metrics, empty
from toolkit.notebook import escape
from toolkit.notebook.html import headline, recommendation_html
from toolkit.notebook.plots import MakespanMap, ThroughputPlot
from toolkit.notebook.profiled import FlameGraph
from toolkit.notebook.report import MAX_TABLE_ROWS, Report, write_report
from toolkit.tuning import Recommendation, Recommender, Workload, simulate_runs

KEPT = {
    "b", "code", "details", "div", "i", "li", "span", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip


def refused() -> Recommendation:
    """Advice that is refused."""
    why = "all batches had the same size."
    return replace(studied()[2], refused=why, intervals={}, saving=None, baseline={}, experiment="")


def hostile(text: str) -> Recommendation:
    """Advice with `text` in every field that holds text."""
    return replace(
        studied()[2], task=text, reasons=(text, text), evidence={text: text, "list": [text]}, experiment=text,
        baseline={"setting": text, text: text},
    )  # fmt: skip


def trials() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "batch_size": [10, 100], "workers": [2, 2], "predicted_s": [2.0, 1.0], "low_s": [1.8, 0.9],
            "high_s": [2.2, 1.1], "measured_s": [2.1, 1.5],
        }
    )  # fmt: skip


def written(tmp_path: Path, **changes) -> str:
    frame, model, recommendation = studied()
    parts = {"frame": frame, "model": model, "recommendation": recommendation, "measured": trials(), **changes}
    return write_report(tmp_path / "report.html", **parts).read_text(encoding="utf-8")


@cache
def nothing() -> dict[str, Any]:
    """What a report of no history is made of: it has no pictures, which is what takes time."""
    model = Recommender().fit(empty(METRICS))
    return {"frame": empty(METRICS), "model": model, "recommendation": model.recommend(n_items=10), "measured": None}


@cache
def usual() -> str:
    """The page as `written` writes it when nothing is changed."""
    frame, model, recommendation = studied()
    return Report.of(frame=frame, model=model, recommendation=recommendation, measured=trials()).html()


def read(page: str) -> Reader:
    """Read the page; its style sheet is text of one element, not markup."""
    reader = Reader(page)
    assert reader.problems == []
    return reader


# --------------------------------------------------------------------------- the page


def test_report_tells_the_answer_the_reasons_and_the_evidence():
    recommendation = studied()[2]
    text = read(usual()).text
    for words in (
        headline(recommendation), *recommendation.reasons, "Every setting", "Settings measured",
        "1 of 2 predictions held", "runs predicted from the others", "Where the time goes", "the rule of thumb",
        "scikit-learn", f"batch_size={recommendation.batch_size}",
    ):  # fmt: skip
        assert words in text


def test_report_needs_nothing_from_outside_and_runs_nothing():
    page = usual()
    reader = read(page)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not re.search(r"https?://", page)
    assert "style=" not in page


def test_policy_allows_exactly_the_style_sheet_of_the_page():
    page = usual()
    policy = next(v for _, v in read(page).attributes if v.startswith("default-src"))
    sheets = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(sheets) == 1
    digest = base64.b64encode(hashlib.sha256(sheets[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_every_id_is_there_once_and_every_reference_leads_to_one():
    page = usual()
    reader = read(page)
    assert len(reader.ids) == len(set(reader.ids))
    wanted = set(re.findall(r"url\(#([^)]+)\)", page)) | {v[1:] for n, v in reader.attributes if n == "href"}
    for _, value in (pair for pair in reader.attributes if pair[0] == "aria-labelledby"):
        wanted |= set(value.split())
    assert wanted <= set(reader.ids)


def test_every_colour_class_has_its_rule():
    page = usual()
    used = {name for n, v in read(page).attributes if n == "class" for name in v.split() if re.match(r"[fs]-", name)}
    assert used
    assert all(f".{name}{{" in page for name in used)
    assert all(page.count(f"--{name[2:]}:") == 3 for name in used)  # light, dark, print


def test_hostile_text_in_every_field_stays_text(tmp_path: Path):
    frame = hostile_rows(EVERYTHING)
    page = written(tmp_path, frame=frame, recommendation=hostile(EVERYTHING), title=EVERYTHING)
    assert not {"script", "img"} & set(read(page).tags)
    assert page.count("&lt;script&gt;") > 5


def test_a_profile_is_drawn_as_a_flame_graph_and_harms_nothing(tmp_path: Path):
    stacks = Counter({("docs:classify", "docs:split"): 30, ("docs:classify", "<script>alert(1)</script>"): 10})
    profile = Profile("run-000001", "docs.classify", 2, stacks)
    page = written(tmp_path, **nothing(), profile=profile)
    assert "Where user code spends it" in page
    assert "40 samples of 2 batches of run run-000001" in page
    assert "docs:split (30 samples, 75 %)" in page
    assert "<script>" not in page
    read(page)
    assert "Where user code spends it" not in usual()
    report = Report.of(**nothing(), profile=profile)
    assert "profile=client.get_run('run-000001').profile()" in report.notebook()
    # In Markdown it says the busiest path once, and the notebook's picture has the names that fit
    display = FlameGraph(profile)
    assert report.markdown().count("docs:classify 100 %, in it docs:split 75 %") == 1
    axes = display.plot().ax_
    names = {text.get_text().strip() for text in axes.texts}
    assert names == {"docs:classify", "docs:split", "<script>alert(1)</scr…"}
    assert axes.get_title("left").replace("\n", " ") == display.finding()


def test_report_of_a_long_history_is_small(tmp_path: Path):
    # Given many runs and batches, on many workers, with failures everywhere
    long = metrics("run-long-abcdef", batches=20_000, workers=60, failing=5000, start_s=NOON + 1e5)
    many = [metrics(f"run-{i:04d}-abcdef", batch_size=1 + i, batches=2, start_s=NOON + 9 * i) for i in range(200)]
    tries = pd.concat([trials()] * 500, ignore_index=True)
    # When it is reported
    page = written(tmp_path, frame=concat_metrics([*many, long]), measured=tries)
    # Then the page stays under a megabyte, and says what is not shown
    assert len(page.encode()) < 1_000_000
    assert f"{201 - MAX_TABLE_ROWS} more rows not shown" in read(page).text


def test_without_rows_the_report_shows_what_the_model_remembers(tmp_path: Path):
    frame, model, recommendation = studied()
    notebook.register()  # as the front door does
    path = model.report(tmp_path / "report.html", recommendation=recommendation)
    text = read(path.read_text(encoding="utf-8")).text
    assert "Batch tuning of docs.classify" in text
    assert frame["run_id"].iloc[0] in text
    assert f"{len(SETTINGS)}, {len(frame):,}" in text  # runs, batches
    assert "Did the predictions hold?" not in text
    assert "Where the time goes" not in text


def test_report_without_any_history(tmp_path: Path):
    text = read(written(tmp_path, **nothing())).text
    assert "No run was measured" in text
    assert "No recommendation for 10 items" in text


def test_report_of_a_refusal_says_why_and_predicts_nothing(tmp_path: Path):
    frame, model, _ = studied()
    same = simulate_runs(
        Workload(name="t", per_item_s=0.01, per_batch_s=0.01), 200, [(10, 1), (10, 2), (10, 1)], seed=2
    )
    one_size = Recommender(draws=20, replicates=8).fit(same)
    page = written(tmp_path, frame=same, model=one_size, recommendation=one_size.recommend(n_items=100), measured=None)
    text = read(page).text
    assert "No recommendation for 100 items" in text
    assert "client.map" not in text
    assert "90 % interval" not in text.split("Evidence and versions")[0]
    assert frame is not same
    assert model is not one_size


def test_an_existing_report_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path):
    target = tmp_path / "report.html"
    target.write_text("old")
    written(tmp_path, **nothing())
    assert target.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(KeyError):
        written(tmp_path, measured=pd.DataFrame({"batch_size": [1]}))
    report = Report.of(**nothing())
    monkeypatch.setattr(report, "html", dict[str, str]({}).popitem)
    with pytest.raises(KeyError):
        report.write(target)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_report_into_a_missing_directory_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "missing")


# --------------------------------------------------------------------------- the other formats


@cache
def report_on_a_run(text: str = "broken") -> Report:
    """A report about a run with dead letters, with `text` in what others wrote."""
    frame, model, recommendation = studied()
    letters = pd.DataFrame({"index": [7], "error_type": [text], "attempts": [2], "message": [text]}, dtype=object)
    return Report.of(
        frame=frame, model=model, recommendation=recommendation, measured=trials(), dead_letters=letters,
        status=ended(name=text, task=text, run_id=text), title=text,
    )  # fmt: skip


@cache
def as_notebook(text: str) -> nbformat.NotebookNode:
    """The same report as a notebook."""
    return nbformat.reads(report_on_a_run(text).notebook(), as_version=4)


def test_every_format_says_the_same():
    report = report_on_a_run()
    page, words, cells = read(report.html()).text, report.markdown(), as_notebook("broken")
    shown = " ".join(
        Reader(output.data["text/html"]).text for cell in cells.cells for output in cell.get("outputs", [])
    )
    for sentence in (headline(studied()[2]), *studied()[2].reasons, "Dead letters", "990"):
        assert sentence in page
        assert sentence in shown
        assert escape.markdown(sentence, 600) in words
    headings = [section.heading for section in report.content.sections]
    assert re.findall(r"^## (.*)$", words, re.MULTILINE) == headings
    assert [c.source[3:] for c in cells.cells if c.source.startswith("## ")] == headings


def test_a_page_and_a_notebook_about_a_hostile_run_hold_it_as_text():
    page = read(report_on_a_run(EVERYTHING).html())
    assert not {"script", "img"} & set(page.tags)
    outputs = [output.data for cell in as_notebook(EVERYTHING).cells for output in cell.get("outputs", [])]
    assert outputs
    for data in outputs:
        assert Reader(data["text/html"]).problems == []


def test_markdown_of_hostile_text_is_nothing_but_text():
    words = report_on_a_run(EVERYTHING + " @octocat fixes #12 `code` [a](http://x.test) www.x.test").markdown()
    assert "<script" not in words
    assert not re.search(r"(?<![&\w])[@#](?=\w)|\bwww\.|http://|\x1b|\u202e", words)
    rows = [line for line in words.splitlines() if line.startswith("|")]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 4, 5, 7, 8, 11, 14}  # no cell was added


def test_the_notebook_is_valid_executed_and_has_parameters_that_a_tool_can_set():
    made = as_notebook("broken")
    nbformat.validate(made)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    names: dict[str, object] = {}
    exec(parameters.source, names)  # noqa: S102 - our own text, a moment old
    assert (names["task"], names["n_items"], names["since"]) == ("docs.classify", 2000, None)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [cell.id for cell in made.cells] == [f"cell-{i:02d}" for i in range(len(made.cells))]  # nothing is random
    for cell in code:
        compile(cell.source, "cell", "exec")


def test_pictures_of_the_notebook_survive_the_sanitiser():
    made = as_notebook(EVERYTHING)
    for output in (output for cell in made.cells for output in cell.get("outputs", [])):
        reader = Reader(output.data["text/html"])
        assert reader.problems == []
        assert set(reader.tags) <= KEPT | {"caption", "img", "p", "pre"}


@pytest.mark.parametrize(("name", "start"), [("a.html", "<!doctype"), ("a.md", "# "), ("A.IPYNB", "{")])
def test_the_ending_says_the_format(tmp_path: Path, name: str, start: str):
    assert Report.of(**nothing()).write(tmp_path / name).read_text(encoding="utf-8").startswith(start)


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.html.gz"])
def test_another_ending_is_refused_with_those_there_are(tmp_path: Path, name: str):
    with pytest.raises(InvalidInput, match=r"\.html, \.md or \.ipynb"):
        report_on_a_run().write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_section_that_has_nothing_to_say_says_so_when_a_notebook_asks_for_it():
    assert "Nothing to show" in repr(report_on_a_run()["What was never there"])


# --------------------------------------------------------------------------- the recommendation


def test_recommendation_shows_the_answer_its_interval_and_how_to_use_it():
    recommendation = studied()[2]
    reader = Reader(recommendation_html(recommendation))
    assert reader.problems == []
    assert set(reader.tags) <= KEPT
    low, high = recommendation.intervals["makespan_s"]
    assert low < recommendation.makespan_s < high
    for words in (
        headline(recommendation),
        "90 % interval",
        *recommendation.reasons,
        "★",
        "●",
        "than the rule of thumb",
    ):
        assert words in reader.text
    assert f"batch_size={recommendation.batch_size}, max_workers={recommendation.workers})" in reader.text


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_hostile_text_in_a_recommendation_stays_text(text: str):
    for recommendation in (hostile(text), replace(hostile(text), refused=text)):
        reader = Reader(recommendation_html(recommendation))
        assert reader.problems == []
        assert set(reader.tags) <= KEPT


def test_refused_recommendation_gives_the_reason_and_what_to_run_meanwhile():
    text = Reader(recommendation_html(refused())).text
    assert "No recommendation for 2,000 items. all batches had the same size." in text
    assert f"Meanwhile: batch size {studied()[2].batch_size:,}" in text
    assert "client.map" not in text


def test_cost_is_named_where_it_is_the_objective():
    recommendation = replace(studied()[2], objective="cost", saving=0.25)
    assert "25 % less worker time than" in Reader(recommendation_html(recommendation)).text


def test_what_the_advice_is_compared_with_is_one_fact():
    other = {"setting": "the rule", "batch_size": 500, "workers": 4, "makespan_s": 1.05, "cost_worker_s": 4.2}
    text = Reader(recommendation_html(replace(studied()[2], baseline={**other, "model_error": "1 %"}))).text
    assert "compared with the rule: batch size 500 with 4 workers, 1.05 s, 4.20 s of worker time" in text
    assert "model error on left-out runs 1 %" in text
    found = studied()[2]
    same = {**other, "batch_size": found.batch_size, "workers": found.workers}
    assert "· the same setting as the rule" in Reader(recommendation_html(replace(found, baseline=same))).text


def test_map_and_throughput_are_made_of_the_recommendation():
    frame, _, recommendation = studied()
    grid = MakespanMap.from_recommendation(recommendation).grid
    assert grid.recommended == (recommendation.batch_size, recommendation.workers)
    assert grid.measured.any()
    assert f"Batch size {recommendation.batch_size:,}" in grid.finding()
    line = ThroughputPlot.from_recommendation(recommendation, frame)
    best = line.rate[line.batch_size == recommendation.batch_size]
    assert best == pytest.approx([2000 / recommendation.makespan_s])
    assert set(line.measured_workers.tolist()) <= {1, 2}
