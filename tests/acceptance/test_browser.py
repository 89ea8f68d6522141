"""Journeys through a real JupyterLab in a real Chromium: real runs on real workers, and the explorers."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.notebook_samples import studied
from toolkit.notebook import Report

REQUIRED = os.environ.get("TOOLKIT_REQUIRE_BROWSER") == "1"
SHARED = "tests.acceptance.journeys"  # needs Playwright
journeys = import_module(SHARED) if REQUIRED else pytest.importorskip(SHARED, reason="Playwright is not installed")
state_dir, lab, browser, tab = journeys.state_dir, journeys.lab, journeys.browser, journeys.tab
gate, notebook = journeys.gate, journeys.notebook
recipe, expect = journeys.recipe, journeys.recipe.expect
pytestmark = [
    pytest.mark.skipif(
        recipe.find_chromium() is None and not REQUIRED,
        reason="no Chromium here (TOOLKIT_REQUIRE_BROWSER=1 fails instead)",
    ),
    pytest.mark.timeout(300),
]

NAME = "<img src=x onerror='window.pwned=1'>"
START = f'run = client.map(step, range(40), batch_size=1, name="{NAME}")\nrun'
BLOCK = "import time\nwhile not gate.with_suffix('.stop').exists():\n    time.sleep(0.01)"
THREADS = "sum(t.name.startswith('toolkit-panel') for t in threading.enumerate())"

CALL = re.compile(r"run = client\.map\(task, items, batch_size=\d+, max_workers=\d\)")
IN_BATCHES = re.compile(r"workers? spent .* in batches")
EXPLORERS = f"""
from toolkit.notebook import explore
from toolkit.tuning import Recommender, Workload, simulate_runs
name = {NAME!r}
workload = Workload(name="docs.classify", per_item_s=0.002, per_batch_s=0.03)
frame = simulate_runs(workload, 500, [(1, 1), (10, 2), (100, 2), (10, 1), (100, 1), (40, 2)], seed=1)
for column in ("task", "name", "host", "node", "worker", "code_version"):
    frame[column] = frame[column].cat.rename_categories(lambda known: name + known)
model = Recommender(draws=20, replicates=8).fit(frame)
"""

CONTROL = re.compile(r"- (button|checkbox|combobox|listbox|slider|spinbutton|tab|textbox)\b(.*)")
FOCUSED = """(box) => { const at = document.activeElement; return box.contains(at) ? at.tagName : ''; }"""


# What of a view is wider than its place. Text that is there for screen readers alone takes no place.
CUT = """(box, width) => { box.style.width = width; return [box, ...box.querySelectorAll('*')]
  .filter(e => e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 5 && getComputedStyle(e).overflowX !== 'visible')
  .map(e => e.className || e.tagName); }"""
PHONE, WIDE = "350px", ""
A4_PX = 687
"""Width of an A4 page within its margins."""


def named_controls(box: recipe.Locator) -> int:
    """How many controls there are to use for who does not see; each must have a name."""
    found = CONTROL.findall(box.aria_snapshot())
    assert [role for role, rest in found if not rest.startswith(' "')] == []
    return sum("[disabled]" not in rest for _, rest in found)


def reached_by_keyboard(box: recipe.Locator) -> int:
    """How many controls the tabulator visits, from the first on."""
    box.locator("select").first.focus()
    visited = 0
    while box.evaluate(FOCUSED):
        visited += 1
        box.page.keyboard.press("Tab")
    return visited


def expect_map_to_fit_a_narrow_page(tuning: recipe.Locator) -> None:
    """Only the map scrolls there, in its own box, and says so; elsewhere it does neither."""
    hint = tuning.get_by_text("scrolls sideways")
    assert tuning.evaluate(CUT, PHONE) == ["wide"]
    expect(hint).to_be_visible()
    assert tuning.evaluate(CUT, WIDE) == []
    expect(hint).to_be_hidden()


def place(tuning: recipe.Locator) -> float:
    """Where the handle of the first slider is."""
    return float(tuning.locator(".noUi-touch-area").first.bounding_box()["x"])


def choose_next(control: recipe.Locator) -> None:
    """Take the next of a control's choices, by keys: JupyterLab takes arrows for itself until the list is open."""
    control.focus()
    for key in ("Space", "ArrowDown", "Enter"):
        control.page.keyboard.press(key)


