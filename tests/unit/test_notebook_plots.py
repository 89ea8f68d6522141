"""Display objects: what they hold, what they say, and that they draw outside of pyplot."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.unit.notebook_samples import EVERYTHING, HOSTILE, NOON, Reader, check_display, history, metrics
from toolkit.errors import InvalidInput
from toolkit.frames import METRICS, concat_metrics, empty
from toolkit.notebook.heat import HeatGrid, colour, ink, thin
from toolkit.notebook.measured import measured_runs, measured_settings
from toolkit.notebook.plots import MakespanMap, PredictedVsMeasured, ThroughputPlot
from toolkit.notebook.theme import dress, new_axes
from toolkit.notebook.timeline import MAX_BARS, MAX_ROWS, TimeBreakdown, Timeline


def small_grid(recommended: tuple[int, int] | None = (10, 2)) -> HeatGrid:
    seconds = np.array([[100.0, 40.0, 50.0], [60.0, 20.0, 30.0]])
    measured = np.array([[True, True, False], [False, False, False]])
    beyond = np.array([[False, False, False], [False, False, True]])
    return HeatGrid((1, 10, 100), (1, 2), seconds, measured, beyond, recommended)


def throughput() -> ThroughputPlot:
    seen = measured_settings(measured_runs(history()))
    return ThroughputPlot(
        workers=4,
        batch_size=np.array([1.0, 10.0, 100.0]),
        rate=np.array([10.0, 90.0, 60.0]),
        low=np.array([8.0, 80.0, 50.0]),
        high=np.array([12.0, 100.0, 70.0]),
        measured_batch_size=np.array([s.batch_size for s in seen]),
        measured_workers=np.array([s.workers for s in seen]),
        measured_rate=np.array([s.rate for s in seen]),
        measured_low=np.array([s.rate_low for s in seen]),
        measured_high=np.array([s.rate_high for s in seen]),
        recommended=10,
    )


def trials() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "batch_size": [1, 10, 100], "workers": [2, 2, 4], "predicted_s": [10.0, 20.0, 30.0],
            "low_s": [8.0, 15.0, 25.0], "high_s": [12.0, 25.0, 35.0], "measured_s": [11.0, 20.0, 60.0],
        }
    )  # fmt: skip


def test_rows_in_the_place_of_values_are_refused_with_the_method_that_takes_them() -> None:
    with pytest.raises(InvalidInput, match=r"Timeline\(DataFrame\): a figure is made by Timeline\.from_metrics\("):
        Timeline(metrics(3))  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match=r"MakespanMap\(DataFrame\): .*MakespanMap\.from_recommendation\("):
        MakespanMap(history())


def test_a_long_title_breaks_into_lines_of_about_one_length() -> None:
    title = "Batch size 893 with 4 workers: 25.6 s; the slowest setting takes 67 times as long"
    shown = new_axes(3.4)[1]
    dress(shown, title, "", "")
    lines = shown.get_title(loc="left").split("\n")
    assert " ".join(lines) == title
    assert len(lines) == 2
    assert min(map(len, lines)) > 30


def displays() -> list:
    no_rows = empty(METRICS)
    return [
        MakespanMap(small_grid()),
        MakespanMap(small_grid(None)),
        throughput(),
        PredictedVsMeasured.from_frame(trials()),
        PredictedVsMeasured.from_frame(trials().head(0)),
        Timeline.from_metrics(metrics(failing=2)),
        Timeline.from_metrics(metrics(batches=MAX_BARS + 100, workers=40, failing=9)),
        Timeline.from_metrics(no_rows),
        TimeBreakdown.from_metrics(history()),
        TimeBreakdown.from_metrics(no_rows),
    ]


@pytest.mark.parametrize("display", displays(), ids=lambda d: type(d).__name__)
def test_display_draws_itself_and_says_what_it_shows(display):
    check_display(display)


def test_display_draws_on_the_axes_it_is_given():
    axes = Figure().subplots()
    display = MakespanMap(small_grid()).plot(axes)
    assert display.ax_ is axes
    assert len(axes.texts) == 6


def test_two_figures_on_a_page_share_no_id():
    ids = [Reader(MakespanMap(small_grid()).svg(name)).ids for name in ("fig-a", "fig-b")]
    assert len(set(ids[0] + ids[1])) == len(ids[0]) + len(ids[1])
    assert all(i.startswith("fig-a") for i in ids[0])


def test_the_same_figure_gives_the_same_picture():
    assert throughput().svg("fig-a") == throughput().svg("fig-a")


def test_inline_svg_takes_its_colours_from_the_page_and_has_no_style():
    svg = throughput().svg("fig-a")
    assert 'class="f-ink"' in svg
    assert "style=" not in svg
    assert "#1b1f24" not in svg
    assert "DejaVu" not in svg


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING])
def test_hostile_worker_and_run_names_stay_text_in_a_figure(text: str):
    display = Timeline.from_metrics(metrics(text, who=text))
    assert Reader(display.svg("fig-a")).problems == []
    assert Reader(display._repr_html_()).problems == []


def test_plots_leave_pyplot_alone():
    program = (
        "import sys; import toolkit.notebook.plots, toolkit.notebook.timeline, toolkit.notebook.report;"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'ipywidgets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --------------------------------------------------------------------------- the map


def test_map_says_the_recommended_setting():
    grid = small_grid()
    assert grid.finding() == "Batch size 10 with 2 workers: 20.0 s; the slowest setting takes 5 times as long"
    assert "2 settings measured, 1 extrapolated" in grid.describe()


def test_map_without_recommendation_says_the_fastest_setting():
    assert small_grid(None).finding() == "Fastest: batch size 10 with 2 workers, 20.0 s"


def test_fastest_cell_is_the_brightest():
    shares = small_grid().shares()
    assert shares[1, 1] == 1.0  # 20 s
    assert shares[0, 0] == 0.0  # 100 s


def test_map_as_html_table_marks_its_cells():
    reader = Reader(small_grid().html())
    assert reader.problems == []
    assert "★ 20s" in reader.text
    assert "● 1.7m" in reader.text
    assert "~30s" in reader.text


def test_map_of_nothing_is_empty():
    none = np.zeros((0, 0))
    grid = HeatGrid((), (), none, none.astype(bool), none.astype(bool), None)
    assert not grid
    assert grid.html() == ""
    assert grid.describe() == "No makespan was predicted."


def test_wide_axis_is_thinned_evenly_by_ratio_and_keeps_what_matters():
    kept = thin(list(range(1, 1001)), 10, keep=[37, 500])
    assert len(kept) == 10
    assert {1, 37, 500, 1000} <= set(kept)
    assert np.diff(np.log(kept)).max() < 1.5
    assert thin([3, 1, 2], 10) == [1, 2, 3]


def test_too_many_to_keep_are_spread_as_well():
    kept = thin(list(range(1, 101)), 5, keep=range(40, 60))
    assert len(kept) == 5
    assert (kept[0], kept[-1]) == (1, 100)


@pytest.mark.parametrize("share", np.linspace(0, 1, 21))
def test_cell_text_is_legible_on_every_cell(share: float):
    def luminance(rgb: tuple[int, ...]) -> float:
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground = luminance(colour(share))
    contrast = (ground + 0.05) / 0.05 if ink(colour(share)) == "#000000" else 1.05 / (ground + 0.05)
    assert contrast >= 4.5


# --------------------------------------------------------------------------- what was measured


def test_runs_are_condensed_from_their_batches():
    run = measured_runs(metrics(batches=8, workers=2, failing=1))[0]
    assert (run.batch_size, run.steady, run.workers, run.batches, run.items, run.failed) == (50, True, 2, 8, 399, 1)
    assert run.makespan_s == pytest.approx(4.3)
    assert run.busy == pytest.approx(8 / 8.6)
    assert run.rate == pytest.approx(399 / 4.3)


def test_latest_run_comes_first():
    assert [run.run_id for run in measured_runs(history())] == [f"run-{i}-abcdef" for i in (3, 2, 1, 0)]


def test_a_run_of_several_sizes_measures_none_of_them():
    one, two = metrics(batch_size=10), metrics(batch_size=100)
    mixed = measured_runs(concat_metrics([one, two.assign(ok=two["ok"], items=20)]))
    assert [run.steady for run in mixed] == [False]
    assert measured_settings(mixed) == ()


def test_settings_are_medians_over_their_runs():
    frame = concat_metrics([metrics("run-a-abcdef", batches=8), metrics("run-b-abcdef", batches=4, start_s=NOON + 99)])
    (setting,) = measured_settings(measured_runs(frame))
    assert (setting.batch_size, setting.workers, setting.runs, setting.items) == (50, 2, 2, 600)
    assert setting.rate_low < setting.rate < setting.rate_high
    assert setting.item_s == pytest.approx(1 / 50)


def test_nothing_measured_gives_no_record():
    assert measured_runs(empty(METRICS)) == ()


def test_timeline_takes_the_latest_run_and_counts_failures():
    display = Timeline.from_metrics(concat_metrics([metrics(failing=3), metrics("run-b-abcdef", start_s=NOON + 99)]))
    assert display.run_id == "run-b-abcdef"
    assert not display.bad.any()
    assert Timeline.from_metrics(metrics(failing=3)).finding() == (
        "2 workers spent 93 % of 4.30 s in batches; 3 batches had failures"
    )


def test_long_run_becomes_bands_of_the_busy_share():
    display = Timeline.from_metrics(metrics(batches=MAX_BARS + 2, workers=2))
    assert display.banded
    shares = display.bands()
    assert shares.shape == (2, 120)
    # Every worker is in a batch 1 s of every 1.1 s, and to the end of the last one.
    assert shares.mean(axis=1) == pytest.approx(1 / 1.1, abs=0.01)


def test_many_workers_are_cut_and_counted():
    display = Timeline.from_metrics(metrics(batches=80, workers=MAX_ROWS + 6))
    assert len(display.labels) == MAX_ROWS
    assert "6 workers with fewer batches not drawn" in display.caption()


def test_breakdown_gives_shares_by_batch_size():
    display = TimeBreakdown.from_metrics(history())
    assert display.labels == ("10", "50", "200")
    assert display.shares.sum(axis=1) == pytest.approx(1.0)
    assert display.shares[0] == pytest.approx([0.8 / 1.1, 0.15 / 1.1, 0.05 / 1.1, 0.1 / 1.1], rel=1e-4)
    assert display.item_s == pytest.approx([0.11, 0.022, 0.0055], rel=1e-4)


def test_breakdown_groups_many_sizes_and_leaves_out_what_was_cut_off():
    frame = concat_metrics([metrics(f"run-{b}-abcdef", batch_size=b, batches=2) for b in range(1, 40)])
    display = TimeBreakdown.from_metrics(frame)
    assert display.labels == ("1–3", "4–15", "16–39")
    assert TimeBreakdown.from_metrics(frame.assign(cut_off=True)).labels == ()


def test_predictions_are_counted_inside_and_outside_of_their_interval():
    display = PredictedVsMeasured.from_frame(trials())
    assert display.inside.tolist() == [True, True, False]
    assert display.finding() == "2 of 3 predictions held (90 % interval); the typical error is 9.1 %"


def test_faster_than_the_interval_is_outside_as_well():
    display = PredictedVsMeasured.from_frame(trials().assign(measured_s=[7.9, 15.0, 35.0]))
    assert display.inside.tolist() == [False, True, True]


def test_incomplete_trials_are_left_out():
    frame = trials()
    frame.loc[0, "measured_s"] = float("nan")
    assert PredictedVsMeasured.from_frame(frame).measured_s.tolist() == [20.0, 60.0]


def test_throughput_says_where_the_model_peaks_and_what_was_measured():
    display = throughput()
    assert display.finding() == "With 4 workers, throughput peaks at batch size 10: 90 items/s predicted"
    assert "2 settings with this worker count, 2 with others (hollow)" in display.caption()
