"""The edges of submission and of the server: streams, no memory, no writes, no answer, a client that was killed."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import shop
from tests.acceptance.accounts import check
from toolkit.client import Client, Run
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput, LedgerFull, RunNotFound, RunStateError
from toolkit.ledger import Ledger, keys
from toolkit.settings import LedgerSettings

Eventually = Callable[..., None]

ROOT = Path(__file__).parents[2]
PAGE = 1024
WINDOW = 64 * 1024


@pytest.fixture
def narrow(cluster: LocalCluster) -> Iterator[Client]:
    """A client that looks a few pages ahead, and soon gives up on a full server."""
    with Client(cluster=cluster, settings=LedgerSettings(look_ahead_bytes=WINDOW, full_wait_s=1.0)) as made:
        yield made


@pytest.fixture
def admin(cluster: LocalCluster) -> Iterator[Callable[..., Any]]:
    """Commands of the server's own user."""
    with closing(Ledger(cluster.address)) as ledger:
        yield ledger.connection.command


def new_id() -> str:
    return f"edge-{secrets.token_hex(6)}"


class Submitting(threading.Thread):
    """A submission that waits, in a thread."""

    def __init__(self, submit: Callable[[], Run]) -> None:
        super().__init__()
        self._submit = submit
        self.run_made: Run | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.run_made = self._submit()
        except Exception as error:  # noqa: BLE001
            self.error = error

    def outcome(self) -> Run:
        """The run, once all is submitted."""
        self.join(60)
        assert not self.is_alive(), "it still submits"
        if self.error is not None:
            raise self.error
        assert self.run_made is not None
        return self.run_made


def pages_bytes(client: Client, run_id: str) -> int:
    """Encoded bytes of the pages that the server holds."""
    command = client._ledger.connection.command
    starts = command("ZRANGE", keys.of(run_id, "page_index"), 0, -1)
    return sum(int(command("HSTRLEN", keys.of(run_id, "pages"), start)) for start in starts)


def texts(n: int, drawn: list[int]) -> Iterator[bytes]:
    """Items that no compression makes smaller; notes how many were drawn."""
    for i in range(n):
        drawn[0] = i + 1
        yield i.to_bytes(8, "big") + secrets.token_bytes(8)


# --------------------------------------------------------------------------- streams


