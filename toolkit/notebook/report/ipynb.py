"""A report as a notebook: it opens with its figures and tables, and makes them anew from fresh metrics when run.

The cell with the tag ``parameters`` holds what may change; papermill and others put theirs behind it. Figures are PNG
and the markup is plain, so that a notebook that is not trusted shows them too.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from toolkit.notebook import escape
from toolkit.notebook.report import page
from toolkit.notebook.report.content import Block, Column, Content, Picture, Section, Table, Tiles
from toolkit.notebook.report.markdown import block as in_words
from toolkit.notebook.svg import LEAST_PX

if TYPE_CHECKING:
    from toolkit.notebook.report.sections import Sources

_DPI: Final = 110
"""Sharp enough for its 760 pixels, at two thirds of the time and size that a figure in a notebook takes."""

_LOAD: Final = """\
import pandas as pd

import toolkit as tk
from toolkit.notebook import Report

client = tk.Client()  # your LocalCluster, or what TOOLKIT_APP and TOOLKIT_LEDGER_URL name
history = client.metrics(task, since=since)
model = tk.Recommender().fit(history)
advice = model.recommend(task, n_items=n_items, objective=objective, max_workers=max_workers)
"""


def notebook(content: Content, sources: Sources) -> str:
    """Return the report as the text of an ``.ipynb`` file.

    It is written here and not by nbformat, whose import takes as long as half of the figures.
    """
    opening = (
        f"# {escape.markdown(content.title)}\n\n{escape.markdown(content.subtitle)}\n\nRun all cells to make this "
        "report anew from the metrics of today. The next cell has the parameters: change them here, or from outside "
        "with `papermill this.ipynb new.ipynb -p n_items 100000`."
    )
    cells = [_words(opening), _code(_parameters(sources), tags=["parameters"]), _code(_load(sources))]
    for heading, parts in [("", content.opening), *((s.heading, s.blocks) for s in content.sections)]:
        if heading:
            cells.append(_words(f"## {escape.markdown(heading)}"))
        source = f"report[{heading!r}]" if heading else "report.opening"
        cells.append(_code(source, Shown(Section(heading, parts))))
    for number, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), start=1):
        for part in (cell, *cell["outputs"]):
            part["execution_count"] = number
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02d}"  # not random: the same report is the same file
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    made = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _words(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(source)}


def _code(source: str, shown: Shown | None = None, tags: Sequence[str] = ()) -> dict[str, Any]:
    outputs = []
    if shown is not None:
        data = {"text/html": _lines(shown._repr_html_()), "text/plain": _lines(repr(shown))}
        outputs.append({"output_type": "execute_result", "data": data, "metadata": {}})
    metadata = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "metadata": metadata, "outputs": outputs, "source": _lines(source)}


def _lines(text: str) -> list[str]:
    """A text as notebooks hold it; only a line feed ends a line, whatever else Python takes for one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _parameters(sources: Sources) -> str:
    advice = sources.recommendation
    return (
        f"task = {advice.task!r}  # whose runs\n"
        f"n_items = {advice.n_items}  # of the next run\n"
        f"objective = {advice.objective!r}  # or 'makespan', 'cost'\n"
        "max_workers = None  # most workers to consider; None for as many as were measured\n"
        "since = None  # only runs from this moment on, such as '2026-11-01'"
    )


def _load(sources: Sources) -> str:
    trials, known = "", ""
    if sources.measured is not None and not sources.measured.empty:
        columns = {
            name: [round(float(value), 6) for value in sources.measured[name].tolist()] for name in sources.measured
        }
        trials = f"measured = pd.DataFrame({columns!r})\n"
        known = ", measured=measured"
    if sources.status is not None:
        trials += f"run = client.get_run({sources.status.run_id!r})\n"
        known += ", status=run.status(), dead_letters=run.dead_letters()"
    if sources.profile is not None:
        known += f", profile=client.get_run({sources.profile.run_id!r}).profile()"
    made = f"report = Report.of(frame=history, model=model, recommendation=advice, title={sources.title!r}{known})"
    return f"{_LOAD}{trials}{made}"


class Shown:
    """A section of a report as a notebook cell shows it.

    Parameters
    ----------
    section : Section
        What to show.
    """

    def __init__(self, section: Section) -> None:
        self.section = section

    def _repr_html_(self) -> str:
        return f"<div>{''.join(page.block(_plain(part), _png) for part in self.section.blocks)}</div>"

    def __repr__(self) -> str:
        return "\n\n".join(in_words(part) for part in self.section.blocks)


def _plain(part: Block) -> Block:
    """Without a style sheet, key figures read best as a table."""
    if isinstance(part, Tiles):
        columns = tuple(Column(label) for _, label in part.pairs)
        return Table("Key figures", columns, (tuple(value for value, _ in part.pairs),))
    return part


def _png(picture: Picture) -> str:
    words = escape.html(picture.display.caption(), 2000)
    data = base64.b64encode(picture.display.png(_DPI)).decode("ascii")
    return (
        f'<div style="overflow-x:auto"><img alt="{words}" style="width:100%;max-width:760px;min-width:{LEAST_PX}px" '
        f'src="data:image/png;base64,{data}"></div>'
        f'<div style="font-size:12px;opacity:.8;max-width:760px">{words}</div>'
    )
