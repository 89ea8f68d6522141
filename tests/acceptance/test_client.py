"""The public surface on real workers: submit, watch, read, steer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.acceptance import shop
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.errors import (
    EncodeError,
    InvalidInput,
    RunCancelled,
    RunFailed,
    RunNotFound,
    RunStateError,
    UnknownTask,
    WaitTimeout,
)
from toolkit.execution import current_item
from toolkit.records import Retry, RunState

Eventually = Callable[..., None]


def test_task_of_a_module_gives_results_in_input_order(client: Client) -> None:
    run = client.map(shop.double, range(1000), batch_size=37)
    assert run.results(60) == [2 * i for i in range(1000)]
    frame = run.metrics()
    assert frame["items"].sum() == 1000
    assert frame["ok"].sum() == 1000
    assert frame["items"].max() <= 37
    run.verify()


def test_function_typed_here_is_shipped_with_what_it_captures(client: Client) -> None:
    offset = 7
    run = client.map(lambda x: x + offset, [1, 2, 3])
    assert run.results(60) == [8, 9, 10]
    assert run.spec.kind == "function"


def test_automatic_batches_grow_and_every_item_is_done_once(client: Client) -> None:
    run = client.map(lambda x: 3 * x, range(20_000))  # of this code there is no history yet
    assert run.results(60) == [3 * i for i in range(20_000)]
    frame = run.metrics()
    assert frame["items"].iloc[0] < frame["items"].max()
    assert run.status().generation == 0


def test_setup_runs_in_the_worker_and_kwargs_are_shared(client: Client) -> None:
    assert client.map(shop.with_setup, range(50), batch_size=10).results(60) == [True] * 50

    def scaled(x: int, factor: int) -> int:
        return x * factor

    assert client.map(scaled, [1, 2], kwargs={"factor": 5}).results(60) == [5, 10]


def test_args_and_kwargs_calls(client: Client) -> None:
    def power(base: int, exponent: int) -> int:
        return base**exponent

    assert client.map(power, [(2, 3), (3, 2)], call="args").results(60) == [8, 9]
    assert client.map(power, [{"base": 2, "exponent": 4}], call="kwargs").results(60) == [16]


def test_failed_items_become_dead_letters_with_what_they_printed(client: Client) -> None:
    def picky(x: int) -> int:
        print("looking at", x)
        if x == 3:
            raise ValueError("three <script>")
        return x

    run = client.map(picky, range(5), batch_size=5, key=lambda x: f"key-{x}")
    with pytest.raises(RunFailed, match="three <script>"):
        run.results(60)
    letters = run.dead_letters()
    assert letters["index"].tolist() == [3]
    assert letters["key"].tolist() == ["key-3"]
    assert letters["category"].tolist() == ["fatal"]
    assert "looking at 3" in run.logs(3)
    assert "looking at 2" not in run.logs(3)
    assert run.items()["state"].tolist() == ["ok", "ok", "ok", "dead", "ok"]
    assert [type(r).__name__ for r in run.results(60, return_exceptions=True)] == ["int"] * 3 + ["RemoteError", "int"]


def test_retryable_errors_are_tried_again_with_the_attempt_counted(client: Client) -> None:
    def flaky(x: int) -> int:
        item = current_item()
        assert item is not None
        if item.attempt < 3:
            raise ConnectionError("not yet")
        return item.attempt

    run = client.map(flaky, range(4), retry=Retry(max_attempts=3, backoff_s=0.01))
    assert run.results(60) == [3, 3, 3, 3]
    assert run.status().retried == 8


def test_dead_letters_go_back_to_work(client: Client, tmp_path: object) -> None:
    flag = f"{tmp_path}/repaired"

    def broken_until_repaired(x: int) -> int:
        if not Path(flag).exists():
            raise ValueError("broken")
        return x

    run = client.map(broken_until_repaired, range(3))
    assert run.wait(60).dead == 3
    Path(flag).touch()
    assert run.retry_dead() == 3
    assert run.results(60) == [0, 1, 2]
    assert run.status().generation == 1
    run.verify()


def test_cancel_ends_a_run_between_items(client: Client, eventually: Eventually) -> None:
    import time as clock

    run = client.map(lambda _x: clock.sleep(0.02), range(5000), batch_size=500)
    eventually(lambda: run.status().active > 0)
    run.cancel()
    status = run.wait(30)
    assert status.state is RunState.CANCELLED
    assert status.ok + status.dead + status.skipped == 5000
    with pytest.raises(RunCancelled, match="items are done"):
        run.results()
    run.verify()


def test_pause_and_resume(client: Client, eventually: Eventually) -> None:
    import time as clock

    run = client.map(lambda x: clock.sleep(0.01) or x, range(300), batch_size=5)
    run.pause()
    eventually(lambda: run.status().active == 0)
    done = run.status().done
    assert run.status().state is RunState.PAUSED
    assert done < 300
    run.resume()
    assert run.results(60) == list(range(300))


def test_a_high_priority_run_overtakes_a_long_one(client: Client) -> None:
    import time as clock

    long = client.map(lambda x: clock.sleep(0.01) or x, range(2000), batch_size=10, priority="low")
    short = client.map(shop.double, range(20), batch_size=5, priority="urgent")
    short.wait(30)
    assert not long.status().state.final
    long.cancel()
    long.wait(30)


def test_as_completed_yields_every_item_once(client: Client) -> None:
    run = client.map(shop.double, range(500), batch_size=50)
    found = dict(run.as_completed())
    assert found == {i: 2 * i for i in range(500)}


def test_a_run_is_found_again_from_another_process(client: Client, cluster: LocalCluster) -> None:
    run = client.map(shop.double, range(10))
    code = (
        "import sys; from pathlib import Path; from toolkit import Client, LocalCluster\n"
        "client = Client(cluster=LocalCluster(state_dir=Path(sys.argv[1])))\n"
        "print(client.get_run(sys.argv[2]).results(60, ))\n"
    )
    state = str(cluster.status().state_dir)
    done = subprocess.run(
        [sys.executable, "-c", code, state, run.run_id], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == str([2 * i for i in range(10)])


def test_batches_of_a_given_size_taper_when_asked_to(client: Client) -> None:
    # given items that take long beside what a batch costs, so that nothing keeps small batches from being cut
    def nap(_: int) -> None:
        import time

        time.sleep(0.01)

    # when
    run = client.map(nap, range(100), batch_size=10, taper=True)

    # then
    assert run.wait(60).ok == 100
    sizes = run.metrics()["items"].tolist()
    assert max(sizes) == 10
    assert min(sizes[-3:]) < 5
    assert sum(sizes) == 100


def test_inline_is_the_same_run_in_this_process(client: Client) -> None:
    threads = []
    run = client.map(lambda x: threads.append(threading.current_thread().name) or x + 1, range(10), inline=True)
    assert run.status().state is RunState.FINISHED
    assert run.results() == list(range(1, 11))
    assert threads == [threading.current_thread().name] * 10
    assert len(run.metrics()) >= 1


def test_a_keyboard_interrupt_is_a_failure_on_a_worker_and_an_interrupt_here(client: Client) -> None:
    def stop(x: int) -> int:
        if x == 3:
            raise KeyboardInterrupt
        return x

    run = client.map(stop, range(8), batch_size=4)
    assert run.wait(60).dead == 1
    letter = run.dead_letters().iloc[0]
    assert (letter["index"], letter["category"], letter["attempts"]) == (3, "fatal", 1)
    assert "in stop" in letter["traceback"]
    with pytest.raises(KeyboardInterrupt):
        client.map(stop, range(8), inline=True)


def test_replay_raises_the_real_error_here(client: Client) -> None:
    run = client.map(shop.wrong_length, [1, 2], batch_size=2)
    run.wait(60)
    assert run.status().dead == 2
    assert "1" in run.dead_letters()["message"].iloc[0]
    with pytest.raises(IndexError):
        run.replay(0)


def test_replay_finds_what_the_run_was_submitted_with(client: Client) -> None:
    # Given runs of a function typed here, of a plain function of a module, and of one whose module is not the user's
    offset = 10
    typed = client.map(lambda x: x + offset, [1, 2])
    plain = client.map(shop.plain, [1, 2])
    foreign = client.map(os.path.basename, ["a/b"])
    for run in (typed, plain, foreign):
        run.wait(60)
    # Then the handles have them, and a handle from elsewhere has what a module of the user's holds
    assert (typed.replay(1), plain.replay(1), foreign.replay(0)) == (12, shop.plain(2), "b")
    assert client.get_run(plain.run_id).replay(1) == shop.plain(2)
    for run in (typed, foreign):
        with pytest.raises(RunStateError, match="task=your_function"):
            client.get_run(run.run_id).replay(0)


@pytest.mark.parametrize("index", [2, -1, 99, "1", None, 0.0])
def test_replay_of_no_item_names_those_there_are(client: Client, index: Any) -> None:
    run = client.map(shop.double, [1, 2])
    with pytest.raises(InvalidInput, match=r"index=.* has the items 0 to 1$"):
        run.replay(index)


def test_a_results_timeout_leaves_the_run_alone(client: Client) -> None:
    import time as clock

    run = client.map(lambda x: clock.sleep(0.3) or x, range(4), batch_size=1)
    with pytest.raises(WaitTimeout, match="it goes on"):
        run.results(0.05)
    assert run.results(60) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("items", "hint"),
    [
        ("text", "put it in a list"),
        (b"bytes", "put it in a list"),
        ({"a": 1}, "list\\(d.items"),
        (pd.DataFrame({"a": [1]}), "to_dict"),
        ({1, 2}, "sorted"),
        ([], "nothing to run"),
        (iter(()), "nothing to run"),
        (5, "not iterable"),
        (np.array(3), "without dimensions"),
    ],
)
def test_bad_items_are_refused_with_a_hint_and_nothing_is_stored(client: Client, items: object, hint: str) -> None:
    before = len(client.runs())
    with pytest.raises(InvalidInput, match=hint):
        client.map(shop.double, items)
    assert len(client.runs()) == before


def test_an_item_that_cannot_be_stored_is_named_and_nothing_is_stored(client: Client) -> None:
    before = len(client.runs())
    with pytest.raises(EncodeError, match="item 1500"):
        client.map(shop.double, [*range(1500), object()])
    assert len(client.runs()) == before


def test_a_bad_item_late_in_a_stream_cancels_the_run(client: Client) -> None:
    with pytest.raises(EncodeError, match="item 5000") as caught:
        client.map(shop.double, (object() if i == 5000 else i for i in range(6000))).wait(60)
    assert any("cancelled" in note for note in caught.value.__notes__)


def test_bad_options(client: Client) -> None:
    for options in (
        {"batch_size": 0}, {"batch_size": "big"}, {"max_workers": -1}, {"priority": "asap"}, {"call": "star"},
        {"tags": {"a": 1}}, {"name": "a\nb"}, {"retry": 3}, {"kwargs": {"a": object()}}, {"key": "id"},
        {"batch_size": np.float64(2.5)}, {"max_workers": True},
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            client.map(shop.double, [1], **options)  # type: ignore[arg-type]


def test_a_key_that_fails_names_its_item_and_nothing_is_stored(client: Client) -> None:
    before = len(client.runs())
    with pytest.raises(InvalidInput, match=r"key: KeyError: 'id' for the item \{'name': 'x'\}"):
        client.map(shop.double, [{"id": 1}, {"name": "x"}], key=lambda item: item["id"])
    assert len(client.runs()) == before


def test_numbers_of_numpy_are_numbers(client: Client) -> None:
    run = client.map(shop.double, range(6), batch_size=np.int64(2), max_workers=np.int32(1))
    assert run.results(60) == [0, 2, 4, 6, 8, 10]
    assert run.metrics()["batch_size"].tolist() == [2, 2, 2]


def test_an_update_is_checked_as_a_submission_is(client: Client) -> None:
    run = client.map(shop.double, [1])
    for options in ({"batch_size": 0}, {"max_workers": 0}, {"batch_size": 2.5}):
        with pytest.raises(InvalidInput):
            run.update(**options)  # type: ignore[arg-type]
    run.wait(60)


def test_what_was_dropped_is_no_result(client: Client) -> None:
    run = client.map(lambda x: 6 // x, [1, 0, 2])
    assert run.wait(60).dead == 1
    assert run.drop_dead() == 1
    with pytest.raises(RunFailed, match=r"1 of 3 items .* dropped"):
        run.results()
    first, dropped, last = run.results(return_exceptions=True)
    assert (first, last) == (6, 3)
    assert "dropped" in str(dropped)
    with pytest.raises(RunFailed, match="dropped"):
        list(run.as_completed())


def test_a_method_and_an_object_that_is_called_have_names(client: Client) -> None:
    run = client.map(str.upper, ["a", "b"])
    assert (run.results(60), run.spec.task) == (["A", "B"], "builtins:str.upper")
    called = client.map(shop.Adds(5), [1, 2])
    assert (called.results(60), called.spec.task) == ([6, 7], "tests.acceptance.shop:Adds")


def test_a_closed_client_takes_no_work_and_its_runs_go_on(cluster: LocalCluster) -> None:
    with Client(cluster=cluster) as client:
        run = client.map(shop.double, [1, 2])
    with pytest.raises(InvalidInput, match="closed"):
        client.map(shop.double, [1])
    assert run.results(60) == [2, 4]
    with pytest.raises(InvalidInput, match="expected a LocalCluster"):
        Client(cluster=2)  # type: ignore[arg-type]


def test_a_ledger_without_an_application_is_warned_of(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who names a ledger and forgets the application would take the empty list of a LocalCluster for its runs."""
    monkeypatch.setenv("TOOLKIT_STATE_DIR", str(cluster.state_dir))
    monkeypatch.setenv("TOOLKIT_LEDGER_URL", "redis://:zebra@ledger")
    with Client() as here:
        assert "LocalCluster" in repr(here)
    assert "TOOLKIT_LEDGER_URL is set, and no application" in caplog.text
    assert "zebra" not in caplog.text


