"""The archive at work: killed writers, other readers, a LocalCluster that closes, the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from tests.acceptance import archiver, shop
from toolkit.archive import Archive
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.settings import LedgerSettings

ROOT = Path(__file__).parents[2]
TABLES = ("runs", "rows", "dead_letters")


def contents(archive: Archive) -> dict[str, pd.DataFrame]:
    frame, keys = archive.known_runs()
    return {"runs": frame, "rows": archive.metrics(keys), "dead_letters": archive.dead_letters(keys)}


# --------------------------------------------------------------------------- killed on the way


def test_a_killed_writer_leaves_nothing_torn_and_the_next_call_completes_it(tmp_path: Path) -> None:
    """Given writers that are killed one step later each, from the first directory to the last file."""
    subprocess.run(
        [sys.executable, "-m", "tests.acceptance.archiver", str(tmp_path), "1", "5"], cwd=ROOT, check=True, timeout=150
    )
    whole = contents(Archive(tmp_path / "whole"))
    assert {name: len(frame) for name, frame in whole.items()} == {"runs": 3, "rows": 9, "dead_letters": 90}
    killed = sorted(int(path.name) for path in tmp_path.iterdir() if path.name != "whole")
    assert len(killed) > 5
    left = set()
    for number in killed:
        path = tmp_path / str(number)
        present = {name: pd.read_parquet(path / name) for name in TABLES if list((path / name).rglob("*.parquet"))}
        left.add(sum(len(frame) for frame in present.values()))
        for run_id in present.get("runs", pd.DataFrame({"run_id": []}))["run_id"]:  # its row comes last
            assert (present["rows"]["run_id"] == run_id).sum() == 3
            assert (present["dead_letters"]["run_id"] == run_id).sum() == archiver.LETTERS_PER_RUN
        archive = Archive(path)
        done = archive.write(archiver.sources())
        assert done.runs + done.unchanged == 3
        for name, frame in contents(archive).items():
            pd.testing.assert_frame_equal(frame, whole[name], check_categorical=False)
        assert archive.write(archiver.sources()).unchanged == 3
        assert not list((path / ".unfinished").iterdir())
    assert len(left) > 3, "they were killed at very different moments"


# --------------------------------------------------------------------------- as it lies


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive")
    Archive(path).write(archiver.sources())
    return path


def test_pandas_reads_it_as_it_lies(lying: Path) -> None:
    rows = pd.read_parquet(lying / "rows")
    assert rows["task"].value_counts().to_dict() == {"a.task": 6, "b/é": 3}
    assert sorted(rows["day"].astype(str).unique()) == ["2023-11-14", "2023-11-15", "2023-11-16"]
    assert str(rows["claimed_at"].dtype) == "datetime64[us, UTC]"
    assert str(rows["worker"].dtype) == "category"
    one = pd.read_parquet(lying / "rows", filters=[("day", "==", "2023-11-15")])
    assert set(one["run_id"]) == {"run-000002"}
    assert len(pd.read_parquet(lying / "runs")) == 3
    assert len(pd.read_parquet(lying / "dead_letters")) == 90


@pytest.mark.skipif(find_spec("duckdb") is None, reason="duckdb is not installed: it is in the extra `dev`")
def test_duckdb_reads_it_as_it_lies(lying: Path) -> None:
    import duckdb

    with duckdb.connect() as connection:
        query = f"""
            SELECT runs.task, runs.day::VARCHAR, count(*), max(epoch(claimed_at)), any_value(state)
            FROM '{lying}/rows/**/*.parquet' rows JOIN '{lying}/runs/**/*.parquet' runs USING (run_id)
            WHERE rows.day > DATE '2023-11-14' GROUP BY ALL ORDER BY 2
        """  # noqa: S608 - the path is the test's own
        found = connection.sql(query).fetchall()
    assert found == [
        ("a.task", "2023-11-15", 3, 1.7e9 + 2, "finished"),
        ("b/é", "2023-11-16", 3, 1.7e9 + 2, "finished"),
    ]


@pytest.mark.skipif(find_spec("polars") is None, reason="polars is not installed: it is in the extra `dev`")
def test_polars_reads_it_as_it_lies(lying: Path) -> None:
    """In a process of its own: its threads do not like that a later test forks."""
    code = (
        "import sys, polars as pl\n"
        "rows = pl.scan_parquet(sys.argv[1] + '/rows', hive_partitioning=True)\n"
        "few = rows.filter(pl.col('day') > pl.date(2023, 11, 14))\n"
        "few = few.group_by('task').agg(pl.col('items').sum(), pl.len())\n"
        "print(few.sort('task').collect().rows())\n"
        "print(pl.read_parquet(sys.argv[1] + '/dead_letters').height, pl.read_parquet(sys.argv[1] + '/runs').height)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(lying)], capture_output=True, text=True, check=False)
    items = int(Archive(lying).metrics(Archive(lying).known_runs()[1])["items"].sum())
    assert done.stdout.splitlines() == [f"[('a.task', {items // 3}, 3), ('b/é', {items // 3}, 3)]", "90 3"], done.stderr


# --------------------------------------------------------------------------- a LocalCluster


@pytest.fixture(scope="module")
def ended(cluster: LocalCluster) -> Iterator[Client]:
    """A client whose cluster has a run that failed in part, closed and so archived; and another one that looks back."""
    with Client(cluster=cluster) as worked:
        run = worked.map(shop.double, [1, "two", None, 4], batch_size=1, tags={"kind": "ended"}, name="first")
        run.wait(60, progress=False)
    with Client(cluster=cluster) as made:
        yield made


def test_a_client_that_closes_archives_what_ended(ended: Client, cluster: LocalCluster) -> None:
    tags = {"kind": "ended"}
    path = cluster.state_dir / "archive"
    assert list((path / "runs").rglob("*.parquet"))
    for look in (ended.runs, ended.metrics):
        live, kept = look(tags=tags, source="server"), look(tags=tags, source="archive")
        assert len(live) > 0
        pd.testing.assert_frame_equal(live, kept, check_categorical=False)
        pd.testing.assert_frame_equal(live, look(tags=tags), check_categorical=False)
    letters = ended.dead_letters(source="archive")
    assert letters[["index", "item"]].to_dict("list") == {"index": [2], "item": [None]}


def test_the_command_archives_and_says_what(ended: Client, cluster: LocalCluster, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolkit", "archive", str(tmp_path / "mine")]
    env = {"TOOLKIT_STATE_DIR": str(cluster.state_dir), "PATH": "", "PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert "1 run, 4 metric rows and 1 dead letter written" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert "0 runs, 0 metric rows and 0 dead letters written; 1 run there already" in again.stdout
    assert len(pd.read_parquet(tmp_path / "mine" / "rows")) == 4


def test_what_ended_long_ago_is_deleted_once_it_is_archived(ended: Client, cluster: LocalCluster) -> None:
    with Client(cluster=cluster, settings=LedgerSettings(retention_s=1e-3)) as short:
        run = short.map(shop.double, range(5), tags={"kind": "old"})
        assert run.results(60) == [0, 2, 4, 6, 8]
        assert run.spec.retention_s is None, "the server expires nothing by itself"
        before = short.metrics(tags={"kind": "old"}), short.runs(tags={"kind": "old"})
    assert ended.runs(source="server").empty
    pd.testing.assert_frame_equal(ended.metrics(tags={"kind": "old"}), before[0], check_categorical=False)
    pd.testing.assert_frame_equal(ended.runs(tags={"kind": "old"}), before[1], check_categorical=False)


def test_a_feed_follows_a_run_as_it_works(ended: Client) -> None:
    run = ended.map(shop.double, range(400), batch_size=10, tags={"kind": "followed"})
    feed, frames = run.follow_metrics(), []
    while not feed.ended:
        frames.append(feed.pull())
    rows = pd.concat([frame for frame in frames if len(frame)])
    assert rows["batch"].tolist() == list(range(40))
    assert rows["items"].sum() == 400


def test_the_cluster_that_stops_archives_what_its_clients_left(ended: Client, cluster: LocalCluster) -> None:
    run = ended.map(shop.double, range(3), tags={"kind": "stopped"})
    run.wait(60, progress=False)
    assert ended.runs(tags={"kind": "stopped"}, source="archive").empty
    cluster.stop()
    assert ended.runs(tags={"kind": "stopped"}, source="archive")["run_id"].tolist() == [run.run_id]
