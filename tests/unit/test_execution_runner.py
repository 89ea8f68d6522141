"""The runner, item by item: order, parts, failures, retries, what user code may ask."""

from __future__ import annotations

import gc
import itertools
import math
import signal
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import codec
from toolkit.errors import InvalidInput, UnknownTask
from toolkit.execution import ItemContext, Part, Runner, States, Task, current_item, task
from toolkit.execution.parts import MAX_OUTPUT_BYTES
from toolkit.execution.runner import MAX_FAILURES
from toolkit.records import RunSpec, qualified_name


def spec(**fields: Any) -> RunSpec:
    return RunSpec("run-000001", "task", **fields)


def never(position: int) -> bool:
    return False


def runner(fn: Any, run: RunSpec | None = None, kwargs: dict[str, Any] | None = None, **options: Any) -> Runner:
    made = fn if isinstance(fn, Task) else task(fn)
    return Runner(made, run or spec(), kwargs or {}, states=States(), uniform=lambda: 0.0, **options)


def execute(fn: Any, items: Sequence[Any], run: RunSpec | None = None, **options: Any) -> list[Part]:
    """Every part of one batch, whose items are numbered from 100 and tried for the first time."""
    how = {"on_item": never, "progress_s": math.inf} | options
    return list(runner(fn, run).run(items, range(100, 100 + len(items)), 1, **how))


def only(parts: list[Part]) -> Part:
    assert len(parts) == 1
    assert parts[0].last
    return parts[0]


def results(parts: list[Part]) -> list[Any]:
    return [value for part in parts if part.output is not None for value in codec.decode_page(part.output)]


# --------------------------------------------------------------------------- how an item becomes a call


def test_every_item_is_called_once_and_in_order():
    seen: list[int] = []

    def note(item: int) -> int:
        seen.append(item)
        return item * 2

    part = only(execute(note, [3, 1, 2]))
    assert seen == [3, 1, 2]
    assert results([part]) == [6, 2, 4]
    assert (part.start, part.stop, part.n_ok, part.failures) == (0, 3, 3, ())
    assert not part.stopped
    assert not part.bisect


@pytest.mark.parametrize(
    ("call", "kwargs", "item", "expected"),
    [
        ("item", {}, (1, 2), [[1, 2], {}]),
        ("item", {"k": 3}, (1, 2), [[1, 2], {"k": 3}]),
        ("args", {}, (1, 2), [1, 2, {}]),
        ("args", {"k": 3}, (1, 2), [1, 2, {"k": 3}]),
        ("kwargs", {}, {"a": 1}, [{"a": 1}]),
        ("kwargs", {"k": 3}, {"a": 1}, [{"k": 3, "a": 1}]),
    ],
)
def test_an_item_becomes_arguments_as_the_run_says(call: str, kwargs: dict[str, Any], item: Any, expected: list[Any]):
    def fn(*args: Any, **keywords: Any) -> list[Any]:
        return [*(list(a) if isinstance(a, tuple) else a for a in args), keywords]

    parts = runner(fn, spec(call=call), kwargs).run([item], [0], 1, on_item=never)
    assert results(list(parts)) == [expected]


def test_an_item_that_does_not_fit_the_signature_fails_alone():
    part = only(execute(lambda a, b: a + b, [(1, 2), (1,), (3, 4)], spec(call="args")))
    assert results([part]) == [3, 7]
    assert [(f.position, f.category, f.error_type) for f in part.failures] == [(1, "fatal", "TypeError")]
    assert "runner.py" not in part.failures[0].traceback_text
    assert "calls.py" not in part.failures[0].traceback_text


def test_an_empty_batch_has_one_part():
    part = only(execute(lambda item: item, []))
    assert (part.start, part.stop, part.n_ok, part.output) == (0, 0, 0, None)