def reopened(page: recipe.NotebookPage, browser: recipe.Browser) -> recipe.NotebookPage:
    """Save a notebook, shut its kernel down, and open it in a new tab."""
    page.save()
    page.leave()
    return recipe.NotebookPage(browser.new_page(), page.lab, page.name)


def untrusted(page: recipe.NotebookPage) -> recipe.NotebookPage:
    """Close a notebook that was saved, and open it as somebody else who got it."""
    page.lab.copy_untrusted(page.name, f"copy-{page.name}")
    page.leave()
    copy = recipe.NotebookPage(page.page, page.lab, f"copy-{page.name}")
    trusted = "() => window.jupyterapp.shell.currentWidget.model.cells.get(1).trusted"
    assert copy.page.evaluate(trusted) is False
    return copy


def test_panel_lives_while_the_kernel_is_idle_busy_and_after_a_reload(
    notebook: journeys.OpenNotebook, browser: recipe.Browser, gate: journeys.Gate
):
    # Given a run that waits at the gate, shown twice
    page = notebook(START, "run", THREADS, BLOCK)
    page.run(1)
    page.run(2)
    expect(page.panel(1)).to_contain_text("0 / 40 · 0 %")
    expect(page.panel(1)).to_contain_text("2 / 2")
    page.run(3)
    expect(page.output(3).locator("pre")).to_have_text("1")  # one thread refreshes both views

    # When items pass while the kernel is idle, then both views follow
    gate.open(8)
    expect(page.panel(1)).to_contain_text("8 / 40 · 20 %")
    expect(page.panel(2)).to_contain_text("8 / 40 · 20 %")
    assert page.kernel_status() == "idle"

    # While a cell keeps the kernel busy, too
    page.run(4, wait=False)
    page.wait_kernel("busy")
    gate.open(20)
    expect(page.panel(1)).to_contain_text("20 / 40 · 50 %")
    assert page.kernel_status() == "busy"
    gate.end_blocking_cell()
    page.wait_kernel("idle")

    # And after the page was reloaded, to the end
    expect(page.output(1).locator(".tk-static")).to_contain_text("20 / 40 · 50 %")
    expect(page.output(1).locator(".tk-static")).to_be_hidden()
    page.save()
    page.reload()
    expect(page.panel(1)).to_contain_text("20 / 40 · 50 %")
    gate.open(40)
    expect(page.panel(1)).to_contain_text("finished, 4 dead letters")
    expect(page.panel(1)).to_contain_text("40 / 40 · 100 %")
    # A page that was loaded meanwhile cannot keep the summary, and says what to do
    expect(page.panel(1)).to_contain_text("run the cell again before you save")
    page.run(2)
    expect(page.output(2)).to_contain_text("finished, 4 dead letters")
    expect(page.panel(2)).to_have_count(0)
    assert page.problems == []

    # When it is saved all the same, and opened without its kernel
    again = reopened(page, browser)

    # Then the cell that was not run again tells how the run stood when the page was loaded, and where to look
    expect(again.output(1).locator(".tk-static")).to_be_visible()
    for text in ("20 / 40 · 50 %", "So it stood when this was saved", "client.get_run('"):
        expect(again.output(1)).to_contain_text(text)
    expect(again.output(2)).to_contain_text("finished, 4 dead letters")
    again.expect_no_lost_widget()
    assert again.problems == []
    again.close()


def test_open_section_stays_open_and_buttons_steer_the_run(notebook: journeys.OpenNotebook, gate: journeys.Gate):
    page = notebook(START, "import os; os.environ['TOOLKIT_PROGRESS'] = '0'", START)
    page.run(1)
    page.panel(1).get_by_text("Dead letters (0)").click()
    expect(page.panel(1)).to_contain_text("No dead letters")
    gate.open(12)
    expect(page.panel(1)).to_contain_text("Dead letters (1)")
    expect(page.panel(1)).to_contain_text("<img src=x onerror='window.pwned=1'> bad page")
    expect(page.panel(1)).to_contain_text("1 dead letter · failed executions: 1 fatal · for example item 9: ValueError")
    page.panel(1).get_by_text("Workers (2)").click()
    expect(page.panel(1).locator("meter")).to_have_count(2)
    page.panel(1).get_by_role("button", name="Retry dead (1)").click()
    expect(page.panel(1)).to_contain_text("1 dead letter sent back to work")
    expect(page.panel(1)).to_contain_text("Dead letters (0)")
    page.panel(1).get_by_role("button", name="Pause").click()
    expect(page.panel(1)).to_contain_text("Paused: somebody asked for it")
    page.panel(1).get_by_text("What happened").click()
    expect(page.panel(1)).to_contain_text("retry dead")
    page.panel(1).get_by_role("button", name="Resume").click()
    expect(page.panel(1).get_by_role("button", name="Pause")).to_be_enabled()
    gate.open(40)
    expect(page.output(1)).to_contain_text("finished, 4 dead letters")
    assert page.page.evaluate("() => window.pwned") is None

    # With progress switched off the same cell leaves a static summary
    gate.open(0)
    page.run(2)
    page.run(3)
    expect(page.output(3)).to_contain_text("0 / 40 · 0 %")
    expect(page.panel(3)).to_have_count(0)


