"""Metrics for Prometheus: true, bounded in number, there again after an outage; the dashboard asks for what exists."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import _start, _valkey_binary
from tests.integration.ledgers import LETTER, Run
from toolkit._version import PROTOCOL
from toolkit.errors import InvalidInput
from toolkit.exporter import OTHER, Watch
from toolkit.exporter.collector import CATALOGUE, LedgerCollector
from toolkit.exporter.serving import DASHBOARD, serving
from toolkit.ledger import FailedItem, Ledger, Registry
from toolkit.ledger.acl import ROLES, password_digest
from toolkit.records import CATEGORIES, NodeInfo
from toolkit.settings import LedgerSettings, ServerAddress

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Deployment:
    """A ledger of its own: another database of the session's server."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.ledger = Ledger(address, LedgerSettings(retry_s=5.0))
        self.registry = Registry(self.ledger.connection)

    def run(self, task: str = "shop.price", items: int = 8, **options: Any) -> Run:
        run = Run(self.ledger, create=False, **options)
        object.__setattr__(run.spec, "task", task)
        self.registry.add_run(run.spec)
        self.ledger.create(run.spec, **run.sizes)
        if items:
            run.append(items, close=True)
        return run

    def exporting(self, fresh_s: float = 0.0, **options: Any) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(LedgerCollector(Watch(self.ledger, **options), fresh_s))
        return registry


@pytest.fixture
def deployment(server: Any) -> Iterator[Deployment]:
    database = 2 + secrets.randbelow(13)
    address = ServerAddress(f"{server.address.url}?db={database}", password=server.address.password)
    made = Deployment(address)
    _empty(made)
    yield made
    _empty(made)
    made.ledger.close()


def _empty(deployment: Deployment) -> None:
    for key in deployment.ledger.connection.redis.scan_iter():
        deployment.ledger.connection.command("DEL", key)


def scrape(source: int | CollectorRegistry) -> Samples:
    """Ask a port, or without HTTP what would answer there."""
    if isinstance(source, int):
        with urllib.request.urlopen(f"http://127.0.0.1:{source}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    else:
        text = generate_latest(source).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"toolkit_{name}", tuple(sorted(labels.items()))))


def node(name: str = "n1", *, workers: int = 4, busy: int = 1) -> NodeInfo:
    now = time.time()
    return NodeInfo(
        node=name, host="h", pid=1, workers=workers, busy=busy, queues=("celery",), tasks=(), toolkit_version="0",
        protocol=PROTOCOL, python="3.11", functions=False, started_at=now, seen_at=now,
    )  # fmt: skip


# --------------------------------------------------------------------------- figures


