"""Limits as moments, the interrupt in a process, the kill from outside; real signals and real processes."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import TimeLimitExceeded
from toolkit.execution import Runner, Slot, Task
from toolkit.execution.calls import limited
from toolkit.guards import Capture
from toolkit.records import RunSpec
from toolkit.transport.limits import INTERRUPT, KILL_AFTER_S, Interrupter, Limits, OutOfMemory, Warden, place
from toolkit.transport.marker import Marker, Work
from toolkit.transport.neighbours import alive

RUN, CLAIM = "run-limits", b"c" * 16
BATCH_SINCE, ITEM_SINCE = 100.0, 103.0


def work(**values: Any) -> Work:
    made = Work(
        slot=0, pid=1, run_id=RUN, claim_id=CLAIM, asked=CLAIM, position=0, item_since=ITEM_SINCE,
        batch_since=BATCH_SINCE, armed=True,
    )  # fmt: skip
    return replace(made, **values)


def fork() -> int:
    """As a pool does it; other threads of the test process do not matter to what the child does here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


# --------------------------------------------------------------------------- moments


@pytest.mark.parametrize(
    ("limits", "stop", "interrupt"),
    [
        (Limits(2.0, None, False), math.inf, ITEM_SINCE + 2),
        (Limits(None, 5.0, False), BATCH_SINCE + 5, BATCH_SINCE + 6),
        (Limits(9.0, 5.0, False), BATCH_SINCE + 5, ITEM_SINCE + 9),
        (Limits(None, 5.0, True), math.inf, ITEM_SINCE + 5),
        (Limits(None, None, True), math.inf, math.inf),
        (Limits(None, None, False), math.inf, math.inf),
    ],
)
def test_when_a_worker_is_stopped_and_interrupted(limits: Limits, stop: float, interrupt: float) -> None:
    assert (limits.stop_at(work()), limits.interrupt_at(work())) == (stop, interrupt)


def test_setup_and_commits_are_nobodys_time() -> None:
    for limits in (Limits(1.0, 1.0, False), Limits(None, 1.0, True)):
        assert limits.interrupt_at(work(item_since=0.0)) == math.inf
    assert Limits(1.0, 1.0, False).stop_at(work(position=-1)) == math.inf


def test_a_run_without_limits_has_none() -> None:
    spec = RunSpec(RUN, "t")
    assert Limits.of(spec) is None
    assert Limits.of(replace(spec, batch_time_limit_s=2.0, batched=True)) == Limits(None, 2.0, True)


# --------------------------------------------------------------------------- what a worker notes


def test_the_marker_tells_when_user_code_runs() -> None:
    marker = Marker()
    marker.ask(3, RUN, CLAIM)
    (asking,) = marker.works()
    assert (asking.claim_id, asking.asked, asking.run_id) == (b"", CLAIM, RUN)
    marker.begin(3, RUN, CLAIM, -1)
    assert (marker.works()[0].position, marker.works()[0].item_since) == (-1, 0.0)
    marker.stepper(3, 10)(2)
    (busy,) = marker.works()
    assert (busy.position, busy.claim_id, busy.armed) == (12, CLAIM, False)
    assert busy.batch_since <= busy.item_since <= time.perf_counter()
    marker.ask(3, RUN, b"n" * 16)
    marker.arm(3)
    marker.rest(3)
    (resting,) = marker.works()
    assert (resting.claim_id, resting.asked) == (CLAIM, b"n" * 16)
    assert (resting.position, resting.item_since, resting.armed) == (12, 0.0, True)
    assert not resting.same_item(busy)


def test_a_batched_call_blames_no_item_and_is_never_stopped() -> None:
    marker = Marker()
    marker.begin(0, RUN, CLAIM, -1)
    marker.stop(0, CLAIM)
    assert marker.stepper(0, 0)(0) is True
    assert marker.stepper(0, None)(0) is False
    assert marker.works()[0].position == -1
    assert marker.works()[0].item_since > 0


# --------------------------------------------------------------------------- the interrupt


@pytest.fixture
def armed() -> Iterator[tuple[Marker, Interrupter]]:
    """Make this process a worker that executes an item without end, and can be interrupted."""
    before = signal.getsignal(INTERRUPT)
    marker = Marker()
    interrupter = Interrupter(marker)
    interrupter.serve(0, Limits(1e-9, None, False))
    marker.begin(0, RUN, CLAIM, -1)
    marker.stepper(0, 0)(5)
    yield marker, interrupter
    signal.signal(INTERRUPT, before)


