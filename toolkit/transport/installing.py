"""The worker side: one call beside an application's configuration makes its nodes serve runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps, signals

from toolkit.errors import InvalidInput
from toolkit.settings import ServerAddress, Settings
from toolkit.transport.archivist import Archivist
from toolkit.transport.marker import SLOTS
from toolkit.transport.node import Keeper
from toolkit.transport.servant import Installation, Servant
from toolkit.transport.tickets import TICKET

_ATTRIBUTE = "_toolkit_installation"
_KEEPER = "_toolkit_keeper"


def install(
    app: Celery, ledger_url: str | ServerAddress | None = None, *, function_key_file: Path | str | None = None,
    allow_imports: bool = False, keep_alive: Callable[[bool], None] | None = None,
) -> None:  # fmt: skip
    """Make the nodes of a Celery application serve runs.

    Put it beside the application's configuration, in a module that both workers and clients import. A node in whose
    environment ``TOOLKIT_ARCHIVE`` names a directory archives there what ends on the server.

    Parameters
    ----------
    app : celery.Celery
        The application. Its own tasks, routes and settings stay as they are.
    ledger_url : str or ServerAddress, optional
        Server that holds the ledger, ``redis://``, ``rediss://``, ``valkey://`` or ``unix://``;
        by default ``TOOLKIT_LEDGER_URL``. It may be the broker's server or another one.
    function_key_file : path, optional
        A 0600 file with the key of the clients whose functions typed in a cell may run here.
        Without it they are refused.
    allow_imports : bool
        Whether a run may name a ``@toolkit.task`` of a module that is not imported yet.
        By default only modules that the application imports itself can be named.
    keep_alive : callable of bool, optional
        Called about once a second in the node's main process with whether any run has work left: is neither paused nor
        waits for input that does not come.

    Raises
    ------
    InvalidInput
        No ledger URL, or the application has an installation already.

    Examples
    --------
    >>> app = Celery("shop", broker="redis://127.0.0.1:6379/0")  # doctest: +SKIP
    >>> toolkit.install(app, ledger_url="redis://127.0.0.1:6379/1")  # doctest: +SKIP
    """
    if getattr(app, _ATTRIBUTE, None) is not None:
        raise InvalidInput(f"toolkit.install was called twice for the application {app.main!r}; keep one call")
    settings = Settings.from_env()
    url = ledger_url or settings.ledger_url
    if not url:
        raise InvalidInput("toolkit.install needs ledger_url=... or TOOLKIT_LEDGER_URL, e.g. redis://127.0.0.1:6379/1")
    address = ServerAddress.of(url)
    key_file = Path(function_key_file) if function_key_file else settings.function_key_file
    installation = Installation(
        app, address, function_key_file=key_file, allow_imports=allow_imports,
        archive=settings.archive if keep_alive is None else None,  # who keeps a local node alive archives by itself
    )  # fmt: skip
    setattr(app, _ATTRIBUTE, installation)
    servants: dict[int, Servant] = {}

    @app.task(name=TICKET, shared=False, bind=True, ignore_result=True, acks_late=False, max_retries=0, typing=False)  # type: ignore[untyped-decorator]  # celery is untyped
    def ticket(self: Any, run_id: str, ticket_id: str = "", hop: int = 0) -> None:
        """A free worker may take batches of a run."""
        servant = servants.get(os.getpid())
        if servant is None:
            servants.clear()  # what a fork inherited belongs to the parent
            servant = servants[os.getpid()] = Servant(installation, str(self.request.hostname or "worker"))
        servant.serve(str(run_id), str(ticket_id), int(hop))

    app.steps["worker"].add(_keeper_step(installation, keep_alive))


def installed(app: Celery) -> Installation | None:
    """What `install` was told for this application, None when it was not called."""
    return getattr(app, _ATTRIBUTE, None)


def give_back(app: Celery) -> None:
    """In a node's main process that is about to be killed: end its workers, and give back what they hold."""
    keeper: Keeper | None = getattr(app, _KEEPER, None)
    if keeper is not None:
        keeper.give_back()


def check_workers(worker: Any) -> None:
    """Refuse to start a node of more workers than its main process can look after.

    Raises
    ------
    InvalidInput
        There are more than `marker.SLOTS`.
    """
    most = max(getattr(worker, name, None) or 0 for name in ("concurrency", "max_concurrency"))
    if most > SLOTS:
        raise InvalidInput(
            f"{most:,} workers in one node: at most {SLOTS:,} can be told apart. Take fewer (-c or --autoscale), "
            "and another node beside it"
        )


def _terminate(_step: Any, worker: Any) -> None:
    """Cold shutdown: the pool's processes are ended next."""
    give_back(worker.app)


def _keeper_step(installation: Installation, keep_alive: Callable[[bool], None] | None) -> type:
    class KeeperStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
        """Runs the keeper's thread beside the node's pool."""

        name = "toolkit.Keeper"
        requires = ("celery.worker.components:Pool",)

        def __init__(self, worker: Any, **kwargs: Any) -> None:
            super().__init__(worker, **kwargs)
            check_workers(worker)
            self.keeper: Keeper | None = None
            main = os.getpid()

            def orphaned(**_: Any) -> None:
                # Celery has just asked for a signal at the node's death. One that died before gives none, and the
                # worker would wait for ever.
                if os.getppid() != main:
                    os._exit(1)

            signals.worker_process_init.connect(orphaned, weak=False)

        def start(self, worker: Any) -> None:
            def describe() -> tuple[int, tuple[str, ...]]:
                workers = getattr(worker.pool, "num_processes", None) or 1
                return int(workers), tuple(sorted(worker.app.amqp.queues.consume_from))

            self.keeper = keeper = Keeper(installation, str(worker.hostname), describe, keep_alive)
            archivist = (
                Archivist(installation.address, installation.archive) if installation.archive is not None else None
            )

            def drain(**_: Any) -> None:
                installation.marker.drain()

            def sign_off(**_: Any) -> None:
                if archivist is not None:
                    archivist.stop()
                keeper.stop()

            signals.worker_shutting_down.connect(drain, weak=False)
            signals.worker_shutdown.connect(sign_off, weak=False)
            keeper.start()
            setattr(worker.app, _KEEPER, keeper)
            if archivist is not None:
                archivist.start()

        terminate = _terminate

    return KeeperStep
