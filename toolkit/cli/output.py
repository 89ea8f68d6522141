"""What every command shares: the client behind it, plain errors, and text that cannot steer the terminal."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from toolkit.client import Client
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    import pandas as pd


def plain_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of the package are messages, not tracebacks."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ToolkitError as error:
            raise click.ClickException(inert(str(error))) from error

    return run


def open_client(context: click.Context) -> Client:
    """The client of this command, closed at its end."""
    options = context.obj
    client: Client = context.with_resource(Client(options["app"], options["ledger_url"]))
    return client


def print_frame(frame: pd.DataFrame, columns: list[str] | None = None, limit: int = 40) -> None:
    """Print the first rows of a frame."""
    shown = frame if columns is None else frame[columns]
    click.echo(inert(shown.head(limit).to_string(index=False)) if len(shown) else "none")
    if len(shown) > limit:
        click.echo(f"… and {len(shown) - limit:,} more")


def inert(text: str) -> str:
    """Text of users must not steer the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
