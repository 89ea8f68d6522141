"""What the client asks of a Celery application: where its ledger is, a task's queue, retries and function."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from toolkit.client.describe import Described
from toolkit.errors import InvalidInput, ToolkitError
from toolkit.records import Retry, one_line
from toolkit.settings import ServerAddress, Settings, redact_url

if TYPE_CHECKING:
    from toolkit.transport import App

logger = logging.getLogger(__name__)

_BROKER_S: Final = 5
"""How long `ask_broker` tries."""


def load(app: App | str) -> App:
    """The application, imported when it is given by name.

    Raises
    ------
    InvalidInput
        It cannot be imported, is no Celery application, or its module hands this package something wrong.
    """
    from toolkit.transport import load_app

    try:
        return load_app(app)
    except ToolkitError:
        raise
    except ValueError as error:
        # Celery's import makes one of any ValueError of the module, our own among them
        if isinstance(error.__context__, ToolkitError):
            raise InvalidInput(f"Client(app={app!r}): its module says: {error.__context__}") from error
        raise


def ledger_address(app: App, ledger_url: str | None, env: Settings) -> ServerAddress:
    """The ledger's server: as given, else from the environment, else as the application was installed with.

    The environment goes before the code: whoever looks after an application has a user of their own on its server.

    Raises
    ------
    InvalidInput
        None of them names one.
    """
    from toolkit.transport import installed

    installation = installed(app)
    if ledger_url:
        return ServerAddress.parse(ledger_url)
    if env.ledger_url:
        address = ServerAddress.parse(env.ledger_url)
        if installation is not None and _place(installation.address) != _place(address):
            logger.warning(
                "TOOLKIT_LEDGER_URL names %s, and the application was installed with %s: this client uses the former. "
                "Unset it, or pass ledger_url=..., where the nodes of the latter are meant",
                address,
                installation.address,
            )
        return address
    if installation is not None:
        return installation.address
    raise InvalidInput(
        "Client(app=...): no ledger URL. Pass ledger_url=..., set TOOLKIT_LEDGER_URL, or call "
        "toolkit.install(app, ledger_url=...) beside the application's configuration"
    )


def ask_broker(app: App) -> tuple[str, str]:
    """The broker's address without its password, and why it takes no tickets, empty where it answers."""
    from toolkit.transport.postbox import time_limits

    address = "that the application names"
    try:
        with app.connection_for_write(transport_options=time_limits(app)) as broker:
            address = one_line(str(broker.as_uri()))
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=_BROKER_S)
            _ = broker.default_channel  # on Redis the first to speak to the server
    except Exception as error:  # noqa: BLE001 - each broker's driver has errors of its own
        return address, one_line(redact_url(f"{type(error).__name__}: {error}"))
    return address, ""


def _place(address: ServerAddress) -> tuple[str, str]:
    """Host and database, however they are written."""
    parts = urlsplit(address.url)
    if parts.scheme == "unix":
        return parts.path, dict(parse_qsl(parts.query)).get("db", "0")
    number = dict(parse_qsl(parts.query)).get("db") or parts.path.strip("/") or "0"
    return f"{parts.hostname}:{parts.port or 6379}", number


def route(app: App, described: Described) -> str:
    """Queue of a task by the application's routes."""
    if described.kind == "celery":
        found = app.amqp.router.route({}, described.name)["queue"]
        return str(getattr(found, "name", found))
    return str(app.conf.task_default_queue)


def default_retry(app: App, described: Described) -> Retry:
    """Retry policy of a task that says none: a Celery task's own number of attempts."""
    if described.kind == "celery":
        from toolkit.transport.adapters import celery_max_attempts

        return Retry(max_attempts=celery_max_attempts(app, described.name) or 4)
    return Retry()


def own_limit_s(app: App, described: Described) -> float | None:
    """Time limit that a Celery task has of its own, in seconds; None where it has none, or is not known here."""
    task = app.tasks.get(described.name) if described.kind == "celery" else None
    limits = [getattr(task, name, None) for name in ("soft_time_limit", "time_limit")]
    return min((float(limit) for limit in limits if limit), default=None)


def with_function(app: App, described: Described) -> Described:
    """The same with a function that this process can call, for an inline run."""
    if described.task is not None:
        return described
    from toolkit.transport.adapters import adapt

    return replace(described, task=adapt(app, described.name))
