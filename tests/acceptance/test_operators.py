"""What operators hold: events followed through a restart of the server, the exporter as a command, profiles."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.acceptance import gates, shop
from toolkit.cli import main
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.errors import RunStateError
from toolkit.notebook import flame_graph
from toolkit.records import RunEvent
from toolkit.settings import url_with_password
from toolkit.transport.profiles import MAX_PROFILES

Eventually = Callable[..., None]
ROOT = Path(__file__).parents[2]


def test_events_are_followed_through_a_restart_of_the_server(
    cluster: LocalCluster, client: Client, tmp_path: Path, eventually: Eventually
) -> None:
    gate = tmp_path / "gate"
    run = client.map(gates.gated, range(60), kwargs={"gate": str(gate)}, batch_size=5)
    seen: list[RunEvent] = []
    watcher = threading.Thread(target=lambda: [seen.append(e) for e in run.events(follow=True)], daemon=True)
    watcher.start()
    eventually(lambda: seen)
    before = cluster.status().server_pid
    assert before
    os.kill(before, signal.SIGKILL)
    eventually(lambda: cluster.status().server_pid not in (None, before), 60)
    client.get_run(run.run_id).pause("after the restart")
    eventually(lambda: "pause" in [e.kind for e in seen], 60)
    run.resume()
    gate.touch()
    assert run.results(90) == list(range(60))
    watcher.join(60)
    assert not watcher.is_alive()
    assert [e.event_id for e in seen] == [e.event_id for e in run.events()]
    assert seen[0].kind == "created"
    assert seen[-1].final
    assert seen[-1].counters is not None
    assert seen[-1].counters.ok == 60
    frame = run.progress_curve()
    assert frame["ok"].iloc[0] == 0
    assert frame["ok"].iloc[-1] == 60


def test_a_working_run_is_sampled(client: Client, tmp_path: Path, eventually: Eventually) -> None:
    files = [tmp_path / "first", tmp_path / "second"]
    run = client.map(gates.gated, ["", str(files[0]), str(files[1])], batch_size=1)
    eventually(lambda: 1 in [e.counters.ok for e in run.events() if e.counters and e.kind == "progress"])
    files[0].touch()
    eventually(lambda: 2 in [e.counters.ok for e in run.events() if e.counters and e.kind == "progress"])
    files[1].touch()
    run.results(60)
    assert {0, 1, 2, 3} <= set(run.progress_curve()["ok"])


def test_the_exporter_serves_until_it_is_ended(cluster: LocalCluster, client: Client) -> None:
    client.map(shop.double, range(20)).results(60)
    command = [sys.executable, "-m", "toolkit", "exporter", "--port", "0"]
    environment = os.environ | {"TOOLKIT_LEDGER_URL": url_with_password(cluster.address)}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", line)
            assert found, line
            assert str(cluster.address.read_password()) not in line
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            assert "toolkit_up 1.0" in text
            assert 'toolkit_backlog_items{task="tests.acceptance.shop:double"} 0.0' in text
            assert "toolkit_known_workers 2.0" in text
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()


def test_the_exporter_prints_its_dashboard() -> None:
    done = CliRunner().invoke(main, ["exporter", "--dashboard"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["panels"]


def test_a_host_that_cannot_be_listened_on_is_an_error_with_advice(cluster: LocalCluster) -> None:
    url = url_with_password(cluster.address)
    before = signal.getsignal(signal.SIGINT)
    done = CliRunner().invoke(main, ["--ledger-url", url, "exporter", "--host", "192.0.2.1", "--port", "0"])
    assert signal.getsignal(signal.SIGINT) is before
    assert done.exit_code == 1
    assert "choose another --host or --port" in done.output


def test_without_its_library_the_exporter_says_what_to_install() -> None:
    program = "import sys; sys.modules['prometheus_client'] = None; from toolkit.cli import main; main(['exporter'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "[operators]" in done.stderr


# --------------------------------------------------------------------------- profiles


def profiled(client: Client, run_id: str) -> set[str]:
    try:
        return set(client.get_run(run_id).profile().frame()["function"])
    except RunStateError:
        return set()


def test_workers_sample_what_they_execute(client: Client, eventually: Eventually) -> None:
    run = client.map(gates.spinning, [0.15] * 8, batch_size=1, profile=True)
    assert run.results(60) == [0.15] * 8
    hot, task = "tests.acceptance.gates:_hot", "tests.acceptance.gates:spinning"
    eventually(lambda: hot in profiled(client, run.run_id))
    profile = run.profile()
    assert f"{task};{hot} " in profile.folded()
    frame = profile.frame().set_index("function")
    assert frame.loc[task, "total"] >= frame.loc[hot, "own"] > 0
    assert 1 <= profile.batches <= 8
    assert "<svg" in flame_graph(profile)
    assert [e.kind for e in run.events()].count("profile") == profile.batches
    run.verify()


def test_an_inline_run_is_sampled_as_well(client: Client) -> None:
    run = client.map(gates.spinning, [0.05, 0.05], batch_size=1, profile=True, inline=True)
    assert "tests.acceptance.gates:_hot" in set(run.profile().frame()["function"])


def test_no_run_stores_more_than_some_profiles(client: Client) -> None:
    run = client.map(shop.double, [1], inline=True)
    stored = [run._ledger.store_profile(run.run_id, b"x", MAX_PROFILES) for _ in range(MAX_PROFILES + 5)]
    assert stored == [True] * MAX_PROFILES + [False] * 5
    assert not run._ledger.store_profile("run-of-nobody", b"x", MAX_PROFILES)


def test_a_run_that_did_not_ask_is_not_sampled(client: Client) -> None:
    run = client.map(gates.spinning, [0.05], inline=True)
    assert "profile" not in [e.kind for e in run.events()]
    with pytest.raises(RunStateError, match="profile=True"):
        run.profile()
