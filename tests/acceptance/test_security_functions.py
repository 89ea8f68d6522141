"""What a worker executes: nothing that came as bytes, except a function whose signature it has checked."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue

from tests.acceptance import shop
from tests.acceptance.secured import node, running
from toolkit import codec
from toolkit.client import Client, Run
from toolkit.client.arguments import new_run_id
from toolkit.execution import dump_function, functions
from toolkit.ledger import Page
from toolkit.transport import issue, make_app

Eventually = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Site:
    """A node whose interpreter writes down what it unpickles and executes, and a client with its key."""

    client: Client
    key_file: Path
    audit: Path
    log: Path

    def events(self) -> list[dict[str, Any]]:
        """What was unpickled or executed, without what Python and Celery do by themselves."""
        lines = self.audit.read_text().splitlines() if self.audit.exists() else []
        return [event for event in map(json.loads, lines) if not (_own_pipe(event["files"]) or _carets(event))]

    def submit(self, blob: bytes, name: str = "forged") -> Run:
        """A run of one item whose function is these bytes, written by somebody who has the server's password."""
        return self.submit_as(new_run_id(), blob, name)

    def submit_as(self, run_id: str, blob: bytes, name: str = "forged") -> Run:
        from dataclasses import replace

        model = self.client.map(shop.double, [1], name="model")
        model.wait(60)
        spec = replace(model.spec, run_id=run_id, task=name, path="", kind="function", name=name)
        ledger = self.client._ledger
        self.client._registry.add_run(spec)
        ledger.create(spec, function=blob, batch_size=1, auto=False, max_workers=0, known_workers=2)
        ledger.append(run_id, Page(0, 1, codec.encode_page([7])), expected=0, close=True)
        issue(self.client._app, ledger, spec, 1)
        return self.client.get_run(run_id)


def _own_pipe(files: list[str]) -> bool:
    """Whether the innermost frames are those of the pipe by which Celery's main process hands over a message."""
    return "billiard/" in files[0] or files[0].endswith("celery/concurrency/asynpool.py")


def _carets(event: dict[str, Any]) -> bool:
    """Whether a traceback only parsed a line of an installed file, to find where the error stands in it."""
    drawing = [Path(file).name for file in event["files"][:2]] == ["ast.py", "traceback.py"]
    return bool(event["event"] == "compile" and drawing)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    key_file, audit, log = folder / "key", folder / "audit", folder / "log"
    key_file.touch(0o600)
    key_file.write_text(secrets.token_hex(32))
    password = secrets.token_hex(16)
    with running("valkey", f"requirepass {password}") as (socket, _):
        broker, ledger = f"redis+socket://:{password}@{socket}?virtual_host=1", f"unix://:{password}@{socket}?db=0"
        environment = {
            "SECURED_BROKER": broker, "SECURED_AUDIT": str(audit), "TOOLKIT_LEDGER_URL": ledger,
            "TOOLKIT_FUNCTION_KEY_FILE": str(key_file),
        }  # fmt: skip
        app = make_app(broker, "celery")
        with node(environment, log), Client(app, ledger, function_key_file=key_file) as client:
            import time

            deadline = time.monotonic() + 60
            while not client.nodes():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield Site(client, key_file, audit, log)


def declined(run: Run) -> str:
    frame = run.events_frame()
    found = frame[frame["event"] == "declined"]["detail"].tolist()
    return str(found[0]) if found else ""


def test_a_task_by_name_unpickles_compiles_and_executes_nothing(site: Site) -> None:
    assert site.client.map(shop.double, range(200), kwargs=None).results(60) == [2 * i for i in range(200)]
    assert site.client.map(shop.with_setup, range(10)).results(60) == [True] * 10
    assert site.client.map(shop.double, [None]).wait(60).dead == 1
    assert site.events() == []


class Intruder:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickled_message_is_refused_unopened(site: Site, tmp_path: Path, eventually: Eventually) -> None:
    trap, before = tmp_path / "trap", len(site.events())
    with site.client._app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(
            [[Intruder(trap)], {}, {}], serializer="pickle", routing_key="celery", declare=[Queue("celery")],
            headers={"task": "toolkit.ticket", "id": "forged", "lang": "py"},
        )  # fmt: skip
    eventually(lambda: "ContentDisallowed" in site.log.read_text(), 30.0)
    assert site.client.map(shop.double, [4]).results(60) == [8]
    assert not trap.exists()
    assert len(site.events()) == before


def forgeries(site: Site, trap: Path) -> Iterator[tuple[str, Run, str]]:
    """Each way to bring a function that must not run, and what the worker says to it."""
    import pickle

    key = site.key_file.read_bytes().strip()
    payload = pickle.dumps(Intruder(trap))
    mine = new_run_id()
    good = dump_function(lambda x: Path.touch(trap), mine, key)
    start = len(b"TKF1\0" + functions.PYTHON.encode())
    head, signature = good[:start], good[start : start + 32]

    def signed(run_id: str, python: str) -> bytes:
        mac = functions._sign(key, run_id, python, payload)
        return b"TKF1" + bytes([len(python)]) + python.encode() + mac + payload

    yield "bare pickle", site.submit(payload), "not a function as this version"
    yield "no signature", site.submit(head + bytes(32) + payload), "not signed"
    yield "another's signature", site.submit(head + signature + payload), "not signed"
    yield "wrong key", site.submit_as(mine, dump_function(lambda x: trap.touch(), mine, b"x" * 32)), "not signed"
    yield "replayed under another run", site.submit(good), "not signed"
    old = new_run_id()
    yield "another Python", site.submit_as(old, signed(old, "3.9")), "made by Python 3.9"


def test_a_function_without_our_signature_is_never_unpickled(
    site: Site, tmp_path: Path, eventually: Eventually
) -> None:
    trap = tmp_path / "trap"
    for what, run, reason in forgeries(site, trap):
        eventually(lambda run=run: declined(run), 30.0)
        assert reason in declined(run), what
        run.cancel()
        assert run.status().ok == 0, what
    assert not trap.exists()
    assert not [event for event in site.events() if event["event"] == "pickle.find_class"]
    assert site.events() == []


def test_a_key_that_others_can_read_opens_nothing(site: Site, eventually: Eventually) -> None:
    key, run_id = site.key_file.read_bytes().strip(), new_run_id()
    before = len(site.events())
    site.key_file.chmod(0o644)
    try:
        run = site.submit_as(run_id, dump_function(lambda x: x + 1, run_id, key))
        eventually(lambda: declined(run), 30.0)
    finally:
        site.key_file.chmod(0o600)
    assert "mode 0644 lets others at it" in declined(run)
    assert len(site.events()) == before
    run.cancel()


def test_a_signed_function_is_unpickled_and_the_hook_sees_it(site: Site) -> None:
    """The control: without it, a hook that sees nothing would prove nothing."""
    offset = 5
    assert site.client.map(lambda x: x + offset, [1, 2]).results(60) == [6, 7]
    seen = [event for event in site.events() if event["event"] == "pickle.find_class"]
    assert seen
    assert all(any(f.endswith("toolkit/execution/functions.py") for f in event["files"]) for event in seen)


def test_no_process_shows_the_password_in_its_arguments_or_log(site: Site) -> None:
    password = site.client._ledger.connection.address.read_password()
    assert password
    assert password not in site.log.read_text()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert password not in listed
    assert site.key_file.read_text() not in site.log.read_text() + listed
