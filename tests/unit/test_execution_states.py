"""What setup functions returned: made once, and not kept for ever."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from typing import Any

import cloudpickle
import pytest

from toolkit.execution import States, dump_function, load_function, task
from toolkit.execution.states import VERSIONS_KEPT

KEY = b"k" * 32
RUN = "run-000001"


class State:
    """Something that can be watched going away."""


def with_setup(setup: Any) -> Any:
    return task(lambda item, state: item, setup=setup, name="task")


def test_a_task_without_setup_has_no_state():
    assert States().get(task(len)) is None


def test_a_setup_is_called_once_a_task():
    states = States()
    first, second = with_setup(State), with_setup(State)
    assert states.get(first) is states.get(first)
    assert states.get(first) is not states.get(second)


def test_a_state_of_none_is_kept_too():
    calls: list[int] = []
    states, made = States(), with_setup(lambda: calls.append(1))
    assert states.get(made) is states.get(made) is None
    assert calls == [1]


def test_a_failed_setup_is_called_again():
    calls: list[int] = []

    def setup() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise OSError
        return "ready"

    states, made = States(), with_setup(setup)
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - it has no text
            states.get(made)
    assert states.get(made) == "ready"


def test_a_state_goes_with_its_task():
    states, made = States(), with_setup(State)
    state = weakref.ref(states.get(made))
    assert state() is not None
    del made
    gc.collect()
    assert state() is None


def test_a_state_that_refers_to_its_task_goes_with_it_too():
    """As an object of a class of the task's module does."""
    states, cell = States(), []

    def setup() -> State:
        state = State()
        vars(state)["task"] = cell[0]
        return state

    cell.append(with_setup(setup))
    state = weakref.ref(states.get(cell[0]))
    cell.clear()
    gc.collect()
    assert state() is None


def test_two_versions_of_a_modules_task_take_turns_and_older_ones_go():
    states, versions = States(), [with_setup(State) for _ in range(3)]
    first, second = states.get(versions[0]), states.get(versions[1])
    for _ in range(3):
        assert states.get(versions[1]) is second
        assert states.get(versions[0]) is first
    third = states.get(versions[2])
    assert states.get(versions[0]) is first  # used last, so the second one went
    assert states.get(versions[2]) is third
    assert states.get(versions[1]) is not second


def test_what_a_setup_returned_is_not_shipped_with_its_task():
    made = with_setup(threading.Lock)
    with States().get(made):
        copied = cloudpickle.loads(cloudpickle.dumps(made))
    assert States().get(copied).acquire(blocking=False)


def ship(n: int) -> Any:
    """The same cell, submitted again, or with another value behind it."""

    def setup() -> list[int]:
        return [n]

    return load_function(dump_function(task(lambda item, state: item, setup=setup, name="cell"), RUN, KEY), RUN, KEY)


def test_a_function_shipped_twice_is_set_up_once():
    states = States()
    blob = dump_function(task(lambda item, state: item, setup=lambda: [1], name="cell"), RUN, KEY)
    assert states.get(load_function(blob, RUN, KEY)) is states.get(load_function(blob, RUN, KEY))


def test_another_captured_value_is_another_version():
    states = States()
    assert [states.get(ship(n)) for n in (1, 2)] == [[1], [2]]


def test_two_versions_take_turns_and_older_ones_go():
    states = States()
    versions = [ship(n) for n in range(4)]
    first, second = states.get(versions[0]), states.get(versions[1])
    for _ in range(3):
        assert states.get(versions[1]) is second
        assert states.get(versions[0]) is first
    third = states.get(versions[2])
    assert states.get(versions[0]) is first  # used last, so the second one went
    assert states.get(versions[2]) is third
    assert states.get(versions[1]) is not second
    assert VERSIONS_KEPT == 2


def test_a_setup_may_use_another_task_with_a_setup():
    states = States()
    inner = with_setup(lambda: 1)
    assert states.get(with_setup(lambda: states.get(inner) + 1)) == 2


def test_threads_wait_for_one_setup():
    calls: list[int] = []
    states, made = States(), with_setup(lambda: calls.append(1))
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        states.get(made)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_a_fork_makes_its_own_states():
    states, made = States(), with_setup(os.getpid)
    assert states.get(made) == os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, b"%d %d" % (states.get(made), os.getpid()))
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        found = pipe.read().split()
    assert found == [str(pid), str(pid)]
    assert states.get(made) == os.getpid()
