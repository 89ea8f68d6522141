"""The command that writes a report: on a run, or on all runs of a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.output import inert, open_client, plain_errors
from toolkit.errors import InvalidInput, RunNotFound, RunStateError

if TYPE_CHECKING:
    from toolkit.client import Client, Run
    from toolkit.client.profile import Profile


@click.command()
@click.argument("run_or_task")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True,
    help="File to write; .html, .md (for a pull request) or .ipynb (with parameters).",
)  # fmt: skip
@click.option(
    "--items", "-n", "n_items", type=click.IntRange(min=1), help="Items of the next run; default: the last's."
)
@click.option("--objective", type=click.Choice(["makespan", "cost"]), default="makespan", show_default=True)
@click.option("--max-workers", type=click.IntRange(min=1), help="Most workers to consider.")
@click.option("--title", help="Heading.")
@click.pass_context
@plain_errors
def report(context: click.Context, run_or_task: str, output: Path, n_items: int | None, **options: Any) -> None:
    """Write a report: what was measured, what is recommended for the next run, and why.

    RUN_OR_TASK is the id of a run, which the report then also describes, or the name of a task.
    """
    from toolkit.notebook import Report
    from toolkit.tuning import Recommender

    _check_place(output)
    client = open_client(context)
    run = _find(client, run_or_task)
    task = run.spec.task if run is not None else run_or_task
    try:
        frame = client.metrics(task)
    except InvalidInput as error:
        raise InvalidInput(f"no run here has this id, and no runs are of such a task: {error}") from error
    if frame.empty and run is None:
        raise InvalidInput(f"no run and no task with metric rows is called {task!r}; `toolkit runs` lists both")
    status = run.status() if run is not None else None
    title = options.pop("title") or f"Batch tuning of {run_or_task}"
    model = Recommender().fit(frame)
    items = n_items or (status.submitted if status is not None else _latest_items(client, task))
    advice = model.recommend(task, n_items=max(1, items), **options)
    about: dict[str, Any] = {} if run is None else {"dead_letters": run.dead_letters(), "profile": _profile(run)}
    made = Report.of(frame=frame, model=model, recommendation=advice, status=status, title=title, **about)
    click.echo(inert(f"{made.write(output)}: {advice.batch_size or 'no'} items a batch recommended"))


def _check_place(output: Path) -> None:
    """Look whether the file can be written, before anything is fitted for it."""
    from toolkit.notebook.report import format_of

    format_of(output)
    folder = output.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InvalidInput(f"{output} cannot be written: {folder} is no directory that you may write to; pass --output")


def _find(client: Client, name: str) -> Run | None:
    """Return the run with this id, None when there is none."""
    try:
        return client.get_run(name)
    except (InvalidInput, RunNotFound):
        return None


def _profile(run: Run) -> Profile | None:
    """Return the profile of a run that was to have one; None while no batch of it was sampled."""
    try:
        return run.profile() if run.spec.profile else None
    except RunStateError:
        return None


def _latest_items(client: Client, task: str) -> int:
    return int(client.runs(task)["submitted"].iloc[0])


def add_to(group: Any) -> None:
    """Make it a command of `group`."""
    group.add_command(report)