def test_a_stream_is_drawn_no_further_than_workers_follow(
    narrow: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr("toolkit.client.intake._TELL_AFTER_S", 0.2)
    run_id, drawn, heard = new_id(), [0], list[str]()

    def items() -> Iterator[bytes]:
        for i, item in enumerate(texts(40 * PAGE, drawn)):
            if i == 3 * PAGE:
                narrow.get_run(run_id).pause(reason="lunch")
            yield item

    def hears(text: str) -> bool:
        heard.append(capsys.readouterr().err)
        return text in "".join(heard)

    submitting = Submitting(lambda: narrow.map(shop.length, items(), batch_size=500, keep_results=False, run_id=run_id))
    eventually(lambda: hears("submission waits, the run is paused (lunch)"))
    run, ahead = narrow.get_run(run_id), drawn[0]
    assert ahead < 20 * PAGE
    assert pages_bytes(narrow, run_id) <= WINDOW + 20 * PAGE  # the page that a batch is in the middle of
    run.resume()
    assert submitting.outcome().run_id == run_id
    status = run.wait(60)
    assert (status.ok, status.dead, status.submitted) == (40 * PAGE, 0, 40 * PAGE)
    assert pages_bytes(narrow, run_id) == 0
    assert "".join(heard).count("submission waits") == 1
    run.verify()


def test_a_submission_that_waits_ends_when_its_run_is_cancelled(narrow: Client, eventually: Eventually) -> None:
    run_id, drawn = new_id(), [0]

    def items() -> Iterator[bytes]:
        for i, item in enumerate(texts(40 * PAGE, drawn)):
            if i == 2 * PAGE:  # a page is drawn while the one before it is stored
                narrow.get_run(run_id).pause()
            yield item

    submitting = Submitting(lambda: narrow.map(shop.length, items(), batch_size=500, run_id=run_id))
    eventually(lambda: drawn[0] >= 4 * PAGE)
    run = submitting.outcome()
    run.cancel()
    assert run.wait(30).state == "cancelled"
    eventually(lambda: not any(run_id in thread.name for thread in threading.enumerate()))
    assert drawn[0] < 20 * PAGE


# --------------------------------------------------------------------------- no memory


def test_submission_waits_for_memory_and_work_goes_on_when_it_is_there(
    client: Client,
    admin: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    eventually: Eventually,
) -> None:
    run_id, heard = new_id(), list[str]()

    def items() -> Iterator[int]:
        for i in range(3 * PAGE):
            if i == 2 * PAGE:
                eventually(lambda: client.get_run(run_id).status().done >= 50)
                admin("CONFIG", "SET", "maxmemory", 1)
            yield i

    def hears(text: str) -> bool:
        heard.append(capsys.readouterr().err)
        return text in "".join(heard)

    kwargs = {"folder": str(tmp_path)}
    submitting = Submitting(lambda: client.map(shop.journal, items(), kwargs=kwargs, batch_size=20, run_id=run_id))
    try:
        eventually(lambda: hears("out of memory"))
        eventually(lambda: client.get_run(run_id).status().active == 0)  # what was claimed is accounted
        done = client.get_run(run_id).status().done
        assert 50 <= done <= 2 * PAGE
    finally:
        admin("CONFIG", "SET", "maxmemory", 0)
    run = submitting.outcome()
    assert run.results(60) == list(range(3 * PAGE))
    assert "".join(heard).count("out of memory") == 1
    assert run.status().lost == 0
    check(run, tmp_path, 3 * PAGE)


def test_a_server_that_stays_full_ends_the_submission_with_a_cancelled_run(
    narrow: Client, admin: Callable[..., Any]
) -> None:
    run_id = new_id()

    def items() -> Iterator[int]:
        for i in range(5 * PAGE):
            if i == 3 * PAGE:
                admin("CONFIG", "SET", "maxmemory", 1)
            yield i

    try:
        with pytest.raises(LedgerFull, match="out of memory") as caught:
            narrow.map(shop.double, items(), run_id=run_id, batch_size=100).wait(60)
        assert any("waited 1 s" in note for note in caught.value.__notes__)
        assert any("was cancelled" in note for note in caught.value.__notes__)
        assert narrow.get_run(run_id).wait(30).state == "cancelled"
        with pytest.raises(LedgerFull):
            narrow.map(shop.double, [1, 2], run_id=(other := new_id()))
        with pytest.raises(RunNotFound):
            narrow.get_run(other)
    finally:
        admin("CONFIG", "SET", "maxmemory", 0)
    assert narrow.map(shop.double, [1, 2]).results(30) == [2, 4]


def test_a_node_outlives_a_ticket_that_it_takes_from_a_full_server(
    client: Client, cluster: LocalCluster, admin: Callable[..., Any], eventually: Eventually
) -> None:
    client.map(shop.double, [0]).results(60)
    (node,) = client.nodes()
    logs = [path for path in (cluster.status().state_dir / "nodes").glob("*.log") if path.is_file()]

    def refused() -> int:
        return sum(path.read_text(encoding="utf-8").count("OutOfMemoryError") for path in logs)

    before = refused()
    os.kill(node.pid, signal.SIGSTOP)
    try:
        run = client.map(shop.double, range(4), batch_size=1)
        admin("CONFIG", "SET", "maxmemory", 1)  # its ticket has been handed to the node, which does not know yet
        os.kill(node.pid, signal.SIGCONT)
        eventually(lambda: refused() > before)
    finally:
        os.kill(node.pid, signal.SIGCONT)
        admin("CONFIG", "SET", "maxmemory", 0)
    assert run.results(60) == [0, 2, 4, 6]
    assert [found.pid for found in client.nodes()] == [node.pid]


# --------------------------------------------------------------------------- a server that cannot write, or not answer


@pytest.mark.parametrize("fault", ["no replicas", "read only", "frozen"])
def test_a_run_in_flight_goes_on_by_itself(
    client: Client, cluster: LocalCluster, admin: Callable[..., Any], tmp_path: Path, eventually: Eventually, fault: str
) -> None:
    kwargs = {"folder": str(tmp_path), "pause_s": 0.005}
    run = client.map(shop.journal, range(400), kwargs=kwargs, batch_size=20)
    eventually(lambda: run.status().done >= 60)
    server = cluster.status().server_pid
    over = threading.Event()
    if fault == "frozen":
        os.kill(server, signal.SIGSTOP)
    elif fault == "read only":
        admin("REPLICAOF", "127.0.0.1", 1)
    else:
        admin("CONFIG", "SET", "min-replicas-to-write", 1)
    over.wait(3.0 if fault == "frozen" else 1.5)  # the fault lasts so long
    if fault == "frozen":
        os.kill(server, signal.SIGCONT)
    elif fault == "read only":
        admin("REPLICAOF", "NO", "ONE")
    else:
        admin("CONFIG", "SET", "min-replicas-to-write", 0)
    assert run.status().done < 400, "it ended before the fault did"
    check(run, tmp_path, 400)
    assert cluster.status().server_pid == server


# --------------------------------------------------------------------------- a client that was killed


SUBMITTER = """
import sys, time
from pathlib import Path
from toolkit import Client, LocalCluster
sys.path.insert(0, sys.argv[1])
from tests.acceptance import shop
def slowly():
    for i in range(int(sys.argv[5])):
        if i and i % 1024 == 0:
            print(i, flush=True)
            time.sleep(float(sys.argv[6]))
        yield i
with Client(cluster=LocalCluster(state_dir=Path(sys.argv[2]))) as client:
    run = client.map(shop.journal, slowly(), kwargs={"folder": sys.argv[3]}, run_id=sys.argv[4], batch_size=200)
    print("all", flush=True)
"""


def submitter(cluster: LocalCluster, folder: Path, run_id: str, n: int, pause_s: float) -> subprocess.Popen[str]:
    arguments = [str(ROOT), str(cluster.status().state_dir), str(folder), run_id, str(n), str(pause_s)]
    return subprocess.Popen([sys.executable, "-c", SUBMITTER, *arguments], stdout=subprocess.PIPE, text=True)


def test_a_submission_that_was_killed_goes_on_from_another_process(
    client: Client, cluster: LocalCluster, tmp_path: Path, eventually: Eventually
) -> None:
    run_id, n = new_id(), 6 * PAGE + 100
    with submitter(cluster, tmp_path, run_id, n, 0.3) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != str(3 * PAGE):
            pass
        run = client.get_run(run_id)
        eventually(lambda: run.status().submitted > PAGE)
        process.kill()
    stored = run.status().submitted
    assert 0 < stored < n
    eventually(lambda: run.status().done == stored)
    assert not run.status().closed
    (finding,) = [f for f in client.doctor(run_id) if "its input is not complete" in f.text]
    assert f"run_id={run_id!r}" in finding.text
    kwargs = {"folder": str(tmp_path)}
    wrong = [-1, *range(1, n)]
    with pytest.raises(InvalidInput, match="something else as items 0 to 1,023"):
        client.map(shop.journal, iter(wrong), kwargs=kwargs, run_id=run_id)
    with pytest.raises(InvalidInput, match=r"task .* there, .*double' here"):
        client.map(shop.double, iter(range(n)), run_id=run_id)
    with pytest.raises(InvalidInput, match="kwargs"):
        client.map(shop.journal, iter(range(n)), kwargs={"folder": "/elsewhere"}, run_id=run_id)
    with pytest.raises(InvalidInput, match="1,024 are given"):
        client.map(shop.journal, iter(range(PAGE)), kwargs=kwargs, run_id=run_id)
    assert run.status().submitted == stored, "a refused submission left something"
    with submitter(cluster, tmp_path, run_id, n, 0.0) as process:
        assert process.stdout is not None
        assert "all" in process.stdout.read().split()
    assert process.returncode == 0
    check(run, tmp_path, n)
    assert run.status().submitted == n
    again = client.map(shop.journal, range(n), kwargs=kwargs, run_id=run_id)  # complete: nothing happens
    assert (again.run_id, again.status().generation) == (run_id, 0)
    assert all(p.read_text().count("\n") == 1 for p in tmp_path.iterdir()), "an item was executed twice"
    with pytest.raises(InvalidInput, match=rf"{n:,} items, and 3 are given"):
        client.map(shop.journal, [1, 2, 3], kwargs=kwargs, run_id=run_id)


def test_a_cancelled_run_does_not_take_its_id_for_a_new_one(client: Client) -> None:
    run_id = new_id()
    client.map(shop.double, range(3), run_id=run_id).cancel()
    status = client.get_run(run_id).wait(30)
    if status.state == "cancelled":
        with pytest.raises(RunStateError, match="choose another run_id"):
            client.map(shop.double, range(3), run_id=run_id)
    with pytest.raises(InvalidInput, match="run id"):
        client.map(shop.double, range(3), run_id="No Such Id")
    with pytest.raises(InvalidInput, match="run id"):
        client.map(shop.double, range(3), run_id="")
