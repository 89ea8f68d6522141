"""OpenTelemetry: submission, tickets, batches and the user's own spans in one trace; lost batches linked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.nodes import ROOT, celery_node
from tests.acceptance.test_shared import environment
from toolkit.records import RunSpec
from toolkit.transport import tracing

__all__ = ["environment"]

Span = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Site:
    """A traced deployment.

    Attributes
    ----------
    folder : Path
        Where its spans are.
    environment : dict
        What its clients and nodes need.
    """

    folder: Path
    environment: dict[str, str]

    def spans(self, trace_id: str) -> list[Span]:
        """Spans of one trace that have ended."""
        every = [json.loads(line) for path in self.folder.glob("*.jsonl") for line in path.read_text().splitlines()]
        return [span for span in every if span["context"]["trace_id"] == f"0x{trace_id}"]

    def begin(self, task: str, n: int, **kwargs: str) -> subprocess.Popen[str]:
        """Start a client in a process of its own, so that this one knows nothing of OpenTelemetry."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.traced_app", task, str(n), json.dumps(kwargs)],
            env=os.environ | self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def submit(self, task: str, n: int, **kwargs: str) -> dict[str, Any]:
        """Run a client to its end."""
        return said(self.begin(task, n, **kwargs))


def said(client: subprocess.Popen[str]) -> dict[str, Any]:
    """What a client says at its end."""
    with client:
        try:
            out, errors = client.communicate(timeout=120)
        finally:
            client.kill()
    assert client.returncode == 0, errors
    return dict(json.loads(out.splitlines()[-1]))


OPTIONS = ("-l", "WARNING", "-Q", "traced", "--without-gossip", "--without-mingle")


@pytest.fixture(scope="module")
def site(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("spans")
    mine = environment | {"TRACED_SPANS": str(folder)}
    log = tmp_path_factory.mktemp("node") / "node.log"
    with celery_node("tests.acceptance.traced_app", "traced", mine, log, "-c", "2", *OPTIONS):
        yield Site(folder, mine)


def by_id(spans: list[Span]) -> dict[str, Span]:
    return {span["context"]["span_id"]: span for span in spans}


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span["name"] == name]


def ancestors(span: Span, spans: dict[str, Span]) -> list[str]:
    names = [span["name"]]
    while span["parent_id"] is not None:
        span = spans[span["parent_id"]]  # a parent that was never exported is an error here
        names.append(span["name"])
    return names


def test_one_trace_from_the_cell_to_the_users_own_span(
    site: Site, eventually: Callable[[Callable[[], object], float], None]
) -> None:
    told = site.submit("traced.price", 40)
    assert told["results"] == [2 * i for i in range(40)]
    # A ticket's own span ends after the run did.
    eventually(lambda: not missing(site.spans(told["trace"])), 30)
    spans = site.spans(told["trace"])
    known = by_id(spans)
    lookups, batches = named(spans, "lookup"), named(spans, "batch traced.price")
    assert sorted(span["attributes"]["shop.item"] for span in lookups) == list(range(40))
    chain = ["lookup", "batch traced.price", "run/toolkit.ticket", "apply_async/toolkit.ticket"]
    chain += ["submit traced.price", "cell"]
    assert {tuple(ancestors(span, known)) for span in lookups} == {tuple(chain)}
    assert len(batches) == told["batches"]
    assert {span["attributes"]["toolkit.run_id"] for span in batches} == {told["run_id"]}
    assert len({span["attributes"]["toolkit.claim_id"] for span in batches}) == len(batches)
    assert sum(span["attributes"]["toolkit.items"] for span in batches) == 40
    assert all(span["status"]["status_code"] != "ERROR" for span in spans), "nothing went wrong"


def missing(spans: list[Span]) -> set[str]:
    """Parents that are not there yet."""
    return {span["parent_id"] for span in spans if span["parent_id"]} - by_id(spans).keys()


def test_a_lost_batch_is_in_the_trace_and_linked_from_the_batch_that_tries_again(
    site: Site, tmp_path: Path, eventually: Callable[[Callable[[], object], float], None]
) -> None:
    told = site.submit("traced.deadly", 12, folder=str(tmp_path))
    assert told["results"] == list(range(12))
    assert (tmp_path / "died").exists()

    def batches() -> list[Span]:
        return named(site.spans(told["trace"]), "batch traced.deadly")

    eventually(lambda: any(span["links"] for span in batches()), 30)
    [lost] = [span for span in batches() if span["attributes"].get("toolkit.lost")]
    assert lost["status"]["status_code"] == "ERROR"
    assert "died" in lost["status"]["description"]
    assert lost["attributes"]["toolkit.category"] == "worker_lost"
    again = [span for span in batches() if span["links"]]
    assert [link["context"]["span_id"] for span in again for link in span["links"]] == [lost["context"]["span_id"]]
    assert again[0]["attributes"]["toolkit.suspicions"] == 1
    assert again[0]["attributes"]["toolkit.first_index"] == 5
    assert lost["start_time"] < again[0]["start_time"]
    ids = {span["attributes"]["toolkit.claim_id"] for span in batches()}
    assert len(ids) == len(batches()) == told["batches"]


