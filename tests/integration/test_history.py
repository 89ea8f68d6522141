"""What was, as frames: from the server, from the archive, from both; and metric rows as they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.integration.ledgers import Run
from tests.integration.pasts import Past, finished_again, same, work
from toolkit import frames
from toolkit.errors import InvalidInput
from toolkit.ledger import Ledger


@pytest.fixture
def past(ledger: Ledger, tmp_path: Path) -> Iterator[Past]:
    past = Past(ledger, tmp_path / "archive", f"tests.{tmp_path.name}/é")
    yield past
    past.clear()


# --------------------------------------------------------------------------- server, archive, both


def test_a_run_is_never_doubled_wherever_it_is(past: Past) -> None:
    first, second = past.run(3, dead=1), past.run(2)
    assert past.put(first).runs == 1
    assert len(past.metrics(past.task)) == 6
    past.put(first, second)
    assert past.both_agree()["batch"].tolist() == [0, 1, 0, 1, 2, 3], "the newest run first"
    same(past.dead_letters(source="archive"), first_letters(past, first))


def first_letters(past: Past, run: Run) -> pd.DataFrame:
    return frames.dead_letters_frame(run.run_id, past.task, run.reader.dead_letters())


def test_what_the_server_forgot_comes_from_the_archive(past: Past) -> None:
    gone, stays = past.run(3, dead=2, tags={"a": "é"}), past.run(2)
    before = past.runs(past.task), past.metrics(past.task), first_letters(past, gone)
    past.put(gone, stays)
    gone.reader.delete()
    same(past.runs(past.task), before[0])
    same(past.metrics(past.task), before[1])
    assert past.metrics(past.task, source="server")["run_id"].unique().tolist() == [stays.run_id]
    assert past.runs(past.task)["run_id"].tolist() == [stays.run_id, gone.run_id], "newest first"
    found = past.dead_letters(source="both")
    same(found[found["run_id"] == gone.run_id], before[2])


def test_a_run_that_is_deleted_while_it_is_read_comes_from_the_archive(past: Past) -> None:
    run = past.run(3)
    past.put(run)
    before = past.metrics(past.task)
    live = past._live

    class Late(Past):
        def _live(self, source: str) -> Any:
            known = live(source)
            run.reader.delete()
            return known

    late = Late(past._ledger, past._archive_path, past.task)
    same(late.metrics(past.task), before)
    assert past.runs(past.task, source="server").empty


def test_archiving_twice_writes_nothing_new(past: Past, tmp_path: Path) -> None:
    run = past.run(2, dead=1)
    done = past.put(run)
    assert (done.runs, done.rows, done.dead_letters, done.unchanged) == (1, 3, 1, 0)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = past.put(run)
    assert (again.runs, again.rows, again.dead_letters, again.unchanged) == (0, 0, 0, 1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == files
    assert len(files) == 3


def test_a_run_that_has_not_ended_is_left_for_later(past: Past) -> None:
    run = past.run(1)
    goes_on = past.begin(2)
    work(goes_on)
    done = past.put(run, goes_on)
    assert (done.runs, done.unfinished) == (1, 1)
    assert past.metrics(past.task, source="archive")["run_id"].unique().tolist() == [run.run_id]
    assert len(past.metrics(past.task)) == 2
    work(goes_on)
    assert past.put(run, goes_on).rows == 2
    past.both_agree()


def test_a_run_that_went_on_gets_further_files(past: Past) -> None:
    run = past.run(1, dead=2)
    past.put(run)
    assert past._ledger.retry_dead(run.run_id, [0, 1]) == 2
    finished_again(run)
    done = past.put(run)
    assert (done.runs, done.unchanged) == (1, 0)
    assert done.rows == run.status().batches - 2, "only the rows that were not there"
    past.both_agree()
    assert past.runs(past.task, source="archive")["dead"].tolist() == [0], "as it stands now"
    assert past.dead_letters(source="archive")["index"].tolist() == [0, 1], "and what happened before is kept"
    assert past.put(run).unchanged == 1


def test_items_that_die_again_are_kept_once_more(past: Past) -> None:
    run = past.run(1, dead=1)
    past.put(run)
    past._ledger.retry_dead(run.run_id, [0])
    run.die(0)
    done = past.put(run)
    assert done.dead_letters == 0, "the very same letter is there already"
    past._ledger.drop_dead(run.run_id, [0])
    assert past.put(run).runs == 1, "its counters have changed"
    assert past.runs(past.task, source="archive")[["dead", "skipped"]].to_numpy().tolist() == [[0, 1]]


def test_an_id_that_is_used_again_names_another_run(past: Past) -> None:
    old = past.run(3)
    past.put(old)
    old.reader.delete()
    new = past.begin(1, run_id=old.run_id)
    work(new)
    created = past.runs(past.task)["created_at"]
    assert created.nunique() == len(created) == 2
    assert past.put(new).rows == 1
    assert past.runs(past.task, source="archive")["batches"].tolist() == [1, 3]
    assert sorted(past.metrics(past.task)["batch"]) == [0, 0, 1, 2]


def test_a_run_that_cannot_be_read_does_not_stop_the_others(past: Past) -> None:
    bad, good = past.run(1, dead=1), past.run(1)
    bad.command("HSET", "dead", 0, b"\xc1 no letter")
    done = past.put(bad, good)
    assert done.runs == 1
    ((run_id, reason),) = done.failed
    assert run_id == bad.run_id
    assert "field 0" in reason
    assert run_id in str(done)


def test_rows_that_the_server_counts_and_lacks_are_a_fault(past: Past) -> None:
    run = past.run(2)
    run.command("HSET", "head", "rows", 5)
    ((_, reason),) = past.put(run).failed
    assert "counts 5 metric rows, and only 2 are stored" in reason
    assert past.runs(past.task, source="archive").empty


# --------------------------------------------------------------------------- the same schema, the same filters


@pytest.mark.parametrize("source", ["server", "archive", "both"])
def test_nothing_has_the_schema_of_something(past: Past, source: str) -> None:
    run = past.run(1, dead=1)
    past.put(run)
    for look, columns in ((past.runs, frames.RUNS), (past.metrics, frames.METRICS)):
        full, none = look(past.task, source=source), look(past.task, tags={"no": "such"}, source=source)
        assert (len(full) > 0, len(none)) == (True, 0)
        for frame in (full, none):
            assert list(frame.columns) == [c.name for c in columns]
            assert [str(d) for d in frame.dtypes] == [c.dtype for c in columns]
            assert isinstance(frame.index, pd.RangeIndex)
    assert [str(d) for d in past.workers().dtypes] == [c.dtype for c in frames.WORKERS]
    assert [str(d) for d in past.dead_letters(source=source).dtypes] == [c.dtype for c in frames.DEAD_LETTERS]


@pytest.mark.parametrize("source", ["server", "archive", "both"])
def test_filters_choose_runs(past: Past, source: str) -> None:
    made = [past.run(1, tags={"n": str(n), "all": "1"}) for n in range(3)]
    past._ledger.steer(made[2].run_id, "cancel")
    ids = [run.run_id for run in made]
    for n, run in enumerate(made):  # a day apart, by the server's own record
        run.command("HSET", "head", "created_at", 1_700_000_000_000 + 86_400_000 * n)
    past.put(*made)

    def chosen(**which: Any) -> list[int]:
        both = (look(past.task, source=source, **which) for look in (past.runs, past.metrics))
        of_runs, of_rows = ([ids.index(i) for i in frame["run_id"].unique()] for frame in both)
        assert sorted(of_runs) == sorted(of_rows)
        return sorted(of_runs)

    assert chosen() == [0, 1, 2]
    assert chosen(since="2023-11-15") == [1, 2]
    assert chosen(since="2023-11-15T22:13:20Z") == [1, 2], "at that very moment"
    assert chosen(until="2023-11-15T22:13:20Z") == [0], "before that moment"
    assert chosen(since="2023-11-15", until=pd.Timestamp("2023-11-16", tz="UTC")) == [1]
    assert chosen(tags={"n": "2"}) == [2]
    assert chosen(tags={"n": "2", "all": "1"}) == [2]
    assert chosen(tags={"n": "2", "all": "2"}) == []
    assert chosen(states="finished") == [0, 1, 2]
    assert chosen(states=["running", "paused"]) == []


def test_a_filter_that_is_none_says_so(past: Past) -> None:
    for look in (past.runs, past.metrics):
        with pytest.raises(InvalidInput, match="states='done': expected some of running, paused"):
            look(past.task, states="done")
        with pytest.raises(InvalidInput, match="source='disk': one of both, server, archive"):
            look(past.task, source="disk")


def test_without_a_place_archiving_says_what_to_pass(ledger: Ledger) -> None:
    past = Past(ledger, None, "tests.nowhere")
    with pytest.raises(InvalidInput, match=r"path=.*TOOLKIT_ARCHIVE"):
        past.archive()
    with pytest.raises(InvalidInput, match="TOOLKIT_ARCHIVE"):
        past.runs(source="archive")
    past.run(1)
    assert len(past.runs(past.task)) == 1
    past.clear()


# --------------------------------------------------------------------------- as they come


def test_a_feed_gives_each_row_once(past: Past) -> None:
    run = past.run(0, dead=1)
    feed = past.follow_metrics(past.task)
    assert feed.pull()["batch"].tolist() == [0]
    assert feed.ended
    assert feed.pull().empty
    late = past.begin(3)
    assert feed.pull().empty
    assert not feed.ended
    seen = []
    for number in range(3):
        work(late, number)
        frame = feed.pull()
        assert [str(d) for d in frame.dtypes] == [c.dtype for c in frames.METRICS]
        assert frame["run_id"].tolist() == [late.run_id]
        seen.append(frame)
    assert feed.ended
    assert feed.pull().empty
    whole = past.metrics(past.task, source="server")
    same(frames.concat_metrics(seen), whole[whole["run_id"] == late.run_id])
    assert run.run_id in str(feed.cursor)
    assert repr(feed) == "<MetricsFeed: 4 rows of 2 runs pulled, ended>"


def test_a_cursor_goes_on_in_another_feed(past: Past) -> None:
    run = past.run(1, dead=1)
    first = past.follow_metrics(past.task)
    assert len(first.pull()) == 2
    past._ledger.retry_dead(run.run_id, [0])
    second = past.follow_metrics(past.task, cursor=first.cursor)
    assert second.pull().empty
    assert not second.ended, "it goes on"
    finished_again(run)
    assert second.pull()["batch"].tolist() == [2]
    assert first.pull()["batch"].tolist() == [2], "each feed has a cursor of its own"
    assert len(past.follow_metrics(past.task).pull()) == 3


def test_rows_that_the_server_lost_are_followed_by_those_that_replace_them(
    past: Past, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a power loss after which the ledger stands where it stood two batches before."""
    run = past.run(3)
    feed = past.follow_metrics(past.task)
    assert len(feed.pull()) == 3
    run.command("HSET", "head", "rows", 1)
    assert feed.pull()["batch"].tolist() == [1, 2], "what lies beyond the count, in the place of the lost ones"
    assert "lost its latest 2 metric rows" in caplog.text
