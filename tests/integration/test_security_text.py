"""Hostile text from the ledger, where somebody wrote past every check: harmless wherever a person sees it."""

from __future__ import annotations

import csv
import io
import logging
import secrets
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.acceptance import shop
from tests.conftest import Server
from tests.unit.notebook_samples import HOSTILE, Reader
from toolkit import codec, notebook
from toolkit.cli import main
from toolkit.client import Client, Run
from toolkit.errors import LedgerError
from toolkit.ledger import Connection, Ledger, keys
from toolkit.notebook.board import Board, grown
from toolkit.notebook.board_views import summary
from toolkit.notebook.progress import ProgressBar, progress_line
from toolkit.settings import LedgerSettings, ServerAddress, url_with_password
from toolkit.transport import make_app
from toolkit.transport.servant import logger

TERMINAL = (
    *HOSTILE,
    "\x1b]8;;javascript:alert(1)\x1b\\click\x1b]8;;\x1b\\", "\x1b[2J\x1b[1;1Hok      server answers", "a\r\rb\b\b\bc",
    "\nok      forged line", "\x9b31m", "\u2066\u202e\u200b", "javascript:alert(1)", "=cmd|' /C calc'!A0", "@SUM(1)",
)  # fmt: skip
STEERS = {chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))} | set("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c")
STEERS |= set("\u202d\u202e\u2066\u2067\u2068\u2069")


def steering(text: str, *allowed: str) -> set[str]:
    """Characters that drive a terminal or turn a line around."""
    return STEERS.intersection(text) - set(allowed)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(make_app("memory://", "celery"), url_with_password(server.address)) as made:
        notebook.register()
        yield made


def poisoned(client: Client, text: str) -> Run:
    """A run that ended, with `text` in each field that holds text."""
    run = client.map(shop.double, [None, 2], inline=True)
    run.wait(30)
    ledger, text = client._ledger, text.encode("utf-8", "replace").decode()
    forged = replace(run.spec, name=text, task=text, tags={text: text}, code_version=text, priority="normal")
    letter = {
        "error_type": text, "message": text, "traceback_text": text, "category": "fatal", "attempts": 1, "worker": text,
        "logs": text, "at": 1.0, "item": text, "key": text,
    }  # fmt: skip
    command = ledger.connection.command
    command("HSET", keys.of(run.run_id, "head"), "spec", codec.encode(forged.to_dict()), "reason", text)
    command("HSET", keys.of(run.run_id, "dead"), 0, codec.encode(letter))
    command("HSET", keys.of(run.run_id, "workers"), 0, text)
    ledger.note(run.run_id, "declined", text)
    return client.get_run(run.run_id)


@pytest.fixture(scope="module")
def spoilt(client: Client) -> Callable[[str], Run]:
    """Give the one run with a text, which tests only look at."""
    return cache(partial(poisoned, client))


@pytest.mark.parametrize("text", TERMINAL, ids=range(len(TERMINAL)))
def test_a_run_shows_itself_in_one_harmless_line(spoilt: Callable[[str], Run], text: str) -> None:
    run = spoilt(text)
    for shown in (str(run), repr(run), run.status().line(), progress_line(run.status(), 200)):
        assert steering(shown) == set(), shown
    stream = io.StringIO()
    bar = ProgressBar(stream, clock=iter(range(100)).__next__)
    bar.update(run.status())
    bar.close(run.status())
    assert steering(stream.getvalue(), "\n", "\r") == set()
    assert stream.getvalue().count("\n") == 1
    run.wait(5)


@pytest.mark.parametrize("text", TERMINAL, ids=range(len(TERMINAL)))
def test_markup_holds_hostile_text_as_text(spoilt: Callable[[str], Run], text: str) -> None:
    run = spoilt(text)
    reader = Reader(run._repr_html_())
    assert reader.problems == []
    assert not [value for name, value in reader.attributes if value.lower().startswith("javascript:")]


