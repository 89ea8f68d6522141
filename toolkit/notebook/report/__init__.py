"""The report on a recommendation: one content, and a renderer for each format.

==============  ====================================================================
`content`       what a report says: sections of plain blocks
`sections`      makes them of frames, a model and its advice, once
`page`          as one self-contained HTML file; `style` is its sheet
`markdown`      as Markdown, for a pull request
`ipynb`         as a notebook with parameters
==============  ====================================================================
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from toolkit.errors import InvalidInput
from toolkit.notebook.report import ipynb, markdown, page
from toolkit.notebook.report.content import MAX_TABLE_ROWS, Content, Paragraph, Section
from toolkit.notebook.report.ipynb import Shown
from toolkit.notebook.report.sections import Sources, content_of

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.tuning import Recommendation, Recommender

__all__ = ["MAX_TABLE_ROWS", "Report", "write_report"]

_FORMATS: Final = {
    ".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown", ".ipynb": "notebook",
}  # fmt: skip


class Report:
    """A report, ready to be written as HTML, Markdown or a notebook.

    Parameters
    ----------
    sources : Sources
        What it is made of; see `Report.of`.

    Attributes
    ----------
    content : Content
        What it says: condensed when the report is made, the same in each format.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.content: Content = content_of(sources)

    @classmethod
    def of(cls, *, frame: pd.DataFrame, model: Recommender, recommendation: Recommendation, **parts: Any) -> Report:
        """Make a report about a recommendation.

        Parameters
        ----------
        frame : DataFrame
            Metric rows that the model was fitted on, one row per batch.
        model : Recommender
            The fitted model; named under the evidence.
        recommendation : Recommendation
            What to report.
        **parts
            ``measured``, a DataFrame of predictions that were tried (columns ``batch_size``, ``workers``,
            ``predicted_s``, ``low_s``, ``high_s``, ``measured_s``); ``status`` and ``dead_letters`` of the run that the
            report is about; ``profile``, which is ``run.profile()`` of a run of the task, shown as a flame graph;
            ``title``.
        """
        return cls(Sources(frame, model, recommendation, **parts))

    def html(self) -> str:
        """Return one self-contained page: no script, nothing from outside, light, dark and A4."""
        return page.page(self.content)

    def markdown(self) -> str:
        """Return Markdown for a pull request, with the pictures in words."""
        return markdown.markdown(self.content)

    def notebook(self) -> str:
        """Return the text of a notebook that shows the report and makes it anew when run."""
        return ipynb.notebook(self.content, self._sources)

    def write(self, path: str | Path) -> Path:
        """Write the report; the ending of `path` says as what: ``.html``, ``.md`` or ``.ipynb``.

        Returns
        -------
        pathlib.Path
            Where it is. An existing file is replaced at the end, never half written.

        Raises
        ------
        InvalidInput
            Another ending.
        OSError
            The file cannot be written.
        """
        target = Path(path)
        _replace(target, getattr(self, format_of(target)))
        return target

    @property
    def opening(self) -> Shown:
        """The answer and the key figures, as a notebook shows them."""
        return Shown(Section("", self.content.opening))

    def __getitem__(self, heading: str) -> Shown:
        """Return a section by its heading, as a notebook shows it; one that has nothing to say, says so."""
        for section in self.content.sections:
            if section.heading == heading:
                return Shown(section)
        return Shown(Section(heading, (Paragraph("Nothing to show this time.", note=True),)))

    def __repr__(self) -> str:
        headings = ", ".join(section.heading for section in self.content.sections)
        return f"<Report {self.content.title!r}: {headings}>"


def write_report(
    path: str | Path,
    *,
    frame: pd.DataFrame,
    model: Recommender,
    recommendation: Recommendation,
    **parts: Any,
) -> Path:
    """Write a report about a recommendation as one file; parameters, result and errors as for `Report.of` and `write`.

    The ending of `path` says as what: ``.html`` (self-contained, no script), ``.md`` (for a pull request) or ``.ipynb``
    (a notebook with parameters).
    """
    return Report.of(frame=frame, model=model, recommendation=recommendation, **parts).write(path)


def format_of(target: Path) -> str:
    """As what a report at `target` is written: the name of the method that makes its text.

    Raises
    ------
    InvalidInput
        The ending says no format.
    """
    kind = _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise InvalidInput(f"{target.name!r}: a report ends in .html, .md or .ipynb, which says its format")
    return kind


def _replace(target: Path, make: Callable[[], str]) -> None:
    # The file first: where it cannot be written, nobody waits for figures.
    handle, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(make())
        part.chmod(0o644)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
