"""Users with no more rights than they need, functions that run only when signed, and secrets that stay secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from click.testing import CliRunner

from tests.acceptance import shop
from tests.acceptance.secured import Guarded, guarded, node
from toolkit.cli import main
from toolkit.client import Client
from toolkit.errors import LedgerRefused
from toolkit.settings import LedgerSettings
from toolkit.transport import make_app

Eventually = Callable[..., None]
QUICK = LedgerSettings(retry_s=2.0)


def toolkit_command(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with the users of `toolkit acl`, and without the ledger's functions."""
    folder = tmp_path_factory.mktemp("acl") / "passwords"
    options = ["--queue", "celery", "--queue", "nobody", "--broker-db", "1", "--secrets", str(folder)]
    printed = toolkit_command("acl", *options, *(["--redis-7.0"] if request.param == "redis" else []))
    assert printed.exit_code == 0, printed.output
    with guarded(request.param, printed.stdout, folder) as made:
        yield made


def client_of(site: Guarded, user: str) -> Client:
    app = make_app(site.broker_url("toolkit-broker-client"), "celery")
    return Client(app, site.ledger_url(user), settings=QUICK)


def log_of(site: Guarded) -> list[str]:
    """What was refused since the server started, by user and command."""
    with site.connect("root") as root:
        return [f"{entry['username']}: {entry['object']} ({entry['reason']})" for entry in root.acl_log()]


def test_every_role_does_its_journey_and_the_server_refuses_nothing(
    site: Guarded, tmp_path: Path, eventually: Eventually
) -> None:
    with client_of(site, "toolkit-client") as client:
        with pytest.raises(LedgerRefused, match=r"toolkit install-functions"):
            client.map(shop.double, [1], inline=True)
        assert any("function" in line for line in log_of(site))
        with site.connect("root") as root:
            root.acl_log_reset()
        installed = toolkit_command("install-functions", TOOLKIT_LEDGER_URL=site.ledger_url("toolkit-admin"))
        assert installed.exit_code == 0, installed.output
        environment = {
            "SECURED_BROKER": site.broker_url("toolkit-broker-worker"),
            "TOOLKIT_LEDGER_URL": site.ledger_url("toolkit-worker"),
        }
        log = tmp_path / "node.log"
        with node(environment, log, level="DEBUG"):
            eventually(client.nodes, 60.0)
            _client_journey(client)
            _no_secret_is_shown(site, client, log)
            with site.connect("root") as root:  # what the messaging library does by itself
                eventually(lambda: root.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0) > 3, 30.0)
            with client_of(site, "toolkit-dashboard") as dashboard:
                _dashboard_journey(dashboard)
        assert log_of(site) == []
        with client_of(site, "toolkit-dashboard") as dashboard:
            run = dashboard.get_run(dashboard.runs()["run_id"][0])
            with pytest.raises(LedgerRefused, match="a right is missing"):
                run.cancel()
        assert "NOPERM" not in log.read_text()
        assert not client.nodes(), "the node signed off"


def _client_journey(client: Client) -> None:
    assert client.map(shop.double, range(500), tags={"kind": "test"}).results(30) == [2 * i for i in range(500)]
    assert client.map(shop.double, range(5), inline=True).results(30) == [0, 2, 4, 6, 8]
    assert client.map(shop.double, range(50), keep_results=False, batch_size=7).wait(30).ok == 50
    failing = client.map(shop.double, [None, 1, 2])
    assert failing.wait(30).dead == 1
    assert failing.retry_dead() == 1
    assert failing.wait(30).dead == 1
    assert failing.dead_letters()["error_type"].tolist() == ["TypeError"]
    poisoned = client.map(shop.poison, range(36, 39))
    assert poisoned.wait(30).dead == 1
    waiting = client.map(shop.double, range(20), queue="nobody", key=str)
    waiting.pause()
    waiting.update(batch_size=3, max_workers=1)
    waiting.resume()
    assert str(waiting.cancel().state) == "cancelled"
    waiting.verify()
    waiting._reader.delete()
    client.doctor()
    assert len(client.runs()) >= 5


def _no_secret_is_shown(site: Guarded, client: Client, log: Path) -> None:
    """The passwords of ledger and broker, in whatever a person may look at while the node works at level DEBUG."""
    app = make_app(site.broker_url("root"), "celery")
    inspect = app.control.inspect(timeout=10.0, limit=1)
    shown = {"stats": inspect.stats(), "conf": inspect.conf(), "report": inspect.report(), "log": log.read_text()}
    assert all(shown.values())
    app.close()
    shown |= {
        "repr": [client, client._ledger, client._ledger.connection, client._ledger.connection.redis, client.nodes()],
        "doctor": client.doctor(), "letters": client.dead_letters().to_dict(), "runs": client.runs().to_dict(),
        "processes": [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])],
    }  # fmt: skip
    ledger_users = ("toolkit-client", "toolkit-worker", "toolkit-admin")
    found = [(what, user) for what, text in shown.items() for user in ledger_users if site.passwords[user] in str(text)]
    assert found == []
    publisher = site.passwords["toolkit-broker-client"]
    assert publisher not in str(shown)
    own = {what for what, text in shown.items() if site.passwords["toolkit-broker-worker"] in str(text)}
    assert own <= {"stats"}  # Celery shows a broker URL's password there, where it is one of a socket


