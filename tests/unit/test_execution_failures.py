"""Errors as text, however broken they are."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import TimeLimitExceeded
from toolkit.execution.failures import (
    MAX_MESSAGE_BYTES,
    MAX_TRACEBACK_BYTES,
    Failure,
    Verdict,
    clip,
    describe,
    judge,
    termination_behind,
)
from toolkit.records import Retry

RETRY = Retry(max_attempts=3, on=(OSError,))


def caught(fn: Any) -> BaseException:
    try:
        fn()
    except BaseException as exc:  # noqa: BLE001 - whatever it is, it is what the test is about
        return exc
    pytest.fail("nothing was raised")


@given(st.text(), st.integers(0, 60))
def test_clipped_text_is_valid_and_fits(text: str, limit: int):
    found = clip(text, limit)
    assert len(found.encode()) <= limit
    if len(text.encode("utf-8", "backslashreplace")) <= limit:
        assert found == text


def test_clipped_text_keeps_head_and_tail():
    text = "head" + "é" * 10_000 + "tail"
    found = clip(text, 1000)
    assert found.startswith("head")
    assert found.endswith("tail")
    assert "[… shortened …]" in found
    assert 990 <= len(found.encode()) <= 1000


def test_lone_surrogates_become_escapes():
    assert clip("name-\udcff", 100) == "name-\\udcff"
    assert clip("\udcff" * 100, 40).encode()


def test_a_huge_text_is_not_encoded_whole():
    class Counting(str):
        __slots__ = ()

        def encode(self, *args: Any) -> bytes:
            pytest.fail("encoded whole")

    assert len(clip(Counting("x" * 1_000_000), 100).encode()) == 100


def test_only_frames_of_user_code_are_told():
    def inner() -> None:
        raise ValueError("deep")

    told = describe(caught(inner), {__file__})
    assert told.traceback_text == "ValueError: deep\n"
    told = describe(caught(inner))
    assert "in inner" in told.traceback_text
    assert "in caught" in told.traceback_text


def test_causes_and_notes_are_told():
    def fn() -> None:
        try:
            {}["first"]
        except KeyError as exc:
            error = RuntimeError("second")
            error.add_note("look here")
            raise error from exc

    text = describe(caught(fn)).traceback_text
    assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("RuntimeError: second")
    assert "look here" in text


def test_long_texts_are_cut():
    def fn(depth: int = 0) -> None:
        if depth > 150:
            raise ValueError("x" * 100_000)
        exec(f"fn({depth} + 1)  # {'y' * 200}", {"fn": fn})  # noqa: S102 - frames that differ, so that none is folded

    told = describe(caught(fn))
    assert len(told.message.encode()) <= MAX_MESSAGE_BYTES
    assert len(told.traceback_text.encode()) <= MAX_TRACEBACK_BYTES
    assert told.traceback_text.startswith("Traceback (most recent call last)")
    assert told.traceback_text.rstrip().endswith("x")


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class ExitStr(Exception):
    def __str__(self) -> str:  # noqa: PLE0307 - broken on purpose
        sys.exit(1)

    __repr__ = __str__


class NoneStr(Exception):
    def __str__(self) -> str:
        return None  # noqa: PLE0307 - broken on purpose


class BrokenAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name.startswith("toolkit") or name in ("__notes__", "args", "__cause__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class Recursive(Exception):
    def __str__(self) -> str:
        return str(self)


class BrokenMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=BrokenMeta):
    pass


@pytest.mark.parametrize("error", [BrokenStr(), ExitStr(), NoneStr(), BrokenAttributes(), Recursive(), Nameless()])
def test_broken_exceptions_are_told_and_judged_all_the_same(error: BaseException):
    def fn() -> None:
        raise error

    told = describe(caught(fn))
    for text in (told.error_type, told.message, told.traceback_text):
        assert isinstance(text, str)
        text.encode()
    assert told.error_type
    assert judge(error, RETRY) == Verdict(False, "fatal")


def test_an_unprintable_error_says_what_it_is():
    assert describe(BrokenStr()).message == f"<unprintable {__name__}.BrokenStr: __str__ raised ValueError>"


def test_cycles_of_causes_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    first.__context__, second.__context__ = second, first
    assert describe(first).message == "a"
    assert termination_behind(first, frozenset()) is None


@pytest.mark.parametrize(
    ("verdict", "attempt", "expected"),
    [
        (Verdict(True, "retryable"), 2, True),
        (Verdict(True, "retryable"), 3, False),
        (Verdict(False, "fatal"), 1, False),
        (Verdict(True, "retryable", requested=True), 99, True),
    ],
)
def test_a_verdict_knows_the_last_attempt(verdict: Verdict, attempt: int, expected: bool):
    assert verdict.retries(attempt, RETRY) is expected


def test_values_that_are_no_exceptions_are_fatal():
    assert judge("text", RETRY) == Verdict(False, "fatal")
    assert describe("text").message == "text"


# --------------------------------------------------------------------------- rules


class Quota(ConnectionError):
    """An OSError by two steps, to stand under rules about each of them."""


class DailyQuota(Quota):
    pass


@pytest.mark.parametrize(
    ("rules", "error", "rule"),
    [
        ({"on": OSError}, Quota(), "on"),  # a subclass counts
        ({"on": OSError, "bury": FileNotFoundError}, FileNotFoundError(), "bury"),
        ({"on": OSError, "bury": FileNotFoundError}, PermissionError(), "on"),
        ({"on": FileNotFoundError, "bury": OSError}, FileNotFoundError(), "on"),  # the most specific class decides
        ({"on": FileNotFoundError, "bury": OSError}, PermissionError(), "bury"),
        ({"on": Quota, "bury": Quota}, DailyQuota(), "bury"),  # of equal class: bury before on
        ({"on": Quota, "bury": Quota, "pause": Quota}, DailyQuota(), "pause"),  # and pause before both
        ({"on": DailyQuota, "pause": Quota}, DailyQuota(), "on"),
        ({"pause": Quota, "on": OSError}, DailyQuota(), "pause"),
        ({"on": (), "pause": f"{__name__}.Quota"}, DailyQuota(), "pause"),  # by name
        ({"on": (), "bury": OSError}, ValueError(), ""),
        ({"on": ()}, OSError(), ""),
    ],
)
def test_the_rule_about_the_most_specific_class_decides(rules: dict[str, Any], error: BaseException, rule: str):
    expected = {
        "on": Verdict(True, "retryable"),
        "pause": Verdict(True, "retryable", charged=False, pause=True),
    }.get(rule, Verdict(False, "fatal"))
    assert judge(error, Retry(**rules)) == expected
    by_name = Retry(**{k: tuple(Retry(**rules).names(k)) for k in ("on", "bury", "pause")})
    assert judge(error, by_name) == expected  # as a worker sees it


def test_a_class_is_found_under_the_name_that_it_is_exported_under():
    import requests

    assert judge(requests.ConnectTimeout(), Retry(on=("requests.ConnectionError",))).retryable
    assert judge(requests.ConnectTimeout(), Retry(on=(), pause=("requests.ConnectionError",))).pause
    assert not judge(requests.ConnectTimeout(), Retry(on=("requests.HTTPError", "no.such.Error", ""))).retryable


@pytest.mark.parametrize(
    ("error", "category"), [(MemoryError(), "out_of_memory"), (TimeLimitExceeded("late"), "timeout")]
)
def test_some_errors_have_a_category_of_their_own(error: BaseException, category: str):
    kind = type(error)
    assert judge(error, Retry(on=(kind,))) == Verdict(True, category)
    assert judge(error, Retry(on=(kind,), bury=(kind,))) == Verdict(False, category)
    assert judge(error, Retry(pause=(kind,))) == Verdict(True, category, charged=False, pause=True)
    assert judge(TimeLimitExceeded(), Retry()).retryable  # a TimeoutError is an OSError: the default tries again


def test_an_item_that_pauses_the_run_waits_without_delay_and_without_limit():
    verdict = judge(Quota(), Retry(pause=Quota, max_attempts=1))
    assert verdict.retries(99, RETRY)
    assert verdict.delay(3, RETRY, 0.5) == 0


def test_what_asks_for_another_attempt_itself_is_not_paused_for():
    error = Quota()
    error.toolkit_retry_delay_s = 3.0  # type: ignore[attr-defined]
    assert judge(error, Retry(pause=Quota)) == Verdict(True, "retryable", requested=True, delay_s=3.0)


def test_a_delay_that_no_server_could_count_is_cut():
    error = ValueError()
    error.toolkit_retry_delay_s = 1e307  # type: ignore[attr-defined]  # in milliseconds there is no such number
    delay_s = judge(error, Retry()).delay_s
    assert delay_s is not None
    assert int(delay_s * 1000) == 10**12


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("used up", "m.Quota: used up (item 17)"),
        ("", "m.Quota (item 17)"),
        ("a\x1b[31m\r\nb\u202ec", "m.Quota: a\ufffd[31m b\ufffdc (item 17)"),
    ],
)
def test_the_reason_of_a_pause_is_one_harmless_line(message: str, reason: str):
    assert Failure(0, True, 0.0, "retryable", "m.Quota", message, "", "").reason(17) == reason


def test_the_reason_of_a_pause_is_short():
    assert len(Failure(0, True, 0.0, "retryable", "m.Quota", "x" * 4000, "", "").reason(17)) < 350
