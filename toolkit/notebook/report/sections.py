"""The sections of a report: from frames, a model and its advice to plain content, once and for all renderers."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from toolkit._version import __version__
from toolkit.errors import TuningError
from toolkit.notebook import escape
from toolkit.notebook import format as fmt
from toolkit.notebook.failures import ErrorCounts
from toolkit.notebook.heat import HeatGrid
from toolkit.notebook.html import evidence_facts, headline, how_sure, saving_text
from toolkit.notebook.measured import MeasuredRun, measured_runs, measured_settings, remembered_runs
from toolkit.notebook.plots import MakespanMap, PredictedVsMeasured, ThroughputPlot
from toolkit.notebook.profiled import FlameGraph
from toolkit.notebook.report.content import (
    Answer,
    Block,
    Bullets,
    Code,
    Column,
    Content,
    Paragraph,
    Picture,
    Section,
    Table,
    Tiles,
)
from toolkit.notebook.timeline import TimeBreakdown, Timeline
from toolkit.notebook.tradeoffs import ParetoFront, SpeedUp

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.client.profile import Profile
    from toolkit.records import RunStatus
    from toolkit.tuning import Recommendation, Recommender

MAX_LETTERS: Final = 20
"""Dead letters shown."""

_PACKAGES: Final = ("numpy", "pandas", "scikit-learn", "scipy", "matplotlib", "celery", "redis")


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What a report is made of.

    Attributes
    ----------
    frame : DataFrame
        Metric rows that the model was fitted on, one row per batch; may be empty.
    model : Recommender
        The fitted model.
    recommendation : Recommendation
        What to report.
    measured : DataFrame, optional
        Predictions that were tried: columns ``batch_size``, ``workers``, ``predicted_s``, ``low_s``, ``high_s``,
        ``measured_s``.
    status : RunStatus, optional
        The run that the report is about, if it is about one.
    dead_letters : DataFrame, optional
        Its dead letters.
    profile : Profile, optional
        ``run.profile()`` of a run of the task, shown as a flame graph.
    title : str
        Heading of the report.
    """

    frame: pd.DataFrame
    model: Recommender
    recommendation: Recommendation
    measured: pd.DataFrame | None = None
    status: RunStatus | None = None
    dead_letters: pd.DataFrame | None = None
    profile: Profile | None = None
    title: str = "Batch tuning report"


def content_of(sources: Sources) -> Content:
    """Condense the sources to what a report says; the same sources say the same, but for the time stamp."""
    advice = sources.recommendation
    frame = _of_task(sources.frame, advice.task)
    runs = measured_runs(frame) or remembered_runs(sources.model, advice.task)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    sections = (
        _section("Why", _reasons(advice)),
        _section("This run", _run(sources.status)),
        _section("Every setting", _map(advice)),
        _section("Throughput", _throughput(advice, frame, runs)),
        _section("More workers", _more_workers(advice, frame)),
        _section("Did the predictions hold?", _trials(sources.measured)),
        _section("How far is the model off?", _left_out(sources.model, advice.task)),
        _section("Where the time goes", _time(frame, sources.status)),
        _section("Where user code spends it", _profiled(sources.profile)),
        _section("What failed", _failures(frame, sources.dead_letters)),
        _section("Runs", _runs(runs)),
        _section("Evidence and versions", _evidence(advice, sources.model, runs)),
    )
    return Content(
        title=sources.title,
        subtitle=f"Task {advice.task or 'all tasks'} · {stamp}",
        opening=(Answer(headline(advice), bool(advice.refused)), Tiles(_key_figures(advice, runs))),
        sections=tuple(section for section in sections if section.blocks),
    )


def _section(heading: str, blocks: list[Block]) -> Section:
    return Section(heading, tuple(blocks))


def _of_task(frame: pd.DataFrame, task: str | None) -> pd.DataFrame:
    """Return the rows of the recommendation's task; all of them when it names none."""
    if not task or frame.empty:
        return frame
    part = frame[frame["task"] == task]
    return frame if part.empty else part


