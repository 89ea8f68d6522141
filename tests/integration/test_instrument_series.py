"""Series on a real server: numbers, sessions, the cap, repeated calls, the frame, and what `batched` makes of it."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import toolkit
from tests.integration.clusters import true_in_fork
from toolkit.errors import LedgerCorrupt
from toolkit.frames import METRICS
from toolkit.instruments import instrumented, pull, read_instrumented
from toolkit.instruments.measuring import Execution
from toolkit.instruments.packing import Packer
from toolkit.instruments.signals import Instrumentation
from toolkit.ledger import Connection, Flush, SeriesName, SeriesStore, keys
from toolkit.ledger.series import SEGMENT_ROWS
from toolkit.records import METRIC_NAMES, METRIC_ROW
from toolkit.settings import ServerAddress

NOW = 1_790_000_000.0


@pytest.fixture
def connection(address: ServerAddress) -> Iterator[Connection]:
    made = Connection(address)
    yield made
    made.close()


@pytest.fixture
def name() -> SeriesName:
    return SeriesName.of(f"task.{secrets.token_hex(6)}", {"k": "v"})


def flush(n: int, at: float = NOW, worker: str = "h\tn@h\t1\tabc\t0", **values: Any) -> Flush:
    """`n` rows that begin a second apart."""
    fields = [{"claimed_at": at + i, "service_s": 0.5, "items": 1, "ok": 1, **values} for i in range(n)]
    rows = b"".join(METRIC_ROW.pack(*(row.get(field, 0) for field in METRIC_NAMES)) for row in fields)
    parts = ((worker, rows, bytes(4 * n)),) if n else ()
    return Flush(secrets.token_bytes(16), 100_000, at, at + max(0, n - 1) + 0.5, 0, parts)


def test_a_repeated_flush_has_no_second_effect(connection: Connection, name: SeriesName) -> None:
    store = SeriesStore(connection)
    once = replace(flush(3), dropped=5)
    assert [store.record(name, once) for _ in range(3)] == [3, 3, 3]
    assert store.head(name).dropped == 5
    assert store.record(name, flush(2)) == 5


def test_the_cap_deletes_the_oldest_and_counts_them(connection: Connection, name: SeriesName) -> None:
    """When more rows come, whole segments go, at least the cap stays, and a cursor steps over the gap."""
    store = SeriesStore(connection)
    store.admit(name)
    keep = SEGMENT_ROWS + 10
    for k in range(4):
        store.record(name, replace(flush(SEGMENT_ROWS - 100, at=NOW + 5000 * k), keep_rows=keep))
    head = store.head(name)
    assert head.rows == 4 * (SEGMENT_ROWS - 100)
    assert head.first == head.capped == 2 * SEGMENT_ROWS
    assert head.rows - head.first >= keep
    for gone in range(2):
        for kind in ("rows", "waits", "series_workers"):
            assert connection.command("EXISTS", keys.series_segment(name.series_id, kind, gone)) == 0
    frame, cursor = pull(connection, name.task, after={name.series_id: 7})
    assert len(frame) == head.rows - head.first
    assert frame["claimed_at"].is_monotonic_increasing
    assert cursor == {name.series_id: head.rows}
    assert head.sessions[0] <= head.first < head.sessions[1]
    store.delete(name)
    assert not list(connection.command("KEYS", f"{{tk:{name.series_id}}}*"))
    assert name not in store.names()


def test_a_cursor_gives_only_what_is_new(connection: Connection, name: SeriesName) -> None:
    store = SeriesStore(connection)
    store.admit(name)
    empty, cursor = pull(connection, name.task)
    store.record(name, flush(3))
    first, cursor = pull(connection, name.task, after=cursor)
    nothing, cursor = pull(connection, name.task, after=cursor)
    store.record(name, flush(2, at=NOW + 10))
    second, cursor = pull(connection, name.task, after=cursor)
    assert [len(f) for f in (empty, first, nothing, second)] == [0, 3, 0, 2]
    assert second["batch"].tolist() == [3, 4]
    assert list(nothing.columns) == [c.name for c in METRICS]
    assert nothing.dtypes.astype(str).tolist() == first.dtypes.astype(str).tolist() == [c.dtype for c in METRICS]


def test_a_long_pause_begins_another_session_and_workers_keep_their_names(
    connection: Connection, name: SeriesName
) -> None:
    store = SeriesStore(connection)
    store.admit(name)
    store.record(name, flush(2))
    store.record(name, flush(2, at=NOW + 30, worker="h\tn@h\t2\tabc\t0"))
    store.record(name, flush(2, at=NOW + 200, worker="h\tn@h\t3\tabc\t0"))
    frame, _ = pull(connection, name.task, queue_wait=True)
    assert frame["run_id"].tolist() == [f"{name.series_id}-0"] * 4 + [f"{name.series_id}-4"] * 2
    assert frame["batch"].tolist() == [0, 1, 2, 3, 0, 1]
    assert frame["worker"].tolist() == ["n@h/1"] * 2 + ["n@h/2"] * 2 + ["n@h/3"] * 2
    assert frame["name"].unique().tolist() == ["k=v"]
    assert frame["queue_wait_s"].tolist() == [0.0] * 6


def test_neighbours_are_counted(connection: Connection, name: SeriesName) -> None:
    store = SeriesStore(connection)
    store.admit(name)
    store.record(name, flush(3, service_s=1.5))
    frame, _ = pull(connection, name.task)
    assert frame["active_claims"].tolist() == [1, 2, 2]


def test_since_until_and_tags(address: ServerAddress, connection: Connection, name: SeriesName) -> None:
    store = SeriesStore(connection)
    store.admit(name)
    store.record(name, flush(10))
    whole = read_instrumented(name.task, ledger=address)
    since, until = whole["claimed_at"][3].to_pydatetime(), whole["claimed_at"][7].to_pydatetime()
    assert len(read_instrumented(name.task, since=since, until=until, ledger=address)) == 4
    assert len(read_instrumented(name.task, tags={"k": "v"}, ledger=address)) == 10
    assert read_instrumented(name.task, tags={"k": "w"}, ledger=address).empty
    mine = instrumented(address).set_index("task").loc[name.task]
    assert (mine["rows"], mine["dropped"], mine["capped"], mine["tags"]) == (10, 0, 0, '{"k": "v"}')


def test_what_does_not_parse_is_named(connection: Connection, name: SeriesName) -> None:
    store = SeriesStore(connection)
    store.admit(name)
    store.record(name, flush(1))
    connection.command("HSET", keys.of_series(name.series_id)[0], "rows", "many")
    with pytest.raises(LedgerCorrupt, match="series"):
        pull(connection, name.task)
    with pytest.raises(LedgerCorrupt, match="series"):
        store.record(name, flush(1))
    connection.command("HDEL", keys.SERIES_INDEX, name.series_id)  # other tests read every series


def execution(task: str, items: int, start: float, seconds: float, **values: Any) -> Execution:
    made = Execution(
        task, (), "n@h", 1, start, math.nan, math.nan, seconds, seconds, 0.0, 1000, items, 1, "ok", "", first=False
    )
    return made._replace(**values)


def test_a_server_that_lost_its_data_gets_the_index_again(address: ServerAddress, connection: Connection) -> None:
    task = f"task.{secrets.token_hex(6)}"
    packer = Packer(address, 1000, lambda name: None, batched=True)
    for forget in (False, True):
        for _, _, deliver in packer.prepare([execution(task, 3, NOW, 0.1)] * 5, Counter()):
            deliver()
        if not forget:
            SeriesStore(connection).delete(SeriesName.of(task))
    for _, _, deliver in packer.prepare([execution(task, 3, NOW, 0.1)], Counter()):
        deliver()
    frame, _ = pull(connection, task)
    assert frame["items"].tolist() == [3] * 6
    packer.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # which is what is tested
def test_a_forked_process_sends_its_own_rows_once(address: ServerAddress, connection: Connection) -> None:
    """Given rows that wait in a parent, when it forks, the child neither sends them again nor loses its own."""
    from celery import Celery

    task = f"task.{secrets.token_hex(6)}"
    made = Instrumentation(Celery("forking", set_as_current=False), address, None, None, (1000, 1000))
    made.outbox.put(execution(task, 1, NOW, 0.1))

    def child() -> bool:
        made.outbox.put(execution(task, 2, NOW, 0.1))
        return made.outbox.flush(20)

    assert true_in_fork(child)
    assert made.outbox.flush(20)
    frame, _ = pull(connection, task)
    assert sorted(frame["items"]) == [1, 2]


def test_batched_asks_the_recorded_rows(address: ServerAddress) -> None:
    """Given batches that cost 50 ms and 1 ms an item, the recommended size is larger than those recorded most."""
    task = f"task.{secrets.token_hex(6)}"
    packer = Packer(address, 100_000, lambda name: None, batched=True)
    rows, at = [], NOW
    for i in range(200):
        items = (4, 8, 16, 64)[i % 4]
        seconds = (0.05 + 0.001 * items) * (1 + 0.02 * math.sin(i))
        rows.append(execution(task, items, at, seconds))
        at += seconds + 0.002
    few = toolkit.batched(range(100), task=task, fallback=7, ledger=address)
    assert (few.batch_size, few.reason.partition(":")[0]) == (7, "fallback")
    for _, _, deliver in packer.prepare(rows, Counter()):
        deliver()
    packer.close()
    batches = toolkit.batched(range(10_000), task=task, fallback=7, ledger=address, explore=0.0)
    assert batches.reason == "recommended from 200 executions"
    assert batches.batch_size > 16
    assert sum(map(len, batches)) == 10_000
    assert toolkit.batched([], task=task, ledger=address, max_batch_size=9).batch_size == 9
