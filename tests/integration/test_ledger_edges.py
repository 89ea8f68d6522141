"""The edges of the server: garbage in any key or field, answers that pass, input lost with the end of the log."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from tests.integration.ledgers import LETTER, Run, new_run_id, page_of
from tests.integration.test_ledger_connection import AT_ONCE, OwnServer, StartServer, watch
from tests.integration.test_ledger_connection import start_server as start_server  # noqa: PLC0414
from toolkit import codec
from toolkit.client.intake import KEPT_BYTES, Intake
from toolkit.errors import InvalidInput, LedgerCorrupt, LedgerFull, LedgerUnavailable, RunStateError
from toolkit.ledger import Claim, Connection, FailedItem, Ledger, NoClaim, Page, Reader, check_structure, keys
from toolkit.records import RunSpec, RunStatus
from toolkit.settings import LedgerSettings, ServerAddress


@pytest.fixture
def ledger(address: ServerAddress) -> Iterator[Ledger]:
    with closing(Ledger(address, AT_ONCE)) as ledger:
        yield ledger


# --------------------------------------------------------------------------- garbage


TEXTS = {"spec", "function", "kwargs", "reason"}
NAMES = [name for name in keys._NAMES if name != "metrics"]


def filled(ledger: Ledger) -> tuple[Run, Claim]:
    """A run with something in every key, all of which are needed, and a claim of it that is still held."""
    run = Run(ledger, 30, batch_size=6, release=True, breaker=0.9)
    run.command("HSET", "head", "page_items", 0)  # as of pages that differ in size, which are looked up in their index
    held = run.claim()
    failed = [FailedItem(0, "dead", letter=LETTER), FailedItem(2, "retry", 60, "retryable")]
    run.commit(run.claim(), 4, failed=failed)
    ledger.register_tickets(run.run_id, ["t" * 32])
    return run, held


def every_call(run: Run, held: Claim) -> list[tuple[str, Callable[[], Any]]]:
    """Every call that a client, a worker or a node makes about a run."""
    ledger, run_id = run.ledger, run.run_id
    return [
        ("status", run.status),
        ("verify", lambda: check_structure(run.reader.structure())),
        ("renew", lambda: ledger.renew(run_id, 1, [held.claim_id])),
        ("claim", lambda: ledger.claim(run_id, run.ask())),
        ("append", lambda: ledger.append(run_id, page_of(30, 32), expected=30)),
        ("update", lambda: ledger.update(run_id, batch_size=5)),
        ("retry_dead", lambda: ledger.retry_dead(run_id, run.reader.dead_indexes())),
        ("sweep", lambda: run.sweep(1, 1)),
        ("tickets", lambda: ledger.register_tickets(run_id, ["u" * 32])),
        ("commit", lambda: run.commit(held, 3, last=False)),
        ("lost", lambda: run.lose(held)),
        ("steer", lambda: ledger.steer(run_id, "cancel")),
        ("letters", run.reader.dead_letters),
        ("rows", run.reader.metric_rows),
        ("workers", run.reader.workers),
        ("events", run.reader.events),
        ("outputs", lambda: list(run.reader.outputs())),
    ]


def told(run: Run, held: Claim) -> dict[str, str]:
    """What each call says that cannot work; whatever is not `LedgerCorrupt` fails the test."""
    found = {}
    for name, call in every_call(run, held):
        try:
            call()
        except LedgerCorrupt as error:
            found[name] = str(error)
        except RunStateError:
            assert name == "append"  # its input is closed
    return found


@pytest.mark.parametrize("name", [*NAMES, "metrics:0"])
def test_a_key_of_the_wrong_type_is_named_and_nobody_else_notices(ledger: Ledger, name: str) -> None:
    run, held = filled(ledger)
    other = Run(ledger, 4)
    key = f"{{tk:{run.run_id}}}:{name}".encode()
    ledger.connection.command("DEL", key)
    ledger.connection.command("SADD", key, "garbage")
    found = told(run, held)
    assert found, "no call needs this key"
    for call, text in found.items():
        assert f"{run.run_id}}}:{name}" in text or f"key {name}" in text, (call, text)
        assert "user_function" not in text
        assert ".lua" not in text
    assert other.commit(other.claim()).state == "finished"
    ledger.connection.command("DEL", *keys.of_run(run.run_id), key)


@pytest.mark.parametrize("failed", [[], [FailedItem(1, "dead", letter=LETTER)]], ids=["ok", "failed"])
def test_a_claim_that_cannot_be_closed_is_all_there_once_the_key_is_mended(
    ledger: Ledger, failed: list[FailedItem]
) -> None:
    # given a worker that commits a batch while a key which this takes is not what it should be
    run = Run(ledger, 12)
    claim = run.commit(run.claim(), ask=run.ask()).claim
    assert isinstance(claim, Claim)
    key, aside = (f"{{tk:{run.run_id}}}:{part}" for part in ("closed", "aside"))
    ledger.connection.command("RENAME", key, aside)
    ledger.connection.command("SADD", key, "garbage")
    with pytest.raises(LedgerCorrupt):
        run.commit(claim, failed=failed, ask=run.ask())
    # when it is mended, then nothing of the batch was counted
    ledger.connection.command("RENAME", aside, key)
    run.check()
    # and it can be committed, and the run ends
    following = run.commit(claim, failed=failed, ask=run.ask()).claim
    assert isinstance(following, Claim)
    assert run.commit(following).state == "finished"
    assert run.counts() == (12 - len(failed), len(failed), 0, 0)
    run.check()


def head_fields(ledger: Ledger) -> list[str]:
    run, _held = filled(ledger)
    return sorted(x.decode() for x in run.command("HKEYS", "head") if x.decode() not in TEXTS)


def test_garbage_in_any_field_of_the_head_is_named_and_nobody_else_notices(ledger: Ledger) -> None:
    for field in head_fields(ledger):
        for garbage in ("many", "", "1.5e3x", *([None] if field != "state" else [])):  # without a state there is no run
            run, held = filled(ledger)
            other = Run(ledger, 4)
            run.command("HDEL", "head", field) if garbage is None else run.command("HSET", "head", field, garbage)
            for call, text in told(run, held).items():
                assert re.search(rf"field {field}\b", text), (field, garbage, call, text)
            assert other.commit(other.claim()).state == "finished"
            run.reader._connection.command("DEL", *keys.of_run(run.run_id))


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("HSET", "pages", "n0", "few"), "pages, field n0"),
        (("HDEL", "pages", "12"), "pages, field 12"),
        (("LPUSH", "ready", "\x00garbage"), "ready"),
        (("ZADD", "delayed", 1, b"\xff\xfe"), "delayed"),
        (("HSET", "dead", "x1", b""), "key dead"),
        (("RPUSH", "outputs", b"\x09\x00"), "outputs"),
        (("HSET", "workers", "host\tw\t1\t\t", "first"), "key workers"),
        (("ZREMRANGEBYRANK", "page_index", 0, -1), "page_index"),
    ],
)
def test_garbage_inside_a_key_is_named(ledger: Ledger, command: tuple[Any, ...], named: str) -> None:
    run, held = filled(ledger)
    run.command(*command)
    found = told(run, held)
    assert found
    assert all(named in text for text in found.values()), found


# --------------------------------------------------------------------------- answers that pass


PASSING = {
    "MISCONF Errors writing to the AOF file: No space left on device": "disk",
    "READONLY You can't write against a read only replica.": "primary",
    "NOREPLICAS Not enough good replicas to write.": "min-replicas-to-write",
    "MASTERDOWN Link with MASTER is down": "primary",
    "CLUSTERDOWN The cluster is down": "CLUSTER INFO",
    "TRYAGAIN Multiple keys request during rehashing of slot": "moves these keys",
    "LOADING The server is loading the dataset in memory": "loading",
    "BUSY The server is busy running a script.": "FUNCTION KILL",
    "UNKILLABLE Sorry the script already executed write commands": "long script",
}


@pytest.mark.parametrize("answer", PASSING)
def test_an_answer_that_passes_is_tried_again_and_then_explained(
    address: ServerAddress, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = [0.0]  # a clock that only pauses move
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr("toolkit.ledger.connection.time", clock)
    error = redis.connection.DefaultParser.parse_error(answer)
    with closing(Connection(address, LedgerSettings(retry_s=0.1))) as connection:
        calls = watch(connection)
        real = connection.redis.execute_command

        def passes(*args: Any) -> Any:
            with suppress(redis.RedisError):
                real(*args)
            raise error

        connection.redis.execute_command = passes  # type: ignore[method-assign]
        with pytest.raises(LedgerUnavailable, match=PASSING[answer]) as caught:
            connection.command("PING")
    assert len(calls) >= 2, "it was not tried again"
    assert sum(slept) <= 0.1
    assert str(address) in str(caught.value)


def test_too_few_replicas_are_waited_for(start_server: StartServer) -> None:
    own = start_server()
    with closing(Ledger(own.address, LedgerSettings(retry_s=0.2))) as ledger:
        run = Run(ledger, 8)
        claim = run.claim()
        ledger.connection.command("CONFIG", "SET", "min-replicas-to-write", 1)
        with pytest.raises(LedgerUnavailable, match="NOREPLICAS"):
            run.commit(claim)
        ledger.connection.command("CONFIG", "SET", "min-replicas-to-write", 0)
        assert run.commit(claim).accepted
        run.check()


def test_a_full_server_accounts_what_was_executed_and_hands_out_nothing(start_server: StartServer) -> None:
    own = start_server()
    with closing(Ledger(own.address)) as ledger:
        run = Run(ledger, 12)
        claim = run.claim()
        ledger.connection.command("CONFIG", "SET", "maxmemory", 1)
        first = run.commit(claim, 2, last=False)
        assert first.accepted
        ended = run.commit(claim, 4, start=2, ask=run.ask())
        assert (ended.accepted, ended.claim) == (True, NoClaim("full", 8))
        with pytest.raises(LedgerFull):
            run.claim()
        ledger.connection.command("CONFIG", "SET", "maxmemory", 0)
        while run.commit(run.claim()).state != "finished":
            pass
        run.check()


# --------------------------------------------------------------------------- the end of the log is lost


# Synchronised always: otherwise a busy disk lets the server put off even its writes.
LOG = ("appendonly yes", "appendfsync always", "aof-use-rdb-preamble no", "auto-aof-rewrite-percentage 0")


class Entry:
    """One run on its way in, page by page."""

    def __init__(self, ledger: Ledger, spec: RunSpec | None = None) -> None:
        self.ledger = ledger
        self.spec = spec or RunSpec(new_run_id(), "tests.task")
        self.create()
        self.intake = Intake(ledger, self.spec, self.create, stream=False)

    def create(self) -> None:
        self.ledger.create(self.spec, batch_size=4, auto=False, max_workers=0)

    def put(self, *starts: int, close: bool = False) -> None:
        for a in starts:
            self.intake.put(page_of(a, a + 4), close=close)

    def items(self) -> list[Any]:
        reader = Reader(self.ledger.connection, self.spec.run_id)
        return [reader.item(i)[0] for i in range(self.ledger.status(self.spec.run_id).submitted)]


def log_of(own: OwnServer) -> Path:
    (log,) = (own.directory / "appendonlydir").glob("*.incr.aof")
    return log


def lose_end(own: OwnServer, kept: int) -> None:
    """Start the server anew with the first `kept` bytes of its log."""
    own.stop()
    log_of(own).write_bytes(log_of(own).read_bytes()[:kept])
    own.start()


@pytest.mark.parametrize("lost_pages", [1, 2, 3])
def test_what_a_server_lost_with_the_end_of_its_log_is_appended_again(
    start_server: StartServer, lost_pages: int
) -> None:
    own = start_server(*LOG)
    with closing(Ledger(own.address)) as ledger:
        entry = Entry(ledger)
        sizes = []
        for a in (0, 4, 8, 12):
            entry.put(a)
            sizes.append(log_of(own).stat().st_size)
        own.stop()
        data = log_of(own).read_bytes()
        assert len(data) >= sizes[-1]
        log_of(own).write_bytes(data[: sizes[-1 - lost_pages] + 5])  # cut inside the next page
        own.start()
        assert ledger.status(entry.spec.run_id).submitted == 16 - 4 * lost_pages
        entry.put(16)
        entry.put(20, close=True)
        assert entry.items() == list(range(24))
        assert ledger.status(entry.spec.run_id).closed


def test_a_stream_that_waits_for_workers_goes_on_though_the_server_lost_its_run(address: ServerAddress) -> None:
    with closing(Ledger(address, LedgerSettings(look_ahead_bytes=1))) as ledger:
        # Given a stream whose window is full
        entry = Entry(ledger)
        intake = Intake(ledger, entry.spec, entry.create, stream=True)
        intake.put(page_of(0, 4))
        assert intake.waits(page_of(4, 8))
        # When the server loses the run, then what is kept of it is stored again, and the next page after it
        Reader(ledger.connection, entry.spec.run_id).delete()
        intake.put(page_of(4, 8), close=True)
        assert entry.items() == list(range(8))


def test_what_was_lost_waits_for_memory_as_all_input_does(start_server: StartServer) -> None:
    own = start_server(*LOG)
    with closing(Ledger(own.address)) as ledger:
        # Given a server that lost the end of its log, and has no memory once that is appended again
        entry = Entry(ledger)
        entry.put(0)
        size = log_of(own).stat().st_size
        for a in (4, 8):
            entry.put(a)
        lose_end(own, size + 5)
        waits, wait, again = [], entry.intake._wait_for_memory, entry.intake._append_again

        def fill(status: RunStatus, expected: int) -> None:
            ledger.connection.command("CONFIG", "SET", "maxmemory", 0 if waits else 1)
            again(status, expected)

        def mend(error: LedgerFull) -> None:
            waits.append(ledger.status(entry.spec.run_id).submitted)
            if len(waits) == 3:
                ledger.connection.command("CONFIG", "SET", "maxmemory", 0)
            wait(error)

        entry.intake._append_again = fill  # type: ignore[method-assign]
        entry.intake._wait_for_memory = mend  # type: ignore[method-assign]
        # When memory is there while a submission waits for it
        entry.put(12, close=True)
        # Then all is there
        assert waits == [4, 4, 4]
        assert entry.items() == list(range(16))


def test_of_two_that_append_again_what_was_lost_the_slower_one_goes_on(start_server: StartServer) -> None:
    own = start_server(*LOG)
    with closing(Ledger(own.address)) as ledger:
        one = Entry(ledger)
        two = Entry(ledger, one.spec)
        one.put(0)
        size = log_of(own).stat().st_size
        for a in (4, 8):
            one.put(a)
        for a in (0, 4, 8):
            two.put(a)
        lose_end(own, size + 5)
        seen_before = ledger.status(one.spec.run_id)
        one.put(12)
        two.intake._append_again(seen_before, 12)  # as it looked before the other one was quicker
        two.put(12)
        two.put(16, close=True)
        assert one.items() == list(range(20))


def test_a_run_that_was_lost_as_a_whole_is_created_again(start_server: StartServer) -> None:
    own = start_server(*LOG)
    with closing(Ledger(own.address)) as ledger:
        entry = Entry(ledger)
        entry.put(0, 4)
        lose_end(own, 0)
        entry.put(8, close=True)
        assert entry.items() == list(range(12))


def test_the_end_of_the_input_finds_what_was_lost_too(start_server: StartServer) -> None:
    own = start_server(*LOG)
    with closing(Ledger(own.address)) as ledger:
        entry = Entry(ledger)
        entry.put(0)
        size = log_of(own).stat().st_size
        entry.put(4)
        lose_end(own, size + 5)
        entry.intake.close(8)
        assert entry.items() == list(range(8))
        assert ledger.status(entry.spec.run_id).closed


def test_more_than_is_kept_is_a_clear_error(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    own = start_server(*LOG)
    monkeypatch.setattr("toolkit.client.intake.KEPT_BYTES", 1)  # nothing but the latest page
    with closing(Ledger(own.address)) as ledger:
        entry = Entry(ledger)
        entry.put(0)
        size = log_of(own).stat().st_size
        entry.put(4, 8)
        lose_end(own, size + 5)
        with pytest.raises(RunStateError, match=r"holds 4 of 12 items submitted.*appendonly"):
            entry.put(12)


def test_no_more_is_kept_than_a_few_pages(ledger: Ledger) -> None:
    entry = Entry(ledger)
    for n in range(6):
        entry.intake.put(Page(n, n + 1, codec.encode_page([os.urandom(KEPT_BYTES // 3)])))
    assert entry.intake._kept_bytes <= KEPT_BYTES
    assert sum(len(kept.page.items) for kept in entry.intake._kept) == entry.intake._kept_bytes


# --------------------------------------------------------------------------- two who submit the same


def test_two_processes_that_submit_the_same_run_append_each_page_once(ledger: Ledger) -> None:
    one = Entry(ledger)
    two = Intake(ledger, one.spec, one.create, stream=False)
    one.put(0)
    two.put(page_of(0, 4))
    two.put(page_of(4, 8))
    two.put(page_of(8, 12))
    one.put(4, 8)
    one.put(12, close=True)
    two.put(page_of(12, 16), close=True)
    assert one.items() == list(range(16))


def test_other_items_under_the_same_id_are_refused_and_the_run_stays(ledger: Ledger) -> None:
    one = Entry(ledger)
    one.put(0, 4)
    other = Intake(ledger, one.spec, one.create, stream=False, stored=8)
    other.put(page_of(0, 4))
    with pytest.raises(InvalidInput, match="something else as items 4 to 7"):
        other.put(page_of(4, 8, keyed=True))
    assert other.foreign
    assert ledger.status(one.spec.run_id).state == "running"
