"""Ended runs of a LocalCluster: archived first, then deleted, and nothing that is not archived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.clusters import until
from tests.integration.pasts import Past, finished_again, past_end, same
from toolkit.archive import Archive
from toolkit.client.keeping import tidy
from toolkit.errors import RunNotFound
from toolkit.ledger import Ledger
from toolkit.settings import ServerAddress
from toolkit.transport import archivist


@pytest.fixture
def past(ledger: Ledger, tmp_path: Path) -> Iterator[Past]:
    past = Past(ledger, tmp_path / "archive", f"tests.{tmp_path.name}/é")
    yield past
    past.clear()


def test_ended_runs_are_archived_and_then_deleted(past: Past) -> None:
    old, new = past.run(1, dead=1), past.run(2)
    path = past._archive_path
    assert path is not None
    past_end(old)
    before = past.runs(past.task), past.metrics(past.task)
    tidy(past._ledger, past._registry, path, 3600.0, everything=False)
    assert not old.command("EXISTS", "head")
    assert past.runs(past.task, source="server")["run_id"].tolist() == [new.run_id]
    assert past.runs(past.task, source="archive")["run_id"].tolist() == [old.run_id]
    same(past.runs(past.task), before[0])
    same(past.metrics(past.task), before[1])


def test_with_everything_all_ended_runs_are_archived_and_the_young_stay(past: Past) -> None:
    run = past.run(1)
    assert past._archive_path is not None
    tidy(past._ledger, past._registry, past._archive_path, None, everything=True)
    past.both_agree()
    assert run.status().state.final


def test_a_place_that_cannot_be_written_deletes_nothing(past: Past, caplog: pytest.LogCaptureFixture) -> None:
    run = past.run(1)
    past_end(run)
    assert past._archive_path is not None
    past._archive_path.write_text("in the way")
    tidy(past._ledger, past._registry, past._archive_path, 3600.0, everything=False)
    assert "nothing was deleted" in caplog.text
    assert run.status().state.final


def test_what_could_not_be_archived_is_not_deleted(past: Past) -> None:
    bad, good = past.run(1, dead=1), past.run(1)
    bad.command("HSET", "dead", 0, b"\xc1 no letter")
    past_end(bad)
    past_end(good)
    assert past._archive_path is not None
    tidy(past._ledger, past._registry, past._archive_path, 3600.0, everything=False)
    assert past.runs(past.task, source="server")["run_id"].tolist() == [bad.run_id]
    assert past.runs(past.task, source="archive")["run_id"].tolist() == [good.run_id]


def test_a_run_that_went_on_is_not_deleted(past: Past) -> None:
    run = past.run(1, dead=2)
    status = run.status()
    past._ledger.retry_dead(run.run_id, [0])
    assert not run.reader.retire(status), "a letter went back to work"
    assert not run.reader.retire(run.status()), "it runs"
    finished_again(run)
    assert not run.reader.retire(status), "its archived copy is not all of it"
    status = run.status()
    past._ledger.drop_dead(run.run_id, [1])
    assert not run.reader.retire(status), "nor now"
    assert run.reader.retire(run.status())
    with pytest.raises(RunNotFound):
        run.status()
    assert not any(run.command("EXISTS", name) for name in ("pages", "outputs", "events", "workers", "dead"))
    assert run.reader.retire(status), "once more changes nothing"


def test_a_node_archives_once_it_may(
    past: Past, address: ServerAddress, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a node whose user may not yet do anything
    monkeypatch.setattr(archivist, "_PAUSE_S", 0.01)
    user, command = "archiving", past._ledger.connection.command
    command("ACL", "SETUSER", user, "on", ">word")
    path = past._archive_path
    assert path is not None
    node = archivist.Archivist(replace(address, username=user, password="word"), path, period_s=0.01)
    node.start()
    try:
        run = past.run(1)
        until(lambda: "nothing is archived" in caplog.text, "it is told that it may not")
        # When it may, then what had ended meanwhile is archived
        command("ACL", "SETUSER", user, "~*", "&*", "+@all")
        until(lambda: Archive(path).holds(run.spec, run.status()), "the run is archived")
        assert caplog.text.count("nothing is archived") == 1
    finally:
        node.stop()
        node._thread.join()
        command("ACL", "DELUSER", user)


def test_a_run_whose_item_died_once_more_is_not_deleted(past: Past) -> None:
    run = past.run(1, dead=1)
    status = run.status()
    past._ledger.retry_dead(run.run_id, [0])
    run.die(0)
    assert (run.status().state, run.status().dead) == (status.state, status.dead)
    assert not run.reader.retire(status)
