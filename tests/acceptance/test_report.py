"""`toolkit report` on runs of real workers: each format, and a notebook that makes the report anew."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner, Result
from nbclient import NotebookClient

from tests.acceptance import shop
from toolkit.cli import main
from toolkit.client import Client, Run
from toolkit.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(client: Client) -> list[Run]:
    """Runs of one task at four settings; an item of the last one fails."""
    made = []
    for size, workers in ((1, 1), (8, 1), (2, 2), (8, 2)):
        items = [*range(35), "no number"] if (size, workers) == (8, 2) else range(36)
        made.append(
            client.map(
                shop.nap_or_fail, items, batch_size=size, max_workers=workers, name="four <settings>", profile=True
            )
        )
        made[-1].wait(60, progress=False)
    return made


@pytest.fixture
def report(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Call ``toolkit report`` in an empty directory, with this cluster as the user's own."""
    monkeypatch.setenv("TOOLKIT_STATE_DIR", str(cluster.state_dir))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["report", *words])


def good(answer: Result) -> str:
    assert answer.exit_code == 0, answer.output
    return str(answer.output)


def test_a_report_on_a_task_says_what_its_runs_recommend(runs: list[Run], report, tmp_path: Path) -> None:
    said = good(report(runs[0].spec.task, "--items", "5000", "-o", "pull.md"))
    assert said.startswith("pull.md: ")
    text = (tmp_path / "pull.md").read_text(encoding="utf-8")
    assert "5,000 items" in text
    for run in runs:
        assert run.run_id in text


def test_a_report_on_a_run_shows_its_failures(runs: list[Run], report, tmp_path: Path) -> None:
    good(report(runs[-1].run_id))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in (
        "This run",
        "What failed",
        "Where user code spends it",
        "Dead letters",
        "TypeError",
        "four &lt;settings&gt;",
        runs[-1].run_id,
    ):
        assert words in page
    assert "<settings>" not in page


def test_the_notebook_makes_the_report_anew_with_other_parameters(
    runs: list[Run], report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given a report as a notebook, and a parameter put behind its own as papermill does
    good(report(runs[0].spec.task, "-o", "tuning.ipynb"))
    made = nbformat.read(tmp_path / "tuning.ipynb", as_version=4)
    at = next(i for i, cell in enumerate(made.cells) if "parameters" in cell.metadata.get("tags", []))
    made.cells.insert(at + 1, nbformat.v4.new_code_cell("n_items = 70_000", id="injected"))
    # When it is run, in a kernel of its own as papermill and nbconvert do
    for name, place in (("PYTHONPATH", ROOT), ("IPYTHONDIR", tmp_path / "ipython")):
        monkeypatch.setenv(name, str(place))
    NotebookClient(made, timeout=150, resources={"metadata": {"path": str(tmp_path)}}).execute()
    # Then it speaks of as many items, and has figures
    outputs = [output for cell in made.cells[2:] for output in cell.get("outputs", [])]
    assert "70,000 items" in outputs[0].data["text/html"]
    assert sum("data:image/png" in output.data["text/html"] for output in outputs) >= 2


def test_an_unknown_name_and_an_unknown_format_are_errors(runs: list[Run], report, tmp_path: Path) -> None:
    for words, hint in (
        (("no.such.task",), "no run here has this id, and no runs are of such a task: task 'no.such.task': no run of"),
        ((runs[0].run_id, "-o", "absent/tuning.md"), "absent is no directory that you may write to"),
        ((runs[0].run_id, "-o", "tuning.pdf"), ".html, .md or .ipynb"),
    ):
        answer = report(*words)
        assert answer.exit_code == 1
        assert hint in answer.output
    assert list(tmp_path.iterdir()) == []