@pytest.mark.parametrize("items", [range(3), (0, 1, 2), [0, 1, 2]])
def test_any_sequence_will_do(items: Sequence[int]):
    assert results(execute(lambda item: item, items)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indexes": [0]}, "2 items, 1 indexes"),
        ({"attempts": [1]}, "one index and attempt"),
        ({"keys": ["a"]}, "2 items and 1 keys"),
    ],
)
def test_lengths_must_agree(options: dict[str, Any], message: str):
    arguments = {"indexes": [0, 1], "attempts": 1, "keys": None} | options
    with pytest.raises(InvalidInput, match=message):
        list(runner(lambda item: item).run([1, 2], **arguments, on_item=never))


def test_run_and_task_must_agree():
    with pytest.raises(InvalidInput, match="must be 'item', 'args' or 'kwargs'"):
        runner(len, spec(call="star"))
    with pytest.raises(InvalidInput, match="takes whole items"):
        runner(task(lambda item, state: item, setup=dict), spec(call="args"))
    with pytest.raises(UnknownTask, match=r"restart_workers"):
        runner(len, spec(batched=True))


# --------------------------------------------------------------------------- parts


def test_results_that_are_not_kept_are_counted():
    part = only(execute(lambda item: object(), [1, 2], spec(keep_results=False)))
    assert (part.n_ok, part.output, part.stats.output_bytes) == (2, None, 0)


def test_a_part_is_due_after_each_item_when_progress_is_wanted_at_once():
    parts = execute(lambda item: item, range(4), progress_s=0.0)
    assert [(p.start, p.stop, p.last) for p in parts] == [(0, 1, False), (1, 2, False), (2, 3, False), (3, 4, True)]
    assert results(parts) == [0, 1, 2, 3]


def test_parts_come_while_items_are_still_waiting():
    seen: list[int] = []

    def note(item: int) -> None:
        seen.append(item)

    parts = runner(note).run([1, 2, 3], range(3), 1, on_item=never, progress_s=0.0)
    next(parts)
    assert seen == [1]
    parts.close()
    assert seen == [1]


def test_large_output_comes_in_several_parts():
    size = MAX_OUTPUT_BYTES // 8
    parts = execute(lambda item: bytes([item]) * size, range(40), spec(max_result_bytes=1 << 24))
    assert len(parts) >= 5
    assert all(p.stats.output_bytes > 0 for p in parts)
    assert results(parts) == [bytes([i]) * size for i in range(40)]


def test_output_that_nobody_expected_to_be_large_is_cut_all_the_same():
    """Small results until the samples are far apart, then large ones between two samples."""
    size = 1 << 20

    def fn(item: int) -> bytes:
        if item == 900:
            raise ValueError(item)
        return bytes(size) if 850 < item < 950 else b"x"

    parts = execute(fn, range(2000))
    assert len(parts) > 8
    assert max(sum(map(len, results([p]))) for p in parts) <= 2 * MAX_OUTPUT_BYTES
    assert [len(r) for r in results(parts)] == [size if 850 < i < 950 else 1 for i in range(2000) if i != 900]
    assert [f.position for p in parts for f in p.failures] == [900]


@pytest.mark.parametrize("keep", [True, False])
def test_many_failures_make_a_part_due(keep: bool):
    parts = execute(lambda item: 1 / 0, range(1000), spec(keep_results=keep))
    assert max(len(p.failures) for p in parts) <= MAX_FAILURES
    assert sum(len(p.failures) for p in parts) == 1000


def test_stats_are_cumulative():
    parts = execute(lambda item: sum(range(1000)), range(5), progress_s=0.0)
    for earlier, later in itertools.pairwise(parts):
        assert later.stats.item_sum_s > earlier.stats.item_sum_s
        assert later.stats.output_bytes > earlier.stats.output_bytes
        assert later.stats.item_max_s >= earlier.stats.item_max_s
    final = parts[-1].stats
    assert final.item_max_s**2 <= final.item_sumsq_s2 <= final.item_sum_s**2
    assert final.item_sum_s == pytest.approx(final.service_s)