def _dashboard_journey(dashboard: Client) -> None:
    runs = dashboard.runs()
    assert len(dashboard.workers()) == 1
    assert len(dashboard.metrics()) > 5
    assert len(dashboard.dead_letters()) == 2
    dashboard.doctor()
    for run_id in runs["run_id"]:
        run = dashboard.get_run(run_id)
        assert run.status().submitted
        assert list(run.events())
        run.items()
        run.verify()


EVERYBODY = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory 1", "CONFIG REWRITE", "KEYS *", "SCAN 0", "RANDOMKEY",
    "DEBUG SLEEP 0", "SHUTDOWN NOSAVE", "ACL SETUSER intruder on nopass ~* +@all", "ACL LIST", "ACL GETUSER default",
    "MONITOR", "REPLICAOF NO ONE", "SYNC", "MODULE LIST", "SAVE", "BGSAVE", "SWAPDB 0 1", "SCRIPT FLUSH",
    "FUNCTION FLUSH", "FUNCTION DUMP", "FUNCTION RESTORE x", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1",
    "SET foreign 1", "GET foreign", "DEL foreign", "HGETALL foreign", "RENAME {tk:run-one}:head foreign",
    "COPY foreign {tk:run-one}:head", "MIGRATE localhost 1 {tk:run-one}:head 0 1", "SORT {tk:run-one}:ready",
    "SUBSCRIBE foreign", "PUBLISH foreign x", "LATENCY DOCTOR", "CLUSTER INFO",
)  # fmt: skip
LEDGER = (
    "EVAL 'return 1' 0",
    "EVAL_RO 'return 1' 0",
    "EVALSHA x 0",
    "SCRIPT LOAD x",
    "LPUSH celery forged",
    "BRPOP celery 1",
)
NOT_ADMIN = ("FUNCTION LOAD x", "FUNCTION DELETE x", "FUNCTION LIST", "ACL LOG")
FORBIDDEN = {
    "admin": (*EVERYBODY, *LEDGER),
    "client": (*EVERYBODY, *LEDGER, *NOT_ADMIN, "HSET tk:nodes forged x", "HDEL tk:nodes n", "SET tk:sweeper:1 me"),
    "worker": (*EVERYBODY, *LEDGER, *NOT_ADMIN, "ZADD tk:runs 1 run-one", "SADD tk:queues q", "ZREM tk:runs run-one"),
    "dashboard": (
        *EVERYBODY, *LEDGER, *NOT_ADMIN, "FCALL f 1 {tk:run-one}:head", "HSET {tk:run-one}:head state x",
        "DEL {tk:run-one}:head", "HDEL tk:nodes n", "ZADD tk:active:q 1 run-one", "XADD {tk:run-one}:events * a b",
    ),
    "broker-client": (
        *EVERYBODY, "EVAL 'return 1' 0", "SCRIPT LOAD x", "FCALL f 0", "BRPOP celery 1", "HGETALL unacked",
        "HGETALL {tk:run-one}:head", "ZRANGE tk:runs 0 -1", "LPUSH other x",
    ),
    "broker-worker": (
        *EVERYBODY, *NOT_ADMIN, "FCALL f 0", "HGET {tk:run-one}:head function", "ZRANGE tk:runs 0 -1", "BRPOP other 1",
        "EVAL 'return 1' 1 {tk:run-one}:head",
    ),
}  # fmt: skip


@pytest.mark.parametrize("role", FORBIDDEN)
def test_what_a_role_does_not_need_is_refused(site: Guarded, role: str) -> None:
    import shlex

    allowed = []
    with site.connect(f"toolkit-{role}") as connection:
        assert connection.ping()
        for command in FORBIDDEN[role]:
            try:
                answer = connection.execute_command(*shlex.split(command))
            except redis.exceptions.NoPermissionError:
                continue
            except redis.exceptions.RedisError as error:
                answer = error
            allowed.append(f"{command}: {answer!r}")
    assert allowed == []
    once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    stranger = redis.Redis(unix_socket_path=str(site.socket), retry=once)
    with pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    stranger.close()


def test_a_script_of_the_broker_s_user_reaches_no_run(site: Guarded) -> None:
    with site.connect("toolkit-broker-worker") as connection:
        with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)acl|permission|can't run"):
            connection.eval("return redis.call('HGETALL', '{tk:run-one}:head')", 0)
        with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)acl|permission|can't run"):
            connection.eval("return redis.call('FLUSHALL')", 0)


def test_only_the_admin_installs_functions(site: Guarded) -> None:
    refused = toolkit_command("install-functions", TOOLKIT_LEDGER_URL=site.ledger_url("toolkit-worker"))
    assert refused.exit_code == 1
    assert "admin" in refused.output
    assert site.passwords["toolkit-worker"] not in refused.output
    unknown = toolkit_command("install-functions")
    assert unknown.exit_code == 1
    assert "TOOLKIT_LEDGER_URL" in unknown.output
