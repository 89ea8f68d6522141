"""An application that knows nothing of runs, on real workers: what is recorded, and what an outage changes."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
from celery import Celery, chord, group

from tests.acceptance.nodes import celery_node
from toolkit.cluster import LocalCluster
from toolkit.frames import METRICS
from toolkit.instruments import instrumented, read_instrumented
from toolkit.settings import ServerAddress, url_with_password

Eventually = Callable[..., None]
MODULE = "tests.acceptance.instrumented_app"


def node(name: str, environment: dict[str, str], log: Path, queue: str, *options: str) -> AbstractContextManager[int]:
    quiet = ("-l", "WARNING", "-Q", queue, "--without-gossip", "--without-mingle", "--without-heartbeat")
    return celery_node(MODULE, name, environment, log, *quiet, *options)


def celery_url(address: ServerAddress, db: int) -> str:
    path = address.url.removeprefix("unix://").split("?")[0]
    return f"redis+socket://:{quote(address.read_password() or '', safe='')}@{path}?virtual_host={db}"


@pytest.fixture(scope="module")
def environment(server: object) -> Iterator[dict[str, str]]:
    """Broker, results and ledger on the session's server, in different databases."""
    address: ServerAddress = server.address  # type: ignore[attr-defined]
    values = {
        "PLAIN_BROKER": celery_url(address, 3),
        "PLAIN_BACKEND": celery_url(address, 4),
        "TOOLKIT_LEDGER_URL": f"{url_with_password(address)}?db=5",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield values


@pytest.fixture(scope="module")
def plain(environment: dict[str, str]) -> Celery:
    from tests.acceptance import instrumented_app

    return instrumented_app.app


@pytest.fixture(scope="module")
def prefork(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node with two processes; gives its queue."""
    queue = f"q-{secrets.token_hex(4)}"
    with node("prefork", environment, tmp_path_factory.mktemp("node") / "log", queue, "-c", "2"):
        yield queue


def rows(task: str, **options: Any) -> pd.DataFrame:
    return read_instrumented(task, **options)


def test_group_chain_and_chord_are_recorded(plain: Celery, prefork: str, eventually: Eventually) -> None:
    """Given plain canvas code, when it runs, every call of it is one row, and its results are what they were."""
    total = plain.tasks["plain.total"]
    calls = group(total.s([i, i], customer="a").set(queue=prefork) for i in range(10))
    assert calls.apply_async().get(timeout=60) == [2 * i for i in range(10)]
    chain = total.si([1, 2, 3], customer="b").set(queue=prefork) | total.si([4], customer="b").set(queue=prefork)
    assert chain.apply_async().get(timeout=60) == 4
    header = [total.s([i], customer="c").set(queue=prefork) for i in range(4)]
    assert chord(header, app=plain)(total.s(customer="c").set(queue=prefork)).get(timeout=60) == 6
    eventually(lambda: len(rows("plain.total")) == 17)
    frame = rows("plain.total", queue_wait=True)
    assert [c.name for c in METRICS] == list(frame.columns)[:-1]
    assert frame["items"].tolist() == frame["ok"].tolist()
    assert sorted(frame["items"]) == [1] * 5 + [2] * 10 + [3, 4]
    assert frame["items"].sum() == 20 + 4 + 8
    assert (frame["service_s"] > 0).all()
    assert (frame["queue_wait_s"] >= 0).all()
    assert frame["node"].str.startswith("prefork@").all()
    assert set(frame["outcome"]) == {"ok"}
    assert len(frame["code_version"].unique()[0]) == 12
    assert frame.groupby("worker", observed=True)["first_in_process"].sum().eq(1).all()
    assert len(rows("plain.total", tags={"customer": "c"})) == 5


def test_failures_retries_and_deaths(plain: Celery, prefork: str, eventually: Eventually) -> None:
    with pytest.raises(ValueError, match="no"):
        plain.tasks["plain.fail"].apply_async(queue=prefork).get(timeout=60)
    assert plain.tasks["plain.again"].apply_async(queue=prefork).get(timeout=60) == 1
    eventually(lambda: len(rows("plain.again")) == 2 and len(rows("plain.fail")) == 1)
    for name, args in (("plain.over", (60,)), ("plain.leave", ())):
        plain.tasks[name].apply_async(args, queue=prefork)
    plain.tasks["plain.die"].apply_async(queue=prefork)  # what its process had not sent yet would be lost with it
    eventually(lambda: len(rows("plain.die")) == 1)
    failed, again, died = rows("plain.fail"), rows("plain.again"), rows("plain.die")
    again = again.sort_values("attempt")  # each process sends its rows when it likes
    assert (failed["dead"][0], failed["error_category"][0], failed["outcome"][0]) == (1, "fatal", "failed")
    assert again["attempt"].tolist() == [1, 2]
    assert again["retried"].tolist() == [1, 0]
    assert again["ok"].tolist() == [0, 1]
    assert (died["outcome"][0], died["error_category"][0], died["cut_off"][0]) == ("lost", "worker_lost", True)
    for name, category in (("plain.over", "timeout"), ("plain.leave", "worker_lost")):
        # the dying process and its main process know of it, the latter twice of a time limit
        eventually(lambda name=name: len(rows(name)) > 0)
        assert rows(name)[["outcome", "error_category"]].to_numpy().tolist() == [["lost", category]]


def test_a_terminated_task_is_one_row(plain: Celery, prefork: str, eventually: Eventually, tmp_path: Path) -> None:
    """Given a task that runs, when it is revoked and terminated, its execution is told of as lost."""
    begun = tmp_path / "begun"
    running = plain.tasks["plain.linger"].apply_async((str(begun), 60), queue=prefork)
    eventually(begun.exists)
    running.revoke(terminate=True)
    eventually(lambda: len(rows("plain.linger")) > 0)
    assert rows("plain.linger")[["outcome", "dead"]].to_numpy().tolist() == [["lost", 1]]


def test_processor_time_and_the_peak_are_those_of_the_execution(
    plain: Celery, prefork: str, eventually: Eventually
) -> None:
    burn = plain.tasks["plain.burn"]
    for megabytes in (100, 0):
        burn.apply_async((0.05, megabytes), queue=prefork).get(timeout=60)
    burn.apply_async((0.05, 0), queue=prefork).get(timeout=60)
    eventually(lambda: len(rows("plain.burn")) == 3)
    frame = rows("plain.burn").sort_values("claimed_at")
    assert (frame["cpu_user_s"] + frame["cpu_system_s"]).between(0.045, 10).all()
    if sys.platform == "linux":
        peaks = frame["peak_rss_bytes"].tolist()
        assert peaks[0] - max(peaks[1:]) > 80 * 1024 * 1024, "a later execution carries the peak of an earlier one"


def test_other_pools_and_the_switch(plain: Celery, environment: dict[str, str], tmp_path: Path) -> None:
    """Rows of the last second are delivered when a node ends; a node with TOOLKIT_DISABLED=1 records none."""
    total, tags = plain.tasks["plain.total"], {name: secrets.token_hex(4) for name in ("solo", "threads", "off")}
    with ExitStack() as nodes:
        for name, tag in tags.items():
            values = {**environment, "TOOLKIT_DISABLED": "1"} if name == "off" else environment
            pool = "threads" if name == "threads" else "solo"
            nodes.enter_context(node(name, values, tmp_path / name, f"q-{tag}", "--pool", pool, "-c", "2"))
        for tag in tags.values():
            jobs = [total.apply_async(([i],), {"customer": tag}, queue=f"q-{tag}") for i in range(8)]
            assert [job.get(timeout=60) for job in jobs] == list(range(8))
    for name, tag in tags.items():
        frame = rows("plain.total", tags={"customer": tag})
        assert len(frame) == (0 if name == "off" else 8), (tmp_path / name).read_text()
        assert frame["cpu_user_s"].notna().all()


def test_an_outage_fails_no_task_and_what_was_dropped_is_counted(
    address: ServerAddress, tmp_path: Path, eventually: Eventually
) -> None:
    """Tasks go on while the ledger's server is stopped; later the rows arrive that fitted, and the number of the rest.

    There is no result backend, and the ledger is on a server of its own.
    """
    ledger = LocalCluster(state_dir=tmp_path / "s", node=False)
    ledger.start()
    queue, notes = f"q-{secrets.token_hex(4)}", tmp_path / "notes"
    values = {
        "PLAIN_BROKER": celery_url(address, 3),
        "TOOLKIT_LEDGER_URL": url_with_password(ledger.address),
        "PLAIN_BUFFER": "20",
    }

    def done() -> int:
        return len(notes.read_text().splitlines()) if notes.exists() else 0

    def series() -> pd.DataFrame:
        return instrumented(ledger.address)

    try:
        with node("outage", values, tmp_path / "log", queue, "-c", "1"):
            send(values, queue, notes, 5)
            eventually(lambda: series()["rows"].tolist() == [5], 60)
            ledger.stop()
            send(values, queue, notes, 60)
            eventually(lambda: done() == 65, 60)
            ledger.start()
            eventually(lambda: (series()["rows"] + series()["dropped"]).tolist() == [65], 60)
        found = series()
        assert found["dropped"][0] >= 20
        assert found["rows"][0] >= 25
        assert len(read_instrumented(ledger=ledger.address)) == found["rows"][0]
    finally:
        ledger.stop(grace_s=0.0)


def send(values: dict[str, str], queue: str, notes: Path, n: int) -> None:
    """Publish as another process of the application's users does: without a ledger, and without this package."""
    publisher = Celery("publisher", broker=values["PLAIN_BROKER"], set_as_current=False)
    for i in range(n):
        publisher.send_task("plain.note", (str(notes), i), queue=queue, ignore_result=True)
    publisher.close()
