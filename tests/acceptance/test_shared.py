"""An existing Celery deployment: its own application, its own workers, our ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest

from tests.acceptance import shop
from tests.acceptance.nodes import celery_node
from toolkit.client import Client
from toolkit.errors import FunctionNotAllowed, LedgerRefused, LedgerUnavailable, UnknownTask
from toolkit.settings import ServerAddress, url_with_password
from toolkit.transport import App

Eventually = Callable[..., None]


def node(
    name: str, environment: dict[str, str], log: Path, queues: str = "celery,special"
) -> AbstractContextManager[int]:
    """A node of the shared application."""
    options = ("-c", "2", "-l", "WARNING", "-Q", queues, "--without-gossip", "--without-mingle")
    return celery_node("tests.acceptance.shared_app", name, environment, log, *options)


@pytest.fixture(scope="module")
def environment(server: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Broker and ledger on the session's server, in different databases; and where nodes archive."""
    address: ServerAddress = server.address  # type: ignore[attr-defined]
    path = address.url.removeprefix("unix://").split("?")[0]
    password = quote(address.password or "", safe="")
    values = {
        "SHARED_BROKER": f"redis+socket://:{password}@{path}?virtual_host=1",
        "SHARED_LEDGER": url_with_password(address),
        "TOOLKIT_ARCHIVE": str(tmp_path_factory.mktemp("kept") / "archive"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield values


@pytest.fixture(scope="module")
def client(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a deployment with one node."""
    log = tmp_path_factory.mktemp("node") / "node.log"
    with node("first", environment, log), Client(app="tests.acceptance.shared_app:app") as made:
        import time

        deadline = time.monotonic() + 60
        while not made.nodes():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield made


def test_registered_tasks_run_by_name_or_object(client: Client) -> None:
    from tests.acceptance.shared_app import square

    assert client.map("shop.square", range(100)).results(60) == [i * i for i in range(100)]
    assert client.map(square, [3], inline=True).results() == [9]


def test_a_node_archives_what_ends_before_it_expires(client: Client, eventually: Eventually) -> None:
    """Given a node with a place for it, when a run ends and its data are gone, its rows are still there."""
    run = client.map("shop.auto", range(8), batch_size=4)
    run.wait(60)
    rows = run.metrics()

    def kept() -> bool:
        runs = client.runs(source="archive")
        return bool((runs["run_id"] == run.run_id).any())

    eventually(kept, 60.0)  # a node looks every few seconds
    run._reader.delete()
    archived = client.metrics("shop.auto", source="archive")
    pd.testing.assert_frame_equal(
        archived[archived["run_id"] == run.run_id].reset_index(drop=True), rows, check_categorical=False
    )
    letters = client.dead_letters(source="archive")
    assert sorted(letters[letters["run_id"] == run.run_id]["item"]) == list(range(8))


def test_a_task_keeps_its_own_route(client: Client) -> None:
    run = client.map("shop.routed", [1, 2])
    assert run.spec.queue == "special"
    assert run.results(60) == [-1, -2]


def test_celerys_own_retry_means_a_retry_of_the_item(client: Client) -> None:
    assert client.map("shop.retrying", [5, 6]).results(60) == [(5, 2), (6, 2)]
    run = client.map("shop.auto", [1])
    assert run.wait(60).dead == 1
    assert run.dead_letters()["attempts"].tolist() == [2]


def test_toolkit_tasks_of_imported_modules_run(client: Client) -> None:
    assert client.map(shop.double, range(10)).results(60) == [2 * i for i in range(10)]


def test_functions_by_value_are_refused_before_anything_is_stored(client: Client) -> None:
    before = len(client.runs())
    with pytest.raises(FunctionNotAllowed, match="function_key_file"):
        client.map(lambda x: x, [1])
    with pytest.raises(UnknownTask, match=r"Did you mean shop\.square"):
        client.map("shop.squares", [1])
    assert len(client.runs()) == before


def test_a_node_of_another_version_declines_and_the_run_goes_on_elsewhere(
    client: Client, environment: dict[str, str], tmp_path: Path, eventually: Eventually
) -> None:
    old = {**environment, "SHARED_VERSION": "0.0.9"}
    with node("old", old, tmp_path / "old.log"):
        eventually(lambda: len(client.nodes()) == 2, 60)
        for _ in range(5):
            run = client.map("shop.square", range(200), batch_size=5)
            assert run.results(60) == [i * i for i in range(200)]
            assert not run.metrics()["node"].str.startswith("old@").any()
        assert any("declines" in f.text for f in client.doctor() if f.level == "warning")


def test_a_broker_that_is_away_is_named_and_nodes_send_the_tickets(
    client: Client, environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a client that alone does not reach the broker, its runs go on, and it is told why they begin late."""
    away = App("away", broker="redis+socket://:zebra@/nowhere/broker.sock", set_as_current=False)
    away.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0}
    with Client(away, environment["SHARED_LEDGER"]) as lonely:
        assert lonely.map("shop.square", [3], queue="celery").results(60) == [9]
        (problem,) = [f.text for f in lonely.doctor() if f.level == "problem"]
    told = [r.getMessage() for r in caplog.records if "does not take tickets" in r.getMessage()]
    assert len(told) == 1
    assert "/nowhere/broker.sock does not answer this client" in problem
    assert "zebra" not in problem + told[0]


def test_a_time_limit_that_celery_alone_keeps_is_warned_of_once(
    client: Client, environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    limited = App("limited", broker="memory://", set_as_current=False)
    limited.tasks["shop.square"].soft_time_limit = 7  # Celery registers it in every application of a process

    def told() -> int:
        return caplog.text.count("task shop.square has a time limit of 7 s")

    with Client(limited, environment["SHARED_LEDGER"]) as here:
        assert here.map("shop.square", [3], inline=True, batch_time_limit_s=60).results() == [9]
        assert told() == 0
        assert [here.map("shop.square", [3], inline=True).results() for _ in range(2)] == [[9], [9]]
    assert told() == 1


def test_wrong_password_and_no_server_say_what_to_do(environment: dict[str, str], tmp_path: Path) -> None:
    from toolkit.settings import LedgerSettings

    address = ServerAddress.parse(environment["SHARED_LEDGER"])
    quick = LedgerSettings(retry_s=0.2)
    with pytest.raises(LedgerRefused, match="Check user and password"):
        Client("tests.acceptance.shared_app:app", address.url.replace("unix://", "unix://:wrong@"), settings=quick)
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        Client("tests.acceptance.shared_app:app", f"unix://{tmp_path}/nobody", settings=quick)


def test_no_secret_is_shown(client: Client, environment: dict[str, str]) -> None:
    password = ServerAddress.parse(environment["SHARED_LEDGER"]).password
    assert password
    run = client.map("shop.square", [1])
    run.wait(60)
    shown = (
        repr(client) + repr(run) + repr(run.status()) + str(client.doctor()) + repr(client._ledger.connection.address)
    )
    assert password not in shown
