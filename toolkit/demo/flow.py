"""The demo from beginning to end: measure a few settings, learn, recommend, try the recommendation."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import toolkit as tk
from toolkit.cluster.nodes import default_workers
from toolkit.demo import summary
from toolkit.demo.design import Setting, Study, alternate, studies, workers_needed
from toolkit.demo.eras import ensure_model, model_dir
from toolkit.demo.grid import evaluate
from toolkit.demo.measure import Measured, measure
from toolkit.demo.record import record, require_pyarrow
from toolkit.demo.table import seconds, text_table, workers_text
from toolkit.demo.texts import paragraphs
from toolkit.errors import InvalidInput
from toolkit.notebook import write_report

if TYPE_CHECKING:
    from toolkit.client import Client
    from toolkit.tuning import Recommendation, Recommender

QUICK_ITEMS = 1_500
"""Paragraphs of a quick demo."""

DEMO_ITEMS = 14_000
"""Paragraphs of a plain demo, about every second of each message, so that it stays a matter of a minute or two."""

GRID_TIMES = 2
"""How often the grid goes through all paragraphs.

On a shared machine a run of 4 s differs from an equal one by a tenth; longer ones outlast its ups and downs.
"""

WARM_UP = "warm-up"
"""Tag of the runs that only warm the workers up."""

WARM_UP_ITEMS = 60
"""Items of such a run."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for.

    Attributes
    ----------
    quick : bool
        Fewer items and settings, for tests.
    grid : bool
        Also compare the recommendation with a measured grid.
    items : int or None
        How many paragraphs; None takes `DEMO_ITEMS`, `QUICK_ITEMS` when quick, all of them for the grid.
    times : int or None
        How often each of them is an item; None is once, `GRID_TIMES` for the grid of all.
    report : pathlib.Path
        Where the report goes.
    record : pathlib.Path or None
        Directory for the metrics as Parquet.
    """

    quick: bool = False
    grid: bool = False
    items: int | None = None
    times: int | None = None
    report: Path = Path("report.html")
    record: Path | None = None

    def limit(self) -> int | None:
        """How many paragraphs to take, None for all."""
        if self.items is not None:
            return self.items
        if self.quick:
            return QUICK_ITEMS
        return None if self.grid else DEMO_ITEMS

    def repeats(self) -> int:
        """How often to take each paragraph.

        Raises
        ------
        InvalidInput
            `times` is below 1.
        """
        if self.times is None:
            return GRID_TIMES if self.grid and self.limit() is None else 1
        if self.times < 1:
            raise InvalidInput(f"times={self.times}: each paragraph is an item once or more often")
        return self.times


@dataclass(frozen=True, slots=True)
class Trial:
    """A prediction, and what came of it.

    Attributes
    ----------
    study : Study
        For which task and items.
    recommendation : Recommendation
        Made before the measurement; where it is refused, its setting is what to run meanwhile.
    predicted_s, low_s, high_s : float
        Predicted makespan of its setting, and the 90 % interval, seconds.
    measured : Measured
        The run with that setting.
    """

    study: Study
    recommendation: Recommendation
    predicted_s: float
    low_s: float
    high_s: float
    measured: Measured

    @property
    def inside(self) -> bool:
        """Whether the measured makespan is in the interval."""
        return self.low_s <= self.measured.makespan_s <= self.high_s

    def line(self) -> str:
        """Prediction against measurement, on one line."""
        return (
            f"predicted {seconds(self.predicted_s)} (90 % interval {seconds(self.low_s)} to {seconds(self.high_s)}), "
            f"measured {seconds(self.measured.makespan_s)}: {'inside' if self.inside else 'OUTSIDE'} the interval, "
            f"{100 * (self.measured.makespan_s / self.predicted_s - 1):+.1f} %"
        )

    def frame(self) -> pd.DataFrame:
        """One row for the report."""
        row = {
            "batch_size": self.measured.setting.batch_size,
            "workers": self.measured.setting.workers,
            "predicted_s": self.predicted_s,
            "low_s": self.low_s,
            "high_s": self.high_s,
            "measured_s": self.measured.makespan_s,
        }
        return pd.DataFrame([row])


def say(text: str) -> None:
    """Print one line, at once."""
    print(text, flush=True)


def run_demo(options: Options) -> bool:
    """Run the demo, printing as it goes.

    Returns
    -------
    bool
        False when a goal of the grid was missed, else True.

    Raises
    ------
    MissingDependency
        An extra is not installed.
    ClusterError, LedgerError, RunError, TuningError
        The cluster does not start, a run fails, or there is too little to learn from.
    """
    if options.record is not None:
        require_pyarrow()
    times = options.repeats()
    items = paragraphs(options.limit())
    years = [item["year"] for item in items]
    often = f", {times:,} times over: {times * len(items):,} items" if times > 1 else ""
    say(f"{len(items):,} paragraphs of State of the Union messages, {min(years)} to {max(years)}{often}.")
    items *= times
    if not model_dir().is_dir():
        say("Training the text model of the second task (once, about 10 s) ...")
    plan = studies(items, ensure_model(), default_workers(), quick=options.quick)
    with tk.Client() as client, _enough_workers(client, workers_needed(plan, grid=options.grid)):
        return _run(client, plan, options)


def _run(client: Client, plan: list[Study], options: Options) -> bool:
    session = secrets.token_hex(4)
    _warm_up(client, plan)
    measured = _measure_design(client, plan, session)
    frame = client.metrics(tags={"demo": session})
    say(f"\nrun.metrics(): {len(frame):,} rows, one per batch, and {frame.shape[1]} columns. By setting:")
    cells = summary.cells(frame, measured)
    say(text_table(cells, summary.CELL_COLUMNS))
    if (hint := summary.busy_hint(cells)) is not None:
        say(hint)

    model = tk.Recommender().fit(frame, runs=client.runs())
    trials = [_try_advice(client, model, study, session) for study in plan]
    met = not any(trial.recommendation.refused for trial in trials)  # what was refused cannot meet a goal
    if options.grid:
        advised = [(trial.study, trial.recommendation) for trial in trials if not trial.recommendation.refused]
        met = evaluate(client, advised, session, say) and met

    history = client.metrics(tags={"demo": session})
    say("")
    for trial in trials:
        say(f"Report on {trial.study.label}: {_report(trial, options.report, history, model)}")
    if options.record is not None:
        runs = client.runs()
        mine = runs[runs["run_id"].isin(history["run_id"].unique())].reset_index(drop=True)
        for path in record(options.record, history, mine):
            say(f"Recorded: {path}")
    return met or not options.grid


def _warm_up(client: Client, plan: Sequence[Study]) -> None:
    """Let the workers import what they need, so that no measured run pays for it."""
    say("\nWarming the workers up ...")
    for study in plan:
        few = replace(study, items=study.items[:WARM_UP_ITEMS])
        measure(client, few, Setting(1, study.most_workers), WARM_UP)


def _measure_design(client: Client, plan: Sequence[Study], session: str) -> list[Measured]:
    pairs = alternate(plan)
    say(f"Measuring {len(pairs)} settings:")
    measured = []
    for number, (study, setting) in enumerate(pairs, start=1):
        one = measure(client, study, setting, session)
        measured.append(one)
        say(
            f"  {number:2d}/{len(pairs)}  {study.label:<19}  batch size {setting.batch_size:>5,}, "
            f"{workers_text(setting.workers)}: {seconds(one.makespan_s):>7}, {one.rate:>7,.0f} items/s"
        )
    return measured


def _try_advice(client: Client, model: Recommender, study: Study, session: str) -> Trial:
    """Ask for the best setting, run it, and print what was said and what happened."""
    advice = model.recommend(task=study.task.name, n_items=len(study.items), max_workers=study.most_workers)
    setting = Setting(int(advice.batch_size), advice.workers)
    say(f"\n{study.label}, {len(study.items):,} items")
    if advice.refused:
        say(f"  no recommendation: {advice.refused}")
        say(f"  meanwhile, not recommended: {setting}")
    else:
        say(f"  recommended: {setting}")
        for reason in advice.reasons:
            say(f"    {reason}")
    trial = Trial(study, advice, *_prediction(model, study, setting, advice), measure(client, study, setting, session))
    say(f"  {trial.line()}")
    results = dict(client.get_run(trial.measured.run_id).as_completed())
    say(summary.outcome(study, [results[index] for index in range(len(results))]))
    return trial


def _prediction(
    model: Recommender, study: Study, setting: Setting, advice: Recommendation
) -> tuple[float, float, float]:
    """Return prediction and interval of a setting; a refused recommendation has none, but the model still predicts."""
    if not advice.refused:
        low, high = advice.intervals["makespan_s"]
        return float(advice.makespan_s), float(low), float(high)
    asked = pd.DataFrame(
        {
            "task": [study.task.name],
            "n_items": [len(study.items)],
            "batch_size": [setting.batch_size],
            "workers": [setting.workers],
        }
    )
    lows, highs = model.predict_interval(asked, study.task.name)
    return float(model.predict(asked)[0]), float(lows[0]), float(highs[0])


def _report(trial: Trial, path: Path, history: pd.DataFrame, model: Recommender) -> Path:
    """Write the report on one task; that on the batched one, where sizes matter most, has the plain name."""
    if not trial.study.task.batched:
        path = path.with_stem(f"{path.stem}-{trial.study.label}")
    return write_report(
        path,
        frame=history,
        model=model,
        recommendation=trial.recommendation,
        measured=trial.frame(),
        title=f"Batch tuning of {trial.study.label}",
    )


@contextmanager
def _enough_workers(client: Client, wanted: int) -> Iterator[None]:
    """Have at least `wanted` workers on a LocalCluster meanwhile; another deployment is taken as it is."""
    cluster = client.cluster
    before = cluster.workers if cluster is not None else wanted
    if cluster is None or before >= wanted:
        if cluster is not None:
            cluster.wait_ready()
        yield
        return
    say(f"Scaling the local cluster from {workers_text(before)} to {wanted}; back at the end.")
    cluster.scale(wanted)
    try:
        cluster.wait_ready()
        yield
    finally:
        cluster.scale(before)
