"""The client: submit runs, find them again, ask for advice."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from toolkit._version import PROTOCOL, __version__
from toolkit.client import celery_app, reach, scaling, tracing
from toolkit.client.arguments import (
    Size,
    check_items,
    check_key,
    check_limits,
    check_options,
    encode_kwargs,
    make_spec_limits,
    new_run_id,
)
from toolkit.client.background import Submitting, finish_all
from toolkit.client.describe import Deployment, Described, describe, say_if_edited, ship
from toolkit.client.doctor import Finding, examine
from toolkit.client.drawing import Source
from toolkit.client.history import History
from toolkit.client.replay import run_inline
from toolkit.client.run import Run
from toolkit.client.selecting import task_name, version_of
from toolkit.client.sending import Sender
from toolkit.client.steering import Steering
from toolkit.client.submit import Submission, find_earlier
from toolkit.client.weights import Weight, Weights
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput
from toolkit.ledger import Ledger, Registry
from toolkit.records import INLINE_QUEUE, METRIC_SCHEMA, NodeInfo, Retry, RunSpec, check_run_id
from toolkit.settings import LedgerSettings, Settings

if TYPE_CHECKING:
    from toolkit.execution import Task
    from toolkit.transport import App
    from toolkit.tuning import Recommendation

logger = logging.getLogger(__name__)


class Client(History):
    """Submits runs to a Celery deployment, by default this user's own LocalCluster.

    Parameters
    ----------
    app : celery.Celery or str, optional
        Application whose nodes called `toolkit.install`, or its ``module:attribute``;
        by default ``TOOLKIT_APP``. Without one, a LocalCluster is joined or started.
    ledger_url : str, optional
        Server that holds the ledger; by default ``TOOLKIT_LEDGER_URL``, then the one that `toolkit.install` was
        given.
    cluster : LocalCluster, optional
        A certain LocalCluster.
    function_key_file : path, optional
        Key with which functions typed in a cell are signed on a shared deployment.
    settings : LedgerSettings, optional
        Limits and periods.

    Raises
    ------
    LedgerUnavailable, LedgerRefused, LedgerUnsafe
        The server does not answer, refuses the credentials, or might lose data.
    InvalidInput
        The application cannot be imported, or no ledger URL is known.

    Examples
    --------
    >>> client = Client()  # doctest: +SKIP
    >>> client.map(len, ["one", "three"]).results()  # doctest: +SKIP
    [3, 5]
    """

    def __init__(
        self, app: App | str | None = None, ledger_url: str | None = None, *, cluster: LocalCluster | None = None,
        function_key_file: Path | str | None = None, settings: LedgerSettings | None = None,
    ) -> None:  # fmt: skip
        env = Settings.from_env()
        app = app if app is not None else env.app
        if app is not None and cluster is not None:
            raise InvalidInput("Client: pass app= for a Celery deployment or cluster= for a LocalCluster, not both")
        if cluster is not None and not isinstance(cluster, LocalCluster):
            raise InvalidInput(f"Client(cluster={cluster!r}): expected a LocalCluster, for example LocalCluster(2)")
        self._cluster: LocalCluster | None = None
        key_file = Path(function_key_file) if function_key_file else env.function_key_file
        if app is None:
            if ledger_url:
                raise InvalidInput(
                    "Client(ledger_url=...) needs app= as well: the Celery application whose workers serve that ledger"
                )
            if cluster is None and env.ledger_url:
                logger.warning(
                    "TOOLKIT_LEDGER_URL is set, and no application: this client uses your LocalCluster. Set "
                    "TOOLKIT_APP (module:attribute) or pass app=... for runs on that ledger"
                )
            self._cluster = cluster or LocalCluster()
            self._cluster.start()
            address, key_file = self._cluster.address, key_file or self._cluster.function_key_file
            # Celery takes a good part of a second to import; the node is starting meanwhile.
            from toolkit.transport import make_app, task_names

            self._app = make_app(self._cluster.broker_url, self._cluster.queue)
        else:
            from toolkit.transport import task_names

            self._app = celery_app.load(app)
            address = celery_app.ledger_address(self._app, ledger_url, env)
        self.settings = settings or LedgerSettings()
        self._ledger = Ledger(address, self.settings)
        self._ledger.connection.gone = partial(reach.why_gone, self._cluster)
        self._registry = Registry(self._ledger.connection)
        self._deployment = Deployment(
            self._cluster is not None, lambda: task_names(self._app), self._registry.nodes, key_file
        )  # fmt: skip
        self._archive_path = env.archive or (self._cluster.state_dir / "archive" if self._cluster else None)
        self._submitted = self._closed = False
        self._unlimited: set[str] = set()  # tasks of whose time limits somebody was told
        self._inputs: list[Submitting] = []  # streams that are being submitted, or whose error nobody was told
        self._detached = threading.Event()
        self._sender = Sender(self._app, self._ledger, self._registry)
        self._steering = Steering(
            self._cluster, self._ledger, self._registry, partial(self.metrics, source="server"), self._detached
        )
        self._ledger.connection.check_server()
        if self._cluster is not None:
            self._cluster.before_end(self._tidy)

    # ------------------------------------------------------------------ submit

    @tracing.submission
    def map(  # noqa: PLR0913 - one call says all about a run; every option has a default
        self,
        task: Any,
        items: Iterable[Any],
        *,
        kwargs: Mapping[str, Any] | None = None,
        batch_size: float | str = "auto",
        max_workers: int | str = "auto",
        taper: bool = False,
        priority: str = "normal",
        queue: str | None = None,
        key: Callable[[Any], Any] | None = None,
        weight: Weight | None = None,
        retry: Retry | None = None,
        call: str = "item",
        item_time_limit_s: float | None = None,
        batch_time_limit_s: float | None = None,
        keep_results: bool = True,
        name: str = "",
        tags: Mapping[str, str] | None = None,
        run_id: str | None = None,
        inline: bool = False,
        profile: bool = False,
    ) -> Run:
        """Run `task` on every item and return a handle once the first items are there.

        Parameters
        ----------
        task : callable or str
            A ``@toolkit.task``, a function typed in a cell, a Celery task or the name of a registered one.
        items : iterable
            Inputs. What has no length (a generator, a file) is a stream, drawn on a thread of its own (what is bound
            to its thread, as a cursor of sqlite3 is, is opened inside a generator): its
            items are worked on as they come, while the handle is back as soon as the first ones are stored, and no more
            is drawn than workers can take soon. An error of a stream whose run has begun cancels the run, and
            `Run.wait` and `Run.results` raise it. A DataFrame, str or dict is refused with a hint.
        kwargs : mapping, optional
            Keyword arguments shared by all calls.
        batch_size : int or "auto"
            Items per batch. ``"auto"`` plans from earlier runs of the same code, or probes, then re-plans. With
            `weight`, how much weight a batch takes, a fraction is fine; at least one item.
        max_workers : int or "auto"
            Most batches at a time. ``"auto"`` sets no cap; a LocalCluster with fewer workers than CPUs grows first
            where earlier runs of the task recommend it, and the run's event ``workers`` says so.
        taper : bool
            Let batches of a given `batch_size` get smaller toward the end of the run, as ``"auto"`` ones always do.
        priority : str
            ``low``, ``normal``, ``high`` or ``urgent``, honoured between runs.
        queue : str, optional
            Celery queue; by default the task's own route. A LocalCluster has one, the default, and refuses others;
            elsewhere a queue to which no node listens is logged as a warning.
        key : callable, optional
            ``key(item)`` is stored as the user's name for the item.
        weight : callable, or sequence of number, optional
            ``weight(item)``, or one number for each item: how much work it is, in any unit (pages, bytes, tokens,
            expected seconds). Batches are then cut by weight, and heavy items begin first, so that none runs alone at
            the end: those of all items where these are a sequence, of a stream those that were read.
        retry : Retry, optional
            When and how often a failing item is tried again.
        call : str
            ``"item"``: ``f(item)``; ``"args"``: ``f(*item)``; ``"kwargs"``: ``f(**item)``.
        item_time_limit_s : float, optional
            Longest execution of an item: then `toolkit.TimeLimitExceeded` is raised in it, and a second later its
            process is killed; only this item is charged, with category ``timeout``. Not for batched tasks. Kept by
            nodes with processes (``--pool=prefork``), which others leave the run to, and not with ``inline=True``.
        batch_time_limit_s : float, optional
            Longest execution of a batch: what it has not begun is given back, and an item that goes on for a second
            more is over time as above (at its own limit where there is one). The call of a batched task is interrupted;
            with several items it is halved, which costs none of them an attempt.
        keep_results : bool
            Store results on the server. Without, the stored inputs go too as their items end.
        name : str
            A name for people.
        tags : mapping of str to str, optional
            Labels for later selection.
        run_id : str, optional
            An id of your own. Given again with the same task and items, it goes on with an interrupted submission, or
            returns the handle of a complete one; batch size and whatever else was said the first time stays.
        inline : bool
            Execute in this process, under a debugger if you like.
        profile : bool
            Sample the user code of a few batches of each worker, see `Run.profile`.

        Returns
        -------
        Run
            Already submitted, a stream so far as its items came; with ``inline=True`` already ended.

        Raises
        ------
        InvalidInput
            Anything wrong with the arguments, before anything is enqueued; `EncodeError` names the item. Or `run_id`
            names a run of another task, or of other items.
        LedgerFull, LedgerUnavailable
            The server cannot take the items, however long submission waits; what was stored is cancelled.
        RunStateError
            The run was cancelled meanwhile.
        """
        self._check_open()
        if self._cluster is not None:
            self._cluster.start()  # a millisecond when all is well; brings back what was killed as a whole
        check_items(items)
        size = Size.parse(batch_size, max_workers, weighted=weight is not None, taper=taper)
        weights = None if weight is None else Weights(weight, items)
        check_options(priority, queue or "celery", name, tags, retry, call)
        key = check_key(key)
        described = describe(task, self._deployment)
        self._check_limits(described, item_time_limit_s, batch_time_limit_s)
        encoded_kwargs = encode_kwargs(kwargs, self.settings.max_item_bytes)
        if inline:
            described = celery_app.with_function(self._app, described)
        policy = retry or described.retry or celery_app.default_retry(self._app, described)
        spec = RunSpec(
            run_id=new_run_id() if run_id is None else check_run_id(run_id), task=described.name, path=described.path,
            kind=described.kind, call=call, batched=described.batched, name=name,
            queue=INLINE_QUEUE if inline else queue or self._route(described),
            priority=priority, keep_results=keep_results, tags=dict(tags or {}),
            code_version=described.code_version, sys_path=described.sys_path,
            python=f"{sys.version_info[0]}.{sys.version_info[1]}", toolkit_version=__version__, protocol=PROTOCOL,
            trace=tracing.carrier(), profile=bool(profile),
            row_schema=METRIC_SCHEMA, weighted=weights is not None,
            item_time_limit_s=item_time_limit_s, batch_time_limit_s=batch_time_limit_s, **RunSpec.of_retry(policy),
            **make_spec_limits(self.settings, local=self._cluster is not None),
        )  # fmt: skip
        function = b"" if inline else ship(described, spec.run_id, self._deployment)
        if not inline:
            say_if_edited(described, self._deployment)
            self._ledger.connection.check_server()
        earlier = None if run_id is None else find_earlier(self._ledger, spec, encoded_kwargs)
        spec = earlier or spec
        remark = reach.check_reach(spec, size, self._registry.nodes(), self._cluster)
        run = self._handle(spec, described.task)
        send = (lambda _n: None) if inline else self._sender.of_submission(spec)
        submission = Submission(self._ledger, self._registry, spec, size, send, resumes=earlier is not None)
        self._submitted = True
        grown = "" if inline or earlier is not None else self._steering.grow(spec, size, items)

        def write(source: Iterable[Any] | Source, begun: Callable[[], None]) -> None:
            submission.write(source, key, weights, function, encoded_kwargs, begun)
            if size.auto and weights is None and not inline:  # workers size weighted batches by themselves
                self._steering.plan(spec, size)

        self._submit(run, items, submission, write)
        if grown or remark:
            self._ledger.note(spec.run_id, scaling.EVENT, grown or remark)
        if inline:
            assert described.task is not None
            run_inline(self._ledger, spec, described.task, encoded_kwargs)
            self._registry.deactivate(spec.queue, spec.run_id)
        return run

    def _submit(
        self,
        run: Run,
        items: Iterable[Any],
        submission: Submission,
        write: Callable[[Iterable[Any] | Source, Callable[[], None]], None],
    ) -> None:
        """Submit all of a sequence; a stream on threads of its own, once its run exists."""
        if run.spec.queue == INLINE_QUEUE or isinstance(items, Sized):
            write(items, lambda: None)
            return
        made = Submitting(run.run_id, items, submission, write, lambda: run.status().state.final)
        self._inputs[:] = [*(before for before in self._inputs if before.pending), made]
        run.attach_input(made)
        made.begin()

    # ------------------------------------------------------------------ look

    def get_run(self, run_id: str) -> Run:
        """Find a run again, from any process that reaches the server.

        Raises
        ------
        RunNotFound
            No such run here, or its retention has passed.
        """
        return self._handle(self._ledger.spec(check_run_id(run_id)))

    def recommend(self, task: Any, n_items: int, **options: Any) -> Recommendation:
        """Batch size and worker count for the next run of a task, from its recorded history.

        Parameters
        ----------
        task : callable or str
            The task. Of a function, runs of its present version of the code count: others of that name only while it
            has fewer than three runs, and if their items cost about the same, which the reasons say. Of a name,
            the version that ran last.
        n_items : int
            Items of the next run.
        **options
            See `toolkit.Recommender.recommend`. Where the latest run of the task had weights, batch sizes are weights;
            ``weights=`` may give those of the new items, or of a sample of them.

        Returns
        -------
        Recommendation
            With `refused` set where the data support none, as before the first run of a function.

        Raises
        ------
        InvalidInput
            No run is recorded under that name; says which names there are. Or an option makes no sense.
        """
        from toolkit.tuning import Recommender
        from toolkit.tuning.versions import one_version
        from toolkit.tuning.weighed import weigh

        name = task_name(task)
        frame = self.metrics(task=task)
        if isinstance(task, str) and not len(frame):
            self._check_recorded(task)
        versions = one_version(frame, version_of(task))
        weighed = weigh(versions.frame)
        if weighed is not None:
            found = weighed.recommend(Recommender().fit(weighed.frame), name, n_items, **options)
        else:
            found = Recommender().fit(versions.frame).recommend(task=name, n_items=n_items, **options)
        return replace(found, reasons=(*found.reasons, versions.note)) if versions.note else found

    # ------------------------------------------------------------------ the deployment

    @property
    def cluster(self) -> LocalCluster | None:
        """The LocalCluster behind this client, None on a shared deployment."""
        return self._cluster

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def restart_workers(self) -> None:
        """Restart the LocalCluster's workers, in this process's environment and directory.

        A run imports edited modules by itself when it begins. After a restart those that have begun do so too,
        and newly installed packages are found.

        Raises
        ------
        InvalidInput
            On a shared deployment, whose operator restarts them.
        """
        if self._cluster is None:
            raise InvalidInput("restart_workers() works on a LocalCluster; on a shared deployment restart its nodes")
        self._cluster.restart_workers()

    def nodes(self) -> list[NodeInfo]:
        """Nodes that are alive, as records."""
        return self._registry.nodes()

    def doctor(self, run_id: str | None = None) -> list[Finding]:
        """Check servers, nodes, queues and unfinished runs (or one run): why nothing moves, and what to do."""
        queue = str(self._cluster.queue if self._cluster is not None else self._app.conf.task_default_queue)
        broker = partial(celery_app.ask_broker, self._app)
        coming = reach.coming(self._cluster)
        asked = None if coming else queue
        return list(examine(self._ledger, self._registry, broker, run_id and check_run_id(run_id), asked, coming))

    def close(self) -> None:
        """Close connections and release the LocalCluster; runs go on.

        Streams whose items still come are waited for, and stderr says so; an interrupt, or an error that leaves a
        ``with`` block, stops them, to be gone on with by `map` and their ``run_id``. An error of a stream that nobody
        waited for is said there, too.

        Runs of a LocalCluster that have ended are archived first, see `archive`; then those that ended more than
        ``settings.retention_s`` ago are deleted on its server.
        """
        try:
            finish_all(self._inputs)
        finally:
            self._close()

    def _close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
        self._closed = True
        self._inputs.clear()
        self._detached.set()
        self._ledger.close()
        self._app.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        finish_all(self._inputs, wait=kind is None)
        self._close()

    def __repr__(self) -> str:
        where = "LocalCluster" if self._cluster is not None else f"app {self._app.main!r}"
        return f"<Client of {where} at {self._ledger.connection.address}>"

    # ------------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("this client is closed: make another, toolkit.Client(); handles of runs go on working")

    def _handle(self, spec: RunSpec, task: Task | None = None) -> Run:
        run = Run(self._ledger, self._registry, spec, self._sender.issue, task)
        run.why_waiting = partial(reach.why_waiting, self._cluster, spec.queue)
        return run

    def _tidy(self) -> None:
        """Called by the LocalCluster before it ends for this client, while its server answers."""
        if self._archive_path is not None and not self._closed:
            from toolkit.client.keeping import tidy

            tidy(self._ledger, self._registry, self._archive_path, self.settings.retention_s, self._submitted)
            self._submitted = False

    def _check_limits(self, described: Described, item_s: float | None, batch_s: float | None) -> None:
        """Refuse limits that cannot be kept; warn once of one that Celery keeps for a message, and nobody for items."""
        check_limits(item_s, batch_s, described.batched)
        limit_s = celery_app.own_limit_s(self._app, described) if item_s is batch_s is None else None
        if limit_s is not None and described.name not in self._unlimited:
            self._unlimited.add(described.name)
            logger.warning(
                "task %s has a time limit of %g s, which Celery keeps for calls by message and not for items of a run: "
                "pass item_time_limit_s=%g for the same here, or batch_time_limit_s=",
                described.name,
                limit_s,
                limit_s,
            )

    def _route(self, described: Described) -> str:
        if self._cluster is not None:
            return str(self._cluster.queue)
        return celery_app.route(self._app, described)
