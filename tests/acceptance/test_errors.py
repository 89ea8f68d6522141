"""Work that fails, on real workers: rules, the breaker, and what may be done about dead letters."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.acceptance import shop
from toolkit import Retry, current_item, task
from toolkit.cli.main import main
from toolkit.client import Client, Run, read_letters
from toolkit.errors import InvalidInput, RemoteError, RunStateError
from toolkit.ledger import keys
from toolkit.records import RunState

Eventually = Callable[..., None]


def attempts(x: int) -> int:
    """Fail the first time with what the item asks for; then return the attempt."""
    item = current_item()
    assert item is not None
    if item.attempt == 1 and x % 2:
        raise ConnectionError("not yet")
    return item.attempt


def opens(path: str) -> str:
    """Read a file, whatever that raises."""
    return Path(path).read_text(encoding="utf-8")


# --------------------------------------------------------------------------- rules


def test_an_item_that_fails_for_a_moment_waits_and_then_ends_well(client: Client) -> None:
    run = client.map(attempts, range(6), retry=Retry(on=OSError, backoff_s=0.2, jitter=0.5))
    assert run.results(60) == [1, 2, 1, 2, 1, 2]
    status = run.status()
    assert (status.retried, status.dead, dict(status.errors)) == (3, 0, {"retryable": 3})
    assert status.elapsed_s >= 0.1  # 0.2 s, of which the jitter takes half at most


def test_what_is_to_be_buried_is_not_tried_again(client: Client, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("text")
    rules = Retry(max_attempts=2, on=OSError, bury=FileNotFoundError, backoff_s=0.01)
    run = client.map(opens, [str(tmp_path / name) for name in ("there", "gone")] + [str(tmp_path)], retry=rules)
    found = run.results(60, return_exceptions=True)
    assert found[0] == "text"
    assert [error.category for error in found[1:] if isinstance(error, RemoteError)] == ["fatal", "retryable"]
    assert run.dead_letters()["attempts"].tolist() == [1, 2]


def test_a_rule_pauses_the_run_with_the_reason_and_nothing_is_charged(
    client: Client, tmp_path: Path, eventually: Eventually
) -> None:
    flag = tmp_path / "paid"

    def buys(x: int) -> int:
        item = current_item()
        assert item is not None
        if x == 7 and not flag.exists():
            raise PermissionError("quota\x1b[31m used up")
        return item.attempt

    run = client.map(buys, range(20), batch_size=10, retry=Retry(max_attempts=1, pause=PermissionError))
    eventually(lambda: run.status().state is RunState.PAUSED and not run.status().active)
    status = run.status()
    assert status.reason == "PermissionError: quota\ufffd[31m used up (item 7)"
    assert (status.retried, status.dead, dict(status.errors)) == (0, 0, {})
    assert status.ready + status.remaining >= 3  # the item, and those of its batch that had not begun
    assert "used up" in str(run)
    run.verify()
    flag.touch()
    run.resume()
    assert run.results(60) == [1] * 20
    assert run.status().reason == ""


def test_whoever_waits_for_a_paused_run_is_told_once_why_and_what_to_do(
    client: Client, tmp_path: Path, eventually: Eventually, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "paid"

    def buys(x: int) -> int:
        if not flag.exists():
            raise PermissionError("quota used up")
        return x

    run = client.map(buys, range(3), retry=Retry(pause=PermissionError))
    told = threading.Event()

    def mend() -> None:
        told.wait(30)
        flag.touch()
        run.resume()

    helper = threading.Thread(target=mend)
    helper.start()
    eventually(lambda: run.status().state is RunState.PAUSED)
    watcher = threading.Timer(0.5, told.set)  # a few looks of those who wait
    watcher.start()
    assert run.results(60) == [0, 1, 2]
    helper.join()
    said = [line for line in capsys.readouterr().err.splitlines() if "is paused" in line]
    assert len(said) == 1
    assert "quota used up" in said[0]
    assert "run.resume()" in said[0]
    assert "run.cancel()" in said[0]


@pytest.mark.parametrize(("bad", "trips"), [(3, True), (2, False)], ids=["above", "at"])
def test_the_breaker_pauses_above_its_share_and_not_at_it(
    client: Client, eventually: Eventually, bad: int, trips: bool
) -> None:
    def picky(x: int) -> int:
        if x % 4 < bad:
            raise ValueError("bad item")
        return x

    run = client.map(picky, range(80), batch_size=20, retry=Retry(breaker=0.5, breaker_items=20), max_workers=1)
    eventually(lambda: run.status().state in (RunState.PAUSED, RunState.FINISHED))
    status = run.status()
    if trips:
        assert (status.state, status.done) == (RunState.PAUSED, 20)  # the first batch is enough
        assert status.reason == "15 of the latest 20 items failed with category fatal"
        run.cancel()
    else:
        assert (status.state, status.ok, status.dead) == (RunState.FINISHED, 40, 40)
    run.wait(30)
    run.verify()


# --------------------------------------------------------------------------- dead letters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("errors")


@pytest.fixture(scope="module")
def failed(client: Client, folder: Path) -> Iterator[Run]:
    """A run that ended with dead letters of two categories, whose results are not kept."""
    flag = folder / "repaired"

    def mixed(item: tuple[int, bytes]) -> int:
        number = item[0]
        print("printed", number)
        logging.getLogger("shop").warning("logged %d", number)
        if flag.exists() or number == 0:
            return number
        raise MemoryError("=too much") if number == 1 else ValueError("\x1b[31m=bad\u202e")

    items = [(n, b"\x00" * n) for n in range(4)]
    run = client.map(mixed, items, key=lambda item: f"key {item[0]}", keep_results=False)
    assert run.wait(60).dead == 3
    yield run
    flag.touch()


def test_a_letter_keeps_all_that_is_known_of_the_item(failed: Run, client: Client) -> None:
    (letter,) = failed.dead_letters(category="out_of_memory").itertuples()
    assert (letter.index, letter.key, letter.item, letter.attempts) == (1, "key 1", (1, b"\x00"), 1)
    assert (letter.error_type, letter.message) == ("MemoryError", "=too much")
    assert "raise MemoryError" in letter.traceback
    assert letter.logs == failed.logs(1)
    assert "printed 1" in letter.logs
    assert "logged 1" in letter.logs
    assert "printed 2" not in letter.logs
    assert letter.worker
    assert failed.dead_letters(error_type="ValueError")["index"].tolist() == [2, 3]
    assert failed.dead_letters(error_type="ValueError", category="out_of_memory").empty
    with pytest.raises(InvalidInput, match="one of retryable, fatal"):
        failed.dead_letters(category="sad")
    # and it stays until somebody decides
    assert client._ledger.connection.command("PTTL", keys.of(failed.run_id, "dead")) == -1


def test_letters_are_exported_exactly(failed: Run, tmp_path: Path) -> None:
    assert failed.export_dead(tmp_path / "dead.jsonl") == 3
    letters = list(read_letters(tmp_path / "dead.jsonl"))
    assert [(x.index, x.item) for x in letters] == [(n, (n, b"\x00" * n)) for n in (1, 2, 3)]
    assert letters == failed._reader.dead_letters()
    with pytest.raises(InvalidInput, match="overwrite=True"):
        failed.export_dead(tmp_path / "dead.jsonl")
    assert failed.export_dead(str(tmp_path / "dead.csv"), where=lambda letter: letter.index > 1) == 2


@pytest.fixture
def command(client: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The command ``toolkit``, in this process and beside the private cluster; returns what it prints."""
    monkeypatch.setattr("toolkit.cli.output.Client", lambda _app, _url: nullcontext(client))

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_the_command_lists_and_exports_them_harmlessly(
    failed: Run, command: Callable[..., str], tmp_path: Path
) -> None:
    run_id, file = failed.run_id, tmp_path / "dead.csv"
    listed, lines = command("dead", run_id, "--category", "fatal"), command("dead", run_id, "--json").splitlines()
    assert len(listed.splitlines()) == 3
    assert "ValueError" in listed
    assert [json.loads(line)["index"] for line in lines] == [1, 2, 3]
    assert run_id in command("dead")
    assert "3 dead letters" in command("export-dead", run_id, str(file))
    for text in (listed, *lines, file.read_text(encoding="utf-8")):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "--overwrite" in command("export-dead", "--help")
    assert "is there already" in command("export-dead", run_id, str(file), code=1)
    assert "add up" in command("verify", run_id)