def test_unknown_tasks_and_runs(client: Client) -> None:
    with pytest.raises(UnknownTask, match="registered"):
        client.map("no.such.task", [1])
    with pytest.raises(RunNotFound):
        client.get_run("20200101-000000-00000000")
    with pytest.raises(InvalidInput):
        client.get_run("../../etc")


def test_results_that_cannot_be_stored_are_dead_letters_of_their_items(client: Client) -> None:
    run = client.map(lambda x: object() if x == 1 else x, range(3), batch_size=3)
    assert run.wait(60).dead == 1
    assert run.dead_letters()["category"].tolist() == ["bad_payload"]


def test_a_run_pauses_early_when_no_result_can_be_stored(client: Client, eventually: Eventually) -> None:
    run = client.map(lambda x: object(), range(5000), batch_size=500)
    eventually(lambda: run.status().state is RunState.PAUSED and not run.status().claimed)
    status = run.status()
    assert 5 <= status.dead <= 20
    assert "result of type object cannot be stored" in status.reason
    run.cancel()


def test_advice_for_functions_of_one_name_is_from_their_own_runs(client: Client) -> None:
    # Given two functions of one name, of which one takes much longer
    def make(pause_s: float) -> Callable[[int], int]:
        def tk_namesake(x: int) -> int:
            time.sleep(pause_s)
            return x

        return tk_namesake

    def made() -> Callable[[int], int]:
        def tk_namesake(x: int) -> int:
            return x

        tk_namesake.__qualname__ = slow.__qualname__
        return tk_namesake

    slow = make(0.02)
    fast = made()
    for size in (2, 10):  # far apart, so that a busy machine leaves no doubt what an item takes
        client.map(slow, range(40), batch_size=size).wait(60)
        client.map(fast, range(40), batch_size=size).wait(60)
    # Then advice is about the one that is asked for, and about the later one where only the name is known
    of_slow, of_fast = (client.recommend(fn, 1000).makespan_s for fn in (slow, fast))
    assert of_slow > 5 > of_fast
    by_name = client.recommend(client.map(fast, [1]).spec.task, 1000)
    assert by_name.makespan_s < 5
    assert any("latest version of the code" in reason for reason in by_name.reasons)


