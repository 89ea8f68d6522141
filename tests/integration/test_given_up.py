"""A claim that its worker gives up, though no item is to blame, goes back at once and makes no item a suspect."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, running_server
from tests.integration.clusters import until
from tests.integration.ledgers import Run
from tests.integration.test_keeper import Node, broker, ledger_server, start, url_of
from toolkit import codec
from toolkit.errors import LedgerUnavailable
from toolkit.execution import task
from toolkit.ledger import Connection, Ledger, Page
from toolkit.records import RunState
from toolkit.settings import LedgerSettings
from toolkit.transport import node as node_module
from toolkit.transport.loop import BatchLoop, Hooks, make_context
from toolkit.transport.marker import Marker

__all__ = ["broker", "ledger_server", "start"]  # fixtures

DEEP = 64


def serve(run: Run, function: Callable[[Any], Any], marker: Marker | None = None, *, mine: bool = False) -> str:
    """What a worker does with one ticket of the run; `mine` in the user's own process."""
    hooks = Hooks(marker or Marker(), 0, lambda _: False, lambda: False, lambda _s, _t: None)
    context = make_context(run.spec, task(function), b"", host="h", node="n", passthrough=mine)
    context.born = run.ledger.stored(run.run_id).born
    return BatchLoop(run.ledger, context, hooks).serve().reason


def suspicions(run: Run) -> set[tuple[int, bool]]:
    """What is held against the items that wait for a worker."""
    return {(r.suspicions, r.alone) for r in run.ready()}


def append(run: Run, items: list[Any]) -> None:
    run.ledger.append(run.run_id, Page(0, len(items), codec.encode_page(items)), expected=0, close=True)


# --------------------------------------------------------------------------- the worker lives on


def test_an_item_as_deep_as_a_value_can_be_has_a_letter_of_its_own_error(ledger: Ledger) -> None:
    # given an item that is accepted, though no value that contains it would be
    item: list[Any] = []
    for _ in range(DEEP - 1):
        item = [item]
    run = Run(ledger, batch_size=4)
    append(run, [1, item, 2, 3])

    def refuse_lists(value: Any) -> Any:
        if isinstance(value, list):
            raise TypeError("no lists here")
        return value

    # when its task raises
    assert serve(run, refuse_lists) == "finished"
    # then it is dead of that error, with itself, after one execution
    status = run.status()
    assert (status.ok, status.dead, status.lost, status.errors) == (3, 1, 0, {"fatal": 1})
    (letter,) = run.reader.dead_letters()
    assert (letter.error_type, letter.message, letter.attempts) == ("TypeError", "no lists here", 1)
    assert letter.item == item
    run.check()


class Rude(BaseException):
    """An exception that no one expects."""


class Unspeakable(ValueError):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise Rude


def test_an_item_that_makes_its_worker_raise_is_found_and_buried(ledger: Ledger) -> None:
    run, executed = Run(ledger, 8, batch_size=8), list[int]()

    def one(item: int) -> int:
        executed.append(item)
        if item == 5:
            raise Unspeakable
        return item

    # when a worker takes one ticket after another
    ended, raised = "", 0
    while ended != "finished":
        try:
            ended = serve(run, one)
        except Rude:
            raised += 1
            assert run.status().active == 0, "it goes back at once"
    # then the item alone is dead, and its letter names the error
    status = run.status()
    assert (status.ok, status.dead) == (7, 1)
    (letter,) = run.reader.dead_letters()
    assert (letter.index, letter.category) == (5, "fatal")
    assert letter.error_type.endswith("Rude")
    assert executed.count(5) == raised <= 6  # halved three times, then three executions alone
    run.check()


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
def test_what_a_user_interrupts_in_the_own_process_goes_back(ledger: Ledger, ends: type[BaseException]) -> None:
    def handler(_number: int, _frame: Any) -> None:
        raise ends

    before = signal.signal(signal.SIGTERM, handler)
    try:
        run = Run(ledger, 1)
        with pytest.raises(ends):
            serve(run, lambda _: os.kill(os.getpid(), signal.SIGTERM), mine=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (run.status().active, suspicions(run)) == (0, {(0, False)})


def test_what_an_outage_of_the_server_interrupts_goes_back_when_it_answers() -> None:
    with running_server("valkey") as server:
        path = Path(server.address.url.removeprefix("unix://"))
        with closing(Ledger(server.address, LedgerSettings(retry_s=0.0))) as ledger:
            run = Run(ledger, 1)

            def cut(item: int) -> int:
                """The server is away from the middle of the item on."""
                with closing(Connection(server.address)) as link:
                    link.command("PING")  # connected, while there is somebody
                    path.rename(path.with_name("away"))
                    link.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                return item

            # given an outage that is longer than a worker waits
            with pytest.raises(LedgerUnavailable):
                serve(run, cut)
            # when the server is back
            path.with_name("away").rename(path)
            # then the item waits for a worker, and nothing is held against it
            until(lambda: run.status().active == 0, "the claim goes back before its lease ends")
            assert (run.status().lost, suspicions(run)) == (1, {(0, False)})
            assert serve(run, lambda item: item) == "finished"
            assert run.status().state is RunState.FINISHED
            run.check()


# --------------------------------------------------------------------------- the worker ends


def worker(node: Node, run: Run, function: Callable[[Any], Any]) -> int:
    """A worker process of the node that serves the run, as a pool's does: SIGTERM raises SystemExit in it."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit())
        try:
            serve(run, function, node.installation.marker)
        finally:
            os._exit(0)
    return pid


def test_a_worker_that_is_told_to_end_leaves_no_suspect(broker: Server, start: Callable[..., Node]) -> None:
    node = start(url_of(broker))
    run = node.run(1)
    pid = worker(node, run, lambda _: signal.pause())
    until(lambda: any(w.position == 0 for w in node.installation.marker.works()), "it is on the item")
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    node.keeper.start()
    until(lambda: run.status().lost == 1, "what it held goes back")
    assert (run.status().active, suspicions(run)) == (0, {(0, False)})


def test_an_item_that_tells_its_own_process_to_end_is_buried_in_the_end(
    broker: Server, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "_PARDONS", 2)
    node = start(url_of(broker))
    run = node.run(1)
    node.keeper.start()
    for death in range(1, 6):
        os.waitpid(worker(node, run, lambda _: os.kill(os.getpid(), signal.SIGTERM)), 0)
        until(lambda death=death: run.status().lost == death, "its death is seen")
    assert (run.status().state, run.status().dead) == (RunState.FINISHED, 1)
    (letter,) = run.reader.dead_letters()
    assert letter.category == "worker_lost"


def test_a_node_that_is_about_to_be_killed_gives_back_what_its_workers_hold(start: Callable[..., Node]) -> None:
    node = start()
    run = node.run(8, batch_size=4)
    pid = worker(node, run, lambda _: signal.pause())
    until(lambda: any(w.position == 0 for w in node.installation.marker.works()), "it is on the first item")
    node.keeper.give_back()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    status = run.status()
    assert (status.active, status.lost, status.claimed, suspicions(run)) == (0, 1, 0, {(0, False)})