def _key_figures(advice: Recommendation, runs: tuple[MeasuredRun, ...]) -> tuple[tuple[str, str], ...]:
    cells = []
    if not advice.refused:
        cells += [
            (fmt.batch_size(advice.batch_size), "batch size"),
            (fmt.count(advice.workers), "workers"),
            (fmt.duration(advice.makespan_s), f"makespan, {_bounds(advice, 'makespan_s')}"),
            (fmt.duration(advice.cost_worker_s), f"worker time, {_bounds(advice, 'cost_worker_s')}"),
        ]
    cells += [
        (fmt.count(len(runs)), "runs measured"),
        (fmt.count(sum(run.items for run in runs)), "items measured"),
    ]
    return tuple(cells)


def _bounds(advice: Recommendation, name: str) -> str:
    bounds = advice.intervals.get(name)
    return fmt.interval(*bounds) if bounds is not None else ""


def _reasons(advice: Recommendation) -> list[Block]:
    blocks: list[Block] = [Bullets(advice.reasons)] if advice.reasons else []
    if advice.refused:
        return blocks
    saving = saving_text(advice)
    if saving:
        blocks.insert(0, Paragraph(f"{saving[0].upper() + saving[1:]}."))
    blocks.append(Paragraph(how_sure(advice), note=True))
    if advice.experiment:
        blocks.append(Paragraph(f"Would teach most: {advice.experiment}", note=True))
    options = ", ".join(f"{key}={value!r}" for key, value in advice.kwargs().items())
    blocks.append(Code(f"run = client.map(task, items, {options})"))
    return blocks


def _run(status: RunStatus | None) -> list[Block]:
    if status is None:
        return []
    facts = [
        ("run", status.run_id), ("name", status.name or fmt.UNKNOWN), ("state", str(status.state)),
        ("created", fmt.moment(status.created_at)), ("took", fmt.duration(status.elapsed_s)),
        ("items", fmt.count(status.submitted)), ("done well", fmt.count(status.ok)),
        ("dead letters", fmt.count(status.dead)), ("cancelled or dropped", fmt.count(status.skipped)),
        ("tried again", fmt.count(status.retried)), ("batches", fmt.count(status.batches)),
        ("throughput", fmt.rate(status.rate)),
    ]  # fmt: skip
    return [Table.of("The run that this report is about", (Column("", text=True), Column("", text=True)), facts)]


def _map(advice: Recommendation) -> list[Block]:
    display = MakespanMap.from_recommendation(advice)
    if display.grid.makespan_s.size < 2:  # one cell is no map
        return []
    return [Picture(display, "fig-map"), _map_table(display.grid)]


def _map_table(grid: HeatGrid) -> Table:
    columns = (Column("workers"), *(Column(fmt.batch_size(b)) for b in grid.batch_sizes))
    rows = [
        (fmt.count(workers), *(fmt.duration(float(value)) for value in grid.makespan_s[i]))
        for i, workers in enumerate(grid.workers)
    ]
    return Table.of(f"{grid.meaning()} by workers (rows) and batch size (columns)", columns, rows, folded=True)


def _throughput(advice: Recommendation, frame: pd.DataFrame, runs: tuple[MeasuredRun, ...]) -> list[Block]:
    settings = measured_settings(runs)
    display = ThroughputPlot.from_recommendation(advice, frame)
    blocks: list[Block] = [Picture(display, "fig-rate")] if display.measured_rate.size or display.rate.size else []
    if settings:
        columns = (
            Column("workers"), Column("batch size"), Column("runs"), Column("items"), Column("throughput"),
            Column("quartiles"), Column("worker time per item"),
        )  # fmt: skip
        rows = [
            (
                fmt.count(s.workers), fmt.count(s.batch_size), fmt.count(s.runs), fmt.count(s.items), fmt.rate(s.rate),
                f"{fmt.number(s.rate_low)}–{fmt.number(s.rate_high)}" if s.runs > 1 else fmt.UNKNOWN,
                fmt.duration(s.item_s),
            )
            for s in settings
        ]  # fmt: skip
        blocks.append(Table.of("Settings measured: runs that kept one batch size", columns, rows))
    return blocks


