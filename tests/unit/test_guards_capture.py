"""Capture: the tail of what an item printed and logged, and streams that are always put back."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from toolkit.execution import Part, Runner, Slot, task
from toolkit.guards import Capture
from toolkit.guards.capture import TAIL_CHARS
from toolkit.records import RunSpec

logger = logging.getLogger("tests.capture")


@contextlib.contextmanager
def terminal() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Streams that stand for the terminal, and the promise that they are back at the end.

    No fixture, because pytest sets the streams itself between setting up a test and calling it.
    """
    streams, before = (io.StringIO(), io.StringIO()), (sys.stdout, sys.stderr)
    factory = logging.getLogRecordFactory()
    sys.stdout, sys.stderr = streams
    try:
        yield streams
        found = (sys.stdout, sys.stderr)
    finally:
        sys.stdout, sys.stderr = before
    assert found == streams
    assert logging.getLogRecordFactory() == factory


def run(
    fn: Any, items: Sequence[Any], *, passthrough: bool = False, batched: bool = False, **options: Any
) -> list[Part]:
    spec = RunSpec("run-000001", "task", batched=batched)
    made = Runner(task(fn, batched=batched, **options), spec, {}, guards=[Capture(passthrough)])
    return list(made.run(items, range(len(items)), 1, on_item=lambda position: False))


def logs(parts: list[Part]) -> list[str]:
    return [f.logs for part in parts for f in part.failures]


def test_a_failed_item_brings_what_it_printed():
    with terminal() as streams:

        def fn(item: int) -> None:
            print("page", item)
            print("warning", item, file=sys.stderr)
            sys.stdout.writelines(["a", "b\n"])
            if item % 2:
                raise ValueError

        parts = run(fn, range(4))
        assert logs(parts) == ["page 1\nwarning 1\nab\n", "page 3\nwarning 3\nab\n"]
        assert [s.getvalue() for s in streams] == ["", ""]


def test_nothing_of_an_item_is_told_of_the_next():
    with terminal():

        def fn(item: int) -> None:
            if item == 0:
                print("printed by 0")
            else:
                raise ValueError

        assert logs(run(fn, range(2))) == [""]
        assert logs(run(fn, [0])) == []
        assert logs(run(fn, [1])) == [""]


def test_a_batch_does_not_inherit_from_the_one_before():
    with terminal():

        def fn(item: int) -> None:
            if item == 0:
                print("printed by 0")
            raise ValueError

        made = Runner(task(fn), RunSpec("run-000001", "task"), {}, guards=[Capture(passthrough=False)])
        found = [logs(list(made.run([i], [i], 1, on_item=lambda position: False))) for i in (0, 1)]
        assert found == [["printed by 0\n"], [""]]


def test_inline_runs_still_show_what_is_printed():
    with terminal() as streams:

        def fn(item: int) -> None:
            print("out", item)
            print("err", item, file=sys.stderr, flush=True)
            raise ValueError

        assert logs(run(fn, [1], passthrough=True)) == ["out 1\nerr 1\n"]
        assert [s.getvalue() for s in streams] == ["out 1\n", "err 1\n"]


def test_a_bounded_tail_is_kept():
    with terminal():

        def fn(item: int) -> None:
            for i in range(20_000):
                print("line", i)
            if item:
                print("x" * 1_000_000, end="END")
            raise ValueError

        first, second = logs(run(fn, [0, 1]))
        assert first.endswith("line 19998\nline 19999\n")
        assert len(first) == TAIL_CHARS
        assert second.endswith("xxxEND")
        assert len(second) == TAIL_CHARS


def test_what_is_kept_meanwhile_is_bounded_too():
    capture = Capture(passthrough=False)
    slot = Slot("run-000001", [0], 1, None, False)
    capture.enter(slot)
    try:
        for _ in range(50_000):
            capture.add("x")
            assert len(capture._chunks) <= TAIL_CHARS + 1
        for _ in range(50):
            capture.add("y" * 10_000)
            assert sum(map(len, capture._chunks)) <= 5 * TAIL_CHARS
    finally:
        capture.leave()


# --------------------------------------------------------------------------- logging


def test_log_records_are_kept_once():
    with terminal():

        def fn(item: int) -> None:
            logger.warning("odd page %d", item)
            handler = logging.StreamHandler()  # prints to the present sys.stderr
            logger.addHandler(handler)
            logger.error("bad page %d", item)
            logger.removeHandler(handler)
            raise ValueError

        assert logs(run(fn, [7])) == ["WARNING tests.capture: odd page 7\nERROR tests.capture: bad page 7\n"]


def test_loggers_that_do_not_propagate_are_heard(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logger, "propagate", False)

    def fn(item: int) -> None:
        logger.warning("heard")
        logger.debug("not enabled")
        raise ValueError

    assert logs(run(fn, [1])) == ["WARNING tests.capture: heard\n"]


def test_handlers_of_last_resort_still_speak_inline(monkeypatch: pytest.MonkeyPatch):
    with terminal() as streams:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])

        def fn(item: int) -> None:
            logger.warning("odd")

        run(fn, [1], passthrough=True)
        assert streams[1].getvalue() == "odd\n"


def test_exceptions_that_are_logged_bring_their_traceback():
    def fn(item: int) -> None:
        try:
            item // 0
        except ZeroDivisionError:
            logger.exception("failed")
        raise ValueError

    (text,) = logs(run(fn, [1]))
    assert text.startswith("ERROR tests.capture: failed\nTraceback")
    assert text.endswith("ZeroDivisionError: integer division or modulo by zero\n")


