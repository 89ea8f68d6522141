"""Streams of items: worked on as they come, while the caller has the handle."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import shop
from tests.acceptance.accounts import check
from toolkit.client import Client
from toolkit.client.background import Submitting
from toolkit.client.submit import Submission
from toolkit.cluster import LocalCluster
from toolkit.errors import EncodeError, InvalidInput, RunCancelled, WaitTimeout

Eventually = Callable[..., None]

ROOT = Path(__file__).parents[2]


def new_id() -> str:
    return f"stream-{secrets.token_hex(6)}"


class Tap:
    """A source of items that gives one at a time, when the test says so."""

    def __init__(self) -> None:
        self._flow = threading.Semaphore(0)
        self._last: Any = None
        self.threads: set[int] = set()

    def open(self, count: int = 1, last: object = None) -> None:
        """Let so many further items flow; then end there, with an error or a bad item, if `last` is one."""
        self._last = last
        self._flow.release(count)

    def __iter__(self) -> Iterator[Any]:
        at = 0
        while True:
            self._flow.acquire()
            self.threads.add(threading.get_ident())
            if self._last is StopIteration:
                return
            if isinstance(self._last, Exception):
                raise self._last
            yield at if self._last is None else self._last
            at += 1


@pytest.fixture
def taps() -> Iterator[Callable[[], Tap]]:
    """Make taps; at the end all of them have run dry, so that nobody waits for one."""
    made: list[Tap] = []

    def make() -> Tap:
        made.append(Tap())
        return made[-1]

    yield make
    for tap in made:
        tap.open(100, StopIteration)


def test_a_slow_stream_is_worked_on_while_it_comes(
    taps: Callable[[], Tap], client: Client, eventually: Eventually
) -> None:
    # Given a source of which two items are there
    tap = taps()
    tap.open(2)
    # When it is submitted, then the handle is back, and those two are done while the source waits
    run = client.map(shop.double, tap)
    eventually(lambda: run.status().done == 2)
    assert not run.status().closed
    assert not run.done()
    assert tap.threads.isdisjoint({threading.get_ident()})
    assert len(tap.threads) == 1
    # And when the others come, they are done as well
    tap.open(3)
    eventually(lambda: run.status().done == 5)
    assert len(run) == 5
    tap.open(last=StopIteration)
    assert run.results(60) == [0, 2, 4, 6, 8]
    assert run.done()
    run.verify()


def test_what_is_wrong_with_the_first_items_is_raised_at_once(taps: Callable[[], Tap], client: Client) -> None:
    before = len(client.runs())
    for wrong, kind in ((OSError("no such table"), OSError), (object(), EncodeError), (StopIteration, InvalidInput)):
        tap = taps()
        tap.open(last=wrong)
        with pytest.raises(kind, match=r"no such table|item 0|items is empty"):
            client.map(shop.double, tap)
    assert len(client.runs()) == before


@pytest.mark.parametrize("wrong", [OSError("the cursor was closed"), object()], ids=["error", "bad item"])
def test_an_error_of_the_source_cancels_the_run_and_is_raised_where_one_waits(
    taps: Callable[[], Tap], client: Client, eventually: Eventually, wrong: object
) -> None:
    tap = taps()
    tap.open(1)
    run = client.map(shop.double, tap)
    eventually(lambda: run.status().done == 1)
    tap.open(last=wrong)
    kind, said = (OSError, "the cursor was closed") if isinstance(wrong, OSError) else (EncodeError, "item 1")
    with pytest.raises(kind, match=said) as caught:
        run.wait(60)
    assert any("was cancelled: its input is incomplete" in note for note in caught.value.__notes__)
    with pytest.raises(kind, match=said):
        run.results(60)
    with pytest.raises(kind, match=said):
        list(run.as_completed())
    # Then what was done can be had, the line says what happened, and so it does in every other process
    assert [type(r) for r in run.results(60, return_exceptions=True)] == [int]
    assert said in str(client.get_run(run.run_id))
    assert client.get_run(run.run_id).wait(60).state == "cancelled"


def test_who_sees_the_run_cancelled_before_the_error_is_kept_waits_for_it(
    taps: Callable[[], Tap], client: Client, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a source that failed, whose error is kept only after the run has been seen to be cancelled
    seen, give_up, look = threading.Event(), Submission._give_up, Submitting.check

    def slowly(self: Submission, error: BaseException, held: int) -> None:
        give_up(self, error, held)
        assert seen.wait(30)

    def seeing(self: Submitting) -> None:
        seen.set()
        look(self)

    monkeypatch.setattr(Submission, "_give_up", slowly)
    tap = taps()
    tap.open()
    run = client.map(shop.double, tap)
    monkeypatch.setattr(Submitting, "check", seeing)
    tap.open(1, OSError("the feed is gone"))
    eventually(lambda: client.get_run(run.run_id).status().state.final)
    # When the run is waited for, then the error is raised all the same
    with pytest.raises(OSError, match="the feed is gone") as caught:
        run.wait(60)
    assert any("was cancelled" in note for note in caught.value.__notes__)


def test_a_run_that_is_cancelled_needs_no_more_input(
    taps: Callable[[], Tap], client: Client, eventually: Eventually
) -> None:
    tap = taps()
    tap.open(1)
    run = client.map(shop.double, tap)
    run.cancel(reason="enough")
    tap.open(1)
    status = run.wait(60)
    assert (status.state, status.reason) == ("cancelled", "enough")
    with pytest.raises(RunCancelled):
        run.results(60)


def test_an_interrupted_wait_detaches_and_the_input_goes_on(
    taps: Callable[[], Tap], client: Client, capsys: pytest.CaptureFixture[str], eventually: Eventually
) -> None:
    for verb in ("wait", "as_completed"):
        tap = taps()
        tap.open(1)
        run = client.map(shop.double, tap)
        interrupter = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            run.wait() if verb == "wait" else list(run.as_completed())
        interrupter.join()
        said = capsys.readouterr().err
        assert f"Detached. Run {run.run_id} goes on" in said
        assert "Its input still comes, from this process." in said
        tap.open(1)
        eventually(partial(lambda run: run.status().done == 2, run))
        tap.open(last=StopIteration)
        assert run.results(60) == [0, 2]


def test_an_interrupt_before_the_first_item_submits_nothing(
    taps: Callable[[], Tap], client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    before, tap = len(client.runs()), taps()
    interrupter = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        client.map(shop.double, tap)
    interrupter.join()
    assert "was not submitted" in capsys.readouterr().err
    tap.open(5)
    assert len(client.runs()) == before


def test_an_interrupted_slow_stream_goes_on_by_its_id_whatever_its_pages_were(
    taps: Callable[[], Tap],
    client: Client,
    cluster: LocalCluster,
    tmp_path: Path,
    eventually: Eventually,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Given a stream that came in several small pages, of a client that was left by an error
    run_id, tap, kwargs = new_id(), taps(), {"folder": str(tmp_path)}
    other = Client(cluster=cluster)
    tap.open(3)
    run = other.map(shop.journal, tap, kwargs=kwargs, run_id=run_id, weight=lambda i: 1 + i / 3)
    for more, stored in ((1, 4), (7, 11)):
        tap.open(more)
        eventually(partial(lambda n: len(run) == n, stored))
    assert len(run._reader.page_starts()) >= 3
    other.__exit__(RuntimeError, None, None)
    assert f"run_id={run_id!r}) with the same task and items goes on" in capsys.readouterr().err
    tap.open(1)
    assert not run.status().closed
    # When other items are given, they are refused and nothing is stored
    with pytest.raises(InvalidInput, match=r"something else as items|ends, at 11 items so far"):
        client.map(shop.journal, iter([0, 1, 2, 9]), kwargs=kwargs, run_id=run_id, weight=lambda i: 1 + min(i, 3) / 3)
    # When the same ones are given, as a sequence or as a stream, it goes on
    again = client.map(shop.journal, iter(range(2000)), kwargs=kwargs, run_id=run_id, weight=lambda i: 1 + i / 3)
    assert again.results(60) == list(range(2000))
    check(again, tmp_path, 2000)
    assert all(p.read_text().count("\n") == 1 for p in tmp_path.iterdir()), "an item was executed twice"


SCRIPT = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from toolkit import Client, LocalCluster
sys.path.insert(0, sys.argv[1])
from tests.acceptance import shop
def slowly():
    with ThreadPoolExecutor(1) as pool:
        for i in range(int(sys.argv[4])):
            time.sleep(0.1)
            yield pool.submit(int, i).result()
client = Client(cluster=LocalCluster(state_dir=Path(sys.argv[2])))
run = client.map(shop.double, slowly(), run_id=sys.argv[3])
print("submitted", flush=True)
"""


