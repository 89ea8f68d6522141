"""What the metrics explorer picks and shows: rows of a frame, and the figure or table made of them. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from toolkit.errors import InvalidInput
from toolkit.notebook import escape, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.failures import ErrorCounts
from toolkit.notebook.html import BOX
from toolkit.notebook.measured import MeasuredRun, measured_runs
from toolkit.notebook.relation import Relation
from toolkit.notebook.report.style import DARK, LIGHT
from toolkit.notebook.spread import ServiceTimes
from toolkit.notebook.svg import CSS, LEAST_PX
from toolkit.notebook.timeline import TimeBreakdown, Timeline

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.notebook.theme import Display

MAX_LISTED: Final = 200
"""Runs to choose from, the latest."""

MAX_TABLE: Final = 40
"""Runs in the table."""

NEEDED: Final = (
    "run_id", "task", "name", "host", "worker", "code_version", "batch", "batch_size", "items", "ok", "failed",
    "retried", "dead", "outcome", "error_category", "claimed_at", "service_s", "decode_s", "store_s", "idle_s",
    "cpu_user_s", "cpu_system_s", "peak_rss_bytes", "active_claims", "cut_off",
)  # fmt: skip
"""Columns that an explorer looks at."""


@dataclass(frozen=True, slots=True)
class Pick:
    """What is to be seen.

    Attributes
    ----------
    task : str
        Only rows of this task; empty for all.
    runs : tuple of str
        Only rows of these runs; empty for all.
    view : str
        Key of `VIEWS`.
    measure, axis, by : str
        Of the view ``relation``: keys of `relation.MEASURES`, `relation.AXES` and `relation.GROUPS`.
    """

    task: str = ""
    runs: tuple[str, ...] = ()
    view: str = "relation"
    measure: str = "rate"
    axis: str = "batch_size"
    by: str = "workers"


VIEWS: Final[dict[str, tuple[str, Callable[[pd.DataFrame, Pick], Display]]]] = {
    "relation": (
        "one measure against another",
        lambda frame, pick: Relation.from_metrics(frame, measure=pick.measure, axis=pick.axis, by=pick.by),
    ),
    "batch": ("service times of batches", lambda frame, _: ServiceTimes.from_metrics(frame)),
    "item": ("service times per item", lambda frame, _: ServiceTimes.from_metrics(frame, of="item")),
    "timeline": ("timeline by worker, of the latest run", lambda frame, _: Timeline.from_metrics(frame)),
    "breakdown": ("where the time goes", lambda frame, _: TimeBreakdown.from_metrics(frame)),
    "errors": ("what failed", lambda frame, _: ErrorCounts.from_metrics(frame)),
}
"""What can be seen: its name, and how it is made."""


def check_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` if it holds metric rows.

    Raises
    ------
    InvalidInput
        A column is missing.
    """
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing:
        raise InvalidInput(
            f"explore: this frame has no column {', '.join(missing)}; pass metric rows, as run.metrics(), "
            "client.metrics() and their archive give them"
        )
    return frame


def tasks_of(frame: pd.DataFrame) -> list[str]:
    """Return the tasks of a frame, by name."""
    return sorted(str(name) for name in frame["task"].unique())


def latest_task(frame: pd.DataFrame) -> str:
    """Return the task of the batch that was claimed last; empty without any."""
    return "" if frame.empty else str(frame["task"].iloc[int(frame["claimed_at"].argmax())])


def run_choices(frame: pd.DataFrame, task: str) -> list[tuple[str, str]]:
    """Return label and id of the latest runs of a task; labels are plain text of one line."""
    latest = measured_runs(narrow(frame, Pick(task=task)))[:MAX_LISTED]
    return [(_label(run, latest[0].started_at), run.run_id) for run in latest]


def _label(run: MeasuredRun, latest_at: float) -> str:
    # What tells runs apart comes first: a list beside the figure shows some 25 characters of it.
    name = escape.plain(run.name, 30) or escape.plain(run.run_id, 30)
    size = fmt.count(run.batch_size) if run.steady else "steered"
    return f"{size} × {fmt.quantity(run.workers, 'worker')} · {fmt.moment_among(run.started_at, latest_at)} · {name}"


