"""``toolkit acl`` and ``toolkit install-functions``: a server whose users may do no more than they need."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path

import click

from toolkit.cli.output import plain_errors
from toolkit.errors import InvalidInput
from toolkit.ledger import Ledger
from toolkit.ledger.acl import MIN_PASSWORD, ROLES, Role, check_prefix, password_digest
from toolkit.settings import ServerAddress, Settings

_NOTE = """
The file switches the user `default` off. Give it to the server as `aclfile FILE`, with a line of your own for whoever
administers the server, or load its lines one by one with ACL SETUSER. Then, once for each version of the toolkit:

    TOOLKIT_LEDGER_URL=rediss://{prefix}admin:PASSWORD@HOST:PORT/DB toolkit install-functions
"""


@click.command()
@click.option("--prefix", default="toolkit-", show_default=True, help="What the names of the users start with.")
@click.option("--queue", "queues", multiple=True, help="A Celery queue on a Redis broker: adds users for the broker.")
@click.option("--broker-db", default=0, show_default=True, help="Number of the broker's database.")
@click.option("--broker-prefix", default="", help="Celery's global_keyprefix, where the application sets one.")
@click.option("--redis-7.0", "redis_7_0", is_flag=True, help="For Redis 7.0, which refuses what only later ones know.")
@click.option(
    "--secrets", "folder", type=click.Path(path_type=Path, file_okay=False),
    help="Directory of passwords, one 0600 file a user: read where it is there, made where not.",
)  # fmt: skip
@plain_errors
def acl(
    prefix: str, queues: tuple[str, ...], broker_db: int, broker_prefix: str, redis_7_0: bool, folder: Path | None
) -> None:  # fmt: skip
    """Print an ACL file for the server: users for admin, client, worker and dashboard.

    It holds digests of the passwords only. New passwords are shown once on the terminal, or written to --secrets.
    """
    if folder is None and not sys.stderr.isatty():
        raise click.UsageError("standard error is no terminal to show new passwords on: pass --secrets DIRECTORY")
    check_prefix(prefix)
    roles = (*ROLES, *_broker_roles(queues, broker_prefix, broker_db))
    made = [(role, _password(folder, f"{prefix}{role.name}")) for role in roles]
    lines = [role.rule(prefix, password_digest(password), redis_7_0=redis_7_0) for role, password in made]
    click.echo("\n".join(["user default reset off -@all", *lines]))
    for role, password in made:
        shown = password if folder is None else str(folder / f"{prefix}{role.name}")
        click.echo(f"{prefix}{role.name}: {shown}  ({role.purpose})", err=True)
    click.echo(_NOTE.format(prefix=prefix), err=True)


def _broker_roles(queues: tuple[str, ...], prefix: str, db: int) -> tuple[Role, ...]:
    if not queues:
        return ()
    from toolkit.transport.acl import broker_roles  # loads Celery

    return broker_roles(queues, prefix, db)


def _password(folder: Path | None, user: str) -> str:
    """Return a user's password: the one in its file, else a new one, written there."""
    made = secrets.token_urlsafe(32)
    if folder is None:
        return made
    path = folder / user
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return _read(path)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(made + "\n")
    except OSError as error:
        raise InvalidInput(f"password file {str(path)!r}: {error.strerror}") from error
    return made


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_IMODE(mode) & 0o077 or not stat.S_ISREG(mode):
            raise InvalidInput(
                f"password file {str(path)!r}: others may read it; chmod 600 it, or delete it for a new one"
            )
        found = file.read(4096).strip()
    if len(found) < MIN_PASSWORD or not found.isprintable():
        raise InvalidInput(f"password file {str(path)!r}: expected one line of {MIN_PASSWORD} characters or more")
    return found


@click.command("install-functions")
@click.pass_context
@plain_errors
def install_functions(context: click.Context) -> None:
    """Install the ledger's functions on the server, as a user who may: the admin of `toolkit acl`.

    Give the server in TOOLKIT_LEDGER_URL: an option of the command line is seen by everybody on the machine.
    """
    url = context.obj["ledger_url"] or Settings.from_env().ledger_url
    if not url:
        raise InvalidInput("which server? Set TOOLKIT_LEDGER_URL, e.g. redis://toolkit-admin:PASSWORD@host:6379/0")
    ledger = Ledger(ServerAddress.parse(url))
    try:
        ledger.connection.check_server()
        ledger.connection.load_functions()
    finally:
        ledger.close()
    click.echo(f"the ledger's functions of this version are on the server at {ledger.connection.address}")


def add_to(group: click.Group) -> None:
    """Hang both verbs on the command."""
    group.add_command(acl)
    group.add_command(install_functions)
