"""What the client asks of a Celery application: where its ledger is, a task's queue, retries and function."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit.client.describe import Described
from toolkit.errors import InvalidInput
from toolkit.records import Retry
from toolkit.settings import ServerAddress, Settings

if TYPE_CHECKING:
    from toolkit.transport import App


def ledger_address(app: App, ledger_url: str | None, env: Settings) -> ServerAddress:
    """The ledger's server: as given, else as the application was installed with, else from the environment.

    Raises
    ------
    InvalidInput
        None of them names one.
    """
    from toolkit.transport import installed

    if ledger_url:
        return ServerAddress.parse(ledger_url)
    installation = installed(app)
    if installation is not None:
        return installation.address
    if env.ledger_url:
        return ServerAddress.parse(env.ledger_url)
    raise InvalidInput(
        "Client(app=...): no ledger URL. Pass ledger_url=..., set TOOLKIT_LEDGER_URL, or call "
        "toolkit.install(app, ledger_url=...) beside the application's configuration"
    )


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


def with_function(app: App, described: Described) -> Described:
    """The same with a function that this process can call, for an inline run."""
    if described.task is not None:
        return described
    from toolkit.transport.adapters import adapt

    return replace(described, task=adapt(app, described.name))
