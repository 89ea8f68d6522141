"""The report: one HTML file that explains a recommendation and what it rests on.

Self-contained: no script, no address outside, a content security policy that allows exactly the one style sheet in
it. It follows dark mode, prints on A4, and stays under a megabyte however long the history, because everything is
condensed to records first.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from toolkit._version import __version__
from toolkit.errors import TuningError
from toolkit.notebook import escape
from toolkit.notebook import format as fmt
from toolkit.notebook.heat import HeatGrid
from toolkit.notebook.html import evidence_facts, headline, how_sure, saving_text
from toolkit.notebook.measured import MeasuredRun, measured_runs, measured_settings
from toolkit.notebook.plots import MakespanMap, PredictedVsMeasured, ThroughputPlot
from toolkit.notebook.profiled import FlameGraph
from toolkit.notebook.report_style import STYLE
from toolkit.notebook.timeline import TimeBreakdown, Timeline

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.client.profile import Profile
    from toolkit.notebook.theme import Display
    from toolkit.tuning import Recommendation, Recommender

MAX_TABLE_ROWS: Final = 100
"""Rows of a table; the rest is counted below it."""

_PACKAGES: Final = ("numpy", "pandas", "scikit-learn", "scipy", "matplotlib", "celery", "redis")


@dataclass(frozen=True)
class _Column:
    """A column of a table: its heading, and whether it holds text or numbers."""

    title: str
    text: bool = False


def write_report(  # noqa: PLR0913 - each is a part of the page
    path: str | Path,
    *,
    frame: pd.DataFrame,
    model: Recommender,
    recommendation: Recommendation,
    measured: pd.DataFrame | None = None,
    profile: Profile | None = None,
    title: str = "Batch tuning report",
) -> Path:
    """Write a self-contained HTML report about a recommendation.

    Parameters
    ----------
    path : str or pathlib.Path
        File to write; its directory must exist. An existing file is replaced at the end, never half written.
    frame : DataFrame
        Metric rows that the model was fitted on, one row per batch.
    model : Recommender
        The fitted model; named under the evidence.
    recommendation : Recommendation
        What to report.
    measured : DataFrame, optional
        Predictions that were tried: columns ``batch_size``, ``workers``, ``predicted_s``, ``low_s``, ``high_s``,
        ``measured_s``.
    profile : Profile, optional
        ``run.profile()`` of a run of the task, shown as a flame graph.
    title : str
        Heading of the page.

    Returns
    -------
    pathlib.Path
        Where the report is.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    target = Path(path)
    page = report_html(
        frame=frame, model=model, recommendation=recommendation, measured=measured, profile=profile, title=title
    )
    handle, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        part.chmod(0o644)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return target


