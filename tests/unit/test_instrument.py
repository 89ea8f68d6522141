"""Instruments without a server: what is measured, what waits, what is refused, what switches them off."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer

import toolkit
from toolkit.errors import InvalidInput, LedgerError, LedgerUnavailable
from toolkit.instruments import batched, instrument
from toolkit.instruments.measuring import SENT_AT, Execution, Recorder
from toolkit.instruments.outbox import BATCH_ROWS, Delivery, Key, Outbox
from toolkit.ledger import SeriesName

PATIENCE_S = 20.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def execution(number: int = 0, task: str = "t") -> Execution:
    return Execution(
        task, (), "n@h", 1, float(number), math.nan, math.nan, 0.1, 0.1, 0.0, 1, 1, 1, "ok", "", first=False
    )


# ---------------------------------------------------------------------- one execution


class Bench:
    """Runs tasks as a worker does, and keeps what was measured."""

    def __init__(self, **functions: Any) -> None:
        self.app = Celery("bench", set_as_current=False, broker="memory://")
        self.found: list[Execution] = []
        self.recorder = Recorder(functions.get("items"), functions.get("tags"), self.found.append)

    def run(self, function: Callable[..., Any], *args: Any, headers: dict[str, Any] | None = None) -> Execution:
        """Execute `function` as a task, under Celery's own tracer."""
        task = self.app.task(name=f"bench.{function.__name__}", ignore_result=True, shared=False)(function)
        from celery import signals

        def before(sender: Any, args: Any, kwargs: Any, **_: Any) -> None:
            self.recorder.begin(sender, args, kwargs)

        def after(sender: Any, task_id: str, state: str, retval: Any, **_: Any) -> None:
            self.recorder.end(sender, task_id, state, retval)

        signals.task_prerun.connect(before, weak=False)
        signals.task_postrun.connect(after, weak=False)
        try:
            request = {"id": "r1", "hostname": "n@h", "delivery_info": {}, "retries": 2, **(headers or {})}
            build_tracer(task.name, task, app=self.app)("r1", args, {}, request)
        finally:
            signals.task_prerun.disconnect(before)
            signals.task_postrun.disconnect(after)
        return self.found[-1]


def spin(seconds: float) -> None:
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        pass


def test_processor_time_attempt_and_first() -> None:
    bench = Bench()
    first, second = bench.run(spin, 0.02), bench.run(spin, 0.0)
    assert 0.02 <= first.cpu_user_s + first.cpu_system_s <= first.service_s + 0.02
    assert (first.attempt, first.items, first.outcome) == (3, 1, "ok")
    assert (first.first, second.first) == (True, False)
    assert math.isnan(first.idle_s)
    assert 0 <= second.idle_s < PATIENCE_S


@pytest.mark.parametrize(
    ("error", "category"),
    [(ValueError("x"), "fatal"), (OSError("x"), "retryable"), (MemoryError(), "out_of_memory")],
)
def test_errors_have_the_categories_of_a_run(error: Exception, category: str) -> None:
    def broken() -> None:
        raise error

    found = Bench().run(broken)
    assert (found.outcome, found.category) == ("failed", category)


def test_the_wait_counts_from_the_wanted_moment() -> None:
    bench, now = Bench(), time.time()
    assert math.isnan(bench.run(spin, 0).wait_s)
    assert 100 <= bench.run(spin, 0, headers={SENT_AT: now - 100}).wait_s < 100 + PATIENCE_S
    eta = (datetime.now(UTC) - timedelta(seconds=10)).isoformat()
    assert 10 <= bench.run(spin, 0, headers={SENT_AT: now - 100, "eta": eta}).wait_s < 10 + PATIENCE_S
    assert bench.run(spin, 0, headers={SENT_AT: now + 1000}).wait_s == 0.0
    assert math.isnan(bench.run(spin, 0, headers={SENT_AT: "yesterday"}).wait_s)


def test_idle_counts_only_while_there_was_work() -> None:
    bench = Bench()
    bench.run(spin, 0)
    bench.recorder._local.ended -= 50.0
    assert bench.run(spin, 0).idle_s >= 50
    bench.recorder._local.ended -= 50.0
    assert bench.run(spin, 0, headers={SENT_AT: time.time() - 1}).idle_s < 40


def test_the_users_functions_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """Given functions that raise, or give nonsense, the task runs and is recorded; it is said once."""
    bench = Bench(items=lambda task, args, kwargs: 1 / 0, tags=lambda task, args, kwargs: None)
    for _ in range(3):
        found = bench.run(spin, 0)
        assert (found.items, found.tags, found.outcome) == (1, (), "ok")
    assert len([r for r in caplog.records if "said once" in r.message]) == 2


def test_tags_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    numbers = iter(range(1000))
    bench = Bench(tags=lambda task, args, kwargs: {"call": next(numbers), "long": "x" * 1000})
    found = [bench.run(spin, 0).tags for _ in range(100)]
    assert len(set(found)) == 65
    assert found[-1] == ()
    assert max(len(v) for tags in found for _, v in tags) == 200
    assert len([r for r in caplog.records if "sets of tags" in r.message]) == 1


def test_eager_calls_are_not_recorded() -> None:
    bench = Bench()
    task = SimpleNamespace(name="t", request=SimpleNamespace(is_eager=True))
    bench.recorder.begin(task, (), {})
    bench.recorder.end(task, "r1", "SUCCESS", None)
    assert not bench.found


