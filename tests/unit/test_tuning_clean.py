"""From metric frames to histories: bad rows, warm-up, gaps, concurrency, memory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from toolkit.errors import TuningError
from toolkit.tuning.clean import clean
from toolkit.tuning.history import TaskHistory
from toolkit.tuning.simulate import Workload, simulate_run, simulate_runs

EXACT = Workload(per_item_s=0.01, per_batch_s=0.05, batch_sigma=0.0, run_sigma=0.0, gap_s=0.002, stagger_s=0.004)


def one_history(frame: pd.DataFrame, task: str = "demo.task") -> TaskHistory:
    return clean(frame)[task]


def rows(*batches: tuple[str, float, float, int]) -> pd.DataFrame:
    """A minimal frame of (worker, claimed at, service seconds, items)."""
    frame = pd.DataFrame(batches, columns=["worker", "at", "service_s", "items"])
    frame["claimed_at"] = pd.to_datetime(((1e9 + frame["at"]) * 1e6).round().astype("int64"), unit="us", utc=True)
    return frame.assign(run_id="run-000001", task="t")


def test_a_run_is_summed_up() -> None:
    frame = simulate_run(EXACT, 100, 10, 2, warm=True)
    (run,) = one_history(frame).runs
    assert (run.workers, run.batch_size, run.items, run.batches) == (2, 10, 100, 10)
    assert run.gap_s == pytest.approx(0.002, abs=1e-4)
    assert run.gaps == 8
    assert run.stagger_s == pytest.approx(0.004, abs=1e-4)
    assert run.tail == (10,) * 10
    # Five batches of 150 ms, four gaps and the stagger, and a commit at the end.
    assert run.makespan_s == pytest.approx(0.004 + 5 * 0.15 + 5 * 0.002, abs=1e-3)


def test_like_batches_become_one_cell() -> None:
    frame = simulate_runs(EXACT, 1000, [(1, 1), (10, 2)])
    history = one_history(frame)
    assert history.cells.n.sum() == len(frame) == 1100
    assert len(history.cells) < 12
    warm = history.cells.take(history.cells.first == 0)
    np.testing.assert_allclose(warm.mean_s, 0.05 + 0.01 * warm.items, rtol=1e-4)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("service_s", np.nan),
        ("service_s", -1.0),
        ("service_s", np.inf),
        ("items", 0),
        ("items", -5),
        ("claimed_at", pd.NaT),
    ],
)
def test_bad_rows_are_left_out_and_counted(column: str, value: object) -> None:
    frame = simulate_run(EXACT, 100, 10, 2)
    frame.loc[3, column] = value
    history = one_history(frame)
    assert history.dropped == {"unusable": 1}
    assert history.runs[0].batches == len(frame) - 1
    assert np.isfinite(history.cells.mean_s).all()


def test_cut_off_rows_do_not_teach_what_batches_take() -> None:
    frame = simulate_run(EXACT, 100, 10, 2, warm=True)
    frame.loc[3, "service_s"] = 0.001
    frame.loc[3, "cut_off"] = True
    history = one_history(frame)
    assert history.dropped == {"cut off": 1}
    assert history.runs[0].cut_off == 1
    assert history.cells.mean_s.min() > 0.1
    assert history.cells.n.sum() == len(frame) - 1


def test_only_new_processes_are_cold() -> None:
    history = one_history(simulate_runs(EXACT, 100, [(10, 2), (10, 2), (10, 3)], warm=False))
    assert [run.cold for run in history.runs] == [1.0, 0.0, pytest.approx(1 / 3)]
    assert history.cells.n[history.cells.cold == 1].sum() == 3
    assert history.cells.n[history.cells.first == 1].sum() == 7


def test_workers_known_from_before_are_not_cold() -> None:
    frame = simulate_run(EXACT, 100, 10, 2)
    known = {"demo.task": one_history(frame).processes}
    assert clean(frame, known)["demo.task"].runs[0].cold == 0.0


def test_busy_workers_are_counted_over_the_whole_batch() -> None:
    # a: one batch alone for 1 s, then beside b for 1 s; at its claim nobody else was at work.
    history = clean(rows(("a", 0.0, 2.0, 1), ("b", 1.0, 1.0, 2)))["t"]
    assert sorted(zip(history.cells.items, history.cells.busy, strict=True)) == [(1, 1.5), (2, 2.0)]
    assert history.runs[0].workers == 2


def test_a_batch_claimed_ahead_starts_when_the_one_before_ends() -> None:
    history = clean(rows(("a", 0.0, 1.0, 1), ("a", 0.1, 1.0, 1), ("a", 0.2, 1.0, 1)))["t"]
    run = history.runs[0]
    assert run.workers == 1
    assert run.gap_s == pytest.approx(0.0)
    assert run.makespan_s == pytest.approx(3.0)


def test_a_pause_is_no_work() -> None:
    history = clean(rows(("a", 0.0, 1.0, 1), ("a", 1.0, 1.0, 1), ("a", 62.0, 1.0, 1)))["t"]
    assert history.runs[0].pauses_s == pytest.approx(60.0)
    assert history.runs[0].makespan_s == pytest.approx(3.0, abs=0.3)


def test_memory_is_of_the_largest_batch_so_far() -> None:
    work = Workload(base_bytes=100 << 20, item_bytes=1 << 20)
    frame = simulate_run(work, 111, 10, 1)
    points = dict(one_history(frame).memory)
    assert points == {10.0: float(110 << 20)}  # the last batch has 1 item, and the process still its 110 MiB


def test_older_code_is_left_out_where_the_latest_has_runs_enough() -> None:
    frame = simulate_runs(EXACT, 100, [(10, 2), (5, 2), (10, 1), (5, 1)])
    frame["code_version"] = np.where(frame["run_id"] == "simulated-0000", "old", "new")
    history = one_history(frame)
    assert history.code_version == "new"
    assert len(history.runs) == 3
    assert history.dropped == {"other code version": 10}
    frame["code_version"] = np.where(frame["run_id"] == "simulated-0003", "new", "old")
    assert len(one_history(frame).runs) == 4


def test_an_empty_frame_has_no_tasks() -> None:
    assert clean(simulate_run(EXACT, 10, 5, 1).iloc[:0]) == {}


def test_a_task_without_a_usable_row_is_kept_without_runs() -> None:
    history = one_history(simulate_run(EXACT, 10, 5, 1).assign(service_s=np.nan))
    assert history.runs == ()
    assert len(history.cells) == 0


def test_a_missing_column_is_named() -> None:
    with pytest.raises(TuningError, match="list given: metric rows are a DataFrame"):
        clean([1, 2])  # type: ignore[arg-type]
    with pytest.raises(TuningError, match="service_s"):
        clean(simulate_run(EXACT, 10, 5, 1).drop(columns="service_s"))


def test_a_long_run_keeps_its_tail_in_order() -> None:
    frame = simulate_run(EXACT, 1003, 2, 2)
    (run,) = one_history(frame).runs
    assert len(run.tail) == 256
    assert run.tail[-1] == 1
    assert sum(size * count for size, count in run.body) + sum(run.tail) == 1003


def test_a_history_survives_being_written() -> None:
    history = one_history(simulate_runs(EXACT, 1003, [(2, 2), (100, 1)]))
    again = TaskHistory.from_dict(history.to_dict())
    assert again.to_dict() == history.to_dict()
    assert again.runs == history.runs


def test_a_broken_history_is_refused() -> None:
    with pytest.raises(TuningError, match="saved task history"):
        TaskHistory.from_dict({"task": "t"})


def test_rows_of_a_run_may_come_in_two_parts() -> None:
    frame = simulate_runs(EXACT, 200, [(10, 2), (20, 1)])
    early, late = clean(frame.iloc[:12])["demo.task"], clean(frame.iloc[12:])["demo.task"]
    merged, whole = early.merge(late), one_history(frame)
    assert [run.run_id for run in merged.runs] == [run.run_id for run in whole.runs]
    for a, b in zip(merged.runs, whole.runs, strict=True):
        assert (a.items, a.batches) == (b.items, b.batches)
        assert a.makespan_s == pytest.approx(b.makespan_s, rel=0.01)
    assert merged.cells.n.sum() == whole.cells.n.sum()