def test_batches_of_a_node_that_died_as_a_whole_are_linked_too(
    site: Site, tmp_path: Path, eventually: Callable[[Callable[[], object], float], None]
) -> None:
    """Its neighbour on the same machine notices, and makes the spans."""

    def every() -> list[Span]:
        return [json.loads(line) for p in site.folder.glob("*.jsonl") for line in p.read_text().splitlines()]

    def lost() -> list[Span]:
        found = named(every(), "batch traced.gated")
        return [span for span in found if span["attributes"].get("toolkit.lost")]

    with celery_node(
        "tests.acceptance.traced_app", "doomed", site.environment, tmp_path / "log", "-c", "1", *OPTIONS
    ) as pid:
        client = site.begin("traced.gated", 12, folder=str(tmp_path))
        try:
            eventually((tmp_path / f"{pid}").exists, 60)
            os.killpg(pid, signal.SIGKILL)
            eventually(lost, 60)
        finally:
            (tmp_path / "gate").touch()
        told = said(client)
    assert told["results"] == list(range(12))
    [span] = lost()
    assert span["context"]["trace_id"] == f"0x{told['trace']}"
    eventually(lambda: sum(len(b["links"]) for b in named(site.spans(told["trace"]), "batch traced.gated")) == 2, 30)


def test_a_client_without_opentelemetry_submits_to_nodes_that_trace(site: Site) -> None:
    """Each ticket is then a trace of its own, which its batches are part of."""
    program = (
        "from toolkit.client import Client; from celery import Celery; import os, toolkit\n"
        "app = Celery('plain', broker=os.environ['SHARED_BROKER'], set_as_current=False)\n"
        "@app.task(name='traced.price')\n"
        "def price(x): return x\n"
        "toolkit.install(app, ledger_url=os.environ['SHARED_LEDGER'])\n"
        "with Client(app=app) as client:\n"
        "    run = client.map('traced.price', range(8), queue='traced', batch_size=4)\n"
        "    assert run.results(60) == [2 * i for i in range(8)]\n"
        "    assert run.spec.trace == {}\n"
        "    print(run.run_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | site.environment, cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip()
    deadline = time.monotonic() + 30
    while True:
        every = [json.loads(line) for p in site.folder.glob("*.jsonl") for line in p.read_text().splitlines()]
        batches = [span for span in every if span["attributes"].get("toolkit.run_id") == run_id]
        tickets = {span["context"]["span_id"] for span in named(every, "run/toolkit.ticket")}
        if len(batches) == 2 and all(span["parent_id"] in tickets for span in batches):
            return
        assert time.monotonic() < deadline, batches
        time.sleep(0.02)


def test_without_opentelemetry_nothing_of_it_is_asked_for() -> None:
    """Given a process that cannot import it, a run is submitted and executed as ever."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import tempfile; from pathlib import Path\n"
        "from toolkit.client import Client; from toolkit.cluster import LocalCluster\n"
        "with tempfile.TemporaryDirectory(prefix='tk-') as state:\n"
        "    cluster = LocalCluster(state_dir=Path(state), node=False)\n"
        "    try:\n"
        "        with Client(cluster=cluster) as client:\n"
        "            print(client.map(abs, [-1, 2], inline=True).results())\n"
        "    finally:\n"
        "        cluster.stop()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[1, 2]", done.stderr


def test_a_process_that_is_not_traced_gets_the_same_empty_context_each_time() -> None:
    """Also where some library has imported OpenTelemetry, as Redis' client does."""
    pytest.importorskip("opentelemetry.trace")
    assert not tracing.active()
    assert tracing.carrier() == {}
    spec = RunSpec("run-0000000001", "t", trace={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    assert tracing.ticket(spec) is tracing.ticket(spec) is tracing.batch(None, spec, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", [{}, {"traceparent": "nonsense"}, {"traceparent": 7}, [], {"baggage": "user=me"}])
def test_a_spec_whose_trace_is_none_is_no_trace(stored: object) -> None:
    assert tracing._context(stored) is None  # type: ignore[arg-type]