def report_html(
    *,
    frame: pd.DataFrame,
    model: Recommender,
    recommendation: Recommendation,
    measured: pd.DataFrame | None = None,
    profile: Profile | None = None,
    title: str,
) -> str:
    """Return the report as text; parameters as in `write_report`."""
    history = _of_task(frame, recommendation.task)
    runs = measured_runs(history)
    body = [
        _answer(recommendation, title),
        _key_figures(recommendation, runs),
        _reasons(recommendation),
        _map_section(recommendation),
        _throughput_section(recommendation, history, runs),
        _trial_section(measured),
        _left_out_section(model, recommendation.task),
        _time_section(history),
        _section("Where user code spends it", _figure(FlameGraph(profile), "fig-flame") if profile else ""),
        _runs_section(runs),
        _evidence_section(recommendation, model, runs),
    ]
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape.html(title)}</title><style>{STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _of_task(frame: pd.DataFrame, task: str | None) -> pd.DataFrame:
    """Return the rows of the recommendation's task; all of them when it names none."""
    if not task or frame.empty:
        return frame
    part = frame[frame["task"] == task]
    return frame if part.empty else part


def _section(heading: str, *parts: str) -> str:
    content = "".join(parts)
    return f"<section><h2>{escape.html(heading)}</h2>{content}</section>" if content else ""


def _note(text: str) -> str:
    return f'<p class="note">{escape.html(text, 1000)}</p>'


def _figure(display: Display, ident: str) -> str:
    caption = escape.html(display.caption(), 2000)
    return f'<figure id="{ident}">{display.svg(ident)}<figcaption>{caption}</figcaption></figure>'


def _table(caption: str, columns: tuple[_Column, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table of plain texts, which are escaped here."""
    head = "".join(f'<th scope="col"{_left(c)}>{escape.html(c.title)}</th>' for c in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{_left(c)}>{escape.html(v, 400)}</td>" for c, v in zip(columns, row, strict=True))
        + "</tr>"
        for row in rows[:MAX_TABLE_ROWS]
    )
    more = len(rows) - MAX_TABLE_ROWS
    rest = _note(f"{fmt.quantity(more, 'more row')} not shown.") if more > 0 else ""
    words = escape.html(caption, 400)
    return (
        f'<div class="wide"><table><caption>{words}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{rest}"
    )


def _left(column: _Column) -> str:
    return ' class="text"' if column.text else ""


# --------------------------------------------------------------------------- sections


def _answer(recommendation: Recommendation, title: str) -> str:
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    task = escape.html(recommendation.task or "all tasks", 120)
    kind = "answer refused" if recommendation.refused else "answer"
    return (
        f'<header><h1>{escape.html(title)}</h1><p class="note">Task <b>{task}</b> · {stamp}</p>'
        f'<p class="{kind}">{escape.html(headline(recommendation), 600)}</p></header>'
    )


def _key_figures(recommendation: Recommendation, runs: tuple[MeasuredRun, ...]) -> str:
    cells = []
    if not recommendation.refused:
        cells += [
            (fmt.count(recommendation.batch_size), "batch size"),
            (fmt.count(recommendation.workers), "workers"),
            (fmt.duration(recommendation.makespan_s), f"makespan, {_bounds(recommendation, 'makespan_s')}"),
            (fmt.duration(recommendation.cost_worker_s), f"worker time, {_bounds(recommendation, 'cost_worker_s')}"),
        ]
    cells += [
        (fmt.count(len(runs)), "runs measured"),
        (fmt.count(sum(run.items for run in runs)), "items measured"),
    ]
    tiles = "".join(f"<div><b>{escape.html(value)}</b>{escape.html(label)}</div>" for value, label in cells)
    return f'<section class="tiles" aria-label="Key figures">{tiles}</section>'


def _bounds(recommendation: Recommendation, name: str) -> str:
    bounds = recommendation.intervals.get(name)
    return fmt.interval(*bounds) if bounds is not None else ""


def _reasons(recommendation: Recommendation) -> str:
    items = "".join(f"<li>{escape.html(reason, 600)}</li>" for reason in recommendation.reasons)
    parts = [f"<ul>{items}</ul>"] if items else []
    if not recommendation.refused:
        saving = saving_text(recommendation)
        if saving:
            parts.insert(0, f"<p>{escape.html(saving[0].upper() + saving[1:])}.</p>")
        parts.append(_note(how_sure(recommendation)))
        if recommendation.experiment:
            parts.append(_note(f"Would teach most: {recommendation.experiment}"))
        code = ", ".join(f"{key}={value!r}" for key, value in recommendation.kwargs().items())
        parts.append(f"<pre>run = client.map(task, items, {escape.html(code, 600)})</pre>")
    return _section("Why", *parts)


def _map_section(recommendation: Recommendation) -> str:
    display = MakespanMap.from_recommendation(recommendation)
    if display.grid.makespan_s.size < 2:  # one cell is no map
        return ""
    return _section("Every setting", _figure(display, "fig-map"), _map_table(display.grid))


def _map_table(grid: HeatGrid) -> str:
    columns = (_Column("workers"), *(_Column(fmt.count(b)) for b in grid.batch_sizes))
    rows = [
        (fmt.count(workers), *(fmt.duration(float(value)) for value in grid.makespan_s[i]))
        for i, workers in enumerate(grid.workers)
    ]
    table = _table(f"{grid.meaning()} by workers (rows) and batch size (columns)", columns, rows)
    return f"<details><summary>The same as a table</summary>{table}</details>"


def _throughput_section(recommendation: Recommendation, frame: pd.DataFrame, runs: tuple[MeasuredRun, ...]) -> str:
    settings = measured_settings(runs)
    display = ThroughputPlot.from_recommendation(recommendation, frame)
    parts = [_figure(display, "fig-rate")] if settings or display.rate.size else []
    if settings:
        columns = (
            _Column("workers"), _Column("batch size"), _Column("runs"), _Column("items"), _Column("throughput"),
            _Column("quartiles"), _Column("worker time per item"),
        )  # fmt: skip
        rows = [
            (
                fmt.count(s.workers), fmt.count(s.batch_size), fmt.count(s.runs), fmt.count(s.items), fmt.rate(s.rate),
                f"{fmt.number(s.rate_low)}–{fmt.number(s.rate_high)}", fmt.duration(s.item_s),
            )
            for s in settings
        ]  # fmt: skip
        parts.append(_table("Settings measured: runs that kept one batch size", columns, rows))
    return _section("Throughput", *parts)


def _trial_section(measured: pd.DataFrame | None) -> str:
    if measured is None or measured.empty:
        return ""
    columns = (
        _Column("batch size"), _Column("workers"), _Column("predicted"), _Column("90 % interval"), _Column("measured"),
        _Column("error"), _Column("held", text=True),
    )  # fmt: skip
    names = ["batch_size", "workers", "predicted_s", "low_s", "high_s", "measured_s"]
    rows = []
    for size, workers, predicted, low, high, took in measured[names].astype(float).itertuples(index=False, name=None):
        error = predicted / took - 1 if took > 0 else float("nan")
        held = "yes" if low <= took <= high else "no"
        rows.append(
            (
                fmt.count(size), fmt.count(workers), fmt.duration(predicted), fmt.interval(low, high),
                fmt.duration(took), f"{100 * error:+.1f} %" if took > 0 else fmt.UNKNOWN, held,
            )
        )  # fmt: skip
    return _section(
        "Did the predictions hold?",
        # One point makes no picture.
        _figure(PredictedVsMeasured.from_frame(measured), "fig-trial") if len(measured) > 1 else "",
        _table("Predicted and measured makespans", columns, rows),
    )


def _left_out_section(model: Recommender, task: str) -> str:
    """Show how the model predicts each run from the others, where there are enough of them."""
    try:
        display = PredictedVsMeasured.from_frame(model.backtest(task or None))
    except TuningError:  # the recommendation is for a task of which this model knows nothing
        return ""
    if not display.measured_s.size:
        return ""
    return _section("How far is the model off?", _figure(display, "fig-left-out"))


def _time_section(frame: pd.DataFrame) -> str:
    if frame.empty:
        return ""
    return _section(
        "Where the time goes",
        _figure(TimeBreakdown.from_metrics(frame), "fig-time"),
        _figure(Timeline.from_metrics(frame), "fig-line"),
    )


def _runs_section(runs: tuple[MeasuredRun, ...]) -> str:
    if not runs:
        return _section("Runs", _note("No run was measured."))
    columns = (
        _Column("run", text=True), _Column("name", text=True), _Column("started", text=True), _Column("batch size"),
        _Column("workers"), _Column("items"), _Column("failed"), _Column("makespan"), _Column("throughput"),
        _Column("busy"),
    )  # fmt: skip
    rows = [
        (
            run.run_id, run.name, fmt.moment(run.started_at),
            f"{fmt.count(run.batch_size)}{'' if run.steady else ', steered'}", fmt.count(run.workers),
            fmt.count(run.items), fmt.count(run.failed), fmt.duration(run.makespan_s), fmt.rate(run.rate),
            fmt.percent(run.busy),
        )
        for run in runs
    ]  # fmt: skip
    return _section("Runs", _table("Runs behind this report, the latest first", columns, rows))


def _evidence_section(recommendation: Recommendation, model: Recommender, runs: tuple[MeasuredRun, ...]) -> str:
    columns = (_Column("", text=True), _Column("", text=True))
    rows = [(name or "evidence", text) for name, text in evidence_facts(recommendation)]
    rows.append(("runs, batches", f"{fmt.count(len(runs))}, {fmt.count(sum(run.batches for run in runs))}"))
    rows.append(("model", escape.plain(repr(model), 200)))
    versions = [("toolkit", __version__), ("Python", platform.python_version())]
    versions += [(name, _version(name)) for name in _PACKAGES]
    return _section(
        "Evidence and versions",
        _table("What the recommendation rests on", columns, rows),
        _table("Versions", columns, [pair for pair in versions if pair[1]]),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
