"""What the journeys share: one JupyterLab, one Chromium, one tab, and runs whose items wait at a gate.

Every state lasts until it was looked at, because the test opens the gate.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance import browser as recipe
from toolkit.cluster import LocalCluster

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


@pytest.fixture(scope="module")
def state_dir() -> Iterator[Path]:
    """Where the kernels' LocalCluster lives; short, because its socket's path must be."""
    place = Path(tempfile.mkdtemp(prefix="tk-lab-"))
    yield place
    LocalCluster(state_dir=place).stop()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, state_dir: Path) -> Iterator[recipe.Lab]:
    """A JupyterLab whose kernels share one LocalCluster."""
    home = tmp_path_factory.mktemp("lab")
    with recipe.jupyter_lab(home, {"TOOLKIT_STATE_DIR": str(state_dir)}) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[recipe.Browser]:
    """A Chromium."""
    path = recipe.find_chromium()
    assert path is not None, "TOOLKIT_REQUIRE_BROWSER=1, and there is no Chromium"
    with recipe.chromium(path) as running:
        yield running


@pytest.fixture(scope="module")
def tab(browser: recipe.Browser) -> recipe.Page:
    """A tab in which one notebook is opened after the other."""
    return browser.new_page(viewport={"width": 1200, "height": 1600})


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


OpenNotebook = Callable[..., recipe.NotebookPage]


@pytest.fixture
def notebook(lab: recipe.Lab, tab: recipe.Page, gate: Gate, request: pytest.FixtureRequest) -> Iterator[OpenNotebook]:
    """Open a notebook whose first cell is a setup, and run that; what waits at the gate passes at the end."""
    opened = []

    def open_(*cells: str, setup: str = SETUP) -> recipe.NotebookPage:
        name = f"{request.node.name}.ipynb"
        lab.write(name, [setup.format(gate=str(gate.path)), *cells])
        page = recipe.NotebookPage(tab, lab, name)
        opened.append(page)
        page.run(0)
        return page

    yield open_
    gate.open(10**9)
    gate.end_blocking_cell()
    for page in opened:
        page.leave()
