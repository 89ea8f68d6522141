"""Every notebook runs from top to bottom on a cluster of its own, and is stored as a reader should find it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import REPOSITORY, WIDGET
from toolkit.cluster import LocalCluster

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """Where the notebook's own cluster lives; short, because its socket's path must be."""
    place = Path(tempfile.mkdtemp(prefix="tk-nb-"))
    yield place
    LocalCluster(state_dir=place).stop()
    shutil.rmtree(place, ignore_errors=True)


def test_there_are_notebooks():
    assert NOTEBOOKS


@EVERY_NOTEBOOK
@pytest.mark.timeout(300)
def test_notebook_runs_and_its_marked_facts_are_true(path: Path, state_dir: Path, tmp_path: Path):
    copy = shutil.copy(path, tmp_path / path.name)
    search = os.pathsep.join(filter(None, [str(tmp_path), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "rfc3987_syntax.py").write_text("raise ImportError\n")  # see tests/conftest.py: seconds of each start
    env = {
        **os.environ,
        "TOOLKIT_STATE_DIR": str(state_dir),
        "PYTHONPATH": search,
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=60", "-p", "no:cacheprovider", "-q"]
    # An empty configuration, so that nothing of this test run's own reaches the inner one.
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(tmp_path / "pytest.ini"), *options, str(copy)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert f"{len(cells)} passed" in done.stdout


@EVERY_NOTEBOOK
def test_stored_notebook_was_executed_and_carries_nothing_of_a_machine(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if WIDGET in output.get("data", {})], "a widget cannot be reopened"
    assert "widgets" not in notebook.metadata
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"ipykernel_\d+|site-packages|/(tmp|root|home|work|Users)/|-[0-9a-f]{10}@", text)
    assert not re.search(rf"@{re.escape(socket.gethostname())}\b", text)
    assert str(REPOSITORY) not in text


@EVERY_NOTEBOOK
def test_notebook_states_facts_that_are_checked(path: Path):
    assert path.read_text(encoding="utf-8").count("NBVAL_CHECK_OUTPUT") >= 3