def script(cluster: LocalCluster, run_id: str, n: int) -> subprocess.Popen[str]:
    arguments = [str(ROOT), str(cluster.status().state_dir), run_id, str(n)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_script_that_ends_waits_for_its_streams(client: Client, cluster: LocalCluster) -> None:
    run_id = new_id()
    with script(cluster, run_id, 12) as process:
        out, err = process.communicate(timeout=60)
    assert out.split() == ["submitted"]
    assert f"Run {run_id}: waiting for the rest of its input" in err
    assert client.get_run(run_id).results(60) == [2 * i for i in range(12)]


def test_a_client_that_is_closed_waits_for_its_streams(
    taps: Callable[[], Tap], cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    tap = taps()
    tap.open(2)
    with Client(cluster=cluster) as other:
        run = other.map(shop.double, tap)
        ending = threading.Timer(0.8, tap.open, (1, StopIteration))
        ending.start()
    ending.join()
    assert f"Run {run.run_id}: waiting for the rest of its input, 2 items so far" in capsys.readouterr().err
    with Client(cluster=cluster) as other:
        assert other.get_run(run.run_id).results(60) == [0, 2]


def test_an_interrupted_end_of_a_script_leaves_what_goes_on_by_its_id(
    client: Client, cluster: LocalCluster, eventually: Eventually
) -> None:
    run_id = new_id()
    with script(cluster, run_id, 10_000) as process:
        assert process.stderr is not None
        assert "waiting for the rest" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert f"run_id={run_id!r}) with the same task and items goes on" in process.stderr.read()
        assert process.wait(30) == 0
    run = client.get_run(run_id)
    stored = len(run)
    assert 0 < stored < 10_000
    assert client.map(shop.double, range(100), run_id=run_id).results(60) == [2 * i for i in range(100)]


# --------------------------------------------------------------------------- what a handle is expected to do


def test_a_run_reads_like_the_futures_of_the_standard_library(client: Client) -> None:
    with client.map(shop.double, range(300), batch_size=7) as run:
        assert run
        assert len(run) == 300
    assert run.done()
    assert list(run) == [2 * i for i in range(300)]
    assert client.metrics(run)["run_id"].unique().tolist() == [run.run_id]
    assert len(client.metrics(run)) == len(run.metrics())
    with pytest.raises(InvalidInput, match=r"is the id of a run and no task"):
        client.metrics(run.run_id)
    with pytest.raises(InvalidInput, match=f"did you mean '{run.spec.task}'"):
        client.metrics(run.spec.task[:-1])


def test_an_error_in_a_with_block_cancels_its_run(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client.map(shop.nap, range(10_000)) as run:
        _ = 1 / (len(run) - 10_000)
    status = run.wait(60)
    assert (status.state, status.reason) == ("cancelled", "ZeroDivisionError in a with block")


def test_as_completed_ends_with_its_timeout(client: Client) -> None:
    run = client.map(shop.nap, range(10_000))
    with pytest.raises(WaitTimeout, match=r"did not end within 0.1 s; it goes on"):
        list(run.as_completed(timeout=0.1))
    run.cancel()
