"""The ``toolkit`` command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit import __version__, notebook
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    import pandas as pd

_MARKS = {"ok": "ok      ", "note": "note    ", "warning": "warning ", "problem": "PROBLEM "}


def _plain_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of the package are messages, not tracebacks."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ToolkitError as error:
            raise click.ClickException(str(error)) from error

    return run


def _client(context: click.Context) -> Client:
    options = context.obj
    client: Client = context.with_resource(Client(options["app"], options["ledger_url"]))
    return client


def _print(frame: pd.DataFrame, columns: list[str] | None = None, limit: int = 40) -> None:
    shown = frame if columns is None else frame[columns]
    click.echo(_inert(shown.head(limit).to_string(index=False)) if len(shown) else "none")
    if len(shown) > limit:
        click.echo(f"… and {len(shown) - limit:,} more")


def _inert(text: str) -> str:
    """Text of users must not steer the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@click.group()
@click.version_option(__version__, prog_name="toolkit")
@click.option("--app", "-A", help="Celery application, module:attribute. [env TOOLKIT_APP; default: your LocalCluster]")
@click.option("--ledger-url", help="Server that holds the ledger. [env TOOLKIT_LEDGER_URL]")
@click.pass_context
def main(context: click.Context, app: str | None, ledger_url: str | None) -> None:
    """Look after batch runs on Celery workers."""
    notebook.register()
    context.obj = {"app": app, "ledger_url": ledger_url}


@main.command()
@click.argument("run_id", required=False)
@click.pass_context
@_plain_errors
def doctor(context: click.Context, run_id: str | None) -> None:
    """Explain why nothing moves: server, nodes, queues, runs."""
    problems = 0
    for finding in _client(context).doctor(run_id):
        problems += finding.level == "problem"
        click.echo(_MARKS[finding.level] + _inert(finding.text))
    if problems:
        sys.exit(1)


@main.command()
@click.pass_context
@_plain_errors
def runs(context: click.Context) -> None:
    """List runs, newest first."""
    columns = ["run_id", "name", "task", "state", "submitted", "ok", "dead", "batches", "created_at", "makespan_s"]
    _print(_client(context).runs(), columns)


@main.command()
@click.argument("run_id")
@click.pass_context
@_plain_errors
def status(context: click.Context, run_id: str) -> None:
    """One line about a run."""
    click.echo(_inert(str(_client(context).get_run(run_id))))


@main.command()
@click.argument("run_id")
@click.option("--timeout", type=float, help="Seconds.")
@click.pass_context
@_plain_errors
def wait(context: click.Context, run_id: str, timeout: float | None) -> None:
    """Wait for a run, with a progress bar."""
    ended = _client(context).get_run(run_id).wait(timeout)
    click.echo(_inert(ended.line()))
    if ended.dead or ended.skipped:
        sys.exit(1)


def _verb(name: str, text: str) -> None:
    @main.command(name=name, help=text)
    @click.argument("run_id")
    @click.pass_context
    @_plain_errors
    def command(context: click.Context, run_id: str) -> None:
        click.echo(_inert(getattr(_client(context).get_run(run_id), name)().line()))


_verb("cancel", "Cancel a run: running batches end at their next item.")
_verb("pause", "Claim nothing more of a run.")
_verb("resume", "Go on with a paused run.")


@main.command("dead-letters")
@click.argument("run_id", required=False)
@click.pass_context
@_plain_errors
def dead_letters(context: click.Context, run_id: str | None) -> None:
    """List items that will not be tried again."""
    client = _client(context)
    frame = client.get_run(run_id).dead_letters() if run_id else client.dead_letters()
    _print(frame, ["run_id", "index", "category", "error_type", "message", "attempts", "worker"])


@main.command("retry-dead")
@click.argument("run_id")
@click.pass_context
@_plain_errors
def retry_dead(context: click.Context, run_id: str) -> None:
    """Send all dead letters of a run back to work."""
    click.echo(f"{_client(context).get_run(run_id).retry_dead():,} items sent back to work")


@main.command()
@click.pass_context
@_plain_errors
def workers(context: click.Context) -> None:
    """List nodes that are alive."""
    _print(_client(context).workers())


@main.command()
@click.argument("run_id")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write all columns as CSV.")
@click.pass_context
@_plain_errors
def metrics(context: click.Context, run_id: str, output: Path | None) -> None:
    """Show the metric rows of a run, one per batch."""
    frame = _client(context).get_run(run_id).metrics()
    if output is not None:
        frame.to_csv(output, index=False)
        click.echo(f"{len(frame):,} rows written to {output}")
        return
    _print(frame, ["batch", "worker", "items", "ok", "failed", "service_s", "idle_s", "outcome", "claimed_at"])


@main.command()
@click.argument("task")
@click.option("--items", "-n", "n_items", type=int, required=True, help="Items of the next run.")
@click.option("--objective", type=click.Choice(["makespan", "cost"]), default="makespan", show_default=True)
@click.option("--max-workers", type=int, help="Most workers to consider.")
@click.pass_context
@_plain_errors
def recommend(context: click.Context, task: str, n_items: int, objective: str, max_workers: int | None) -> None:
    """Batch size and worker count for the next run of TASK, from recorded history."""
    options = {"max_workers": max_workers} if max_workers else {}
    click.echo(_inert(str(_client(context).recommend(task, n_items, objective=objective, **options))))


@main.group()
def cluster() -> None:
    """Start, stop and look at your LocalCluster."""


@cluster.command("start")
@click.option("--workers", type=int, help="Worker processes; by default one per core.")
@_plain_errors
def cluster_start(workers: int | None) -> None:
    """Start or join the LocalCluster."""
    with LocalCluster(workers) as local:
        local.wait_ready(60)
        click.echo(str(local.status()))


@cluster.command("status")
@_plain_errors
def cluster_status() -> None:
    """Show server and nodes."""
    click.echo(str(LocalCluster().status()))


@cluster.command("stop")
@_plain_errors
def cluster_stop() -> None:
    """Stop nodes and server; data stay on disk."""
    LocalCluster().stop()
    click.echo("stopped")
