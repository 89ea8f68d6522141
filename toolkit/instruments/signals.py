"""Connects the signals of a Celery application: `instrument`."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.errors import InvalidInput
from toolkit.instruments.measuring import SENT_AT, CountItems, Execution, MakeTags, Recorder
from toolkit.instruments.outbox import Delivery, Key, Outbox
from toolkit.instruments.packing import Packer
from toolkit.settings import ServerAddress, Settings

if TYPE_CHECKING:
    from toolkit.transport import App

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_toolkit_instrument"
_OWN = ("celery.", "toolkit.")
_LAST_FLUSH_S = 2.0


def instrument(
    app: App, *, items: CountItems | None = None, tags: MakeTags | None = None,
    ledger: str | ServerAddress | None = None, keep_rows: int = 100_000, buffer_rows: int = 10_000,
) -> None:  # fmt: skip
    """Record a metric row for every execution of every task of a Celery application.

    Put it beside the application's configuration, in a module that workers and publishers import. Tasks, results,
    routes and settings stay as they are; no result backend and no events are needed. Rows are gathered in the worker
    and sent by a thread of their own: a server that is away neither fails nor delays a task. `TOOLKIT_DISABLED=1`
    switches it off. Calls in the caller's own process (eager ones) are not recorded.

    Parameters
    ----------
    app : celery.Celery
        The application.
    items : callable, optional
        ``items(task, args, kwargs)``: how many items a call is given, for example ``lambda t, a, k: len(a[0])``.
        By default each call is one item.
    tags : callable, optional
        ``tags(task, args, kwargs)``: labels of a call, a mapping of few different values.
    ledger : str or ServerAddress, optional
        Server for the rows; by default ``TOOLKIT_LEDGER_URL``, then the one given to `toolkit.install`.
    keep_rows : int
        Rows of each task (and set of tags) that the server keeps at least; up to 4,096 more stay, older ones are
        deleted and counted. A row takes 108 bytes there.
    buffer_rows : int
        Rows that wait in each process while the server is away; beyond it the oldest are dropped and counted.

    Raises
    ------
    InvalidInput
        No ledger URL is known, a limit is below 1, or the application is instrumented already.

    Examples
    --------
    >>> toolkit.instrument(app, items=lambda task, args, kwargs: len(args[0]))  # doctest: +SKIP
    >>> toolkit.read_instrumented("docs.ocr")  # doctest: +SKIP
    """
    settings = Settings.from_env()
    if settings.disabled:
        logger.info("TOOLKIT_DISABLED=1: the application %r is not instrumented", app.main)
        return
    if getattr(app, _ATTRIBUTE, None) is not None:
        raise InvalidInput(f"toolkit.instrument was called twice for the application {app.main!r}; keep one call")
    for name, value in (("keep_rows", keep_rows), ("buffer_rows", buffer_rows)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInput(f"toolkit.instrument: {name}={value!r}; expected a whole number of 1 or more")
    for what, function in (("items", items), ("tags", tags)):
        if function is not None and not callable(function):
            raise InvalidInput(f"toolkit.instrument: {what}={function!r}; expected a function of (task, args, kwargs)")
    instrumentation = Instrumentation(app, _address(app, ledger, settings), items, tags, (keep_rows, buffer_rows))
    setattr(app, _ATTRIBUTE, instrumentation)
    instrumentation.connect()


def _address(app: App, ledger: str | ServerAddress | None, settings: Settings) -> ServerAddress:
    from toolkit.transport import installed

    found = ledger or settings.ledger_url
    if not found:
        installation = installed(app)
        if installation is None:
            raise InvalidInput(
                "toolkit.instrument needs ledger=... or TOOLKIT_LEDGER_URL, e.g. redis://127.0.0.1:6379/1"
            )
        return installation.address
    return ServerAddress.of(found)


class Instrumentation:
    """The receivers of one application's signals, and the outbox of this process.

    Parameters
    ----------
    app : celery.Celery
        Whose tasks are measured.
    address : ServerAddress
        Where the rows go.
    items, tags : callable or None
        As in `instrument`.
    limits : (int, int)
        ``keep_rows`` and ``buffer_rows`` of `instrument`.
    """

    def __init__(
        self, app: App, address: ServerAddress, items: CountItems | None, tags: MakeTags | None, limits: tuple[int, int]
    ) -> None:
        self._app = app
        self._address = address
        self._items = items
        self._tags = tags
        self._keep_rows, self._buffer_rows = limits
        self._node = ""
        self.reset()
        os.register_at_fork(after_in_child=self.reset)
        atexit.register(self.flush)

    def reset(self) -> None:
        """Begin anew, as a child must: what waits belongs to its parent, and so do thread, locks and sockets."""
        self._packer: Packer | None = None
        self.outbox = Outbox(self._prepare, self._buffer_rows)
        self._recorder = Recorder(self._items, self._tags, self.outbox.put)

    def connect(self) -> None:
        """Connect the receivers, which stay for as long as the process lives, or until `disconnect`."""
        for signal, receiver in self._receivers():
            signal.connect(receiver, weak=False)

    def disconnect(self) -> None:
        """Take the receivers away."""
        for signal, receiver in self._receivers():
            signal.disconnect(receiver)

    def _receivers(self) -> tuple[tuple[Any, Any], ...]:
        from celery import signals

        return (
            (signals.task_prerun, self.on_prerun),
            (signals.task_postrun, self.on_postrun),
            (signals.task_failure, self.on_failure),
            (signals.task_revoked, self.on_revoked),
            (signals.worker_process_init, self.on_child),
            (signals.before_task_publish, self.on_publish),
            (signals.celeryd_init, self.on_node),
            (signals.worker_process_shutdown, self.on_shutdown),
            (signals.worker_shutdown, self.on_shutdown),
        )

    def flush(self) -> None:
        """Deliver what waits, within two seconds; says what could not be delivered."""
        outbox = self.outbox
        if not outbox.flush(_LAST_FLUSH_S):
            logger.warning(
                "%d metric rows of instrumented tasks were not delivered before the process ended", outbox.waiting
            )

    def _prepare(self, executions: Sequence[Execution], drops: Counter[Key]) -> list[tuple[Key, int, Delivery]]:
        if self._packer is None:  # made by the outbox's thread: only processes that execute tasks connect
            self._packer = Packer(self._address, self._keep_rows, self._function, self._items is not None)
        return self._packer.prepare(executions, drops)

    def _function(self, name: str) -> Any:
        task = self._app.tasks.get(name)
        return None if task is None else getattr(task, "_orig_run", task.run)

    def _mine(self, task: Any) -> bool:
        return task.app is self._app and not task.name.startswith(_OWN)

    # ------------------------------------------------------------------ receivers

    def on_prerun(self, sender: Any = None, args: Any = (), kwargs: Any = None, **_: Any) -> None:
        """Note that a task begins here."""
        if self._mine(sender):
            self._recorder.begin(sender, args or (), kwargs or {})

    def on_postrun(self, sender: Any = None, task_id: str = "", state: str | None = None, **more: Any) -> None:
        """Measure a task that ended here."""
        if self._mine(sender):
            self._recorder.end(sender, str(task_id), state, more.get("retval"))

    def on_failure(self, sender: Any = None, task_id: str = "", exception: Any = None, **more: Any) -> None:
        """Record a task whose process died; one that failed alive is measured by `on_postrun`."""
        died = type(exception).__name__ in ("WorkerLostError", "TimeLimitExceeded")
        if died and self._mine(sender) and not self._recorder.runs_here(str(task_id)):
            args, kwargs = more.get("args") or (), more.get("kwargs") or {}
            self._recorder.lost(sender, str(task_id), args, kwargs, exception, self._node)

    def on_revoked(self, sender: Any = None, request: Any = None, terminated: bool = False, **_: Any) -> None:
        """Record a task that was terminated while it ran; one that had not begun leaves nothing."""
        if terminated and self._mine(sender) and not self._recorder.runs_here(str(request.id)):
            args, kwargs = request.args or (), request.kwargs or {}
            self._recorder.lost(sender, str(request.id), args, kwargs, None, self._node)

    def on_child(self, **_: Any) -> None:
        """Learn that this is a process of a pool, whose end the node's main process tells of."""
        self._recorder.parent_tells = True

    def on_publish(self, headers: Any = None, **_: Any) -> None:
        """Write into a message when it was published, so that its wait is known."""
        if isinstance(headers, dict):
            headers[SENT_AT] = time.time()

    def on_node(self, sender: Any = None, **_: Any) -> None:
        """Learn the node's name in its main process."""
        self._node = str(sender or "")

    def on_shutdown(self, **_: Any) -> None:
        """Deliver what waits before the process ends."""
        self.flush()