def test_cancel_button_cancels_the_run_also_while_a_cell_awaits_it(
    notebook: journeys.OpenNotebook, gate: journeys.Gate
):
    page = notebook(START, "run.status().state.value, run.status().skipped > 0", f"{START}.panel()\nawait run", START)
    page.run(1)
    gate.open(5)
    expect(page.panel(1)).to_contain_text("5 / 40")
    page.panel(1).get_by_role("button", name="Cancel").click()
    expect(page.panel(1).get_by_role("button", name="Cancelling")).to_be_disabled()
    gate.open(40)  # what a worker holds may end
    expect(page.panel(1)).to_have_count(0)
    expect(page.output(1)).to_contain_text("cancelled")
    page.run(2)
    expect(page.output(2)).to_contain_text("('cancelled', True)")

    gate.open(0)
    page.run(3, wait=False)
    expect(page.panel(3)).to_contain_text("2 / 2")
    page.panel(3).get_by_role("button", name="Cancel").click()
    expect(page.panel(3)).to_contain_text("cancelling")
    gate.open(40)
    expect(page.output(3)).to_contain_text("state=<RunState.CANCELLED")

    # When the kernel goes down, what is live then stays as it is
    gate.open(0)
    page.run(4)
    expect(page.panel(4)).to_contain_text("2 / 2")
    page.shut_down()
    expect(page.panel(4)).to_have_count(0)
    expect(page.output(4)).to_contain_text("running")


def test_views_say_that_the_server_is_away_and_go_on_when_it_is_back(
    notebook: journeys.OpenNotebook, gate: journeys.Gate
):
    page = notebook(START, "cluster.stop()", "cluster.start()", "client.panel()")
    page.run(1)
    page.run(4)
    board = page.output(4).locator(".tk-dashboard")
    gate.open(5)
    expect(page.panel(1)).to_contain_text("5 / 40")
    expect(board).to_contain_text("5 / 40 · 12 %")
    page.run(2)
    expect(page.panel(1)).to_contain_text("no answer since")
    expect(page.panel(1)).to_contain_text("5 / 40")
    expect(board).to_contain_text("no answer since")
    page.run(3)
    gate.open(40)
    expect(page.output(1)).to_contain_text("finished, 4 dead letters")

    # The dashboard follows its filters, and stays as static HTML when it was asked to
    expect(board).to_contain_text("✖ finished")
    board.get_by_label("Filter").fill("nothing of the kind")
    expect(board).to_contain_text("No run fits the filters")
    board.get_by_label("Filter").fill("onerror step")
    board.get_by_label("State").select_option("failing")
    expect(board).to_contain_text("40 / 40 · 100 %")
    # On a narrow page its lines are cards: nothing is cut and nothing scrolls
    assert [board.evaluate(CUT, width) for width in (PHONE, WIDE)] == [[], []]
    board.get_by_role("button", name="Keep as it is").click()
    expect(board).to_have_count(0)
    for text in ("no longer live", "state failing", "40 / 40 · 100 %", "4 dead", NAME[:20]):
        expect(page.output(4)).to_contain_text(text)
    assert page.page.evaluate("() => window.pwned") is None


def test_finished_run_survives_saving_and_reopening_untrusted(notebook: journeys.OpenNotebook, gate: journeys.Gate):
    # Given a finished run in a saved notebook
    page = notebook(START)
    page.run(1)
    gate.open(40)
    expect(page.panel(1)).to_have_count(0)
    expect(page.output(1)).to_contain_text("finished, 4 dead letters")
    page.save()
    assert all("widget" not in kind for output in page.saved().cells[1].outputs for kind in output.get("data", {}))

    # When someone else opens it
    copy = untrusted(page)

    # Then the summary is there, with the name and the errors as text, and nothing is broken
    for text in (NAME, "finished, 4 dead letters", "40 / 40 · 100 %", "ValueError", "bad page", "Workers"):
        expect(copy.output(1)).to_contain_text(text)
    expect(copy.page.get_by_text("model not found")).to_have_count(0)
    assert copy.page.evaluate("() => window.pwned") is None
    assert copy.problems == []
    copy.leave()


