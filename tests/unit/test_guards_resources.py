"""Guards in general, and the one that measures the process."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from toolkit.execution import Guard, Part, Runner, Slot, task
from toolkit.guards import GUARDS, Capture, Resources, default_guards, resources
from toolkit.records import RunSpec

SPEC = RunSpec("run-000001", "task")
SLOT = Slot("run-000001", [0], 1, None, False)


def run(fn: Any, guards: list[Any], n: int = 3, **options: Any) -> list[Part]:
    how = {"on_item": lambda position: False} | options
    return list(Runner(task(fn), SPEC, {}, guards=guards).run(range(n), range(n), 1, **how))


class Recorder(Guard):
    """Writes down when it is called."""

    def __init__(self, name: str, story: list[str], fails_in: str = "", error: type[Exception] = ValueError) -> None:
        self.name, self.story, self.fails_in, self.error = name, story, fails_in, error

    def _tell(self, what: str) -> None:
        self.story.append(f"{self.name} {what}")
        if what == self.fails_in:
            raise self.error(self.name)

    def enter(self, slot: Slot) -> None:
        self._tell("enters")

    def leave(self) -> Mapping[str, float]:
        self._tell("leaves")
        return {"cpu_user_s": 1.0, "peak_rss_kib": 7, "of_a_later_version": 3.0}

    def logs(self) -> str:
        self._tell("is asked")
        return f"[{self.name}]"


def test_guards_enclose_user_code_in_their_order_and_once_a_part():
    story: list[str] = []
    parts = run(lambda item: story.append("item"), [Recorder("a", story), Recorder("b", story)], progress_s=0.0)
    assert story == ["a enters", "b enters", "item", "b leaves", "a leaves"] * 3
    assert parts[-1].stats.cpu_user_s == 6.0
    assert parts[-1].stats.peak_rss_kib == 7


def test_logs_of_all_guards_come_with_a_failure():
    story: list[str] = []
    (part,) = run(lambda item: 1 / 0, [Recorder("a", story), Recorder("b", story)], 1)
    assert part.failures[0].logs == "[a][b]"


@pytest.mark.parametrize("fails_in", ["enters", "leaves", "is asked"])
def test_a_broken_guard_is_logged_once_and_left_out(fails_in: str, caplog: pytest.LogCaptureFixture):
    story: list[str] = []
    guards = [Recorder("broken", story, fails_in), Recorder("sound", story)]
    made = Runner(task(lambda item: 1 / item), SPEC, {}, guards=guards)
    with caplog.at_level(logging.ERROR, "toolkit.execution"):
        for _ in range(3):
            (part,) = made.run([0, 1], range(2), 1, on_item=lambda position: False)
            assert (part.n_ok, len(part.failures)) == (1, 1)
            assert part.failures[0].logs.endswith("[sound]")
            assert part.stats.cpu_user_s >= 1.0
    assert len(caplog.records) == 1
    assert "Recorder" in caplog.text
    assert "run-000001" in caplog.text
    assert "ValueError: broken" in caplog.text
    assert story.count(f"broken {fails_in}") == 1
    assert story.count("sound enters") == story.count("sound leaves") == 3


def test_every_guard_is_in_the_list_and_fits_the_shape():
    made = default_guards(SPEC, passthrough=False)
    assert [type(guard) for guard in made] == list(GUARDS) == [Capture, Resources]
    for guard in made:
        guard.enter(SLOT)
        assert guard.logs() == ""
    for guard in reversed(made):
        assert all(isinstance(v, int | float) for v in guard.leave().values())


def test_guards_of_two_runs_share_nothing():
    first, second = default_guards(SPEC, passthrough=True), default_guards(SPEC, passthrough=True)
    assert not {id(g) for g in first} & {id(g) for g in second}


# --------------------------------------------------------------------------- resources


def test_processor_time_and_peak_are_those_of_the_process():
    before = resource.getrusage(resource.RUSAGE_SELF)
    parts = run(lambda item: sum(range(300_000)), [Resources(reset_peak=False)], progress_s=0.0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    stats = parts[-1].stats
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0 < stats.cpu_user_s + stats.cpu_system_s <= used
    assert stats.peak_rss_kib > 1000
    assert [p.stats.cpu_user_s for p in parts] == sorted(p.stats.cpu_user_s for p in parts)


def test_memory_is_counted_in_kib_everywhere(monkeypatch: pytest.MonkeyPatch):
    class Usage:
        ru_utime = ru_stime = 0.0
        ru_maxrss = 2048 * 1024

    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    found = {}
    for platform in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        guard = Resources(reset_peak=False)
        guard.enter(SLOT)
        found[platform] = guard.leave()["peak_rss_kib"]
    assert found == {"linux": 2048 * 1024, "darwin": 2048}


def may_reset() -> bool:
    return sys.platform == "linux" and resources._reset_peak()


@pytest.mark.skipif(not may_reset(), reason="this system does not let a process reset its peak")
def test_the_peak_of_a_batch_is_its_own():
    """A batch that needed 64 MiB does not make the next one look as if it had."""
    guard = Resources(reset_peak=True)

    def peak(n_bytes: int) -> int:
        (part,) = run(lambda item: len(bytearray(b"x") * n_bytes), [guard], 1)
        return part.stats.peak_rss_kib

    large, small = peak(64 << 20), peak(1)
    assert large - small > 32 * 1024


def test_the_peak_is_reset_once_a_batch_and_not_in_a_process_of_the_user(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(resources, "_reset_peak", lambda: bool(calls.append(1)) or len(calls) < 3)
    spec = RunSpec("run-000001", "task")
    run(len, [Resources.for_run(spec, passthrough=True)], progress_s=0.0)
    assert calls == []
    guard = Resources.for_run(spec, passthrough=False)
    for expected in (1, 2, 3, 3):  # refused the third time, so not asked again
        run(lambda item: item, [guard], progress_s=0.0)
        assert len(calls) == expected
    monkeypatch.undo()


def test_where_the_peak_cannot_be_reset_nothing_breaks(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any) -> int:
        raise PermissionError

    monkeypatch.setattr(resources.os, "open", refuse)
    assert resources._reset_peak() is False
