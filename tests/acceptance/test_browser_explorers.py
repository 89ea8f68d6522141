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

        # When a key moves the slider, its named choice and the answer follow; a choice moves them as well
        tuning.get_by_role("slider").first.focus()
        page.page.keyboard.press("ArrowRight")
        expect(tuning.locator(".tk-answer")).to_contain_text("5,000 items in a predicted")
        expect(tuning.get_by_label("Items", exact=True).locator("option:checked")).to_have_text("5,000")
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
        assert page.page.evaluate("() => window.pwned") is None
        assert page.problems == []
        lab.copy_untrusted("explore.ipynb", "copy.ipynb")
        page.close()
        for file in ("explore.ipynb", "copy.ipynb"):
            again = recipe.NotebookPage(browser.new_page(), lab, file)

            # Then the latest answer and figure are there, names are text, and no word of lost widgets
            expect(again.output(1).locator(".tk-static")).to_be_visible()
            for text in (NAME, "5,000 items, least worker time", "★", "client.map(task, items, batch_size="):
                expect(again.output(1)).to_contain_text(text)
            expect(again.output(2).get_by_alt_text(IN_BATCHES)).to_be_visible()
            for words in ("Loading widget", "model not found"):
                expect(again.page.get_by_text(words).filter(visible=True)).to_have_count(0)
            assert again.page.evaluate("() => window.pwned") is None
            assert again.problems == []
            again.close()
