"""Who would take a run: queues that nobody listens to, and more workers than there are."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from toolkit.client.arguments import Size
from toolkit.client.celery_app import ask_broker, ledger_address, load, own_limit_s
from toolkit.client.describe import Deployment, describe
from toolkit.client.reach import check_reach, coming, why_gone, why_waiting
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput
from toolkit.records import INLINE_QUEUE, NodeInfo, RunSpec
from toolkit.settings import Settings
from toolkit.transport import App, install


def node(queue: str, workers: int = 2) -> NodeInfo:
    return NodeInfo(f"n-{queue}", "h", 1, workers, 0, (queue,), (), "0.1.0", 1, "3.11", True, 1.0, 2.0)


def spec(queue: str) -> RunSpec:
    return RunSpec("run-reach-1", "shop.price", queue=queue)


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    return LocalCluster(2, state_dir=tmp_path)


def test_a_local_cluster_refuses_a_queue_that_nobody_serves(cluster: LocalCluster) -> None:
    with pytest.raises(InvalidInput, match=rf"queue='slow': .* listens to '{cluster.queue}' alone.*Leave queue= out"):
        check_reach(spec("slow"), Size(1, False, 0), [node(cluster.queue)], cluster)
    # its own before its node is there, and that of another environment's node, are served
    assert check_reach(spec(cluster.queue), Size(1, False, 2), [], cluster) == ""
    assert check_reach(spec("other"), Size(1, False, 2), [node("other")], cluster) == ""
    assert check_reach(spec(INLINE_QUEUE), Size(1, False, 9), [], cluster) == ""


def test_elsewhere_a_queue_without_a_node_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert check_reach(spec("slow"), Size(1, False, 0), [node("celery")], None) == ""
    assert "no node that is alive listens to queue 'slow'" in caplog.text
    caplog.clear()
    check_reach(spec("slow"), Size(1, False, 0), [node("slow")], None)
    assert caplog.text == ""


def test_more_workers_than_listen_are_remarked(cluster: LocalCluster) -> None:
    nodes = [node("slow"), node("slow", 3), node("celery", 50)]
    said = check_reach(spec("slow"), Size(1, False, 64), nodes, None)
    assert said == "max_workers=64, and 5 listen: at most 5 batches run at a time"
    assert check_reach(spec("slow"), Size(1, False, 5), nodes, None) == ""
    assert check_reach(spec(cluster.queue), Size(1, False, 64), [], cluster).endswith(
        "client.cluster.scale(64) has more"
    )


def test_nothing_is_said_of_a_cluster_that_was_not_started_or_is_none(cluster: LocalCluster) -> None:
    assert why_gone(cluster) == why_gone(None) == ""
    assert coming(cluster) is coming(None) is None
    assert why_waiting(None, "celery") == why_waiting(cluster, "other") == why_waiting(cluster, cluster.queue) == ""


# --------------------------------------------------------------------------- an application that one has


@pytest.fixture
def app() -> App:
    return App("shop", broker="memory://", set_as_current=False)


def test_the_environment_names_the_ledger_before_the_application_does(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Given an application installed with a worker's user, an operator's own user of that server is taken."""
    install(app, "redis://toolkit-worker:one@ledger:6379/0")
    env = Settings.from_env({"TOOLKIT_LEDGER_URL": "redis://toolkit-dashboard:two@ledger", "HOME": "/h"})
    assert ledger_address(app, None, env).username == "toolkit-dashboard"
    assert ledger_address(app, "redis://given@ledger", env).username == "given"
    assert ledger_address(app, None, Settings.from_env({"HOME": "/h"})).username == "toolkit-worker"
    assert caplog.text == ""


def test_another_server_than_the_nodes_have_is_warned_of(app: App, caplog: pytest.LogCaptureFixture) -> None:
    install(app, "redis://:zebra@ledger:6379/0")
    env = Settings.from_env({"TOOLKIT_LEDGER_URL": "redis://:zebra@ledger:6379/1", "HOME": "/h"})
    assert ledger_address(app, None, env).url == "redis://ledger:6379/1"
    assert "names redis://ledger:6379/1, and the application was installed with redis://ledger:6379/0" in caplog.text
    assert "zebra" not in caplog.text


def test_an_application_that_is_installed_wrongly_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a module whose `install` finds no ledger URL, its import does not end in Celery's own error."""
    (tmp_path / "halfway.py").write_text(
        "import celery, toolkit\napp = celery.Celery('halfway', set_as_current=False)\ntoolkit.install(app)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOOLKIT_LEDGER_URL", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidInput, match=r"app='halfway:app'\): its module says: toolkit.install needs ledger_url="):
        load("halfway:app")


def test_a_time_limit_of_a_celery_task_is_known(app: App) -> None:
    def price(item: int) -> int:
        return item

    for name, limits in (("both", {"soft_time_limit": 5, "time_limit": 9}), ("hard", {"time_limit": 7}), ("free", {})):
        app.task(price, name=name, shared=False, **limits)
    knows = Deployment(False, lambda: ["both", "hard", "free", "elsewhere"], list, None)
    found = [own_limit_s(app, describe(name, knows)) for name in ("both", "hard", "free", "elsewhere")]
    assert found == [5.0, 7.0, None, None]


def test_a_celery_task_whose_name_no_run_can_carry_is_refused(tmp_path: Path) -> None:
    """A node would decline its run, which then waits for ever."""
    name = "shop.\x1b[31mprice"
    knows = Deployment(False, lambda: [name, "x" * 201], list, None)
    for task in (name, "x" * 201):
        with pytest.raises(InvalidInput, match=r"task name .*: expected 1 to 200 printable characters"):
            describe(task, knows)


@pytest.mark.parametrize(
    ("url", "address", "trouble"),
    [
        ("memory://", "memory://", ""),
        ("redis+socket://:zebra@/nowhere/broker.sock", "redis+socket://:**@/nowhere/broker.sock", "No such file"),
        ("carrier-pigeon://:zebra@loft", "that the application names", "No such transport: carrier-pigeon"),
    ],
)
def test_why_a_broker_takes_no_tickets(url: str, address: str, trouble: str) -> None:
    where, why = ask_broker(App("shop", broker=url, set_as_current=False))
    assert where.startswith(address)
    assert trouble in why
    assert bool(trouble) == bool(why)
    assert "zebra" not in where + why