def test_explorers_follow_their_controls_and_leave_something_to_read(
    notebook: journeys.OpenNotebook, browser: recipe.Browser
):
    # Given both explorers over rows whose names are markup
    page = notebook("tuning = explore(model, n_items=2_000)\ntuning", "explore(frame)", setup=EXPLORERS)
    for cell in (1, 2):
        page.run(cell)
    tuning, metrics = (page.output(cell).locator(".tk-live") for cell in (1, 2))
    expect(tuning.locator(".tk-answer")).to_contain_text("2,000 items in a predicted")
    expect(metrics.locator("figure")).to_contain_text("Throughput of the run goes from")
    for cell in (1, 2):
        expect(page.output(cell).locator(".tk-static")).to_be_hidden()

    # When a pointer moves the slider, its named choice and the answer follow; a key moves all three as well
    items = tuning.get_by_label("Items", exact=True)
    tuning.locator(".noUi-target").first.click(position={"x": 2, "y": 2})
    expect(tuning.locator(".tk-answer")).to_contain_text("10 items in a predicted")
    expect(items.locator("option:checked")).to_have_text("10")
    start = place(tuning)
    items.select_option(label="2,000")
    items.focus()
    choose_next(items)
    expect(tuning.locator(".tk-answer")).to_contain_text("5,000 items in a predicted")
    assert place(tuning) > start

    expect_map_to_fit_a_narrow_page(tuning)

    # And a keyboard meets named controls alone
    for explorer in (tuning, metrics):
        assert reached_by_keyboard(explorer) == named_controls(explorer)
    tuning.get_by_label("Objective", exact=True).select_option(label="least worker time")
    expect(tuning.locator(".tk-answer")).to_contain_text("with 1 worker")
    tuning.get_by_role("button", name="Show as code").click()
    expect(tuning.get_by_label("Code", exact=True)).to_have_value(CALL)
    metrics.get_by_label("Show", exact=True).select_option(label="timeline by worker, of the latest run")
    expect(metrics.locator("figure")).to_contain_text("in batches")

    # When the notebook is saved, and opened without its kernel, by the same user and by somebody else
    expect(page.output(1).locator(".tk-static")).to_contain_text("5,000 items, least worker time")
    expect(page.output(2).locator(".tk-static img")).to_have_attribute("alt", IN_BATCHES)
    page.save()
    assert (page.page.evaluate("() => window.pwned"), page.problems) == (None, [])
    again, copy = reopened(page, browser), untrusted(page)
    for other in (again, copy):
        # Then the latest answer and figure are there, names are text, and no word of lost widgets
        expect(other.output(1).locator(".tk-static")).to_be_visible()
        for text in (NAME, "5,000 items, least worker time", "★", "client.map(task, items, batch_size="):
            expect(other.output(1)).to_contain_text(text)
        expect(other.output(2).get_by_alt_text(IN_BATCHES)).to_be_visible()
        other.expect_no_lost_widget()
        assert other.page.evaluate("() => window.pwned") is None
        assert other.problems == []
    copy.leave()
    again.close()


def test_report_fits_on_paper_and_prints_light(browser: recipe.Browser, tmp_path: Path):
    # Given a report whose tables are as wide as they get, opened where the system is dark
    frame, model, advice = studied()
    name = "every page of the archive of the northern district, " * 3
    named = frame.assign(run_id=frame["run_id"].cat.rename_categories(lambda known: f"20261129-094038-{known}"))
    named["name"] = named["name"].cat.rename_categories(lambda _: name)
    letters = pd.DataFrame({"index": [7], "error_type": ["UnicodeDecodeError"], "attempts": [4], "message": [name * 2]})
    report = Report.of(frame=named, model=model, recommendation=advice, dead_letters=letters)
    page = browser.new_page(color_scheme="dark", viewport={"width": A4_PX, "height": 1000})
    page.goto(report.write(tmp_path / "report.html").as_uri())
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 23, 26)"

    # When it is printed, then on white paper, and no table is cut
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    wider = "() => [...document.querySelectorAll('body *')].filter(e => e.scrollWidth > innerWidth).map(e => e.tagName)"
    assert page.evaluate(wider) == []
    page.close()