def test_item_times_add_up_and_leave_out_what_a_failure_costs_to_write_down(monkeypatch: pytest.MonkeyPatch):
    """With a clock that only user code and the description of an error move."""
    now = [0.0]

    def fn(item: float) -> None:
        now[0] += item
        if item == 4.0:
            raise Slow

    class Slow(Exception):
        def __str__(self) -> str:
            now[0] += 100.0
            return "slow"

    monkeypatch.setattr("toolkit.execution.runner.perf_counter", lambda: now[0])
    part = only(execute(fn, [1.0, 4.0, 2.0]))
    assert (part.stats.item_sum_s, part.stats.item_sumsq_s2, part.stats.item_max_s) == (7.0, 21.0, 4.0)


def test_a_part_is_due_by_the_clock(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]

    def fn(item: float) -> None:
        now[0] += item

    monkeypatch.setattr("toolkit.execution.runner.perf_counter", lambda: now[0])
    parts = execute(fn, [0.4, 0.4, 0.4, 5.0, 0.1, 0.1], progress_s=1.0)
    assert [(p.start, p.stop) for p in parts] == [(0, 3), (3, 4), (4, 6)]


# --------------------------------------------------------------------------- stopping


def test_a_batch_stops_before_the_item_it_is_told_to():
    seen: list[int] = []
    asked: list[int] = []

    def on_item(position: int) -> bool:
        asked.append(position)
        return position == 2

    def note(item: int) -> int:
        seen.append(item)
        return item

    part = only(execute(note, [7, 8, 9], on_item=on_item))
    assert (seen, asked) == ([7, 8], [0, 1, 2])
    assert (part.start, part.stop, part.n_ok, part.stopped, part.last) == (0, 2, 2, True, True)


def test_a_batch_stopped_at_once_has_an_empty_part():
    part = only(execute(lambda item: item, [1, 2], on_item=lambda position: True))
    assert (part.start, part.stop, part.n_ok, part.output, part.stopped) == (0, 0, 0, None, True)


@settings(deadline=None)
@given(
    # The first result can be stored: where none can, the batch ends early.
    kinds=st.lists(st.sampled_from(["ok", "fatal", "retry", "bad", "exit"]), max_size=40).map(
        lambda kinds: ["ok", *kinds]
    ),
    stop=st.integers(0, 60),
    progress=st.sampled_from([0.0, math.inf]),
    keep=st.booleans(),
)
def test_parts_cover_the_batch_once_and_in_order(kinds: list[str], stop: int, progress: float, keep: bool):
    def fn(item: tuple[int, str]) -> Any:
        number, kind = item
        if kind == "fatal":
            raise ValueError(number)
        if kind == "retry":
            raise ConnectionError(number)
        if kind == "exit":
            sys.exit(number)
        return object() if kind == "bad" else number

    run = spec(keep_results=keep, retry_names=("OSError",))
    parts = execute(fn, list(enumerate(kinds)), run, on_item=lambda position: position == stop, progress_s=progress)
    end = min(stop, len(kinds))
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
    assert parts[-1].stop == end
    assert [p.last for p in parts] == [False] * (len(parts) - 1) + [True]
    assert [p.stopped for p in parts] == [False] * (len(parts) - 1) + [stop < len(kinds)]
    bad = {"fatal": (False, "fatal"), "exit": (False, "fatal"), "retry": (True, "retryable")}
    bad |= {"bad": (False, "bad_payload")} if keep else {}
    failures = {f.position: (f.retry, f.category) for p in parts for f in p.failures}
    assert failures == {i: bad[kind] for i, kind in enumerate(kinds[:end]) if kind in bad}
    for part in parts:
        assert part.n_ok + len(part.failures) == part.stop - part.start
        assert all(part.start <= f.position < part.stop for f in part.failures)
        kept = len(codec.decode_page(part.output)) if part.output is not None else 0
        assert kept == (part.n_ok if keep else 0)
    expected = [i for i, kind in enumerate(kinds[:end]) if kind == "ok"]
    assert results(parts) == (expected if keep else [])


