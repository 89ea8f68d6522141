"""Displays of trade-offs, of what varies, of what failed, and of one measure against another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.unit.notebook_samples import (
    EVERYTHING,
    HOSTILE,
    NOON,
    Reader,
    check_display,
    history,
    hostile_rows,
    metrics,
    studied,
)
from toolkit.frames import DEAD_LETTERS, METRICS, concat_metrics, empty
from toolkit.notebook.failures import MAX_KINDS, ErrorCounts
from toolkit.notebook.plots import MakespanMap
from toolkit.notebook.relation import AXES, GROUPS, MAX_PLACES, MEASURES, Relation
from toolkit.notebook.spread import Residuals, ServiceTimes
from toolkit.notebook.theme import SERIES
from toolkit.notebook.tradeoffs import ParetoFront, SpeedUp


def speed_up(speedup: list[float], beyond: int = 0, workers: list[int] | None = None) -> SpeedUp:
    """A speed-up of workers from 1 on, the last `beyond` of them extrapolated."""
    values = np.array(speedup)
    counts = np.array(workers or range(1, len(speedup) + 1))
    outside = np.arange(len(speedup)) >= len(speedup) - beyond
    return SpeedUp(1, 50, counts, values, 0.9 * values, 1.1 * values, outside, counts[:2], values[:2], 2, "the model")


def letters(kinds: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"error_type": pd.Categorical(kinds)})


def backtest() -> pd.DataFrame:
    measured = np.linspace(1.0, 9.0, 9)
    error = np.array([0.04, 0.02, 0.01, 0.05, 0.03, 0.06, 0.02, 0.01, 0.02])
    return pd.DataFrame({"run_id": list("abcdefghi"), "measured_s": measured, "error": error, "baseline_error": 0.1})


def displays() -> list:
    frame, model, advice = studied()
    return [
        SpeedUp.from_recommendation(advice, frame),
        ParetoFront.from_recommendation(advice),
        MakespanMap.from_model(model, n_items=500),
        ServiceTimes.from_metrics(history()),
        Residuals.from_model(model),
        ErrorCounts.from_metrics(history()),
        Relation.from_metrics(history()),
        Relation.from_metrics(history(), axis="name", by="task"),
        Relation.from_metrics(empty(METRICS)),
    ]


@pytest.mark.parametrize("display", displays(), ids=lambda d: type(d).__name__)
def test_display_draws_itself_and_says_what_it_shows(display):
    check_display(display)


def test_nothing_to_show_is_said_in_the_figure():
    frame, _, advice = studied()
    none, refused = empty(METRICS), replace(advice, refused="why", intervals={})
    for display in (
        SpeedUp.from_recommendation(refused, frame), ParetoFront.from_recommendation(refused),
        ServiceTimes.from_metrics(none), ServiceTimes.from_metrics(frame.assign(service_s=0.0)),
        Residuals.from_frame(pd.DataFrame()), ErrorCounts.from_metrics(none),
        ErrorCounts.from_dead_letters(empty(DEAD_LETTERS)), Relation.from_metrics(none),
    ):  # fmt: skip
        assert len(display.plot().ax_.texts) == 1
        assert display.caption().startswith(display.finding())


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_hostile_names_stay_text_in_every_display(text: str):
    frame = metrics(text, who=text, task=text, name=text)
    letters = pd.DataFrame({"error_type": frame["task"]})
    for display in (
        ErrorCounts.from_dead_letters(letters),
        Relation.from_metrics(frame, measure="item_s", axis="worker", by="task"),
    ):
        reader = Reader(display.svg("fig-x"))
        assert reader.problems == []
        assert reader.text.count(display.caption()) == 1
    words = ServiceTimes.from_metrics(frame, by="worker").caption()
    assert Reader(words.replace("<", "").replace("&", "")).problems == []  # no control and no bidirectional character


def test_hostile_names_stay_text_on_every_axis_and_in_every_group():
    axes = [axis for axis, known in AXES.items() if known.names]
    assert len(axes) < len(GROUPS)
    for place, by in enumerate(GROUPS):
        display = Relation.from_metrics(hostile_rows(EVERYTHING), axis=axes[place % len(axes)], by=by)
        assert display.places
        assert Reader(display.svg("fig-x")).problems == []


def test_hostile_runs_and_errors_stay_text_in_figure_and_picture():
    ids = pd.Series([EVERYTHING] * 9, dtype=object)
    rows = hostile_rows(EVERYTHING)
    for display in (Residuals.from_frame(backtest().assign(run_id=ids)), ErrorCounts.from_metrics(rows)):
        assert Reader(display.svg("fig-x")).problems == []
        assert Reader(display.html()).problems == []


# --------------------------------------------------------------------------- what a choice costs


def test_the_worker_from_which_on_little_is_saved_is_named():
    assert speed_up([1, 1.9, 2.7, 2.76]).finding() == "3 workers are enough: a fourth one saves 2.2 %"
    assert speed_up([1, 1.02, 1.03]).finding() == "1 worker is enough: a second one saves 2 %"
    assert speed_up([1, 1.9, 1.8]).finding() == "2 workers are enough: a third one makes it 5.6 % slower"
    assert speed_up([1, 1.9, 1.95], workers=[1, 2, 16]).finding() == "2 workers are enough: 16 together saves 2.6 %"


def test_speed_up_that_goes_on_is_said_up_to_what_was_measured():
    assert speed_up([1, 2, 3, 3.01], beyond=1).finding() == (
        "Every further worker pays up to 3, which are 3 times as fast as 1"
    )
    assert "4: 3 (extrapolated)" in speed_up([1, 2, 3, 3.01], beyond=1).caption()
    assert "Only one worker count was measured" in speed_up([1, 2, 3], beyond=2).finding()


def test_speed_up_is_taken_from_the_grid_at_the_recommended_size():
    frame, _, advice = studied()
    display = SpeedUp.from_recommendation(advice, frame)
    line = advice.grid[advice.grid["batch_size"] == advice.batch_size].sort_values("workers")
    assert display.workers.tolist() == line["workers"].tolist()
    one = line["makespan_s"].iloc[0]
    assert display.speedup == pytest.approx((one / line["makespan_s"]).to_numpy())
    assert (display.low <= display.speedup).all()
    assert (display.speedup <= display.high).all()
    # A batch size beyond those measured makes no worker count one that nobody measured.
    guessed = advice.grid["extrapolated"] | (advice.grid["batch_size"] == display.batch_size)
    guess = advice.grid.assign(extrapolated=guessed)
    beyond = SpeedUp.from_recommendation(replace(advice, grid=guess), frame)
    assert beyond.extrapolated.tolist() == display.extrapolated.tolist() == [False, False, True, True]
    # The same settings were measured: with one worker about as fast as predicted, with two about twice.
    for workers in (1, 2):
        seen = display.measured_speedup[display.measured_workers == workers]
        assert seen.size
        assert seen == pytest.approx(workers, rel=0.25)


def test_front_holds_what_no_other_setting_beats():
    _, _, advice = studied()
    display = ParetoFront.from_recommendation(advice)
    inside = ~display.extrapolated
    for place in display.front:
        better = (display.makespan_s <= display.makespan_s[place]) & (
            display.cost_worker_s < display.cost_worker_s[place]
        )
        assert not (better & inside).any()
    assert (display.batch_size[display.chosen], display.workers[display.chosen]) == (advice.batch_size, advice.workers)


def test_front_says_what_the_cheapest_setting_costs_in_time():
    whole = np.array([4, 1], dtype=np.int64)
    pair = ParetoFront(
        np.array([10.0, 18.0]), np.array([20.0, 15.0]), whole, whole, np.zeros(2, dtype=bool), np.array([0, 1]), 0
    )
    assert pair.finding() == "The cheapest setting takes 80 % longer and saves 25 % of worker time"
    one = replace(pair, front=np.array([0]))
    assert one.finding() == "Batch size 4 with 4 workers is both the fastest and the cheapest"


# --------------------------------------------------------------------------- what varies


def test_quantiles_of_service_time_are_those_of_the_batches():
    frame = metrics(batches=200).assign(service_s=np.arange(1, 201) / 100)
    display = ServiceTimes.from_metrics(frame)
    assert display.labels == ("50",)
    assert np.interp(0.5, display.shares, display.seconds[0]) == pytest.approx(1.005)
    assert display.finding() == "Half of the batches take up to 1.00 s; 1 in 100 takes over 1.98 s, 2 times as long"
    assert ServiceTimes.from_metrics(frame, of="item").seconds[0] == pytest.approx(display.seconds[0] / 50)
    with pytest.raises(ValueError, match="expected batch or item"):
        ServiceTimes.from_metrics(frame, of="run")


def test_service_times_of_several_sizes_are_told_apart_in_the_title():
    small, large = metrics(batch_size=5), metrics("run-b-abcdef", batch_size=200).assign(service_s=2.0)
    assert ServiceTimes.from_metrics(concat_metrics([small, large])).finding() == (
        "Half of the batches take up to 800 ms at batch size 5 and up to 2.00 s at 200, with little variation"
    )


def test_service_times_leave_out_what_was_cut_off_and_count_the_groups_not_drawn():
    frame = concat_metrics([metrics(f"run-{i}-abcdef", who=f"node-{i}", batches=8 + i, workers=1) for i in range(8)])
    display = ServiceTimes.from_metrics(frame, by="worker")
    assert len(display.labels) == len(SERIES)
    assert "17 batches of smaller groups not drawn" in display.caption()
    assert ServiceTimes.from_metrics(frame.assign(cut_off=True)).n_batches == 0


def test_residuals_say_the_typical_error_and_a_lean():
    display = Residuals.from_frame(backtest())
    assert display.finding() == (
        "9 runs predicted from the others: typically 2 % off (plain throughput: 10 %), mostly because runs took longer"
    )
    mixed = backtest().assign(error=np.linspace(-0.04, 0.04, 9))
    assert Residuals.from_frame(mixed).finding().endswith("(plain throughput: 10 %)")
    faster = backtest().assign(error=-backtest()["error"])
    assert Residuals.from_frame(faster).finding().endswith("mostly because runs were faster")


def test_residuals_leave_out_runs_without_a_prediction():
    frame = backtest()
    frame.loc[0, "error"] = float("nan")
    assert Residuals.from_frame(frame).run_ids == tuple("bcdefghi")


def test_residuals_are_those_of_the_models_backtest():
    _, model, _ = studied()
    display = Residuals.from_model(model)
    assert display.error == pytest.approx(model.backtest()["error"].dropna().to_numpy())


# --------------------------------------------------------------------------- what failed


def test_failures_are_counted_by_category():
    frame = concat_metrics([metrics(failing=3), metrics("run-b-abcdef", start_s=NOON + 99)])
    frame = frame.assign(retried=[0, 2, 0] + [0] * 13)
    display = ErrorCounts.from_metrics(frame)
    assert display.labels == ("fatal",)
    assert (display.retried.tolist(), display.dead.tolist()) == ([2], [3])
    assert display.finding() == "5 of 800 executions failed (0.6 %), 3 for good: all fatal"


def test_dead_letters_are_counted_by_class_and_the_rare_ones_added_up():
    kinds = [name for i in range(MAX_KINDS + 3) for name in [f"Error{i:02d}"] * (30 - i)]
    display = ErrorCounts.from_dead_letters(letters(kinds))
    assert display.labels == (*(f"Error{i:02d}" for i in range(MAX_KINDS - 1)), "4 other kinds")
    assert display.dead.sum() == len(kinds)
    assert display.finding() == f"{len(kinds)} dead letters: most often Error00"


def test_nothing_failed_is_said():
    assert ErrorCounts.from_metrics(metrics()).finding() == "No item failed"


# --------------------------------------------------------------------------- one measure against another


def test_relation_gives_medians_and_quartiles_by_group():
    frame = history()
    display = Relation.from_metrics(frame, measure="item_s")
    assert display.labels == ("2", "4")
    points = {(display.labels[g], x): m for g, x, m in zip(display.group, display.x, display.middle, strict=True)}
    assert points == pytest.approx({("2", 10): 0.1, ("2", 50): 0.02, ("4", 50): 0.02, ("4", 200): 0.005})
    assert display.batches.tolist() == [8, 8, 8, 8]
    assert display.finding() == (
        "Worker time per item goes from 5 ms at batch size 200 (4 workers) to 100 ms at batch size 10 (2 workers)"
    )


def test_relation_puts_many_values_together_and_names_places():
    frame = metrics(batches=1000, workers=1).assign(service_s=np.linspace(1, 2, 1000))
    display = Relation.from_metrics(frame, measure="service_s", axis="batch", by="")
    assert display.x.size == MAX_PLACES
    assert np.all(np.diff(display.middle) > 0)
    assert display.batches.sum() == 1000
    named = Relation.from_metrics(history(), measure="service_s", axis="run_id", by="")
    assert named.places == tuple(f"run-{i}-abcdef" for i in range(4))


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        ("rate", 400 / 4.3, "93 items/s"), ("item_s", 0.02, "20 ms"), ("service_s", 0.8, "800 ms"),
        ("idle_s", 0.1, "100 ms"), ("overhead", 0.3 / 1.1, "27 %"), ("processor", 0.5, "50 %"),
        ("peak_rss_bytes", 2.0**20, "1 MiB"), ("failed", 0.02, "2 %"),
    ],
)  # fmt: skip
def test_every_measure_has_its_value_and_its_unit(measure: str, value: float, text: str):
    frame = metrics().assign(cpu_user_s=0.3, cpu_system_s=0.1, peak_rss_bytes=2**20, failed=1)
    display = Relation.from_metrics(frame, measure=measure)
    assert display.middle == pytest.approx([value], rel=1e-4)
    assert display.finding().endswith(f": {text}")


def test_every_measure_is_tested():
    marks = test_every_measure_has_its_value_and_its_unit.pytestmark
    assert [given[0] for given in marks[0].args[1]] == list(MEASURES)


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_places_all_batches(axis: str):
    display = Relation.from_metrics(history(), measure="service_s", axis=axis, by="")
    assert display.batches.sum() == 32
    assert display.left_out == 0
    display.plot()


def test_relation_counts_what_it_leaves_out():
    frame = metrics(batches=10).assign(cut_off=[True] * 2 + [False] * 8, idle_s=[np.nan] * 5 + [0.1] * 5)
    display = Relation.from_metrics(frame, measure="idle_s")
    assert display.left_out == 5
    assert "5 batches cut off, without a value" in display.caption()


def test_relation_of_an_unknown_key_names_the_known_ones():
    with pytest.raises(KeyError, match="expected one of rate"):
        Relation.from_metrics(history(), measure="speed")