def test_the_command_steers_a_run(client: Client, command: Callable[..., str], eventually: Eventually) -> None:
    def slow_or_bad(x: int) -> int:
        if x == 0:
            raise ValueError("bad")
        time.sleep(0.02)
        return x

    run = client.map(slow_or_bad, range(2000), batch_size=5)
    eventually(lambda: run.status().dead == 1)
    assert "paused" in command("pause", run.run_id, "--reason", "lunch\x1b[2J")
    assert "lunch\ufffd[2J" in command("status", run.run_id)
    assert "1 items sent back" in command("retry-dead", run.run_id, "--category", "fatal")
    assert "running" in command("resume", run.run_id)
    eventually(lambda: run._fresh().dead == 1)
    assert "Aborted" in command("drop-dead", run.run_id, code=1)
    assert "1 dead letter dropped" in command("drop-dead", run.run_id, "--yes")
    assert "cancel" in command("cancel", run.run_id, "--terminate", "--grace", "20")
    run.wait(30)
    assert int(run._reader._command("HGET", "head", "terminate_at")) > 0
    assert "Invalid value" in command("dead", run.run_id, "--category", "sad", code=2)
    assert "no run" in command("verify", "run-that-is-not", code=1)


def test_letters_replay_here_from_what_they_keep(failed: Run) -> None:
    seen = []
    assert failed.replay(2, task=lambda item: seen.append(item) or "replayed") == "replayed"
    assert seen == [(2, b"\x00\x00")]