# --------------------------------------------------------------------------- failures


def fail_with(error: BaseException, attempt: int = 1, **fields: Any) -> Any:
    def fn(item: int) -> None:
        raise error

    parts = list(runner(fn, spec(**fields)).run([1], [0], [attempt], on_item=never))
    (failure,) = only(parts).failures
    return failure


class Special(ConnectionError):
    pass


RETRY = {"retry_names": ("OSError",), "max_attempts": 3, "backoff_s": 2.0, "jitter": 0.0}


@pytest.mark.parametrize(
    ("error", "attempt", "retry", "category", "delay_s"),
    [
        (OSError("x"), 1, True, "retryable", 2.0),
        (OSError("x"), 2, True, "retryable", 4.0),
        (OSError("x"), 3, False, "retryable", 0.0),
        (Special("a subclass counts"), 1, True, "retryable", 2.0),
        (ValueError("x"), 1, False, "fatal", 0.0),
        (MemoryError(), 1, False, "out_of_memory", 0.0),
        (SystemExit(3), 1, False, "fatal", 0.0),
        (GeneratorExit(), 1, False, "fatal", 0.0),
    ],
)
def test_errors_are_retried_or_not(error: BaseException, attempt: int, retry: bool, category: str, delay_s: float):
    failure = fail_with(error, attempt, **RETRY)
    assert (failure.retry, failure.category, failure.delay_s) == (retry, category, delay_s)


def test_memory_errors_are_retried_where_the_run_says_so():
    failure = fail_with(MemoryError(), retry_names=("MemoryError",))
    assert (failure.retry, failure.category) == (True, "out_of_memory")


def test_errors_are_named_by_their_module():
    assert fail_with(Special(), retry_names=(qualified_name(Special),)).retry
    assert not fail_with(Special(), retry_names=("Special",)).retry
    assert fail_with(Special(), retry_names=("Special",)).error_type == qualified_name(Special)


def test_an_error_may_be_named_where_it_is_exported():
    from importlib.metadata import PackageNotFoundError

    assert PackageNotFoundError.__module__ == "importlib.metadata"
    import json

    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    assert fail_with(raised.value, retry_names=("json.JSONDecodeError",)).retry
    assert fail_with(raised.value, retry_names=("json.decoder.JSONDecodeError",)).retry
    assert not fail_with(raised.value, retry_names=("json.JSONDecoder", "json", "no.such.Name", "")).retry


def test_jitter_shortens_the_delay():
    def fn(item: int) -> None:
        raise OSError

    run = spec(retry_names=("OSError",), backoff_s=8.0, jitter=0.5)
    made = Runner(task(fn), run, {}, uniform=lambda: 0.5)
    (part,) = made.run([1], [0], 1, on_item=never)
    assert part.failures[0].delay_s == 6.0


@pytest.mark.parametrize(
    ("asked", "delay_s"), [(7, 7.0), (0.25, 0.25), (None, 2.0), (-1, 0.0), (math.nan, 2.0), ("soon", 2.0)]
)
def test_an_exception_may_ask_for_another_attempt(asked: Any, delay_s: float):
    class Again(Exception):
        toolkit_retry_delay_s = asked

    for attempt in (1, 50):
        failure = fail_with(Again(), attempt, **RETRY | {"max_backoff_s": 2.0})
        assert (failure.retry, failure.category, failure.delay_s) == (True, "retryable", delay_s)


def test_each_item_has_its_own_attempt():
    def fn(item: int) -> None:
        raise OSError

    parts = runner(fn, spec(**RETRY)).run([1, 2, 3], range(3), [1, 3, 2], on_item=never)
    assert [f.retry for f in only(list(parts)).failures] == [True, False, True]


