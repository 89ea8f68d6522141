"""Records: what is refused, what reads back, what is derived."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import codec
from toolkit.errors import InvalidInput
from toolkit.records import (
    CATEGORIES,
    METRIC_FIELDS,
    METRIC_NAMES,
    METRIC_ROW,
    METRIC_SEGMENT_ROWS,
    OUTCOMES,
    Retry,
    RunSpec,
    RunState,
    RunStatus,
    WorkerIdentity,
    check_name,
    check_run_id,
    one_line,
    qualified_name,
    utc,
)

# --------------------------------------------------------------------------- ids and names


@pytest.mark.parametrize("run_id", ["abcdef", "0-9-a-z", "a" * 64, "20260101-120000-cafe"])
def test_good_run_ids_pass(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    ["", "abcde", "a" * 65, "-abcdef", "Abcdef", "abc_def", "abc def", "abcdef\n", "abc}def", "{tk:x}", "äbcdef",
     "abc*ef"],
)  # fmt: skip
def test_bad_run_ids_are_refused(run_id: str) -> None:
    with pytest.raises(InvalidInput, match="run id"):
        check_run_id(run_id)


@pytest.mark.parametrize("value", [None, 123456, b"abcdef"])
def test_a_run_id_is_text(value: object) -> None:
    with pytest.raises(InvalidInput, match="run id"):
        check_run_id(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x", "Nightly – prices €", "a" * 200, "名前", "<b>bold</b>"])
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 201, "two\nlines", "tab\t", "nul\0", "esc\x1b[31m", "\u202eright", "\u2066x", "para\u2029", "\x85"],
)
def test_bad_names_are_refused_and_shown_escaped(name: str) -> None:
    with pytest.raises(InvalidInput, match="queue '") as caught:
        check_name(name, "queue")
    assert str(caught.value).isprintable()


# --------------------------------------------------------------------------- retry


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0}, {"max_attempts": -1}, {"backoff_s": -0.1}, {"max_backoff_s": -1}, {"jitter": -0.1},
        {"jitter": 1.1}, {"on": (3,)}, {"on": (int,)}, {"on": (OSError(),)},
    ],
)  # fmt: skip
def test_bad_policies_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="Retry"):
        Retry(**wrong)  # type: ignore[arg-type]


def test_errors_are_kept_by_name() -> None:
    assert Retry().names() == ("OSError",)
    assert Retry(on=(InvalidInput, "my.pkg.Error")).names() == ("toolkit.errors.InvalidInput", "my.pkg.Error")
    assert Retry(on=OSError).on == (OSError,)  # type: ignore[arg-type]
    assert qualified_name(KeyError) == "KeyError"


def test_delays_double_up_to_their_limit() -> None:
    retry = Retry(backoff_s=0.5, max_backoff_s=3.0)
    assert [retry.delay_s(attempt, 0.0) for attempt in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert retry.delay_s(1, 0.5) == 0.5 * (1 - 0.5 * 0.5)


@settings(deadline=None)  # a busy machine is no failure
@given(
    attempt=st.integers(1, 10**9), uniform=st.floats(0, 1, exclude_max=True), backoff=st.floats(0, 1e6),
    limit=st.floats(0, 1e6), jitter=st.floats(0, 1),
)  # fmt: skip
def test_a_delay_stays_within_its_limits(
    attempt: int, uniform: float, backoff: float, limit: float, jitter: float
) -> None:
    retry = Retry(backoff_s=backoff, max_backoff_s=limit, jitter=jitter)
    delay = retry.delay_s(attempt, uniform)
    assert 0 <= delay <= limit
    assert delay >= min(limit, backoff) * (1 - jitter)
    assert retry.delay_s(attempt + 1, uniform) >= delay


# --------------------------------------------------------------------------- a run as asked for

texts = st.text(max_size=10)
seconds = st.floats(0, 1e9)
specs = st.builds(
    RunSpec, run_id=texts, task=texts, path=texts, batched=st.booleans(), name=texts, lease_s=seconds,
    retention_s=st.none() | seconds, retry_names=st.lists(texts, max_size=3).map(tuple), max_attempts=st.integers(1, 9),
    deadline_s=st.none() | seconds, tags=st.dictionaries(texts, texts, max_size=3),
    sys_path=st.lists(texts, max_size=3).map(tuple),
)  # fmt: skip


@settings(deadline=None)  # a busy machine is no failure
@given(specs)
def test_a_spec_reads_back_from_the_ledger(spec: RunSpec) -> None:
    assert RunSpec.from_dict(codec.decode(codec.encode(spec.to_dict()))) == spec


def test_a_spec_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    spec = RunSpec("abcdef", "t", retry_names=("OSError",))
    assert RunSpec.from_dict(spec.to_dict() | {"invented_later": 1}) == spec
    assert RunSpec.from_dict({"run_id": "abcdef", "task": "t"}) == RunSpec("abcdef", "t")


def test_a_spec_gives_its_policy_back() -> None:
    spec = RunSpec("abcdef", "t", retry_names=("OSError",), max_attempts=7, backoff_s=1, max_backoff_s=2, jitter=0.25)
    assert spec.retry == Retry(7, ("OSError",), 1, 2, 0.25)


def test_records_are_frozen() -> None:
    spec = RunSpec("abcdef", "t")
    with pytest.raises(FrozenInstanceError):
        spec.task = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Retry().jitter = 0.0  # type: ignore[misc]


# --------------------------------------------------------------------------- a run as it stands

NOTHING: dict[str, object] = {f.name: 0 for f in fields(RunStatus)}
STATUS = RunStatus(**NOTHING | {  # type: ignore[arg-type]
    "run_id": "abcdef", "name": "prices", "task": "shop.price", "state": RunState.RUNNING, "closed": True,
    "submitted": 1000, "ok": 400, "dead": 100, "at": 30.0, "started_at": 10.0, "created_at": 9.0, "active": 2,
    "known_workers": 4, "retried": 3,
})  # fmt: skip


def test_states_that_are_final() -> None:
    assert [state for state in RunState if state.final] == [RunState.CANCELLED, RunState.FINISHED]


def test_progress_is_derived_from_one_snapshot() -> None:
    assert (STATUS.done, STATUS.elapsed_s, STATUS.rate, STATUS.eta_s) == (500, 20.0, 25.0, 20.0)
    line = STATUS.line()
    for part in (
        "prices abcdef: running 500/1,000 items (50 %)",
        "25 items/s",
        "20 s left",
        "100 dead letters",
        "2 of 4",
    ):
        assert part in line


def test_a_run_is_not_called_complete_before_it_is() -> None:
    assert "999/1,000 items (99 %)" in replace(STATUS, ok=999, dead=0).line()
    assert "1/1,000 items (<1 %)" in replace(STATUS, ok=1, dead=0).line()
    assert "1,000/1,000 items (100 %)" in replace(STATUS, ok=999, dead=1).line()


def test_slow_and_paused_runs_say_what_is_true() -> None:
    slow = replace(STATUS, at=10.0 + 2000.0, ok=399, dead=1)
    assert "12.0 items/min" in slow.line()
    assert "1 dead letter," in slow.line()
    assert "left" not in replace(STATUS, state=RunState.PAUSED).line()


def test_skipped_items_are_done_but_not_worked_off() -> None:
    status = replace(STATUS, skipped=500, state=RunState.CANCELLED, finished_at=15.0)
    assert (status.done, status.elapsed_s, status.rate, status.eta_s) == (1000, 5.0, 100.0, 0.0)
    assert "workers busy" not in status.line()


@pytest.mark.parametrize(
    "change", [{"closed": False}, {"started_at": 0.0}, {"ok": 0, "dead": 0}, {"started_at": 40.0}]
)  # fmt: skip
def test_what_cannot_be_known_is_not_guessed(change: dict[str, object]) -> None:
    status = replace(STATUS, **change)
    assert status.eta_s is None
    assert status.elapsed_s >= 0
    assert "left" not in status.line()


def test_a_run_without_items_or_name_still_has_its_line() -> None:
    status = replace(STATUS, name="", submitted=0, ok=0, dead=0, closed=False)
    assert status.line().startswith("shop.price abcdef: running 0/0+ items")


def test_moments_are_utc() -> None:
    assert utc(0) is utc(None) is None
    assert utc(86400.5) == datetime(1970, 1, 2, 0, 0, 0, 500000, UTC)


# --------------------------------------------------------------------------- metric rows


def test_a_metric_row_has_a_fixed_size() -> None:
    assert METRIC_ROW.size == 104
    assert METRIC_ROW.size * METRIC_SEGMENT_ROWS <= 64 * 1024 * 1024
    assert len(set(METRIC_NAMES)) == len(METRIC_FIELDS) == 28


def test_a_metric_row_reads_back() -> None:
    limits = {"B": 2**8 - 1, "H": 2**16 - 1, "I": 2**32 - 1, "Q": 2**64 - 1, "f": 0.5, "d": 1.7e9 + 0.123456}
    row = [limits[code] for _, code in METRIC_FIELDS]
    assert list(METRIC_ROW.unpack(METRIC_ROW.pack(*row))) == row
    blank = METRIC_ROW.unpack(METRIC_ROW.pack(*(math.nan if code in "fd" else 0 for _, code in METRIC_FIELDS)))
    assert math.isnan(blank[METRIC_NAMES.index("idle_s")])


def test_codes_keep_their_places() -> None:
    assert (OUTCOMES.index("ok"), OUTCOMES.index("lost"), CATEGORIES.index("")) == (0, 3, 0)
    assert CATEGORIES.index("worker_lost") == 4


# --------------------------------------------------------------------------- workers

clean = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), max_size=10)


@settings(deadline=None)  # a busy machine is no failure
@given(st.builds(WorkerIdentity, clean, clean, st.integers(0, 2**31), clean, clean))
def test_an_identity_reads_back(identity: WorkerIdentity) -> None:
    assert WorkerIdentity.decode(identity.encode()) == identity
    assert WorkerIdentity.decode(identity.encode() + "\tinvented later") == identity
    assert identity.worker == f"{identity.node}/{identity.pid}"


def test_separators_in_a_field_cannot_forge_another() -> None:
    identity = WorkerIdentity("h\tforged", "n\n1", 7, "v\r", "1")
    assert identity.encode().count("\t") == 4
    assert WorkerIdentity.decode(identity.encode()) == WorkerIdentity("h forged", "n 1", 7, "v ", "1")


def test_an_identity_cut_short_is_still_read() -> None:
    assert WorkerIdentity.decode("h\tn") == WorkerIdentity("h", "n", 0, "", "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain é 漢", "plain é 漢"),
        (" a\r\n\tb\u2028c ", "a b c"),
        ("\x1b[2J\x00\u202e\u200b\udcff", "\ufffd[2J" + 4 * "\ufffd"),
        ("x" * 11, "x" * 9 + "…"),
        ("x" * 10, "x" * 10),
        ("", ""),
    ],
)
def test_foreign_text_as_one_line(text: str, line: str):
    assert one_line(text, 10) == line
