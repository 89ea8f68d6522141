"""The door to the server: who is refused, what is tried again, and how a broken thing is named."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests import conftest
from tests.integration.ledgers import LETTER, Run, new_run_id, page_of
from toolkit import codec
from toolkit.errors import (
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerRefused,
    LedgerUnavailable,
    LedgerUnsafe,
    ToolkitError,
)
from toolkit.ledger import Connection, FailedItem, Ledger, NoClaim, Reader, Registry, Renewed, keys
from toolkit.records import NodeInfo
from toolkit.settings import LedgerSettings, ServerAddress, Settings, url_with_password

AT_ONCE = LedgerSettings(retry_s=0.0)


@dataclass
class OwnServer:
    """A server that a test may stop, start again, and set as it likes."""

    binary: str
    directory: Path
    lines: tuple[str, ...] = ()
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> ServerAddress:
        return ServerAddress(f"unix://{self.directory / 'server.sock'}", password=self.password)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        text = conftest._configuration(self.directory, self.directory / "server.sock", self.password)
        conftest._start(self.process, text + "".join(f"{line}\n" for line in self.lines))

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


StartServer = Callable[..., OwnServer]


@pytest.fixture
def start_server(server: conftest.Server) -> Iterator[StartServer]:
    """Start further servers of the engine under test."""
    binary = conftest._valkey_binary() if server.engine == "valkey" else conftest._redis_binary()
    with ExitStack() as stack:

        def start(*lines: str) -> OwnServer:
            own = OwnServer(binary, stack.enter_context(conftest._short_directory()), lines)
            own.start()
            stack.callback(own.stop)
            return own

        yield start


@pytest.fixture
def ledger(address: ServerAddress) -> Iterator[Ledger]:
    with closing(Ledger(address, AT_ONCE)) as ledger:
        yield ledger


@contextmanager
def raising(kind: type[ToolkitError], match: str, *hidden: str) -> Iterator[None]:
    """Expect an error whose text, with those it came from, shows none of the `hidden` texts."""
    with pytest.raises(kind, match=match) as caught:
        yield
    error: BaseException | None = caught.value
    assert type(error) is kind
    while error is not None:
        assert not any(text in f"{error} {error!r}" for text in hidden)
        error = error.__cause__ or error.__context__


def watch(connection: Connection) -> list[str]:
    """Names of the commands that go to the server from now on."""
    real, calls = connection.redis.execute_command, list[str]()

    def watched(*args: Any) -> Any:
        calls.append(args[0])
        return real(*args)

    connection.redis.execute_command = watched  # type: ignore[method-assign]
    return calls


# --------------------------------------------------------------------------- connections of function calls


def test_a_connection_that_was_closed_meanwhile_is_replaced_at_once(ledger: Ledger, address: ServerAddress) -> None:
    """Given calls that are not tried again, when the server has cut every connection, none of them fails."""
    run = Run(ledger, 4)
    assert ledger.status(run.run_id).submitted == 4
    with closing(Connection(address)) as other:
        other.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert ledger.connection.call("status", keys.of_run(run.run_id), retry_s=0.0)
    assert ledger.status(run.run_id).remaining == 4


def test_connections_that_were_lost_do_not_count_for_ever(ledger: Ledger, address: ServerAddress) -> None:
    """Given a client that outlives many servers, when more of its connections died than a pool holds, it goes on."""
    run = Run(ledger, 4)
    with closing(Connection(address)) as other:
        most = ledger.connection.redis.connection_pool.max_connections
        assert most < 1000
        for _ in range(most + 10):
            other.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert ledger.connection.call("status", keys.of_run(run.run_id), retry_s=0.0)


def test_a_fork_uses_no_connection_of_its_parent(ledger: Ledger) -> None:
    """Given a parent and its child that call at the same time, each gets its own answers."""
    runs = [Run(ledger, n) for n in (1, 2)]

    def asks(run: Run, n: int) -> bool:
        return all(ledger.status(run.run_id).submitted == n for _ in range(200))

    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if asks(runs[1], 2) else 1
        finally:
            os._exit(code)  # never back into pytest
    mine = asks(runs[0], 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mine


# --------------------------------------------------------------------------- who is refused


def test_a_wrong_password_is_refused_at_once_and_never_shown(address: ServerAddress) -> None:
    wrong = replace(address, password="hunter2-secret")
    with closing(Ledger(wrong)) as ledger, raising(LedgerRefused, "Check user and password", "hunter2", "secret"):
        ledger.status(new_run_id())
    with closing(Connection(wrong)) as connection:
        with raising(LedgerRefused, "refused", "hunter2"):
            connection.check_server()
        calls = watch(connection)
        with raising(LedgerRefused, "refused", "hunter2"):
            connection.command("PING", retry_s=600.0)
        assert calls == ["PING"]


def test_no_password_is_refused(address: ServerAddress) -> None:
    with closing(Ledger(replace(address, password=None))) as ledger, raising(LedgerRefused, "Check user and password"):
        ledger.status(new_run_id())


def test_a_password_file_is_read_at_each_connect(address: ServerAddress, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("of yesterday\n")
    rotated = ServerAddress(address.url, password="unused", password_file=file)
    with closing(Ledger(rotated)) as ledger:
        with raising(LedgerRefused, "refused", "yesterday", str(address.password)):
            Run(ledger)
        file.write_text(f"{address.password}\n")
        assert Run(ledger, 3).status().submitted == 3


def test_a_user_with_few_rights_can_work_and_no_more(address: ServerAddress) -> None:
    user, password = new_run_id(), secrets.token_urlsafe(8)
    with closing(Connection(address)) as admin:
        admin.load_functions()
        rules = ("~{tk:*", "~tk:*", "+@all", "-@admin", "-@dangerous", "-eval", "-evalsha", "-function", "-config")
        admin.command("ACL", "SETUSER", user, "on", f">{password}", *rules)
        try:
            limited = ServerAddress(address.url, username=user, password=password)
            with closing(Ledger(limited)) as ledger:
                run = Run(ledger, 8)
                assert run.commit(run.claim(), ask=run.ask()).accepted
                run.check()
                with raising(LedgerRefused, "a right is missing", password):
                    ledger.connection.command("GET", "someone-elses-key")
                with raising(LedgerRefused, "toolkit install-functions", password):
                    ledger.connection.load_functions()
        finally:
            admin.command("ACL", "DELUSER", user)


# --------------------------------------------------------------------------- what is unsafe


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_evict_keys_is_unsafe(start_server: StartServer, policy: str) -> None:
    own = start_server(f"maxmemory-policy {policy}")
    with closing(Connection(own.address)) as connection:
        with raising(LedgerUnsafe, f"maxmemory-policy {policy}.*noeviction", own.password):
            connection.check_server()
        connection.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert connection.check_server().split(".")[0].isdigit()


def test_a_full_server_takes_no_items_but_still_accounts_and_obeys(start_server: StartServer) -> None:
    own = start_server()
    with closing(Ledger(own.address)) as ledger:
        run = Run(ledger, 24, close=False, known_workers=2)
        claims = [run.claim() for _ in range(3)]
        run.commit(run.claim(), failed=[FailedItem(0, "dead", letter=LETTER), FailedItem(1, "retry", 60)])
        command = ledger.connection.command
        run.make_due()
        command("CONFIG", "SET", "maxmemory", 1)
        before = run.everything()
        with raising(LedgerFull, "out of memory; nothing was stored", own.password):
            ledger.append(run.run_id, page_of(24, 28), expected=24)
        with raising(LedgerFull, "out of memory"):
            run.claim()
        with raising(LedgerFull, "out of memory"):
            ledger.retry_dead(run.run_id, [12])
        assert run.everything() == before
        committed = run.commit(claims[0], ask=run.ask())
        assert (committed.accepted, committed.claim) == (True, NoClaim("full", committed.left))
        assert ledger.renew(run.run_id, 1, [claims[1].claim_id]) == Renewed("running")
        assert run.lose(claims[1], blamed=2) == "running"
        assert ledger.register_tickets(run.run_id, ["t"]) == 1
        ledger.update(run.run_id, batch_size=2)
        assert run.sweep().delayed == 0
        registry = Registry(ledger.connection)
        registry.report_node(NodeInfo("n", "host", 1, 2, 0, (), (), "0", 1, "3.11", False, 1.0, registry.now()))
        assert registry.elect_sweeper("n", 60.0)
        assert [n.node for n in registry.nodes()] == ["n"]
        assert ledger.drop_dead(run.run_id, [12]) == 1
        assert ledger.steer(run.run_id, "pause") == "paused"
        run.check()
        command("CONFIG", "SET", "maxmemory", 0)
        assert ledger.append(run.run_id, page_of(24, 28), expected=24) == (28, 16)


# --------------------------------------------------------------------------- what is tried again


@pytest.mark.parametrize("url", ["unix:///nowhere/at/all.sock", "redis://127.0.0.1:1/0"])
def test_no_server_is_unavailable(url: str) -> None:
    address = ServerAddress(url, password="tell-nobody")
    for settings in (AT_ONCE, LedgerSettings(retry_s=0.1)):
        with closing(Ledger(address, settings)) as ledger:
            with raising(LedgerUnavailable, "does not answer", "tell-nobody"):
                ledger.status(new_run_id())
            with raising(LedgerUnavailable, "does not answer", "tell-nobody"):
                ledger.connection.check_server()


class ClosedDoor:
    """A socket that takes each connection and closes it at once; it counts them."""

    def __init__(self, path: Path) -> None:
        self.url, self.count = f"unix://{path}", 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.count += 1
                connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def test_a_call_is_tried_again_until_its_limit_and_not_longer() -> None:
    with conftest._short_directory() as directory, closing(ClosedDoor(directory / "s")) as door:
        counts = []
        for retry_s in (0.0, 0.5):
            with closing(Connection(ServerAddress(door.url), LedgerSettings(retry_s=retry_s))) as connection:
                before = door.count
                with pytest.raises(LedgerUnavailable):
                    connection.command("PING")
                counts.append(door.count - before)
        with closing(Connection(ServerAddress(door.url), LedgerSettings(retry_s=600))) as connection:
            before = door.count
            with pytest.raises(LedgerUnavailable):
                connection.command("PING", retry_s=0.0)  # the call's own limit wins
            counts.append(door.count - before)
    once, often, overruled = counts
    assert once == overruled == 1
    assert 2 <= often <= 60


@pytest.mark.parametrize("keeps", [True, False])
def test_a_server_that_restarts_between_calls_is_found_again(start_server: StartServer, keeps: bool) -> None:
    own = start_server(*(("appendonly yes", "appendfsync always") if keeps else ()))
    with closing(Ledger(own.address)) as ledger:
        run = Run(ledger, 8)
        claim = run.claim()
        own.stop()
        own.start()
        if keeps:
            assert run.commit(claim).accepted
            run.check()
        else:  # an empty one: the functions are installed again
            ledger.create(run.spec, **run.sizes)
            assert run.status().submitted == 0


def test_a_call_made_while_the_server_is_away_waits_for_it(start_server: StartServer) -> None:
    own = start_server()
    with closing(Ledger(own.address)) as ledger:
        Run(ledger)
        own.stop()
        failed, answers, real = threading.Event(), list[Any](), ledger.connection.redis.execute_command

        def watched(*args: Any) -> Any:
            try:
                return real(*args)
            except Exception:
                failed.set()
                raise

        ledger.connection.redis.execute_command = watched  # type: ignore[method-assign]
        caller = threading.Thread(target=lambda: answers.append(Run(ledger, 4)))
        caller.start()
        assert failed.wait(20)
        own.start()
        caller.join(60)
        assert [run.status().submitted for run in answers] == [4]


def test_functions_that_vanish_are_installed_again(start_server: StartServer) -> None:
    own = start_server()
    with closing(Ledger(own.address, AT_ONCE)) as ledger, closing(Ledger(own.address, AT_ONCE)) as other:
        run = Run(ledger, 8)
        claim = run.claim()
        ledger.connection.command("FUNCTION", "FLUSH")
        assert run.status().claimed == 4
        other.connection.load_functions()  # there already
        ledger.connection.command("FUNCTION", "FLUSH")
        assert other.steer(run.run_id, "pause") == "paused"
        assert run.commit(claim).accepted


def test_a_server_that_cannot_write_for_now_is_unavailable(start_server: StartServer) -> None:
    own = start_server()
    with closing(Ledger(own.address, LedgerSettings(retry_s=0.1))) as ledger:
        run = Run(ledger, 4, close=False)
        ledger.connection.command("REPLICAOF", "127.0.0.1", 1)
        with raising(LedgerUnavailable, "does not answer", own.password):
            ledger.append(run.run_id, page_of(4, 8), expected=4)
        ledger.connection.command("REPLICAOF", "NO", "ONE")
        assert ledger.append(run.run_id, page_of(4, 8), expected=4) == (8, 0)


def test_a_command_that_is_wrong_is_not_tried_again(ledger: Ledger) -> None:
    calls = watch(ledger.connection)
    with raising(LedgerError, "wrong number of arguments"):
        ledger.connection.command("HGET", retry_s=600.0)
    assert calls == ["HGET"]


# --------------------------------------------------------------------------- what is broken


def spoil(run: Run, name: str, key: str, *args: Any) -> None:
    run.command(name, key, *args)


@pytest.mark.parametrize("spec", [b"\xc1", b"", b"\x01", b"\x81\xa4task\xa1x"])
def test_a_broken_spec_is_named(ledger: Ledger, spec: bytes) -> None:
    run = Run(ledger, 4)
    spoil(run, "HSET", "head", "spec", spec)
    with raising(LedgerCorrupt, f"{run.run_id}: field spec of key head"):
        ledger.spec(run.run_id)


def test_a_broken_ready_range_is_named_and_no_item_before_it_is_lost(ledger: Ledger) -> None:
    run, other = Run(ledger, 12, batch_size=4), Run(ledger, 4)
    run.commit(run.claim(), 2)
    spoil(run, "RPUSH", "ready", "9:\n<garbage>")
    before = run.everything()
    with raising(LedgerCorrupt, rf"key {{tk:{run.run_id}}}:ready does not parse: '9:\?\?garbage\?'"):
        run.claim()
    assert run.everything() == before
    spoil(run, "LREM", "ready", 1, "9:\n<garbage>")
    assert list(run.claim().indexes()) == [2, 3, 4, 5]
    assert other.commit(other.claim()).state == "finished"


def test_a_broken_delayed_range_is_named(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    spoil(run, "ZADD", "delayed", 1, "once:upon:a:time:0")
    with raising(LedgerCorrupt, f"{run.run_id}}}:delayed does not parse: 'once:upon:a:time:0'"):
        run.sweep()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda _: b"",
        lambda _: b"0;4;1;1;1;0;0;0;0:4:0:0:0",
        lambda stored: b"\0" + stored[1:],
        lambda stored: b"\2" + stored[1:],  # has no weights
        lambda stored: stored[:-1],
        lambda stored: stored[:-18],  # its only range
        lambda stored: stored[:-10] + bytes(10),  # no items in it
        lambda stored: stored[:17] + b"\5" + stored[18:],  # more committed than it holds
    ],
)
def test_a_broken_claim_is_named(ledger: Ledger, spoilt: Callable[[bytes], bytes]) -> None:
    run, other = Run(ledger, 8), Run(ledger, 4)
    ask = run.ask()
    claim = ledger.claim(run.run_id, ask)
    spoil(run, "HSET", "claims", claim.claim_id, spoilt(run.command("HGET", "claims", claim.claim_id)))
    before = run.everything()
    for call in (lambda: run.commit(claim), lambda: run.lose(claim), lambda: ledger.claim(run.run_id, ask)):
        with raising(LedgerCorrupt, f"{run.run_id}}}:claims does not parse"):
            call()
        assert run.everything() == before
    with raising(LedgerCorrupt, "claims does not parse"):
        ledger.renew(run.run_id, 1, [claim.claim_id])
    run.expire(claim)
    with raising(LedgerCorrupt, "claims does not parse"):
        run.sweep()
    assert other.commit(other.claim()).state == "finished"


@pytest.mark.parametrize("field", ["ready", "cursor", "submitted", "max_workers"])
def test_a_broken_counter_is_named(ledger: Ledger, field: str) -> None:
    run = Run(ledger, 8)
    spoil(run, "HSET", "head", field, "many")
    with raising(LedgerCorrupt, f"{run.run_id}: a counter of key head"):
        run.status()
    with raising(LedgerCorrupt, f"{run.run_id}}}:head, field {field} does not parse: 'many'"):
        run.claim()


def test_a_missing_page_is_named(ledger: Ledger) -> None:
    run = Run(ledger, 8, page=2)
    spoil(run, "HDEL", "pages", 2)
    with raising(LedgerCorrupt, f"{run.run_id}}}:pages, field 2 does not parse: 'missing'"):
        run.claim()
    with raising(LedgerCorrupt, f"{run.run_id}: key pages, field 2 does not hold item 3"):
        run.reader.item(3)
    spoil(run, "DEL", "page_index")
    spoil(run, "HSET", "head", "page_items", 0)
    with raising(LedgerCorrupt, f"{run.run_id}}}:page_index"):
        run.claim()
    with raising(LedgerCorrupt, f"{run.run_id}: key pages, field 0 does not hold item 3"):
        run.reader.item(3)


def test_broken_outputs_and_metric_rows_are_named(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.commit(run.claim())
    spoil(run, "RPUSH", "outputs", b"\x09\x00")
    with raising(LedgerCorrupt, "outputs"):
        run.results()
    ledger.connection.command("APPEND", keys.metrics_segment(run.run_id, 0), b"half a row")
    with raising(LedgerCorrupt, f"{run.run_id}: key metrics:0 ends inside a row"):
        run.rows()


BROKEN_RECORDS = [
    b"\xc1", b"\x01", codec.encode({"workers": "many"}), codec.encode({"queues": [1]}),
    codec.encode({"seen_at": float("nan")}), codec.encode({"pid": 1.5}), codec.encode([1]),
]  # fmt: skip


@pytest.mark.parametrize("data", BROKEN_RECORDS, ids=bytes.hex)
def test_a_broken_node_record_hides_no_other_and_is_told_once(
    start_server: StartServer, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Connection(start_server().address)) as connection:
        registry = Registry(connection)
        registry.report_node(node_info("n2", registry.now()))
        connection.command("HSET", keys.NODES, "n1", data)
        for _ in range(3):
            assert [n.node for n in registry.nodes(alive_only=False)] == ["n2"]
        assert [r for r in caplog.messages if "key tk:nodes, entry b'n1'" in r] == caplog.messages
        assert len(caplog.messages) == 1


def test_a_node_of_another_version_is_read_as_far_as_it_says(start_server: StartServer) -> None:
    with closing(Connection(start_server().address)) as connection:
        registry = Registry(connection)
        said = {"workers": 3, "queues": ["shelves"], "seen_at": registry.now(), "colour": "red", "protocol": 9}
        connection.command("HSET", keys.NODES, "n9", codec.encode(said))
        (found,) = registry.nodes()
        assert (found.node, found.workers, found.queues, found.protocol) == ("n9", 3, ("shelves",), 9)
        assert (found.host, found.pid, found.tasks, found.place) == ("", 0, (), "")


def node_info(name: str, now: float) -> NodeInfo:
    return NodeInfo(name, "host", 1, 2, 0, ("shelves",), (), "0", 1, "3.11", False, now, now)


# --------------------------------------------------------------------------- what is never shown


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_no_representation_shows_the_password(scheme: str) -> None:
    secret = "s3cret/%@:"
    address = ServerAddress.parse(f"{scheme}://me:s3cret%2F%25%40%3A@example.org:6380/2")
    assert (address.username, address.read_password()) == ("me", secret)
    assert "s3cret" in url_with_password(address)
    with closing(Ledger(address)) as ledger:
        shown: list[object] = [
            address, ledger, ledger.connection, Reader(ledger.connection, new_run_id()), Registry(ledger.connection),
            Settings.from_env({"TOOLKIT_LEDGER_URL": url_with_password(address), "HOME": "/h"}),
        ]  # fmt: skip
        for thing in shown:
            assert "s3cret" not in f"{thing!r} {thing!s}"


def test_a_ledger_shows_where_it_is(ledger: Ledger, address: ServerAddress) -> None:
    assert repr(ledger) == f"Ledger({address.url!r})"
    assert repr(ledger.connection) == f"Connection({address.url!r})"
    assert NodeInfo.__dataclass_fields__.keys() & {"password", "url"} == set()