def test_figures_follow_the_work(deployment: Deployment) -> None:
    old = deployment.run(items=8)
    old.commit(old.claim())  # before the exporter looks first
    deployment.registry.report_node(node(workers=4, busy=3))
    exporter = deployment.exporting(drain_s=2.0)
    first = scrape(exporter)
    assert value(first, "up") == 1
    assert value(first, "backlog_items", task="shop.price") == 4
    assert value(first, "items_total", task="shop.price", outcome="ok") == 0, "a counter begins with nothing"
    assert (value(first, "known_workers"), value(first, "busy_workers"), value(first, "nodes")) == (4, 3, 1)
    assert value(first, "estimated_work_seconds", task="shop.price") is None, "no item was measured"
    assert value(first, "recommended_workers", task="shop.price") == 1
    run = deployment.run(items=12)
    claim = run.claim()
    run.commit(
        claim, failed=[FailedItem(0, "dead", letter=LETTER), FailedItem(1, "retry", category="retryable")],
        item_s=0.5,
    )  # fmt: skip
    held = run.claim()
    run.command("HSET", "head", "created_at", int((run.status().at - 900) * 1000))
    seen = scrape(exporter)
    assert value(seen, "backlog_items", task="shop.price") == 4 + 9
    assert value(seen, "claimed_items", task="shop.price") == len(held)
    assert 900 <= (value(seen, "oldest_item_age_seconds", task="shop.price") or 0) < 960
    assert value(seen, "estimated_work_seconds", task="shop.price") == pytest.approx(13 * 0.5)
    assert value(seen, "recommended_workers", task="shop.price") == 4  # 6.5 s of work in 2 s
    assert value(seen, "dead_letters", task="shop.price") == 1
    assert value(seen, "items_total", task="shop.price", outcome="ok") == 2
    assert value(seen, "items_total", task="shop.price", outcome="dead") == 1
    assert value(seen, "submitted_items_total", task="shop.price") == 12
    assert value(seen, "retried_items_total", task="shop.price") == 1
    assert value(seen, "batches_total", task="shop.price") == 1
    assert value(seen, "errors_total", task="shop.price", category="retryable") == 1
    assert (value(seen, "runs", state="running"), value(seen, "runs", state="paused")) == (2, 0)
    run.lose(held)
    assert value(scrape(exporter), "lost_batches_total", task="shop.price") == 1
    run.ledger.steer(run.run_id, "pause")
    run.ledger.steer(old.run_id, "pause")
    paused = scrape(exporter)
    assert value(paused, "recommended_workers", task="shop.price") == 0, "workers do not help a paused run"
    assert value(paused, "runs", state="paused") == 2
    assert value(paused, "backlog_items", task="shop.price") == 13


def test_ended_runs_leave_nothing_but_dead_letters_and_counts(deployment: Deployment) -> None:
    exporter = deployment.exporting()
    scrape(exporter)
    run = deployment.run(items=4)
    run.die(1, 2)
    deployment.registry.deactivate("celery", run.run_id)
    seen = scrape(exporter)
    assert value(seen, "backlog_items", task="shop.price") == 0
    assert value(seen, "oldest_item_age_seconds", task="shop.price") == 0
    assert value(seen, "estimated_work_seconds", task="shop.price") == 0
    assert value(seen, "dead_letters", task="shop.price") == 2
    deployment.ledger.retry_dead(run.run_id, [1])
    deployment.ledger.drop_dead(run.run_id, [2])
    seen = scrape(exporter)
    assert value(seen, "dead_letters", task="shop.price") == 0
    assert value(seen, "backlog_items", task="shop.price") == 1
    run.commit(run.claim())
    run.reader.delete()
    seen = scrape(exporter)
    assert value(seen, "backlog_items", task="shop.price") == 0
    assert value(seen, "items_total", task="shop.price", outcome="dead") == 2, "a counter never falls"
    assert value(seen, "items_total", task="shop.price", outcome="skipped") == 1


def test_a_cap_limits_what_is_recommended(deployment: Deployment) -> None:
    run = deployment.run(items=80, max_workers=3)
    run.commit(run.claim(), item_s=10.0)
    seen = Watch(deployment.ledger, drain_s=1.0).look()
    assert seen.tasks["shop.price"].recommended_workers == 3


def test_nothing_is_kept_of_ended_runs_and_nothing_counted_twice(deployment: Deployment) -> None:
    watch = Watch(deployment.ledger)
    watch.look()
    for _ in range(5):
        run = deployment.run(items=4)
        run.commit(run.claim())
        run.command("HSET", "head", "created_at", int((time.time() - 3600) * 1000))
        deployment.ledger.connection.command("ZADD", "tk:runs", f"{time.time() - 3600:.3f}", run.run_id)
    for _ in range(2):
        assert watch.look().tasks["shop.price"].counts["items", "ok"] == 20  # still listed as unfinished
    for run_id in deployment.registry.run_ids():
        deployment.registry.deactivate("celery", run_id)
    for _ in range(3):
        assert watch.look().tasks["shop.price"].counts["items", "ok"] == 20
    assert watch._watch._runs == {}


