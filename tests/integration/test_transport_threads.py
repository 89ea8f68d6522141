"""A node whose workers are threads: several of them serve one run, each on its own page."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from celery import Celery

from tests.integration.ledgers import new_run_id
from toolkit import codec
from toolkit._version import PROTOCOL, __version__
from toolkit.ledger import Ledger, Page, Reader
from toolkit.records import RunSpec, RunState
from toolkit.settings import ServerAddress
from toolkit.transport.servant import Installation, Servant

WORKERS = 4


def same(item: int) -> int:
    return item


def submit(ledger: Ledger, task: str, items: int, *, page: int, batch_size: int, close: bool = True) -> RunSpec:
    run_id = new_run_id()
    spec = RunSpec(run_id, task, kind="celery", queue=run_id, toolkit_version=__version__, protocol=PROTOCOL)
    ledger.create(spec, batch_size=batch_size, auto=False, max_workers=0)
    for a in range(0, items, page):
        made = Page(a, a + page, codec.encode_page(list(range(a, a + page))))
        ledger.append(run_id, made, expected=a, close=close and a + page >= items)
    return spec


def test_threads_that_serve_one_run_do_not_share_their_pages(ledger: Ledger, address: ServerAddress) -> None:
    # given as many threads as workers, each of which begins an item only together with all the others
    together = threading.Barrier(WORKERS, timeout=30)
    app = Celery("threads", broker="memory://", set_as_current=False)

    def meet(item: int) -> int:
        together.wait()
        return item

    app.task(name="threads.meet", shared=False)(meet)
    servant = Servant(Installation(app, address), "n@h")
    spec = submit(ledger, "threads.meet", 96, page=4, batch_size=3)
    # when they serve the same run
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda n: servant.serve(spec.run_id, f"t{n}", 0), range(WORKERS)))
    # then all of it is done, and nothing was found to be corrupt
    status = ledger.status(spec.run_id)
    assert (status.state, status.ok, status.reason) == (RunState.FINISHED, 96, "")
    assert Reader(ledger.connection, spec.run_id).dead_indexes() == []


def test_what_is_kept_between_tickets_is_bounded(ledger: Ledger, address: ServerAddress) -> None:
    app = Celery("kept", broker="memory://", set_as_current=False)
    app.task(name="kept.same", shared=False)(same)
    servant = Servant(Installation(app, address), "n@h")
    for _ in range(20):
        spec = submit(ledger, "kept.same", 4, page=4, batch_size=2, close=False)
        servant.serve(spec.run_id, "t", 0)
        servant.serve(spec.run_id, "t", 0)
        assert ledger.status(spec.run_id).ok == 4
    kept = [context.spec.run_id for context in servant._contexts]
    assert len(kept) == len(set(kept)) == 9
    assert kept[-1] == spec.run_id
    ledger.append(spec.run_id, None, expected=4, close=True)
    servant.serve(spec.run_id, "t", 0)
    assert spec.run_id not in [context.spec.run_id for context in servant._contexts]


def test_of_a_run_that_ends_here_nothing_is_kept(ledger: Ledger, address: ServerAddress) -> None:
    app = Celery("ended", broker="memory://", set_as_current=False)
    app.task(name="ended.same", shared=False)(same)
    servant = Servant(Installation(app, address), "n@h")
    spec = submit(ledger, "ended.same", 4, page=4, batch_size=2)
    servant.registry.activate(spec)
    servant.serve(spec.run_id, "t", 0)
    assert ledger.status(spec.run_id).state is RunState.FINISHED
    assert servant._contexts == []
    assert servant.registry.active_runs(spec.queue) == []