def poke(times: int = 1) -> None:
    """Signal this process, and let Python run its handlers."""
    for _ in range(times):
        os.kill(os.getpid(), INTERRUPT)
        time.sleep(0)


def test_user_code_over_time_is_interrupted_once(armed: tuple[Marker, Interrupter]) -> None:
    def user(x: int) -> str:
        try:
            poke()
        except TimeLimitExceeded as error:
            poke(3)  # it cleans up
            return str(error)
        return "not interrupted"

    assert limited(user)(1) == "the item ran for longer than item_time_limit_s=1e-09"
    armed[0].stepper(0, 0)(6)
    assert limited(user)(1).startswith("the item ran")


def test_nothing_but_user_code_is_interrupted(armed: tuple[Marker, Interrupter]) -> None:
    marker, interrupter = armed
    poke(3)  # above the frame of user code: commits, the ledger, the marker
    marker.rest(0)
    limited(lambda _: poke())(1)
    marker.end(0)
    limited(lambda _: poke())(1)
    marker.begin(0, RUN, CLAIM, -1)
    limited(lambda _: poke())(1)
    marker.stepper(0, 0)(7)
    interrupter.serve(0, Limits(60.0, None, False))
    limited(lambda _: poke())(1)
    interrupter.serve(0, None)
    limited(lambda _: poke())(1)
    interrupter.serve(0, Limits(1e-9, None, False))
    with pytest.raises(TimeLimitExceeded):
        limited(lambda _: poke())(1)


def test_a_print_in_progress_is_not_interrupted(armed: tuple[Marker, Interrupter]) -> None:
    class Text(str):
        __slots__ = ()

        def __getitem__(self, key: Any) -> str:
            poke()
            return str.__getitem__(self, key)

    capture = Capture(passthrough=False)
    capture.enter(Slot(RUN, range(1), 1, None, False))
    try:
        limited(lambda _: capture.add(Text("x")))(1)
    finally:
        capture.leave()
    del armed


def test_the_runner_makes_an_interrupt_the_items_failure(armed: tuple[Marker, Interrupter]) -> None:
    marker, _ = armed
    spec = RunSpec(RUN, "t", item_time_limit_s=1e-9, max_attempts=1)
    rests = []

    def fn(x: int) -> int:
        if x == 1:
            poke()
        return x

    runner = Runner(Task(fn), spec, {})
    step = marker.stepper(0, 0)
    (part,) = runner.run([0, 1, 2], range(3), 1, on_item=step, on_rest=lambda: rests.append(marker.rest(0)))
    assert (part.n_ok, [(f.position, f.category) for f in part.failures]) == (2, [(1, "timeout")])
    assert rests == [None]
    assert marker.works()[0].item_since == 0.0


@pytest.mark.parametrize(("n", "bisect"), [(4, True), (1, False)])
def test_a_batched_call_over_time_is_halved_until_its_item_is_alone(n: int, bisect: bool) -> None:
    def fn(items: list[int]) -> list[int]:
        raise TimeLimitExceeded

    spec = RunSpec(RUN, "t", batched=True, batch_time_limit_s=1.0, retry_names=("OSError",))
    (part,) = Runner(Task(fn, batched=True), spec, {}).run(list(range(n)), range(n), 1, on_item=lambda _: False)
    assert part.bisect is bisect
    assert [f.retry for f in part.failures] == ([] if bisect else [True])


def test_without_limits_nothing_stands_around_user_code() -> None:
    def callers(spec: RunSpec) -> list[str]:
        found: list[str] = []

        def note(x: int) -> None:
            found.append(sys._getframe(1).f_code.co_name)

        list(Runner(Task(note), spec, {}).run([0], range(1), 1, on_item=lambda _: False))
        return found

    assert callers(RunSpec(RUN, "t")) == ["_loop"]
    assert callers(RunSpec(RUN, "t", item_time_limit_s=1.0)) == ["user_code"]


# --------------------------------------------------------------------------- the kill