def test_tasks_beyond_the_limit_share_one_label(deployment: Deployment) -> None:
    for number in range(5):
        deployment.run(task=f"task.{number}", items=3)
    hostile = deployment.run(task='a"b\nc\\d\x1b[0m' + "x" * 500, items=1)
    exporter = deployment.exporting(task_limit=2)
    seen = scrape(exporter)
    tasks = {dict(labels)["task"] for _, labels in seen if "task" in dict(labels)}
    assert len(tasks) == 3
    assert OTHER in tasks
    backlog = {dict(labels)["task"]: v for (name, labels), v in seen.items() if name == "toolkit_backlog_items"}
    assert sum(backlog.values()) == 16
    allowed = {"task", "outcome", "category", "state"}
    assert {name for _, labels in seen for name, _ in labels} <= allowed, "no run, no host, nothing without bound"
    exporter = deployment.exporting()
    [label] = {dict(k)["task"] for _, k in scrape(exporter) if dict(k).get("task", "").startswith("a")}
    assert len(label) <= 200
    assert "\x1b" not in label
    assert hostile.status().submitted == 1


def test_a_run_that_does_not_parse_is_counted_and_the_others_are_shown(deployment: Deployment) -> None:
    broken, fine = deployment.run(items=4), deployment.run(task="shop.fine", items=4)
    broken.command("HSET", "head", "ok", "many")
    exporter = deployment.exporting()
    seen = scrape(exporter)
    assert value(seen, "unreadable_runs") == 1
    assert value(seen, "backlog_items", task="shop.fine") == fine.status().submitted
    assert value(seen, "up") == 1


def test_scrapes_at_once_share_one_look(deployment: Deployment) -> None:
    exporter = deployment.exporting(fresh_s=600.0)
    assert value(scrape(exporter), "backlog_items", task="shop.price") is None
    deployment.run(items=4)
    assert value(scrape(exporter), "backlog_items", task="shop.price") is None


# --------------------------------------------------------------------------- the server behind it


def test_an_outage_shows_as_up_0_and_passes(tmp_path: Path) -> None:
    """Given a server that is not there yet, comes, dies and comes back, the exporter serves all the time."""
    with Ephemeral(tmp_path) as server, serving(server.address, port=0, fresh_s=0.0) as exporter:
        seen = scrape(exporter)
        assert (value(seen, "up"), value(seen, "scrape_errors_total")) == (0, 1)
        server.start()
        deployment = Deployment(server.address)
        scrape(exporter)
        deployment.run(items=8).die(0)
        seen = scrape(exporter)
        assert (value(seen, "up"), value(seen, "backlog_items", task="shop.price")) == (1, 4)
        server.kill()
        seen = scrape(exporter)
        assert (value(seen, "up"), value(seen, "scrape_errors_total")) == (0, 2)
        assert value(seen, "backlog_items", task="shop.price") is None, "no figure of now that is not of now"
        assert value(seen, "items_total", task="shop.price", outcome="dead") == 1, "counts stay"
        server.start()
        seen = scrape(exporter)
        assert (value(seen, "up"), value(seen, "backlog_items", task="shop.price")) == (1, 4)
        assert value(seen, "items_total", task="shop.price", outcome="dead") == 1
        deployment.ledger.close()


def test_the_user_dashboard_of_the_acl_is_enough(server: Any, deployment: Deployment) -> None:
    """And one that may not read runs is told apart from a server that is away only in the log: up is 0."""
    run = deployment.run(items=8)
    run.die(0)
    password = secrets.token_urlsafe(24)
    [role] = [r for r in ROLES if r.name == "dashboard"]
    prefix = f"t{secrets.token_hex(4)}-"
    rule = role.rule(prefix, password_digest(password), redis_7_0=server.engine == "redis").split()
    deployment.ledger.connection.command("ACL", "SETUSER", *rule[1:])
    try:
        own = ServerAddress(deployment.address.url, f"{prefix}dashboard", password)
        with serving(own, port=0, fresh_s=0.0) as exporter:
            seen = scrape(exporter)
            assert (value(seen, "up"), value(seen, "backlog_items", task="shop.price")) == (1, 4)
        wrong = ServerAddress(deployment.address.url, f"{prefix}dashboard", "not the password at all")
        with serving(wrong, port=0, fresh_s=0.0) as exporter:
            assert value(scrape(exporter), "up") == 0
    finally:
        deployment.ledger.connection.command("ACL", "DELUSER", f"{prefix}dashboard")


