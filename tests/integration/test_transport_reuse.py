"""A run id used again: workers and nodes that knew the run before do not mistake the new one for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from tests.integration.ledgers import new_run_id
from toolkit import codec
from toolkit._version import PROTOCOL, __version__
from toolkit.errors import RunNotFound
from toolkit.ledger import Ledger, Reader, keys, make_pages
from toolkit.ledger.pages import unpack_output
from toolkit.records import RunSpec
from toolkit.settings import ServerAddress
from toolkit.transport.marker import Marker
from toolkit.transport.node import Keeper
from toolkit.transport.servant import Installation, Servant


def plus(item: int, more: int) -> int:
    return item + more


def times(item: int, more: int) -> int:
    return item * more


@pytest.fixture
def installation(address: ServerAddress) -> Installation:
    app = Celery("again", broker="memory://", set_as_current=False)
    app.task(name="again.plus", shared=False)(plus)
    app.task(name="again.times", shared=False)(times)
    return Installation(app, address)


def spec_of(task: str, **values: Any) -> RunSpec:
    run_id = new_run_id()
    return RunSpec(run_id, task, kind="celery", queue=run_id, toolkit_version=__version__, protocol=PROTOCOL, **values)


def submit(ledger: Ledger, spec: RunSpec, items: list[int], *, close: bool = True, **kwargs: int) -> None:
    ledger.create(spec, kwargs=codec.encode(kwargs), batch_size=2, auto=False, max_workers=0)
    (page,) = make_pages(items, max_item_bytes=1000)
    ledger.append(spec.run_id, page, expected=0, close=close)


def retire(ledger: Ledger, run_id: str) -> None:
    """The run leaves the server, as it does when its retention has passed."""
    ledger.connection.command("DEL", *keys.of_run(run_id), keys.metrics_segment(run_id, 0))


def results(ledger: Ledger, run_id: str) -> list[Any]:
    """What the run stored, in the order of its items."""
    found = {}
    for element in ledger.connection.command("LRANGE", keys.of(run_id, "outputs"), 0, -1):
        ranges, page = unpack_output(element)
        found.update(zip((i for a, b in ranges for i in range(a, b)), codec.decode_page(page), strict=True))
    return [found[i] for i in sorted(found)]


@pytest.mark.parametrize("last", ["empty", "paused"])
def test_a_worker_executes_the_items_of_the_run_that_has_the_id_now(
    ledger: Ledger, installation: Installation, last: str
) -> None:
    # given a worker that keeps what it knows of a run, since that one was not over when it left it
    spec, servant = spec_of("again.plus"), Servant(installation, "n@h")
    submit(ledger, spec, [1, 2, 3, 4], close=False, more=100)
    servant.serve(spec.run_id, "t1", 0)
    if last == "paused":
        ledger.steer(spec.run_id, "pause")
        servant.serve(spec.run_id, "t2", 0)
    assert results(ledger, spec.run_id) == [101, 102, 103, 104]
    # when the id is given to another run, of other items, arguments and task
    retire(ledger, spec.run_id)
    submit(ledger, replace(spec, task="again.times"), [5, 6, 7, 8], more=10)
    servant.serve(spec.run_id, "t3", 0)
    # then these are executed
    assert results(ledger, spec.run_id) == [50, 60, 70, 80]
    status = ledger.status(spec.run_id)
    assert (str(status.state), status.ok, status.dead) == ("finished", 4, 0)
    assert Reader(ledger.connection, spec.run_id).workers().keys() == {1}


def test_a_run_that_is_replaced_within_a_ticket_is_known_anew(ledger: Ledger, installation: Installation) -> None:
    spec, servant = spec_of("again.swap"), Servant(installation, "n@h")

    def swap(item: int, more: int) -> int:
        if item == 2 and more == 100:
            retire(ledger, spec.run_id)
            submit(ledger, spec, [7, 8, 9], more=1)
        return item + more

    installation.app.task(name="again.swap", shared=False)(swap)
    submit(ledger, spec, [1, 2, 3, 4], more=100)
    servant.serve(spec.run_id, "t1", 0)
    assert results(ledger, spec.run_id) == [8, 9, 10]


def test_a_node_keeps_the_limits_of_the_run_that_its_worker_is_on(ledger: Ledger, installation: Installation) -> None:
    first, marker = spec_of("again.plus", item_time_limit_s=1.0), Marker()
    run_id = first.run_id
    keeper = Keeper(installation, "n@h", lambda: (1, ("celery",)))

    def work_of(born: int) -> RunSpec:
        marker.begin(0, run_id, b"c" * 16, -1, born)
        (work,) = marker.works()
        assert work.born == born
        return keeper._spec_of(work)

    submit(ledger, first, [1])
    born = ledger.stored(run_id).born
    assert work_of(born) == first
    retire(ledger, run_id)
    second = replace(first, item_time_limit_s=60.0, queue="elsewhere")
    submit(ledger, second, [1])
    # they may have been created within one millisecond
    ledger.connection.command("HSET", keys.of(run_id, "head"), "created_at", born + 1)
    assert work_of(born + 1) == second
    assert work_of(born) == first  # a worker that is still on it
    with pytest.raises(RunNotFound):
        work_of(born - 1)
    assert keeper._spec(run_id) == second