def test_greenlets_share_no_processor_time() -> None:
    """When executions overlap in the first thread, their processor time cannot be told apart, and is not guessed."""
    bench = Bench()

    def outer() -> None:
        local = bench.recorder._local
        mine, local.running = local.running, None
        bench.run(spin, 0.0)
        local.running = mine

    found = bench.run(outer)
    assert math.isnan(found.cpu_user_s)
    assert math.isnan(bench.found[0].cpu_user_s)
    assert not math.isnan(bench.run(spin, 0).cpu_user_s)


# ---------------------------------------------------------------------- on the way


class Post:
    """Stands where the server is: takes deliveries, or is away."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.rows: list[float] = []
        self.dropped = 0
        self.calls = 0

    def prepare(self, executions: Sequence[Execution], drops: Counter[Key]) -> list[tuple[Key, int, Delivery]]:
        def deliver() -> None:
            self.calls += 1
            if self.error is not None:
                raise self.error
            self.rows += [e.started_at for e in executions]
            self.dropped += sum(drops.values())

        return [(("t", ()), len(executions) + sum(drops.values()), deliver)]


def test_rows_arrive_in_order_and_all_at_the_end() -> None:
    post = Post()
    outbox = Outbox(post.prepare, 10_000)
    for i in range(2 * BATCH_ROWS + 7):
        outbox.put(execution(i))
    assert outbox.flush(PATIENCE_S)
    assert post.rows == list(range(2 * BATCH_ROWS + 7))
    assert outbox.waiting == 0


def test_an_outage_keeps_the_latest_and_counts_the_rest() -> None:
    """Given a server that is away, the queue stays within its limit; back again, every row is there or counted."""
    post = Post(LedgerUnavailable("away"))
    outbox = Outbox(post.prepare, 10)
    outbox.put(execution(0))
    assert not outbox.flush(PATIENCE_S)
    for i in range(1, 101):
        outbox.put(execution(i))
    assert len(outbox._queue) == 10
    post.error = None
    assert outbox.flush(PATIENCE_S)
    assert post.rows == [0, *range(91, 101)]
    assert post.dropped == 90


def test_rows_that_are_refused_are_counted_and_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    post = Post(LedgerError("odd"))
    outbox = Outbox(post.prepare, 10)
    outbox.put(execution(0))
    outbox.flush(PATIENCE_S)
    calls = post.calls
    post.error = None
    outbox.put(execution(1))
    assert outbox.flush(PATIENCE_S)
    assert calls == 1
    assert post.rows == [1]
    assert post.dropped == 1
    assert "refused by the server" in caplog.text


def test_several_threads_lose_nothing() -> None:
    post = Post()
    outbox = Outbox(post.prepare, 100_000)
    threads = [threading.Thread(target=lambda: [outbox.put(execution(i)) for i in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.flush(PATIENCE_S)
    assert len(post.rows) == 4000


# ---------------------------------------------------------------------- the public calls


def test_instrument_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("app", set_as_current=False)
    with pytest.raises(InvalidInput, match="TOOLKIT_LEDGER_URL"):
        instrument(app)
    with pytest.raises(InvalidInput, match="keep_rows=0"):
        instrument(app, ledger="redis://127.0.0.1:1/0", keep_rows=0)
    with pytest.raises(InvalidInput, match="items=3"):
        instrument(app, ledger="redis://127.0.0.1:1/0", items=3)  # type: ignore[arg-type]
    monkeypatch.setenv("TOOLKIT_DISABLED", "1")
    instrument(app)
    instrument(app)


def test_instrumenting_twice_is_an_error() -> None:
    app = Celery("app", set_as_current=False)
    instrument(app, ledger="redis://127.0.0.1:1/0")
    with pytest.raises(InvalidInput, match="called twice"):
        instrument(app, ledger="redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"iterable": "text"}, "expected an iterable of items, got str"),
        ({"iterable": 3}, "got int"),
        ({"task": ""}, "task=''"),
        ({"fallback": 0}, "fallback=0"),
        ({"explore": 2.0}, "explore=2.0"),
        ({"max_batch_size": -1}, "max_batch_size=-1"),
    ],
)
def test_batched_says_what_is_wrong(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        batched(**{"iterable": [1], "task": "t", **options})


def test_batched_falls_back_when_the_server_is_away(caplog: pytest.LogCaptureFixture) -> None:
    batches = toolkit.batched(iter(range(10)), task="t", fallback=4, explore=0.0, ledger="redis://127.0.0.1:1/0")
    assert list(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert "does not answer" in batches.reason
    assert "does not answer" in caplog.text


def test_batched_disabled_asks_nobody_and_explores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_DISABLED", "1")
    batches = toolkit.batched(range(100), task="t", fallback=10, explore=1.0)
    assert {len(batch) for batch in batches} == {10}
    assert "TOOLKIT_DISABLED" in batches.reason


def test_exploration_keeps_every_item_and_its_bounds() -> None:
    batches = toolkit.batched(
        range(5000), task="t", fallback=10, explore=0.3, max_batch_size=15, ledger="redis://127.0.0.1:1/0", seed=7
    )
    found = list(batches)
    assert [i for batch in found for i in batch] == list(range(5000))
    sizes = Counter(map(len, found[:-1]))
    assert set(sizes) == {5, 10, 15}
    assert 0.2 < 1 - sizes[10] / sum(sizes.values()) < 0.4


def test_a_series_has_the_same_id_everywhere_and_tags_in_any_order() -> None:
    one, other = SeriesName.of("t", {"a": "1", "b": "2"}), SeriesName.of("t", {"b": "2", "a": "1"})
    assert one.series_id == other.series_id
    assert one.series_id != SeriesName.of("t").series_id
    assert one.labels() == {"a": "1", "b": "2"}
