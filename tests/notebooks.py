"""Run the notebooks and store them as a reader should find them: ``make notebooks``, or name some.

    python -m tests.notebooks [PATH ...]

Each runs from top to bottom on a fresh LocalCluster. Then what belongs to this machine is taken out of the outputs:
widgets, host names, process ids, times of the kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from toolkit.cluster import LocalCluster
from toolkit.notebook.outputs import NOTHING

REPOSITORY = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
_WORKER = re.compile(r"(toolkit-py\d+)-[0-9a-f]{10}@[\w.-]+(?:/(\d+))?")


def main(paths: list[Path]) -> None:
    """Run and store each, and say how long it took."""
    for path in paths or sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        began = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        clean(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.monotonic() - began:.1f} s, {path.stat().st_size / 1000:,.0f} kB")


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run a notebook from top to bottom on a cluster that nobody else uses, in an empty directory."""
    state = Path(tempfile.mkdtemp(prefix="tk-nb-"))  # short, because the path of its socket must be
    work = Path(tempfile.mkdtemp(prefix="tk-nb-"))
    search = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    private = {"TOOLKIT_STATE_DIR": str(state), "IPYTHONDIR": str(work / "ipython"), "PYTHONPATH": search}
    try:
        os.environ.update(private)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(work)}}).execute()
    finally:
        LocalCluster(state_dir=state).stop()
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Take what belongs to this machine out of a notebook that was run."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    known: dict[str, str] = {}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if "tags" in cell.metadata else {})
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if "data" in output:
                output["data"] = {kind: _plain(data, known) for kind, data in output["data"].items() if kind != WIDGET}
            if "text" in output:
                output["text"] = _plain(output["text"], known)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data") not in ({}, NOTHING)]


def _plain(data: Any, known: dict[str, str]) -> Any:
    """Name workers and hosts as on a machine without a name."""
    if not isinstance(data, str):
        return data

    def short(match: re.Match[str]) -> str:
        process = match.group(2)
        number = known.setdefault(process, str(len(known) + 1)) if process else ""
        return f"{match.group(1)}@localhost{'/' if process else ''}{number}"

    # Nowhere but behind an @: a short name may well stand in the letters of a picture.
    return re.sub(rf"@{re.escape(socket.gethostname())}\b", "@localhost", _WORKER.sub(short, data))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
