"""Commands about dead letters: list, retry, drop, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.cli.output import inert, open_client, plain_errors, print_frame
from toolkit.client.export import json_line
from toolkit.records import CATEGORIES, quantity

_COLUMNS = ["run_id", "index", "category", "error_type", "message", "attempts", "worker"]
_category = click.option("--category", type=click.Choice(CATEGORIES[1:]), help="Only those of one error category.")


@click.command()
@click.argument("run_id", required=False)
@_category
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, complete, as export-dead writes them.")
@click.pass_context
@plain_errors
def dead(context: click.Context, run_id: str | None, category: str | None, as_json: bool) -> None:
    """List items that will not be tried again: of a run, or of all runs."""
    client = open_client(context)
    if as_json:
        if run_id is None:
            raise click.UsageError("--json needs RUN_ID")
        run = client.get_run(run_id)
        for letter in run.each_dead_letter(category=category):
            click.echo(json_line(run.spec, letter))
        return
    if run_id is not None:
        frame = client.get_run(run_id).dead_letters(category=category)
    else:
        frame = client.dead_letters()
        frame = frame if category is None else frame[frame["category"] == category]
    print_frame(frame.assign(message=[str(text).split("\n", 1)[0] for text in frame["message"]]), _COLUMNS)


@click.command("retry-dead")
@click.argument("run_id")
@_category
@click.pass_context
@plain_errors
def retry_dead(context: click.Context, run_id: str, category: str | None) -> None:
    """Send dead letters of a run back to work."""
    click.echo(f"{open_client(context).get_run(run_id).retry_dead(category=category):,} items sent back to work")


@click.command("drop-dead")
@click.argument("run_id")
@_category
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@plain_errors
def drop_dead(context: click.Context, run_id: str, category: str | None, yes: bool) -> None:
    """Forget dead letters of a run; they count as skipped. export-dead keeps a copy."""
    run = open_client(context).get_run(run_id)
    if not yes:
        of = f" of category {category}" if category else ""
        click.confirm(f"Forget the dead letters{of} of {run.run_id}, for good?", abort=True)
    click.echo(f"{quantity(run.drop_dead(category=category), 'dead letter')} dropped")


@click.command("export-dead")
@click.argument("run_id")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_category
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.pass_context
@plain_errors
def export_dead(context: click.Context, run_id: str, file: Path, category: str | None, overwrite: bool) -> None:
    """Write dead letters of a run into FILE: .jsonl keeps every value exactly, .csv is for spreadsheets."""
    n = open_client(context).get_run(run_id).export_dead(file, category=category, overwrite=overwrite)
    click.echo(inert(f"{quantity(n, 'dead letter')} written to {file}"))


def add_to(group: Any) -> None:
    """Make them commands of `group`."""
    for command in (dead, retry_dead, drop_dead, export_dead):
        group.add_command(command)