def _more_workers(advice: Recommendation, frame: pd.DataFrame) -> list[Block]:
    if advice.refused or advice.grid["workers"].nunique() < 2:
        return []
    return [
        Picture(SpeedUp.from_recommendation(advice, frame), "fig-speed-up"),
        Picture(ParetoFront.from_recommendation(advice), "fig-pareto"),
    ]


def _trials(measured: pd.DataFrame | None) -> list[Block]:
    if measured is None or measured.empty:
        return []
    columns = (
        Column("batch size"), Column("workers"), Column("predicted"), Column("90 % interval"), Column("measured"),
        Column("error"), Column("held", text=True),
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
    table = Table.of("Predicted and measured makespans", columns, rows)
    # One point makes no picture.
    return [Picture(PredictedVsMeasured.from_frame(measured), "fig-trial"), table] if len(measured) > 1 else [table]


def _left_out(model: Recommender, task: str) -> list[Block]:
    """How the model predicts each run from the others, where there are enough of them."""
    try:
        display = PredictedVsMeasured.from_frame(model.backtest(task or None))
    except TuningError:  # the recommendation is for a task of which this model knows nothing
        return []
    return [Picture(display, "fig-left-out")] if display.measured_s.size else []


def _time(frame: pd.DataFrame, status: RunStatus | None) -> list[Block]:
    if frame.empty:
        return []
    run_id = status.run_id if status is not None and (frame["run_id"] == status.run_id).any() else None
    return [
        Picture(TimeBreakdown.from_metrics(frame), "fig-time"),
        Picture(Timeline.from_metrics(frame, run_id), "fig-line"),
    ]


def _profiled(profile: Profile | None) -> list[Block]:
    return [Picture(FlameGraph(profile), "fig-flame")] if profile else []


def _failures(frame: pd.DataFrame, letters: pd.DataFrame | None) -> list[Block]:
    blocks: list[Block] = []
    errors = ErrorCounts.from_metrics(frame)
    if errors.labels:
        blocks.append(Picture(errors, "fig-errors"))
    if letters is not None and not letters.empty:
        columns = (Column("item"), Column("error", text=True), Column("attempts"), Column("message", text=True))
        shown = letters[["index", "error_type", "attempts", "message"]].head(MAX_LETTERS)
        cells = tuple(
            (fmt.count(index), escape.plain(kind, 80), fmt.count(attempts), escape.plain(message, 200))
            for index, kind, attempts, message in shown.itertuples(index=False, name=None)
        )
        blocks.append(Table("Dead letters", columns, cells, len(letters) - len(cells)))
    return blocks


def _runs(runs: tuple[MeasuredRun, ...]) -> list[Block]:
    if not runs:
        return [Paragraph("No run was measured.", note=True)]
    columns = (
        Column("run", text=True), Column("name", text=True), Column("started, UTC", text=True), Column("batch size"),
        Column("workers"), Column("items"), Column("failed"), Column("makespan"), Column("throughput"),
        Column("busy"),
    )  # fmt: skip
    rows = [
        (
            run.run_id, run.name, fmt.minute(run.started_at),
            f"{fmt.count(run.batch_size)}{'' if run.steady else ', steered'}", fmt.count(run.workers),
            fmt.count(run.items), fmt.count(run.failed), fmt.duration(run.makespan_s), fmt.rate(run.rate),
            fmt.percent(run.busy),
        )
        for run in runs
    ]  # fmt: skip
    return [Table.of("Runs behind this report, the latest first", columns, rows)]


def _evidence(advice: Recommendation, model: Recommender, runs: tuple[MeasuredRun, ...]) -> list[Block]:
    columns = (Column("", text=True), Column("", text=True))
    rows = [(name or "evidence", text) for name, text in evidence_facts(advice)]
    rows.append(("runs, batches", f"{fmt.count(len(runs))}, {fmt.count(sum(run.batches for run in runs))}"))
    rows.append(("model", escape.plain(repr(model), 200)))
    versions = [("toolkit", __version__), ("Python", platform.python_version())]
    versions += [(name, _version(name)) for name in _PACKAGES]
    return [
        Table.of("What the recommendation rests on", columns, rows),
        Table.of("Versions", columns, [pair for pair in versions if pair[1]]),
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
