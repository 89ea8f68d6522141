"""All runs at one moment: what the dashboard and ``toolkit top`` say, and that no foreign text gets through."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.unit.notebook_samples import EVERYTHING, HOSTILE, NOON, Reader, ended, status
from tests.unit.test_notebook_views import KEPT, text_of
from toolkit.client.watching import Look
from toolkit.errors import InvalidInput
from toolkit.notebook import board as of
from toolkit.notebook import board_views as views
from toolkit.notebook import top
from toolkit.notebook.board import Board
from toolkit.notebook.dashboard import looked, period_s
from toolkit.notebook.sheet import LOOKS
from toolkit.records import NodeInfo, RunSpec, RunState, RunStatus


def node(
    name: str = "node-1", workers: int = 4, queues: tuple[str, ...] = ("celery",), host: str = "host-a"
) -> NodeInfo:
    return NodeInfo(name, host, 1, workers, 2, queues, (), "0.1", 1, "3.11", True, NOON - 90, NOON)


def spec(snapshot: RunStatus, **changes: object) -> RunSpec:
    return replace(RunSpec(snapshot.run_id, snapshot.task), **changes)


def look(*runs: tuple[RunSpec, RunStatus], nodes: tuple[NodeInfo, ...] = (node(),), at: float = NOON) -> Look:
    return Look(at, nodes, runs, tuple((None, *run) for run in runs), 0)


def known(snapshot: RunStatus, **changes: object) -> tuple[RunSpec, RunStatus]:
    return spec(snapshot, **changes), snapshot


GOING = known(status(), tags={"night": "7"})
DONE = known(ended(run_id="r2-done", name="ocr", task="docs.ocr", created_at=NOON - 10))
WAITING = known(
    status(run_id="r3-wait", name="", task="docs.thumbnail", state=RunState.PAUSED, item_s=0.0, dead=0, errors={})
)
BOARD = of.grown(Board(), look(DONE, GOING, WAITING))


def test_unfinished_runs_come_first_and_the_newest_before_the_others():
    assert [line.run_id for line in BOARD.lines] == ["r7f3c-29ab41", "r3-wait", "r2-done"]
    assert dict(BOARD.states) == {"running": 1, "paused": 1, "finished": 1}


@pytest.mark.parametrize(
    ("text", "state", "ids"),
    [
        ("", "all", ["r7f3c-29ab41", "r3-wait", "r2-done"]),
        ("THUMB", "all", ["r7f3c-29ab41", "r3-wait"]),
        ("thumb night", "all", ["r7f3c-29ab41"]),
        ("", "unfinished", ["r7f3c-29ab41", "r3-wait"]),
        ("", "failing", ["r7f3c-29ab41", "r2-done"]),
        ("", "paused", ["r3-wait"]),
        ("nothing", "all", []),
    ],
)
def test_filters(text: str, state: str, ids: list[str]):
    assert [line.run_id for line in of.chosen(BOARD, text, state)] == ids


def test_a_state_that_is_none_is_refused_with_the_list():
    with pytest.raises(InvalidInput, match="unfinished, failing, running"):
        of.chosen(BOARD, state="done")


def test_backlog_counts_items_and_the_time_of_running_runs():
    waits = of.backlog(BOARD)
    assert waits.items == 500 + 510
    assert waits.work_s == pytest.approx(500 * 0.2)
    assert waits.time_s == pytest.approx(500 * 0.2 / 4)
    assert of.backlog(BOARD, "docs.ocr").items == 0


def test_time_of_a_backlog_is_the_longest_of_each_queue_alone_and_of_all_together():
    one = known(status(run_id="r-one"), queue="fast")
    two = known(status(run_id="r-two"), queue="slow")
    shared = (node("a", 1, ("fast", "slow")), node("b", 9, ("fast",)))
    assert of.backlog(of.grown(Board(), look(one, two, nodes=shared))).time_s == pytest.approx(100.0)
    together = (node("a", 2, ("fast", "slow")),)
    assert of.backlog(of.grown(Board(), look(one, two, nodes=together))).time_s == pytest.approx(100.0)


def test_nobody_listens_or_nothing_was_measured():
    assert of.backlog(of.grown(Board(), look(GOING, nodes=()))).time_s is None
    unmeasured = of.backlog(of.grown(Board(), look(known(status(item_s=0.0)))))
    assert (unmeasured.time_s, unmeasured.unmeasured) == (None, 1)
    # Another run of the same task tells how long an item takes.
    both = look(known(status(item_s=0.0, run_id="r-new")), known(ended(task="docs.thumbnail", run_id="r-old")))
    assert of.backlog(of.grown(Board(), both)).work_s == pytest.approx(500 * 0.2)


def test_trends_grow_only_where_a_run_was_read_again():
    later = replace(GOING[1], at=NOON + 5, ok=600)
    second = of.grown(BOARD, Look(NOON + 5, (node(),), (DONE, (GOING[0], later)), ((GOING[1], GOING[0], later),), 0))
    assert [len(line.trend.samples) for line in second.lines] == [3, 2]


def test_a_look_that_fails_keeps_the_board_and_says_since_when():
    class Away:
        def look(self) -> Look:
            raise ConnectionError("refused")

    first = looked(BOARD, Away())
    second = looked(first, Away())
    assert second.lines == BOARD.lines
    assert first.trouble is not None
    assert second.trouble == first.trouble
    assert "ConnectionError: refused" in text_of(views.totals(second))
    assert "ConnectionError: refused" in "\n".join(top.frame(second, top.Screen()))
    assert "no answer yet" in text_of(views.totals(looked(Board(), Away())))


# --------------------------------------------------------------------------- what is shown


def hostile_board(text: str) -> Board:
    snapshot = status(run_id=text, name=text, task=text, errors={text: 3})
    run = spec(snapshot, queue=text, tags={text: text})
    board = of.grown(Board(), look((run, snapshot), nodes=(node(text, host=text, queues=(text,)),)))
    return of.unanswered(board, RuntimeError(text), NOON)


PIECES = [views.totals, lambda b: views.table(b.lines, b), views.workers, views.dead, views.by_task, views.summary]


@pytest.mark.parametrize("piece", PIECES, ids=["totals", "table", "workers", "dead", "by_task", "summary"])
@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_hostile_text_in_every_field_stays_text(piece, text: str):
    reader = Reader(piece(hostile_board(text)))
    assert reader.problems == []
    assert set(reader.tags) <= KEPT | {"br"}
    assert {value for name, value in reader.attributes if name == "class"} <= set(LOOKS)


def test_hostile_filter_of_a_static_summary_stays_text():
    assert Reader(views.summary(BOARD, EVERYTHING, "all")).problems == []


@pytest.mark.parametrize("width", [20, 60, 80, 100, 130, 200])
@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING, "漢字" * 40, "e\u0301" * 90])
def test_a_frame_fits_the_terminal_and_steers_nothing(width: int, text: str):
    for line in top.frame(hostile_board(text), top.Screen(width, 12), text):
        assert top.cells(line) <= width
        assert all(c.isprintable() or c == "\ufffd" for c in line)
    assert len(top.frame(hostile_board(text), top.Screen(width, 12), keys="q quits")) <= 12


def test_a_frame_says_what_a_watcher_asks():
    text = "\n".join(top.frame(BOARD, top.Screen(180)))
    for words in (
        "runs: 1 running, 1 paused, 1 finished", "backlog 1,010 items, 25 s of work", "2 busy of 4 on 1 node",
        "20 dead letters", "thumbnails", "500/1,000  50 %", "20 items/s", "25 s", "r2-done",
    ):  # fmt: skip
        assert words in text
    assert "\x1b" not in text


def test_colours_come_only_where_they_are_allowed_and_only_known_ones():
    painted = "\n".join(top.frame(BOARD, top.Screen(100, colour=True)))
    assert set(re.findall(r"\x1b\[[0-9;]*m", painted)) <= {"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[34m"}
    bare = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert bare == "\n".join(top.frame(BOARD, top.Screen(100)))


def test_a_low_terminal_shows_the_first_runs_and_counts_the_rest():
    runs = [known(status(run_id=f"run-{i:04d}", created_at=NOON - i)) for i in range(50)]
    board = of.grown(Board(), look(*runs))
    lines = top.frame(board, top.Screen(100, 20), keys="q quits")
    assert len(lines) == 20
    assert re.search(r"and \d+ more", lines[-2])
    assert lines[-1] == "q quits"
    assert "and 25 more runs" in text_of(views.table(board.lines, board))


def test_a_terminal_without_unicode_gets_ascii():
    for line in top.frame(hostile_board("Größe"), top.Screen(120, fine=False)):
        assert line.isascii()


def test_summary_tells_runs_backlog_workers_and_dead_letters():
    text = text_of(views.summary(BOARD, "", "unfinished"))
    for words in (
        "state unfinished", "1 running, 1 paused, 1 finished", "1,010 items in the backlog",
        "2 / 4 workers busy / known",
        "20 dead letters", "thumbnails", "docs.thumbnail r7f3c-29ab41", "500 / 1,000 · 50 %", "node-1 host-a celery",
        "30 retryable, 10 fatal", "docs.thumbnail 1,010", "no longer live",
    ):  # fmt: skip
        assert words in text
    assert "docs.ocr" not in text.split("Workers")[0]


def test_nothing_yet_and_nothing_that_fits():
    empty = of.grown(Board(), look())
    assert "No runs yet" in text_of(views.summary(empty))
    assert "No run fits the filters" in text_of(views.table((), BOARD))
    assert "no runs" in top.frame(empty, top.Screen())[-1]
    assert "No worker is there" in text_of(views.totals(of.grown(Board(), look(GOING, nodes=()))))


def test_line_of_a_dashboard_for_those_who_see_only_text():
    assert views.line(BOARD) == (
        "1 running, 1 paused, 1 finished; backlog 1,010 items, about 25 s; 2 of 4 workers busy; 20 dead letters"
    )


def test_a_dashboard_is_sent_less_often_than_a_panel():
    assert [period_s(age) for age in (0, 59, 61, 601)] == [1.0, 1.0, 5.0, 30.0]