def test_what_a_failed_item_held_is_freed_at_once():
    """A traceback holds frames, and frames hold what may be most of the memory."""
    alive: list[Any] = []

    class Big:
        pass

    def fn(item: int) -> None:
        big = Big()
        alive.append(weakref.ref(big))
        raise ValueError

    gc.disable()
    try:
        list(runner(fn).run([1, 2], range(2), 1, on_item=lambda position: bool(alive) and alive[-1]() is not None))
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


def test_an_interrupt_comes_through():
    with pytest.raises(KeyboardInterrupt):
        fail_with(KeyboardInterrupt())


@pytest.mark.parametrize("where", ["item", "batch", "setup"])
def test_a_worker_is_not_interrupted_and_what_looks_so_is_a_failure(where: str):
    def interrupt(item: Any = None) -> Any:
        raise KeyboardInterrupt("mine")

    made = {
        "item": task(interrupt),
        "batch": task(interrupt, batched=True),
        "setup": task(lambda item, state: item, setup=interrupt),
    }[where]
    worker = runner(made, spec(batched=made.batched, **RETRY), interrupts=False)
    (failure,) = only(list(worker.run([1], range(1), 1, on_item=never))).failures
    assert (failure.retry, failure.category, failure.error_type) == (False, "fatal", "KeyboardInterrupt")
    assert "in interrupt" in failure.traceback_text


