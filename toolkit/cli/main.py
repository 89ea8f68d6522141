"""The ``toolkit`` command."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from toolkit import __version__, notebook
from toolkit.cli import acl, archive, exporter, letters, report, top
from toolkit.cli.output import inert, open_client, plain_errors, print_frame
from toolkit.cluster import LocalCluster
from toolkit.errors import LedgerError
from toolkit.records import one_line

_MARKS = {"ok": "ok      ", "note": "note    ", "warning": "warning ", "problem": "PROBLEM "}


@click.group()
@click.version_option(__version__, prog_name="toolkit")
@click.option("--app", "-A", help="Celery application, module:attribute. [env TOOLKIT_APP; default: your LocalCluster]")
@click.option("--ledger-url", help="Server that holds the ledger. [env TOOLKIT_LEDGER_URL]")
@click.pass_context
def main(context: click.Context, app: str | None, ledger_url: str | None) -> None:
    """Look after batch runs on Celery workers."""
    notebook.register()
    context.obj = {"app": app, "ledger_url": ledger_url}


acl.add_to(main)
letters.add_to(main)
archive.add_to(main)
exporter.add_to(main)
report.add_to(main)
top.add_to(main)


@main.command()
@click.argument("run_id", required=False)
@click.pass_context
@plain_errors
def doctor(context: click.Context, run_id: str | None) -> None:
    """Explain why nothing moves: servers, nodes, queues, runs."""
    problems = 0
    try:
        client = open_client(context)
    except LedgerError as error:  # without its server there is no client, and nothing more to look at
        click.echo(_MARKS["problem"] + one_line(str(error), 2000))
        sys.exit(1)
    for finding in client.doctor(run_id):
        problems += finding.level == "problem"
        click.echo(_MARKS[finding.level] + one_line(finding.text, 2000))
    if problems:
        sys.exit(1)


@main.command()
@click.pass_context
@plain_errors
def runs(context: click.Context) -> None:
    """List runs, newest first."""
    columns = ["run_id", "name", "task", "state", "submitted", "ok", "dead", "batches", "created_at", "makespan_s"]
    print_frame(open_client(context).runs(), columns)


@main.command()
@click.argument("run_id")
@click.pass_context
@plain_errors
def status(context: click.Context, run_id: str) -> None:
    """One line about a run."""
    click.echo(inert(str(open_client(context).get_run(run_id))))


@main.command()
@click.argument("run_id")
@click.option("--timeout", type=float, help="Seconds.")
@click.pass_context
@plain_errors
def wait(context: click.Context, run_id: str, timeout: float | None) -> None:
    """Wait for a run, with a progress bar."""
    ended = open_client(context).get_run(run_id).wait(timeout)
    click.echo(inert(ended.line()))
    if ended.dead or ended.skipped:
        sys.exit(1)


@main.command()
@click.argument("run_id")
@click.option("--terminate", is_flag=True, help="Kill what still runs after the grace time.")
@click.option("--grace", "grace_s", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds.")
@click.pass_context
@plain_errors
def cancel(context: click.Context, run_id: str, terminate: bool, grace_s: float) -> None:
    """Cancel a run: running batches end at their next item."""
    click.echo(inert(open_client(context).get_run(run_id).cancel(terminate, grace_s).line()))


@main.command()
@click.argument("run_id")
@click.option("--reason", default="", help="Why, for whoever looks at the run later.")
@click.pass_context
@plain_errors
def pause(context: click.Context, run_id: str, reason: str) -> None:
    """Claim nothing more of a run."""
    click.echo(inert(open_client(context).get_run(run_id).pause(reason).line()))


@main.command()
@click.argument("run_id")
@click.pass_context
@plain_errors
def resume(context: click.Context, run_id: str) -> None:
    """Go on with a paused run."""
    click.echo(inert(open_client(context).get_run(run_id).resume().line()))


@main.command()
@click.argument("run_id")
@click.pass_context
@plain_errors
def verify(context: click.Context, run_id: str) -> None:
    """Check the bookkeeping of a run: every item is in exactly one place."""
    run = open_client(context).get_run(run_id)
    run.verify()
    click.echo(f"{run.run_id}: the books add up")


@main.command()
@click.pass_context
@plain_errors
def workers(context: click.Context) -> None:
    """List nodes that are alive."""
    print_frame(open_client(context).workers())


@main.command()
@click.argument("run_id")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write all columns as CSV.")
@click.pass_context
@plain_errors
def metrics(context: click.Context, run_id: str, output: Path | None) -> None:
    """Show the metric rows of a run, one per batch."""
    frame = open_client(context).get_run(run_id).metrics()
    if output is not None:
        frame.to_csv(output, index=False)
        click.echo(f"{len(frame):,} rows written to {output}")
        return
    print_frame(frame, ["batch", "worker", "items", "ok", "failed", "service_s", "idle_s", "outcome", "claimed_at"])


@main.command()
@click.argument("task")
@click.option("--items", "-n", "n_items", type=int, required=True, help="Items of the next run.")
@click.option("--objective", type=click.Choice(["makespan", "cost"]), default="makespan", show_default=True)
@click.option("--max-workers", type=int, help="Most workers to consider.")
@click.pass_context
@plain_errors
def recommend(context: click.Context, task: str, n_items: int, objective: str, max_workers: int | None) -> None:
    """Batch size and worker count for the next run of TASK, from recorded history."""
    options = {"max_workers": max_workers} if max_workers else {}
    click.echo(inert(str(open_client(context).recommend(task, n_items, objective=objective, **options))))


@main.group()
def cluster() -> None:
    """Start, stop and look at your LocalCluster."""


@cluster.command("start")
@click.option("--workers", type=int, help="Worker processes; by default one per core.")
@plain_errors
def cluster_start(workers: int | None) -> None:
    """Start or join the LocalCluster."""
    with LocalCluster(workers) as local:
        local.wait_ready(60)
        click.echo(str(local.status()))


@cluster.command("status")
@plain_errors
def cluster_status() -> None:
    """Show server and nodes."""
    click.echo(str(LocalCluster().status()))


@cluster.command("stop")
@plain_errors
def cluster_stop() -> None:
    """Stop nodes and server; data stay on disk."""
    LocalCluster().stop()
    click.echo("stopped")
