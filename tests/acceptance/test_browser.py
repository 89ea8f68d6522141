"""Journeys through a real JupyterLab in a real Chromium: a real run on real workers, seen by its user.

Items wait at a gate that the test opens, so every state lasts until it was looked at.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from toolkit.cluster import LocalCluster

REQUIRED = os.environ.get("TOOLKIT_REQUIRE_BROWSER") == "1"
RECIPE = "tests.acceptance.browser"  # needs Playwright
browser_recipe = (
    import_module(RECIPE) if REQUIRED else pytest.importorskip(RECIPE, reason="Playwright is not installed")
)
expect = browser_recipe.expect
CHROMIUM = browser_recipe.find_chromium()
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None and not REQUIRED, reason="no Chromium here (TOOLKIT_REQUIRE_BROWSER=1 fails instead)"
    ),
    pytest.mark.timeout(300),
]

SETUP = """
import threading
from pathlib import Path
import toolkit as tk
from toolkit.settings import LedgerSettings
gate = Path({gate!r})
cluster = tk.LocalCluster(2)
client = tk.Client(cluster=cluster, settings=LedgerSettings(retry_s=0.5))

def step(i, gate=str(gate)):
    import time
    from pathlib import Path
    while int(Path(gate).read_text() or 0) <= i:
        time.sleep(0.01)
    if i % 10 == 9:
        raise ValueError("<img src=x onerror='window.pwned=1'> bad page")
    return i
"""
NAME = "<img src=x onerror='window.pwned=1'>"
START = f'run = client.map(step, range(40), batch_size=1, name="{NAME}")\nrun'
BLOCK = "import time\nwhile not gate.with_suffix('.stop').exists():\n    time.sleep(0.01)"
THREADS = "sum(t.name.startswith('toolkit-panel') for t in threading.enumerate())"


@pytest.fixture(scope="module")
def state_dir() -> Iterator[Path]:
    """Where the kernels' LocalCluster lives; short, because its socket's path must be."""
    place = Path(tempfile.mkdtemp(prefix="tk-lab-"))
    yield place
    LocalCluster(state_dir=place).stop()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, state_dir: Path) -> Iterator[browser_recipe.Lab]:
    """A JupyterLab whose kernels share one LocalCluster."""
    home = tmp_path_factory.mktemp("lab")
    with browser_recipe.jupyter_lab(home, {"TOOLKIT_STATE_DIR": str(state_dir)}) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[browser_recipe.Browser]:
    """A Chromium."""
    assert CHROMIUM is not None, "TOOLKIT_REQUIRE_BROWSER=1, and there is no Chromium"
    with browser_recipe.chromium(CHROMIUM) as running:
        yield running


class Gate:
    """How many items may pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open(0)

    def open(self, items: int) -> None:
        """Let the first `items` items pass."""
        self.path.write_text(str(items))

    def end_blocking_cell(self) -> None:
        """Let the cell that blocks the kernel end."""
        self.path.with_suffix(".stop").touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A closed gate."""
    return Gate(tmp_path / "gate")


OpenNotebook = Callable[..., "browser_recipe.NotebookPage"]


@pytest.fixture
def notebook(
    lab: browser_recipe.Lab, browser: browser_recipe.Browser, gate: Gate, request: pytest.FixtureRequest
) -> Iterator[OpenNotebook]:
    """Open a notebook whose first cell is the setup, and run that; what waits at the gate passes at the end."""
    opened = []

    def open_(*cells: str) -> browser_recipe.NotebookPage:
        name = f"{request.node.name}.ipynb"
        lab.write(name, [SETUP.format(gate=str(gate.path)), *cells])
        page = browser_recipe.NotebookPage(browser.new_page(viewport={"width": 1100, "height": 1400}), lab, name)
        opened.append(page)
        page.run(0)
        return page

    yield open_
    gate.open(10**9)
    gate.end_blocking_cell()
    for page in opened:
        page.close()


def reopened(page: browser_recipe.NotebookPage, browser: browser_recipe.Browser) -> browser_recipe.NotebookPage:
    """Save a notebook, shut its kernel down, and open it in a new tab."""
    page.save()
    page.close()
    return browser_recipe.NotebookPage(browser.new_page(), page.lab, page.name)


def test_panel_lives_while_the_kernel_is_idle_busy_and_after_a_reload(
    notebook: OpenNotebook, browser: browser_recipe.Browser, gate: Gate
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


def test_open_section_stays_open_and_buttons_steer_the_run(notebook: OpenNotebook, gate: Gate):
    page = notebook(START)
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


def test_cancel_button_cancels_the_run_also_while_a_cell_awaits_it(notebook: OpenNotebook, gate: Gate):
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


def test_views_say_that_the_server_is_away_and_go_on_when_it_is_back(notebook: OpenNotebook, gate: Gate):
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
    board.get_by_role("button", name="Keep as it is").click()
    expect(board).to_have_count(0)
    for text in ("no longer live", "state failing", "40 / 40 · 100 %", "4 dead", NAME[:20]):
        expect(page.output(4)).to_contain_text(text)
    assert page.page.evaluate("() => window.pwned") is None


def test_finished_run_survives_saving_and_reopening_untrusted(
    notebook: OpenNotebook, lab: browser_recipe.Lab, browser: browser_recipe.Browser, gate: Gate
):
    # Given a finished run in a saved notebook
    page = notebook(START)
    page.run(1)
    gate.open(40)
    expect(page.panel(1)).to_have_count(0)
    expect(page.output(1)).to_contain_text("finished, 4 dead letters")
    page.save()
    assert all("widget" not in kind for output in page.saved().cells[1].outputs for kind in output.get("data", {}))

    # When someone else opens it
    lab.copy_untrusted(page.name, f"copy-{page.name}")
    copy = browser_recipe.NotebookPage(browser.new_page(), lab, f"copy-{page.name}")
    trusted = copy.page.evaluate("() => window.jupyterapp.shell.currentWidget.model.cells.get(1).trusted")

    # Then the summary is there, with the name and the errors as text, and nothing is broken
    assert trusted is False
    for text in (NAME, "finished, 4 dead letters", "40 / 40 · 100 %", "ValueError", "bad page", "Workers"):
        expect(copy.output(1)).to_contain_text(text)
    expect(copy.page.get_by_text("model not found")).to_have_count(0)
    assert copy.page.evaluate("() => window.pwned") is None
    assert copy.problems == []
    copy.close()


def test_progress_off_leaves_a_static_summary(notebook: OpenNotebook, gate: Gate):
    page = notebook("import os; os.environ['TOOLKIT_PROGRESS'] = '0'", START)
    page.run(1)
    page.run(2)
    expect(page.output(2)).to_contain_text("0 / 40 · 0 %")
    expect(page.panel(2)).to_have_count(0)