def narrow(frame: pd.DataFrame, pick: Pick) -> pd.DataFrame:
    """Return the rows that are picked."""
    part = frame
    for column, wanted in (("task", (pick.task,) if pick.task else ()), ("run_id", pick.runs)):
        if wanted:
            # Compared as categories: as text, pandas would refuse half a surrogate pair in a name.
            keep = np.zeros(len(part), dtype=bool)
            for value in wanted:
                keep |= (part[column] == value).to_numpy(dtype=bool)
            part = part[keep]
    return part


def display_of(rows: pd.DataFrame, pick: Pick) -> Display:
    """Return the figure of rows that were narrowed already."""
    return VIEWS[pick.view][1](rows, pick)


# --------------------------------------------------------------------------- markup


def summary_html(rows: pd.DataFrame, pick: Pick) -> str:
    """Return how much is being looked at."""
    runs = fmt.quantity(int(rows["run_id"].nunique()), "run")
    batches = fmt.quantity(len(rows), "batch", "batches")
    items = fmt.quantity(int(rows["items"].sum()), "item")
    what = escape.html(pick.task or "all tasks", 80)
    return f'<div role="status" style="{leaves.FONT}"><b>{what}</b>: {batches} of {runs}, {items} executed</div>'


# JupyterLab says on its body whether its theme is light; `prefers-color-scheme` is the system's, which may differ.
FIGURE_STYLE: Final = (
    f"<style>.tk-figure{{{LIGHT}}}.tk-figure,body .tk-figure{{--paper:var(--jp-layout-color0,#fff);max-width:760px}}"
    f'body[data-jp-theme-light="false"] .tk-figure{{{DARK}}}'
    ".tk-figure figcaption{font-size:12px;line-height:1.45;opacity:.8}"
    f".tk-figure figure{{margin:4px 0;color:var(--ink)}}{CSS}.tk-figure svg{{min-width:{LEAST_PX}px}}</style>"
)
"""Colours of a live figure, in the light and in the dark theme."""


def figure_html(display: Display, ident: str) -> str:
    """Return a figure that follows the theme of the page, for a widget; its caption is below and its description."""
    caption = escape.html(display.caption(), 2000)
    return (
        f'{FIGURE_STYLE}<div class="tk-figure"><figure><div class=wide>{display.svg(ident)}</div>'
        f"<figcaption>{caption}</figcaption></figure></div>"
    )


def runs_table(rows: pd.DataFrame) -> str:
    """Return the runs as a table, the latest first."""
    runs = measured_runs(rows)
    if not runs:
        return f'<div style="{leaves.FONT}">No run.</div>'
    head = ("run", "started", "batch size", "workers", "items", "failed", "makespan", "throughput", "busy")
    lines = [
        (
            leaves.kept(escape.html(run.name or run.run_id, 40)), leaves.kept(fmt.moment(run.started_at)),
            f"{fmt.count(run.batch_size)}{'' if run.steady else ', steered'}", fmt.count(run.workers),
            fmt.count(run.items), fmt.count(run.failed), fmt.duration(run.makespan_s), escape.html(fmt.rate(run.rate)),
            fmt.percent(run.busy),
        )
        for run in runs[:MAX_TABLE]
    ]  # fmt: skip
    more = len(runs) - MAX_TABLE
    rest = f'<div style="{leaves.FONT};opacity:.75">and {fmt.quantity(more, "earlier run")}</div>' if more > 0 else ""
    return f'<div style="overflow-x:auto">{leaves.table(head, lines, left=(0, 1))}{rest}</div>'


def static_html(rows: pd.DataFrame, display: Display, pick: Pick) -> str:
    """Return what is seen as HTML that survives saving, reopening and the sanitiser of untrusted notebooks."""
    return f'<div style="{BOX}">{summary_html(rows, pick)}{display.html()}</div>'