@pytest.fixture
def child() -> Iterator[Callable[[Marker], int]]:
    """Start processes that note an item in slot 0 and never end it; all are gone afterwards."""
    pids = []

    def start(marker: Marker) -> int:
        pid = fork()
        if pid == 0:
            try:
                signal.pthread_sigmask(signal.SIG_BLOCK, {INTERRUPT})
                marker.begin(0, RUN, CLAIM, -1)
                marker.arm(0)
                marker.stepper(0, 0)(4)
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
        while not marker.works() or marker.works()[0].position != 4:
            time.sleep(0.001)
        return pid

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_worker_is_killed_when_the_interrupt_did_not_help(child: Callable[[Marker], int]) -> None:
    marker, now = Marker(), [0.0]
    pid = child(marker)
    (seen,) = marker.works()
    warden, limits = Warden(marker, lambda: now[0]), Limits(2.0, None, False)
    now[0] = seen.item_since + 1.9
    warden.keep(seen, limits)
    now[0] += 0.2
    warden.keep(seen, limits)
    now[0] += KILL_AFTER_S - 0.01
    warden.keep(seen, limits)
    assert alive(pid)
    assert warden.why(seen) == ""
    now[0] += 0.02
    warden.keep(seen, limits)
    while alive(pid):
        time.sleep(0.001)
    assert not alive(pid)  # though nobody waited for it yet
    assert warden.why(marker.works()[0]) == "timeout"
    warden.forget(seen)
    assert warden.why(seen) == ""


def test_a_worker_that_moved_on_is_neither_killed_nor_blamed(child: Callable[[Marker], int]) -> None:
    marker, now = Marker(), [1e9]
    pid = child(marker)
    (seen,) = marker.works()
    warden, limits = Warden(marker, lambda: now[0]), Limits(2.0, None, False)
    earlier = replace(seen, position=3)
    warden.keep(earlier, limits)
    now[0] += 2 * KILL_AFTER_S
    warden.keep(earlier, limits)
    assert alive(pid)
    now[0] += 10  # the next item is over time as well, but was never interrupted
    warden.keep(seen, limits)
    assert warden.why(seen) == ""  # and not killed: a process that was may look alive for a moment
    assert alive(pid)
    warden.kill(seen, "timeout")
    while alive(pid):
        time.sleep(0.001)
    assert warden.why(replace(seen, position=5)) == "nobody"


def test_a_terminated_worker_is_not_to_blame(child: Callable[[Marker], int]) -> None:
    marker = Marker()
    child(marker)
    (seen,) = marker.works()
    warden = Warden(marker)
    warden.kill(replace(seen, claim_id=b"other"), "terminate")
    assert warden.why(seen) == ""
    warden.kill(replace(seen, position=1), "terminate")
    assert warden.why(seen) == "nobody"


def test_a_thread_is_not_killed(caplog: pytest.LogCaptureFixture) -> None:
    marker = Marker()
    marker.begin(0, RUN, CLAIM, -1)
    warden = Warden(marker)
    for _ in range(3):
        warden.kill(marker.works()[0], "terminate")
    assert caplog.text.count("cannot be killed") == 1


# --------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/a/b\n", "a/b/memory.events"),
        ("0::/not/mounted/here\n", "memory.events"),
        ("5:cpu,cpuacct:/\n4:memory:/a\n0::/\n", "memory/a/memory.oom_control"),
        ("4:memory:/not/mounted/here\n", "memory/memory.oom_control"),
    ],
)
def test_a_kill_for_want_of_memory_is_noticed(tmp_path: Path, groups: str, file: str) -> None:
    (tmp_path / "cgroup").write_text(groups)
    counter = tmp_path / "root" / file
    counter.parent.mkdir(parents=True)
    counter.write_text("low 0\noom 7\noom_kill 2\n")
    memory = OutOfMemory(tmp_path / "cgroup", tmp_path / "root")
    memory.look()
    memory.look()
    assert not memory.lately
    counter.write_text("low 0\noom 7\noom_kill 3\n")
    memory.look()
    assert memory.lately
    for _ in range(5):
        memory.look()
    assert not memory.lately


def test_no_control_group_is_no_error(tmp_path: Path) -> None:
    memory = OutOfMemory(tmp_path / "cgroup", tmp_path)
    memory.look()
    assert not memory.lately


def test_a_place_is_the_same_for_all_processes_of_it() -> None:
    read, write = os.pipe()
    pid = fork()
    if pid == 0:
        os.write(write, place().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() == place()
    assert not place() or len(place()) == 16