def test_the_command_prints_hostile_text_without_obeying_it(
    client: Client, address: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = poisoned(client, " ".join(TERMINAL))
    url = url_with_password(address)
    monkeypatch.setenv("SECURED_BROKER", "memory://")
    monkeypatch.setenv("TOOLKIT_LEDGER_URL", url)
    verbs = (
        ["runs"], ["status", run.run_id], ["doctor", run.run_id], ["doctor"], ["dead", run.run_id],
        ["metrics", run.run_id], ["workers"], ["wait", run.run_id], ["cancel", run.run_id],
        ["top"], ["top", "--once", "--filter", "click"],
    )  # fmt: skip
    for verb in verbs:
        answer = CliRunner().invoke(main, ["-A", "tests.acceptance.secured_app:app", "--ledger-url", url, *verb])
        assert answer.exception is None or isinstance(answer.exception, SystemExit), (verb, answer.exception)
        assert steering(answer.output, "\n") == set(), verb
        assert "\nok      forged line" not in answer.output, verb
        assert address.password
        assert address.password not in answer.output


def test_all_runs_hold_hostile_text_as_text(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    run = poisoned(client, " ".join(TERMINAL))
    client.panel()
    shown = capsys.readouterr().out
    assert run.run_id in shown
    assert steering(shown, "\n") == set()
    board = grown(Board(), client.watch_runs(20).look())
    assert Reader(summary(board)).problems == []


def test_exported_dead_letters_are_no_formulas(client: Client, tmp_path: Path) -> None:
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("x")', "\uff1d1"):
        file = tmp_path / f"{secrets.token_hex(4)}.csv"
        run = poisoned(client, text)
        assert run.export_dead(file) == 1
        header, *rows = csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline=""))
        assert len(rows) == 1
        cells = dict(zip(header, rows[0], strict=True))
        assert not [c for name, c in cells.items() if c.startswith(tuple("=+-@\t\r\n\uff1d")) and name != "index"], (
            cells
        )


@pytest.mark.parametrize("text", ["x\nWARNING forged: line", "x\r\nforged", "\x1b[2J", "x\u2028forged"])
def test_a_log_line_stays_one_line(client: Client, text: str, caplog: pytest.LogCaptureFixture) -> None:
    from toolkit.errors import UnknownTask
    from toolkit.transport.declining import Declining

    run = poisoned(client, text)
    declining = Declining(client._app, client._ledger, "node")
    with caplog.at_level(logging.DEBUG, logger.name):
        declining.decline(run.run_id, UnknownTask(f"module says: {text}"), 0.0)
    assert caplog.messages
    assert [message for message in caplog.messages if steering(message)] == []


# --------------------------------------------------------------------------- secrets


def _attempts(address: ServerAddress, tmp_path: Path) -> Iterator[tuple[str, ServerAddress]]:
    secret = "xyzzy-" + secrets.token_hex(8)
    yield secret, replace(address, password=secret)
    yield secret, replace(address, username="nobody", password=secret)
    yield secret, ServerAddress.parse(f"redis://me:{secret}@127.0.0.1:1/0")
    yield secret, ServerAddress.parse(f"rediss://me:{secret}@127.0.0.1:1/0")
    yield secret, ServerAddress.parse(f"redis://me:{secret}@name.invalid:6379/0")
    yield secret, ServerAddress.parse(f"unix://:{secret}@{tmp_path}/nobody.sock")


def test_no_failed_connection_shows_its_password(address: ServerAddress, tmp_path: Path) -> None:
    for secret, tried in _attempts(address, tmp_path):
        ledger = Ledger(tried, LedgerSettings(retry_s=0.0))
        with pytest.raises(LedgerError) as caught:
            ledger.status("some-run")
        chain = "".join(traceback.format_exception(caught.value))
        raw: Connection = ledger.connection
        shown = [chain, repr(caught.value), repr(ledger), repr(raw), repr(raw.redis), repr(raw.redis.connection_pool)]
        shown += [repr(raw.settings), repr(tried), str(tried)]
        assert not [text for text in shown if secret in text], tried
        ledger.close()


@pytest.mark.parametrize(
    ("url", "verb"),
    [
        ("http://:zebra-secret@h", ["install-functions"]),
        ("redis://:zebra/secret@h", ["install-functions"]),
        ("redis://:zebra-secret@name.invalid/0?no=such", ["-A", "no.such.module:app", "doctor"]),
        ("redis://:zebra/secret@h", ["-A", "tests.acceptance.shared_free:app", "doctor"]),
    ],
)
def test_the_command_never_repeats_a_url_with_a_password(
    monkeypatch: pytest.MonkeyPatch, url: str, verb: list[str]
) -> None:
    monkeypatch.setenv("SECURED_BROKER", "memory://")
    monkeypatch.setenv("TOOLKIT_LEDGER_URL", url)
    answer = CliRunner().invoke(main, verb)
    assert answer.exit_code == 1, answer.output
    assert "zebra" not in answer.output
    assert isinstance(answer.exception, SystemExit)


def test_the_doctor_finds_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECURED_BROKER", "memory://")
    monkeypatch.setenv("TOOLKIT_LEDGER_URL", f"unix://:zebra@{tmp_path}/nobody.sock")
    answer = CliRunner().invoke(main, ["-A", "tests.acceptance.secured_app:app", "doctor"])
    assert answer.exit_code == 1
    assert answer.output.startswith(f"PROBLEM the server at unix://{tmp_path}/nobody.sock does not answer")