def test_advice_for_a_name_that_nobody_recorded_says_which_there_are(client: Client) -> None:
    client.map(shop.double, [1]).wait(60)
    with pytest.raises(InvalidInput, match=r"did you mean .*shop:double'"):
        client.recommend("tests.acceptance.shop:duble", 100)
    assert client.recommend(lambda x: x + 77, 100).refused


def test_client_frames_and_doctor(client: Client) -> None:
    run = client.map(shop.double, range(10), tags={"kind": "frames"}, name="framed")
    run.wait(60)
    assert client.runs().set_index("run_id").loc[run.run_id, "name"] == "framed"
    assert set(client.metrics(tags={"kind": "frames"})["run_id"]) == {run.run_id}
    assert client.workers()["workers"].tolist() == [2]
    assert not [f for f in client.doctor() if f.level == "problem"]
    assert "finished" in str(run)


def test_an_item_that_user_code_changes_in_place_is_retried_and_buried_as_submitted(client: Client) -> None:
    def spoil(item: dict[str, list[int]]) -> int:
        item["values"].append(0)
        if len(item["values"]) > 2:
            raise RuntimeError("spoilt twice")
        raise ConnectionError("again")

    run = client.map(spoil, [{"values": [1]}], retry=Retry(max_attempts=2, backoff_s=0.01))
    assert run.wait(60).dead == 1
    letters = run.dead_letters()
    assert letters["item"].tolist() == [{"values": [1]}]
    assert letters["error_type"].tolist() == ["ConnectionError"]