def end_process(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    sys.exit(0)


@pytest.mark.parametrize("cleanup_fails", [False, True])
def test_the_end_of_the_process_is_not_the_fault_of_an_item(cleanup_fails: bool):
    """A pool ends its workers by a signal whose handler raises SystemExit in the middle of an item."""

    def fn(item: int) -> None:
        try:
            signal.raise_signal(signal.SIGUSR2)
        finally:
            if cleanup_fails:
                raise OSError("the connection is closed already")

    before = signal.signal(signal.SIGUSR2, end_process)
    try:
        made = runner(fn)
        with pytest.raises(SystemExit):
            list(made.run([1], [0], 1, on_item=never))
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_results_that_cannot_be_stored_fail_alone():
    class Odd:
        pass

    def fn(item: int) -> Any:
        return {2: Odd(), 4: {"deep": [Odd()]}, 5: b"x" * 300}.get(item, item)

    part = only(execute(fn, range(7), spec(max_result_bytes=200)))
    assert results([part]) == [0, 1, 3, 6]
    assert [(f.position, f.category, f.retry) for f in part.failures] == [
        (2, "bad_payload", False),
        (4, "bad_payload", False),
        (5, "bad_payload", False),
    ]
    assert "Odd cannot be stored" in part.failures[0].message
    assert "['deep'][0]" in part.failures[1].message


def test_when_no_result_can_be_stored_nothing_is():
    part = only(execute(lambda item: object(), range(3)))
    assert (part.n_ok, part.output, len(part.failures)) == (0, None, 3)


def test_a_run_pauses_early_when_no_result_can_be_stored():
    seen: list[int] = []
    made = runner(lambda item: seen.append(item) or object())
    parts = [only(list(made.run([n, n + 1], range(2), 1, on_item=never))) for n in (0, 2)]
    assert not any(failure.pause for part in parts for failure in part.failures)
    last = only(list(made.run(range(4, 1000), range(996), 1, on_item=never, progress_s=math.inf)))
    assert seen == [0, 1, 2, 3, 4]
    assert (last.stopped, last.stop, [failure.pause for failure in last.failures]) == (True, 1, [True])


def test_a_run_some_of_whose_results_can_be_stored_goes_on():
    made = runner(lambda item: item if item == 3 else object())
    parts = list(made.run(range(100), range(100), 1, on_item=never, progress_s=math.inf))
    assert (parts[-1].stop, sum(part.n_ok for part in parts)) == (100, 1)
    assert not any(failure.pause for part in parts for failure in part.failures)


def test_what_is_said_of_a_result_speaks_of_returning():
    frame = pd.DataFrame({"a": [1]})
    failure = only(execute(lambda item: frame, [1])).failures[0]
    assert "store it and return a path, or return result.to_dict('records')" in failure.message


def test_failures_of_both_kinds_stay_in_order():
    def fn(item: int) -> Any:
        return object() if item % 3 == 1 else 1 // (item % 3)

    part = only(execute(fn, range(6)))
    assert [f.position for f in part.failures] == [0, 1, 3, 4]
    assert results([part]) == [0, 0]


# --------------------------------------------------------------------------- what user code may ask


def test_user_code_may_ask_which_item_it_is_on():
    seen: list[ItemContext | None] = []

    def fn(item: str) -> None:
        seen.append(current_item())

    list(runner(fn).run(["x", "y"], [40, 7], [1, 3], ["a", "b"], on_item=never))
    assert seen == [
        ItemContext("run-000001", 40, "a", 1, [40], ["a"]),
        ItemContext("run-000001", 7, "b", 3, [7], ["b"]),
    ]
    assert current_item() is None


def test_without_keys_there_are_none():
    def fn(item: str) -> list[Any]:
        item_now = current_item()
        assert item_now is not None
        return [item_now.index, item_now.key, item_now.keys]

    assert results(execute(fn, "xy")) == [[100, None, None], [101, None, None]]


def test_there_is_no_item_between_parts_and_in_the_hook():
    seen: list[ItemContext | None] = []

    def on_item(position: int) -> bool:
        seen.append(current_item())
        return False

    parts = runner(len).run(["x", "y"], [0, 1], 1, on_item=on_item, progress_s=0.0)
    seen += [current_item() for _ in parts]
    assert seen == [None] * 4


def test_a_run_inside_an_item_has_its_own_items():
    def inner(item: int) -> int:
        now = current_item()
        assert now is not None
        return now.index

    def outer(item: int) -> list[Any]:
        found = results(execute(inner, [1, 2]))
        now = current_item()
        assert now is not None
        return [found, now.index]

    (part,) = runner(outer).run([0], [5], 1, on_item=never)
    assert results([part]) == [[[100, 101], 5]]


# --------------------------------------------------------------------------- setup


def test_setup_runs_once_and_its_value_is_the_second_argument():
    calls: list[str] = []

    def load() -> dict[str, int]:
        calls.append("setup")
        assert current_item() is None
        return {"base": 10}

    made = runner(task(lambda item, state, more=0: item + state["base"] + more, setup=load), kwargs={"more": 100})
    for _ in range(3):
        assert results(list(made.run([1, 2], range(2), 1, on_item=never, progress_s=0.0))) == [111, 112]
    assert calls == ["setup"]


@pytest.mark.parametrize(("error", "retry"), [(OSError("no route"), True), (ImportError("no model"), False)])
def test_a_setup_that_fails_is_the_failure_of_every_item_and_is_tried_again(error: Exception, retry: bool):
    calls: list[int] = []
    asked: list[int] = []

    def load() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return "state"

    def on_item(position: int) -> bool:
        asked.append(position)
        return False

    made = runner(task(lambda item, state: state, setup=load), spec(**RETRY))
    part = only(list(made.run([1, 2], range(2), [1, 1], on_item=on_item)))
    assert asked == []
    assert [(f.retry, f.message) for f in part.failures] == [(retry, f"setup failed: {error}")] * 2
    assert "in load" in part.failures[0].traceback_text
    assert "states.py" not in part.failures[0].traceback_text
    assert results(list(made.run([1, 2], range(2), 1, on_item=never))) == ["state", "state"]


def test_an_interrupt_during_setup_comes_through():
    def load() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(task(lambda item, state: item, setup=load), [1])


# --------------------------------------------------------------------------- a bare loop


def test_the_plain_case_calls_the_function_itself():
    """No wrapper stands between the loop and a function without kwargs, setup and arguments: it would cost."""

    def caller(item: int) -> str:
        return sys._getframe(1).f_code.co_name

    assert results(execute(caller, [1])) == ["_loop"]
