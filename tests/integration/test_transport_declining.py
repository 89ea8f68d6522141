"""Runs that a worker cannot execute: what is noted of them, where their tickets go, and who waits for them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from celery import Celery

from tests.integration.ledgers import new_run_id
from toolkit import codec
from toolkit._version import PROTOCOL, __version__
from toolkit.ledger import Ledger, Page, Reader
from toolkit.records import RunSpec
from toolkit.settings import ServerAddress
from toolkit.transport import declining
from toolkit.transport.servant import Installation, Servant

GOOD = "import toolkit as tk\n@tk.task\ndef work(item):\n    return item + 1\n"
LONG = declining.MAX_HOPS - 1  # a ticket that went round so often is kept for a second


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "tk_broken.py"
    path.write_text("import toolkit as tk\nsyntax error here\n")
    yield path
    sys.modules.pop("tk_broken", None)


@pytest.fixture
def servant(address: ServerAddress) -> Servant:
    app = Celery("declining", broker="memory://", set_as_current=False)
    return Servant(Installation(app, address, allow_imports=True), "n@h")


def submit(ledger: Ledger, servant: Servant) -> RunSpec:
    run_id = new_run_id()
    spec = RunSpec(
        run_id, "tk_broken:work", path="tk_broken:work", queue=run_id, toolkit_version=__version__, protocol=PROTOCOL
    )
    servant.registry.add_run(spec)
    ledger.create(spec, batch_size=2, auto=False, max_workers=0)
    ledger.append(run_id, Page(0, 2, codec.encode_page([1, 2])), expected=0, close=True)
    return spec


def sent(servant: Servant, spec: RunSpec) -> list[Any]:
    """The next ticket of a run at the broker, as its arguments; raises `Empty` where there is none."""
    with (
        servant._installation.app.connection_for_read() as connection,
        closing(connection.SimpleQueue(spec.queue)) as queue,
    ):
        message = queue.get_nowait()
        message.ack()
        return list(message.payload[0])


def passed_on(servant: Servant) -> None:
    """Wait for the tickets that this process has yet to pass on."""
    for timer in [t for t in threading.enumerate() if isinstance(t, threading.Timer)]:
        timer.join()


def remarks(ledger: Ledger, spec: RunSpec) -> list[str]:
    return [f["detail"] for _, f in Reader(ledger.connection, spec.run_id).events() if f.get("event") == "declined"]


@pytest.mark.usefixtures("module")
def test_a_ticket_that_is_declined_goes_to_another_node_and_its_worker_to_other_runs(
    ledger: Ledger, servant: Servant
) -> None:
    spec = submit(ledger, servant)
    servant.serve(spec.run_id, "t1", LONG)
    servant.serve(spec.run_id, "t2", LONG)  # more than one of a run would only go round
    with pytest.raises(Empty):
        sent(servant, spec)  # the worker is free, and has not passed it on yet
    passed_on(servant)
    assert sent(servant, spec) == [spec.run_id, "t1", LONG + 1]
    with pytest.raises(Empty):
        sent(servant, spec)
    # and who went round for long enough is left to the sweeper
    servant.serve(spec.run_id, "t3", LONG + 1)
    assert not servant._declining._pending


@pytest.mark.usefixtures("module")
def test_a_ticket_of_a_run_that_was_cancelled_meanwhile_is_not_passed_on(ledger: Ledger, servant: Servant) -> None:
    spec = submit(ledger, servant)
    servant.serve(spec.run_id, "t1", 0)
    ledger.steer(spec.run_id, "cancel")
    passed_on(servant)
    with pytest.raises(Empty):
        sent(servant, spec)


@pytest.mark.usefixtures("module")
def test_a_node_notes_each_reason_once(
    ledger: Ledger, address: ServerAddress, servant: Servant, caplog: pytest.LogCaptureFixture
) -> None:
    # given two workers of a node, each of which tries a run again and again, and one of another node
    spec, app = submit(ledger, servant), servant._installation.app
    others = [Servant(Installation(app, address, allow_imports=True), node) for node in ("n@h", "other@h")]
    for one in (servant, *others):
        for hop in (0, 0, 7):
            one._declining._until.clear()  # what it remembers is over
            one.serve(spec.run_id, "t", hop)
    passed_on(servant)
    assert [detail.split(":")[0] for detail in remarks(ledger, spec)] == ["n@h", "other@h"]
    assert len([message for message in caplog.messages if "declined" in message]) == 3  # by each of them
    assert all("syntax" in detail for detail in remarks(ledger, spec))


def test_nobody_waits_for_a_run_that_is_declined_here_until_it_is_tried_again(
    ledger: Ledger, servant: Servant, module: Path
) -> None:
    # given a run that works, beside one of the same queue that does not load
    spec = submit(ledger, servant)
    beside = RunSpec(new_run_id(), "x", queue=spec.queue, toolkit_version=__version__, protocol=PROTOCOL)
    assert servant._another_waits(beside)
    servant.serve(spec.run_id, "t1", 0)
    assert not servant._another_waits(beside)
    # when its module is mended, it is executed once what was remembered is over
    module.write_text(GOOD)
    servant.serve(spec.run_id, "t2", 0)
    assert ledger.status(spec.run_id).ok == 0
    servant._declining._until[spec.run_id] -= declining._MOST_REMEMBERED_S
    assert servant._another_waits(beside)
    servant.serve(spec.run_id, "t3", 0)
    assert str(ledger.status(spec.run_id).state) == "finished"
    passed_on(servant)
