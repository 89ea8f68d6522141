"""A journey through both explorers in a real JupyterLab, with hostile names, and what the notebook shows afterwards."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import pytest

REQUIRED = os.environ.get("TOOLKIT_REQUIRE_BROWSER") == "1"
RECIPE = "tests.acceptance.browser"  # needs Playwright
recipe = import_module(RECIPE) if REQUIRED else pytest.importorskip(RECIPE, reason="Playwright is not installed")
expect = recipe.expect
CHROMIUM = recipe.find_chromium()
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None and not REQUIRED, reason="no Chromium here (TOOLKIT_REQUIRE_BROWSER=1 fails instead)"
    ),
    pytest.mark.timeout(300),
]

NAME = "<img src=x onerror='window.pwned=1'>"
CALL = re.compile(r"run = client\.map\(task, items, batch_size=\d+, max_workers=\d\)")
IN_BATCHES = re.compile(r"workers? spent .* in batches")
SETUP = f"""
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


def place(tuning: recipe.Locator) -> float:
    """Where the handle of the first slider is."""
    return float(tuning.locator(".noUi-touch-area").first.bounding_box()["x"])


def choose_next(control: recipe.Locator) -> None:
    """Take the next of a control's choices, by keys: JupyterLab takes arrows for itself until the list is open."""
    control.focus()
    for key in ("Space", "ArrowDown", "Enter"):
        control.page.keyboard.press(key)


def test_explorers_follow_their_controls_and_leave_something_to_read(tmp_path: Path):
    assert CHROMIUM is not None, "TOOLKIT_REQUIRE_BROWSER=1, and there is no Chromium"
    with recipe.jupyter_lab(tmp_path, {}) as lab, recipe.chromium(CHROMIUM) as browser:
        # Given both explorers over rows whose names are markup
        lab.write("explore.ipynb", [SETUP, "tuning = explore(model, n_items=2_000)\ntuning", "explore(frame)"])
        page = recipe.NotebookPage(browser.new_page(viewport={"width": 1200, "height": 1600}), lab, "explore.ipynb")
        for cell in range(3):
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

        # And a keyboard meets named controls alone
        for explorer in (tuning, metrics):
            assert reached_by_keyboard(explorer) == named_controls(explorer)
        tuning.get_by_label("Objective", exact=True).select_option(label="least worker time")
        expect(tuning.locator(".tk-answer")).to_contain_text("less worker time than")
        tuning.get_by_role("button", name="Show as code").click()
        expect(tuning.get_by_label("Code", exact=True)).to_have_value(CALL)
        metrics.get_by_label("Show", exact=True).select_option(label="timeline by worker, of the latest run")
        expect(metrics.locator("figure")).to_contain_text("in batches")

        # When the notebook is saved, and opened without its kernel, by the same user and by somebody else
        expect(page.output(1).locator(".tk-static")).to_contain_text("5,000 items, least worker time")
        expect(page.output(2).locator(".tk-static img")).to_have_attribute("alt", IN_BATCHES)
        page.save()
        assert (page.page.evaluate("() => window.pwned"), page.problems) == (None, [])
        lab.copy_untrusted("explore.ipynb", "copy.ipynb")
        page.close()
        for file in ("explore.ipynb", "copy.ipynb"):
            again = recipe.NotebookPage(browser.new_page(), lab, file)

            # Then the latest answer and figure are there, names are text, and no word of lost widgets
            expect(again.output(1).locator(".tk-static")).to_be_visible()
            for text in (NAME, "5,000 items, least worker time", "★", "client.map(task, items, batch_size="):
                expect(again.output(1)).to_contain_text(text)
            expect(again.output(2).get_by_alt_text(IN_BATCHES)).to_be_visible()
            again.expect_no_lost_widget()
            assert again.page.evaluate("() => window.pwned") is None
            assert again.problems == []
            again.close()
