"""All runs, looked at again and again; what a view reads of one run; and ``toolkit top`` in a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.ledgers import Run, metric_row
from tests.integration.test_events import handle
from toolkit.client.watching import RunsWatch
from toolkit.errors import LedgerUnavailable
from toolkit.ledger import Ledger, Registry
from toolkit.settings import LedgerSettings, ServerAddress, url_with_password


@pytest.fixture(scope="module")
def ledger(server: Any) -> Iterator[Ledger]:
    made = Ledger(server.address, LedgerSettings(retry_s=5.0))
    yield made
    made.close()


def submit(ledger: Ledger, items: int = 8, **sizes: Any) -> Run:
    """A run that is listed as a client would."""
    run = Run(ledger, create=False, **sizes)
    Registry(ledger.connection).add_run(run.spec)
    ledger.create(run.spec, **run.sizes)
    run.append(items, close=True)
    return run


def finish(run: Run) -> None:
    while run.status().remaining:
        run.commit(run.claim())
    Registry(run.ledger.connection).deactivate(run.spec.queue, run.run_id)


def read(watch: RunsWatch, *runs: Run) -> list[tuple[str, int]]:
    """Which of the runs a look read, and how many of their items had ended well."""
    mine = {run.run_id for run in runs}
    return [(spec.run_id, status.ok) for _, spec, status in watch.look().read if spec.run_id in mine]


def test_a_look_reads_what_may_have_changed_and_keeps_the_rest_in_sight(ledger: Ledger) -> None:
    going, done = submit(ledger), submit(ledger)
    finish(done)
    watch = RunsWatch(ledger, latest=100)
    assert sorted(read(watch, going, done)) == sorted([(going.run_id, 0), (done.run_id, 8)])
    going.commit(going.claim())
    assert read(watch, going, done) == [(going.run_id, 4)]
    seen = [spec.run_id for spec, _ in watch.look().runs]
    assert {going.run_id, done.run_id} <= set(seen)
    later = submit(ledger)
    assert (later.run_id, 0) in read(watch, going, done, later)
    assert next(spec.run_id for spec, _ in watch.look().runs) == later.run_id  # the newest first


def test_dead_letters_of_ended_runs_stay_in_sight(ledger: Ledger) -> None:
    run = submit(ledger, 4)
    run.die(1, 2)
    watch = RunsWatch(ledger, latest=100)
    watch.look()
    assert read(watch, run) == [(run.run_id, 2)]
    handle(run).drop_dead()
    watch.look()
    [status] = [status for spec, status in watch.look().runs if spec.run_id == run.run_id]
    assert (status.dead, status.skipped) == (0, 2)


def test_a_look_that_fails_half_way_loses_no_news(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = sorted((submit(ledger) for _ in range(2)), key=lambda run: run.run_id)
    watch = RunsWatch(ledger, latest=100)
    plain = ledger.status

    def away(run_id: str, *args: Any) -> Any:
        if run_id == runs[1].run_id:
            raise LedgerUnavailable("gone for a moment")
        return plain(run_id, *args)

    monkeypatch.setattr(ledger, "status", away)
    with pytest.raises(LedgerUnavailable):
        watch.look()
    monkeypatch.undo()
    assert {run_id for run_id, _ in read(watch, *runs)} == {run.run_id for run in runs}


def test_a_view_reads_a_few_dead_letters_of_many_and_only_new_batches(ledger: Ledger) -> None:
    run = submit(ledger, 40, batch_size=40)
    run.die(*range(40))
    held = handle(run)
    assert [letter.index for letter in held.sample_dead(4)] == [0, 10, 20, 30]
    assert [letter.index for letter in held.sample_dead(100)] == list(range(40))
    assert [event.kind for event in held.latest_events(2)] == [e.kind for e in held.events()][-2:]
    again = submit(ledger, 8)
    counter = handle(again).batch_counter()
    again.commit(again.claim("w1"), row=metric_row(worker=1, items=4, service_s=2.0))
    assert counter.pull(again.status()).busy_s == 2.0
    again.commit(again.claim("w2"), row=metric_row(worker=2, items=4, service_s=3.0))
    assert [(w.worker, w.busy_s) for w in counter.pull(again.status()).workers] == [("w2/1", 3.0), ("w1/1", 2.0)]


# --------------------------------------------------------------------------- a terminal


class Terminal:
    """A real terminal in which a command runs; all that it was sent is kept."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.before = termios.tcgetattr(terminal)
        # What a shell runs in the background ignores Ctrl-C, and so would its children; in a terminal nothing does.
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            self.process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=env)
        finally:
            signal.signal(signal.SIGINT, before)
        self.terminal = terminal
        self.sent = b""
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._controller, 65536)
            except OSError:
                return
            with self._more:
                self.sent += part
                self._more.notify_all()

    def wait_for(self, text: bytes) -> None:
        with self._more:
            assert self._more.wait_for(lambda: text in self.sent, 60), self.sent[-2000:]

    def press(self, key: str) -> None:
        """A key; Ctrl-C is what the shell's terminal would make of it."""
        if key == "ctrl-c":
            self.process.send_signal(signal.SIGINT)
        else:
            os.write(self._controller, key.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
        os.close(self._controller)


@pytest.mark.parametrize("key", ["q", "ctrl-c"])
def test_top_paints_over_itself_and_leaves_the_terminal_as_it_was(
    ledger: Ledger, address: ServerAddress, key: str
) -> None:
    run = submit(ledger)
    env = {**os.environ, "SECURED_BROKER": "memory://", "TOOLKIT_LEDGER_URL": url_with_password(address)}
    start = "from toolkit.cli import main; main()"
    options = ["-A", "tests.acceptance.secured_app:app", "top", "--interval", "0.2", "--filter", run.run_id]
    terminal = Terminal([sys.executable, "-c", start, *options], env)
    try:
        terminal.wait_for(b"tests.task")
        assert terminal.sent.startswith(b"\x1b[?1049h\x1b[?25l")
        run.commit(run.claim())
        terminal.wait_for(b"4/8  50 %")
        terminal.press("s")
        terminal.wait_for(b"state: unfinished")
        terminal.press(key)
        terminal.wait_for(b"\x1b[?25h\x1b[?1049l")
        assert terminal.process.wait(30) == 0
        assert termios.tcgetattr(terminal.terminal) == terminal.before
    finally:
        terminal.close()
