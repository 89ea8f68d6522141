"""No key is ever built from text that was not checked, whichever door it came through."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.acceptance import shop
from toolkit import codec
from toolkit.cli import main
from toolkit.client import Client
from toolkit.errors import InvalidInput, LedgerCorrupt
from toolkit.ledger import Connection, Ledger, keys
from toolkit.records import RunSpec
from toolkit.settings import ServerAddress, url_with_password
from toolkit.transport import make_app

ALLOWED = string.ascii_lowercase + string.digits + "-"
GOOD = re.compile(r"[a-z0-9][a-z0-9-]{5,63}")
relaxed = hypothesis_settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

hostile = st.sampled_from([
    "", " ", "a", "short", "x" * 65, "UPPER-CASE", "under_score", "run}:head", "{tk:other-run}:head", "run-1\n",
    "\nrun-one", "run one", "run-1\x00", "../../etc", "run*", "run?", "-leading", "run-\u0661\u0662\u0663",
    "\uff52\uff55\uff4e\uff0d\uff4f\uff4e\uff45", "rün-one", "run-one\r\nFLUSHALL", "run-one'", 'run-one"', "run-one;",
    "\ud800run-one", "\u202erun-one", "%s%n-run", "$(reboot)",
])  # fmt: skip
bad_ids = st.one_of(
    hostile, st.text(max_size=80), st.from_regex(r"[a-z0-9-]{0,70}[^a-z0-9-][a-z0-9-]{0,10}", fullmatch=True)
).filter(lambda text: not GOOD.fullmatch(text))
not_text = st.one_of(
    st.none(), st.integers(), st.binary(), st.lists(st.text()), st.booleans(), st.floats(), st.just(b"run-good-id")
)
bad_names = st.one_of(
    st.text(max_size=5).map(lambda text: text + "\n"), st.text(max_size=5).map(lambda text: "\x1b" + text),
    st.sampled_from([
        "x" * 201, "\x00", "a\x07b", "\u202eabc", "a\u2028b", "\ud83d", "\u061cx", "tab\t", "\x85", "\x9b31m",
    ]),
)  # fmt: skip


@pytest.fixture
def client(address: ServerAddress) -> Iterator[Client]:
    app = make_app("memory://", "celery")
    with Client(app, url_with_password(address)) as made:
        yield made


def stored(connection: Connection) -> set[bytes]:
    return set(connection.redis.scan_iter(count=10_000))


def refused(connection: Connection, call: Callable[[], Any]) -> None:
    """It is the caller's error, and nothing was stored."""
    before = stored(connection)
    with pytest.raises(InvalidInput):
        call()
    assert stored(connection) == before


@relaxed
@given(run_id=st.one_of(bad_ids, not_text.filter(lambda value: value is not None)))
def test_a_bad_run_id_is_refused_by_every_door(client: Client, run_id: Any) -> None:
    connection = client._ledger.connection
    refused(connection, lambda: client.get_run(run_id))
    refused(connection, lambda: client.map(shop.double, [1], run_id=run_id, inline=True))
    if isinstance(run_id, str):  # behind the doors
        refused(connection, lambda: keys.of_run(run_id))
        refused(connection, lambda: keys.metrics_segment(run_id, 0))
        refused(connection, lambda: client._ledger.status(run_id))
    if run_id:  # without one, the doctor looks at all
        refused(connection, lambda: client.doctor(run_id))


@relaxed
@given(name=bad_names)
def test_a_bad_name_queue_or_tag_is_refused(client: Client, name: str) -> None:
    connection = client._ledger.connection
    refused(connection, lambda: client.map(shop.double, [1], name=name, inline=True))
    refused(connection, lambda: client.map(shop.double, [1], queue=name))
    refused(connection, lambda: client.map(shop.double, [1], tags={name: "value"}, inline=True))
    refused(connection, lambda: client.map(shop.double, [1], tags={"key": name}, inline=True))
    refused(connection, lambda: keys.active(name))


@relaxed
@given(value=not_text.filter(lambda value: value is not None))
def test_what_is_no_text_is_refused_as_a_name(client: Client, value: Any) -> None:
    connection = client._ledger.connection
    refused(connection, lambda: client.map(shop.double, [1], name=value, inline=True))
    refused(connection, lambda: client.map(shop.double, [1], tags={"key": value}, inline=True))
    refused(connection, lambda: client.map(shop.double, [1], tags={value: "x"} if _hashable(value) else value))
    refused(connection, lambda: client.map(shop.double, [1], priority=value, inline=True))
    if value:
        refused(connection, lambda: client.map(shop.double, [1], queue=value))
        refused(connection, lambda: client.map(shop.double, [1], tags=value, inline=True))


def _hashable(value: Any) -> bool:
    return not isinstance(value, list)


@pytest.mark.parametrize(
    "verb", ["status", "wait", "cancel", "pause", "resume", "doctor", "dead", "retry-dead", "metrics"]
)
@pytest.mark.parametrize("run_id", ["run}:head", "../../etc/passwd", "UPPER-CASE", "run-1\x1b[2J", "short"])
def test_every_verb_of_the_command_refuses_a_bad_id(
    address: ServerAddress, monkeypatch: pytest.MonkeyPatch, verb: str, run_id: str
) -> None:
    monkeypatch.setenv("SECURED_BROKER", "memory://")
    monkeypatch.setenv("TOOLKIT_LEDGER_URL", url_with_password(address))
    url = url_with_password(address)
    answer = CliRunner().invoke(main, ["-A", "tests.acceptance.secured_app:app", "--ledger-url", url, verb, run_id])
    assert answer.exit_code == 1, answer.output
    assert "expected 6 to 64 characters" in answer.output
    assert "\x1b" not in answer.output
    assert address.password
    assert address.password not in answer.output


@relaxed
@given(text=st.text(alphabet=ALLOWED, min_size=6, max_size=64).filter(lambda text: text[0] != "-"))
def test_a_good_id_stands_between_braces_and_adds_no_other(text: str) -> None:
    for key in keys.of_run(text):
        assert key.startswith(b"{tk:" + text.encode() + b"}:")
        assert (key.count(b"{"), key.count(b"}")) == (1, 1)


@pytest.mark.parametrize("change", [{"queue": "a\nb"}, {"queue": 7}, {"run_id": "another-run"}, {"queue": ""}])
def test_a_description_that_would_lead_to_other_keys_is_corrupt(address: ServerAddress, change: dict[str, Any]) -> None:
    ledger = Ledger(address)
    spec = RunSpec("run-described", "tests.task", queue="celery")
    ledger.create(spec, batch_size=1, auto=False, max_workers=0)
    forged = spec.to_dict() | change
    ledger.connection.command("HSET", keys.of("run-described", "head"), "spec", codec.encode(forged))
    with pytest.raises(LedgerCorrupt, match="run run-described: field spec of key head"):
        ledger.spec("run-described")
    ledger.connection.command("DEL", *keys.of_run("run-described"))
    ledger.close()