def test_a_port_that_is_taken_is_an_error_with_advice(deployment: Deployment) -> None:
    with (
        serving(deployment.address, port=0) as port,
        pytest.raises(InvalidInput, match="choose another"),
        serving(deployment.address, port=port),
    ):
        pass


class Ephemeral:
    """A server that is started and killed by the test, with its data on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tk-"))  # short enough for a socket
        self.address = ServerAddress(f"unix://{self._directory}/s.sock", password="p" * 20)
        self._process: Any = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [_valkey_binary(), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        lines = (
            "port 0", f"unixsocket {self._directory}/s.sock", f"dir {self._directory}", f"requirepass {'p' * 20}",
            "appendonly yes", "appendfsync always",
        )  # fmt: skip
        _start(self._process, "\n".join(lines) + "\n")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


# --------------------------------------------------------------------------- names


def exported(exporter: CollectorRegistry) -> dict[str, set[str]]:
    """Names that a scrape gives, with their labels; without the moment at which each counter began."""
    found: dict[str, set[str]] = {}
    for name, labels in scrape(exporter):
        if not name.endswith("_created"):
            found.setdefault(name, set()).update(label for label, _ in labels)
    return found


@pytest.fixture
def names(deployment: Deployment) -> dict[str, set[str]]:
    run = deployment.run(items=8)
    run.commit(run.claim(), item_s=1.0)
    exporter = deployment.exporting()
    return exported(exporter)


def test_the_catalogue_is_what_is_exported(names: dict[str, set[str]]) -> None:
    assert names == {d.name: set(d.labels) for d in CATALOGUE}


def test_categories_of_errors_are_those_of_the_ledger(deployment: Deployment) -> None:
    deployment.run(items=4)
    exporter = deployment.exporting()
    found = {dict(k)["category"] for name, k in scrape(exporter) if name == "toolkit_errors_total"}
    assert found == set(CATEGORIES[1:])


def expressions(dashboard: Any) -> list[str]:
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]


def test_every_expression_of_the_dashboard_asks_for_what_is_exported(names: dict[str, set[str]]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = expressions(dashboard)
    assert len(asked) >= 20
    used = set()
    for expression in asked:
        metrics = re.findall(r"toolkit_\w+", expression)
        assert metrics, expression
        assert set(metrics) <= set(names), expression
        used |= set(metrics)
        labels = set().union(*(names[m] for m in metrics))
        for part in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", part)) <= labels, expression
        for part in re.findall(r"by \(([^)]*)\)", expression):
            assert {p.strip() for p in part.split(",")} <= labels, expression
        for part in re.findall(r"label_values\(\w+, (\w+)\)", expression):
            assert part in labels
        rated = re.findall(r"(?:rate|increase)\((toolkit_\w+)", expression)
        assert all(name.endswith("_total") for name in rated), f"only counters have a rate: {expression}"
        assert {m for m in metrics if m.endswith("_total")} == set(rated), (
            f"a counter is shown by its rate: {expression}"
        )
        assert expression.count("(") == expression.count(")")
    assert used == set(names), "the dashboard shows every metric"


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["title"] and panel["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"])
    places = [tuple(panel["gridPos"][k] for k in "xywh") for panel in dashboard["panels"]]
    assert all(x + w <= 24 for x, _, w, _ in places)
    cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
    assert len(cells) == len(set(cells)), "panels overlap"
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= {"task", "outcome", "category", "state"}
