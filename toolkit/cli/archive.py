"""The command that archives: ended runs, their metric rows and dead letters, as Parquet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from toolkit.cli.output import inert, open_client, plain_errors


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
@plain_errors
def archive(context: click.Context, path: Path | None) -> None:
    """Write what is new of ended runs into the Parquet dataset at PATH.

    Without PATH: TOOLKIT_ARCHIVE, else the archive of your LocalCluster. Nothing is deleted on the server. Exits with 1
    when a run could not be read.
    """
    done = open_client(context).archive(path)
    click.echo(inert(str(done)))
    if done.failed:
        sys.exit(1)


def add_to(group: Any) -> None:
    """Make it a command of `group`."""
    group.add_command(archive)