def test_letters_are_retried_by_category_and_dropped_one_by_one(failed: Run, folder: Path) -> None:
    (folder / "repaired").touch()
    assert failed.retry_dead(category="out_of_memory") == 1
    failed.wait(60)
    status = failed.status()
    assert (status.ok, status.dead, status.generation) == (2, 2, 1)
    assert failed.drop_dead([3]) == 1
    assert failed.retry_dead([0, 3], where=lambda letter: True) == 0
    with pytest.raises(InvalidInput, match="count from 0"):
        failed.retry_dead([-1])
    assert failed.retry_dead(where=lambda letter: letter.item[0] == 2) == 1
    status = failed.wait(60)
    assert (status.ok, status.dead, status.skipped, status.generation) == (3, 0, 1, 2)
    failed.verify()


def test_letters_of_a_cancelled_run_are_not_retried_in_silence(client: Client, eventually: Eventually) -> None:
    def one_bad(x: int) -> int:
        if x == 0:
            raise ValueError("bad")
        time.sleep(0.02)
        return x

    run = client.map(one_bad, range(2000), batch_size=5)
    eventually(lambda: run.status().dead == 1)
    status = run.cancel(reason="enough")
    assert status.reason == "enough"
    run.wait(30)
    with pytest.raises(RunStateError, match="cancelled"):
        run.retry_dead()
    assert run.drop_dead() == 1
    run.verify()


@pytest.mark.parametrize("keep", [True, False])
def test_a_batched_task_with_a_setup_is_replayed_with_both(client: Client, keep: bool) -> None:
    @task(batched=True, setup=shop.load_table)
    def scale(items: list[dict[str, Any]], table: dict[str, int], factor: int) -> list[list[Any]]:
        if any(item["x"] == 5 for item in items) and factor == 2:
            raise ValueError("five")
        return [[item["x"] * factor, item["at"], table["pid"]] for item in items]

    at = datetime(2026, 1, 2, tzinfo=UTC)
    items = [{"x": n, "at": at} for n in range(8)]
    run = client.map(scale, items, kwargs={"factor": 2}, batch_size=8, keep_results=keep)
    status = run.wait(60)
    assert (status.ok, status.dead) == (7, 1)
    with pytest.raises(ValueError, match="five"):
        run.replay(5, task=scale)
    if keep:
        import os

        assert run.replay(4, task=scale) == [8, at, os.getpid()]
    run.verify()


# --------------------------------------------------------------------------- what cannot be read


def test_a_run_whose_page_is_gone_pauses_and_its_neighbour_does_not(
    client: Client, tmp_path: Path, eventually: Eventually
) -> None:
    gate = tmp_path / "gate"

    def holds(_: int) -> None:
        deadline = time.monotonic() + 30
        while not gate.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    holding = client.map(holds, range(2), batch_size=1)
    eventually(lambda: holding.status().active == 2)
    run, other = client.map(shop.double, range(10)), client.map(shop.double, range(10))
    client._ledger.connection.command("HDEL", keys.of(run.run_id, "pages"), 0)
    gate.touch()
    assert other.results(60) == [2 * x for x in range(10)]
    eventually(lambda: run.status().state is RunState.PAUSED)
    eventually(lambda: run.status().active == 0)
    status = run.status()
    assert "pages, field 0" in status.reason
    assert (status.dead, status.lost, status.done) == (0, 0, 0)
    run.cancel()
    assert run.wait(30).skipped == 10