def test_wrong_format_strings_and_empty_records_do_no_harm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def fn(item: int) -> None:
        logger.warning("%d pages", "many")
        logging.makeLogRecord({"msg": "from elsewhere"})
        raise ValueError

    assert logs(run(fn, [1])) == ["WARNING tests.capture: '%d pages'\n"]


def test_a_record_factory_set_by_user_code_survives():
    before = logging.getLogRecordFactory()
    made: list[str] = []

    def fn(item: int) -> None:
        inner = logging.getLogRecordFactory()

        def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
            made.append(args[0])
            return inner(*args, **kwargs)

        if item == 0:
            logging.setLogRecordFactory(factory)
        logger.warning("heard")
        raise ValueError

    try:
        for item in (0, 1, 2):
            assert logs(run(fn, [item])) == ["WARNING tests.capture: heard\n"]
        logger.warning("outside")
        assert made == ["tests.capture"] * 4
    finally:
        logging.setLogRecordFactory(before)
        from toolkit.guards import capture

        capture._switchboard._hooked = False


# --------------------------------------------------------------------------- streams are put back


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_streams_are_put_back_whatever_happens(error: type[BaseException]):
    with terminal():

        def fn(item: int) -> None:
            raise error

        with contextlib.suppress(KeyboardInterrupt):
            run(fn, [1])


def test_streams_are_put_back_when_user_code_replaces_them():
    with terminal():

        def fn(item: int) -> None:
            sys.stdout = io.StringIO()

        run(fn, [1])


def test_streams_are_put_back_between_parts_and_when_the_rest_is_not_wanted():
    with terminal() as streams:
        made = Runner(task(print), RunSpec("run-000001", "task"), {}, guards=[Capture(passthrough=False)])
        parts = made.run([1, 2, 3], range(3), 1, on_item=lambda position: False, progress_s=0.0)
        next(parts)
        assert sys.stdout is streams[0]
        print("between")
        parts.close()
        assert streams[0].getvalue() == "between\n"


def test_a_stream_kept_by_user_code_goes_on_working():
    with terminal() as streams:
        kept: list[Any] = []

        def fn(item: int) -> None:
            kept.append(sys.stdout)
            kept[0].write("kept ")
            raise ValueError

        assert logs(run(fn, [1, 2])) == ["kept ", "kept "]
        kept[0].write("afterwards")
        kept[0].flush()
        assert streams[0].getvalue() == "afterwards"
        sys.stdout = kept[0]
        assert logs(run(fn, [3], passthrough=True)) == ["kept "]
        sys.stdout = streams[0]


def test_a_missing_stream_stays_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", None)

    def fn(item: int) -> None:
        print("to nowhere", flush=True)
        raise ValueError

    assert logs(run(fn, [1])) == ["to nowhere\n"]
    assert sys.stdout is None


def test_the_stream_is_asked_what_the_guard_does_not_know():
    with terminal():

        def fn(item: int) -> list[Any]:
            with pytest.raises(TypeError):
                sys.stdout.write(b"bytes")
            with pytest.raises(AttributeError):
                _ = sys.stdout.no_such_thing
            return [sys.stdout.isatty(), sys.stdout.writable(), sys.stdout.write("four")]

        parts = run(fn, [1])
        assert parts[0].n_ok == 1


# --------------------------------------------------------------------------- who prints


def test_a_thread_of_user_code_prints_for_its_item():
    with terminal():

        def fn(item: int) -> None:
            thread = threading.Thread(target=print, args=("from a thread",))
            thread.start()
            thread.join()
            raise ValueError

        assert logs(run(fn, [1])) == ["from a thread\n"]


def test_two_batches_in_two_threads_do_not_mix():
    """Both captures are active before either prints, and the first to begin is the first to end."""
    with terminal():
        barrier = threading.Barrier(2)
        first_ended = threading.Event()
        found: dict[str, list[str]] = {}

        def work(name: str) -> None:
            def fn(item: int) -> None:
                barrier.wait(10)
                print("printed by", name)
                barrier.wait(10)
                if name == "second":
                    first_ended.wait(10)
                    print("and still there")
                raise ValueError

            found[name] = logs(run(fn, [1]))
            if name == "first":
                first_ended.set()

        threads = [threading.Thread(target=work, args=(name,)) for name in ("first", "second")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {"first": ["printed by first\n"], "second": ["printed by second\nand still there\n"]}


def test_a_thread_that_executes_no_batch_prints_as_ever_while_others_do():
    with terminal():

        def inner(item: int) -> None:
            print("inner")
            raise ValueError

        def outer(item: int) -> None:
            print("outer")
            nested = run(inner, [1])
            assert logs(nested) == ["inner\n"]
            raise ValueError

        assert logs(run(outer, [1])) == ["outer\n"]


# --------------------------------------------------------------------------- other calls


def test_a_batched_call_and_a_setup_bring_their_output():
    with terminal():

        def fn(items: list[int]) -> list[int]:
            print("loading", len(items))
            raise OSError

        (part,) = run(fn, [1, 2], batched=True)
        assert part.cause is not None
        assert part.cause.logs == "loading 2\n"

        def setup() -> None:
            print("connecting")
            raise OSError

        assert logs(run(lambda item, state: item, [1, 2], setup=setup)) == ["connecting\n"] * 2
