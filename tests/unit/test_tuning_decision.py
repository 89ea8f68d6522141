"""Limits, objectives, refusals, and the answer itself."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from toolkit import renderers
from toolkit.errors import InvalidInput, TuningError
from toolkit.records import percent
from toolkit.tuning import Recommendation, Recommender, Workload, simulate_run, simulate_runs
from toolkit.tuning.decision import Request, _choose
from toolkit.tuning.grids import Paired, paired, predict_grid
from toolkit.tuning.memory import fit_memory
from toolkit.tuning.recommendation import GRID_COLUMNS, grid_frame, seconds

MIB = 1 << 20
WORK = Workload(per_item_s=2e-3, per_batch_s=0.02, item_sigma=0.4, cores=4, base_bytes=100 * MIB, item_bytes=MIB)
DESIGN = ((5, 1), (50, 2), (400, 4), (5, 4), (50, 1), (400, 2), (20, 4), (150, 4))


@pytest.fixture(scope="module")
def model() -> Recommender:
    return Recommender().fit(simulate_runs(WORK, 4_000, DESIGN))


def learn(*settings: tuple[int, int], **changes: Any) -> Recommender:
    return Recommender().fit(simulate_runs(WORK, 2_000, settings).assign(**changes))


# --------------------------------------------------------------------------- limits and objectives


def test_cost_asks_for_fewer_workers_than_makespan(model: Recommender) -> None:
    fast, cheap = (model.recommend(n_items=4_000, objective=objective) for objective in ("makespan", "cost"))
    assert fast.workers == 4
    assert cheap.workers == 1
    assert cheap.cost_worker_s < fast.cost_worker_s
    assert fast.makespan_s < cheap.makespan_s
    assert cheap.cost_worker_s == pytest.approx(cheap.workers * cheap.makespan_s)


def test_no_more_workers_than_allowed(model: Recommender) -> None:
    advice = model.recommend(n_items=4_000, max_workers=2)
    assert advice.workers == 2
    assert advice.grid["workers"].max() == 2


def test_equally_fast_means_fewer_workers() -> None:
    work = Workload(per_item_s=1e-3, cores=1, gap_s=1e-5, run_sigma=0.0)
    model = Recommender().fit(simulate_runs(work, 4_000, [(5, 1), (50, 2), (400, 1), (20, 4), (400, 4), (100, 2)]))
    advice = model.recommend(n_items=4_000)
    assert advice.workers == 1
    assert advice.makespan_s <= 1.011 * advice.grid[~advice.grid["extrapolated"]]["makespan_s"].min()


def test_workers_are_not_saved_on_a_guess() -> None:
    """Given settings that are predicted alike, though nobody ran the one with fewer workers."""
    work = Workload(per_item_s=5e-3, per_batch_s=0.05, run_sigma=0.06, batch_sigma=0.15, cores=4)
    runs = simulate_runs(work, 1_000, [(2, 8), (12, 8), (60, 4), (12, 2), (62, 8)], seed=1)
    model = Recommender().fit(runs).models_[work.name]
    grid = predict_grid(model, 4_000, 8)
    many, few = (int(np.flatnonzero((grid.batch_size == 125) & (grid.workers == count))[0]) for count in (8, 6))
    alike = np.full(len(grid.batch_size), 9e9)
    alike[[many, few]] = 1.0, 1.005
    grid = replace(grid, makespan_s=alike, extrapolated=np.zeros(len(alike), dtype=bool))
    allowed = np.isin(np.arange(len(alike)), [many, few])
    assert _choose(model, grid, (allowed, allowed), Request(4_000))[0] == many


def test_a_memory_limit_bounds_the_batch(model: Recommender) -> None:
    free = model.recommend(n_items=4_000)
    bound = model.recommend(n_items=4_000, max_worker_memory_bytes=150 * MIB)
    assert free.batch_size > 50
    assert 30 <= bound.batch_size <= 50  # 100 MiB and 1 MiB an item
    assert any("memory binds" in reason for reason in bound.reasons)


def test_an_impossible_memory_limit_is_refused(model: Recommender) -> None:
    advice = model.recommend(n_items=4_000, max_worker_memory_bytes=50 * MIB)
    assert "50 MiB" in (advice.refused or "")


def test_a_memory_limit_without_measurements_is_mentioned() -> None:
    advice = learn(*DESIGN, peak_rss_bytes=0).recommend(n_items=2_000, max_worker_memory_bytes=150 * MIB)
    assert advice.refused is None
    assert any("not applied" in reason for reason in advice.reasons)


def test_memory_grows_with_the_batch() -> None:
    rng = np.random.default_rng(0)
    points = tuple((b, (80e6 + 1e6 * b) * rng.uniform(0.97, 1.03)) for b in (1.0, 10.0, 100.0) for _ in range(10))
    found = fit_memory(points)
    assert found is not None
    for b in (1.0, 50.0, 100.0):
        assert 80e6 + 1e6 * b < found.upper_bytes(np.array([b]))[0] < 1.12 * (80e6 + 1e6 * b)
    assert fit_memory(()) is None


def test_a_deadline_is_met_with_the_upper_end(model: Recommender) -> None:
    free = model.recommend(n_items=4_000, objective="cost")
    hurried = model.recommend(n_items=4_000, objective="cost", deadline_s=4.0)
    assert free.makespan_s > 4.0
    assert hurried.intervals["makespan_s"][1] <= 4.0
    assert hurried.workers > free.workers


def test_a_deadline_that_cannot_be_met_is_said(model: Recommender) -> None:
    advice = model.recommend(n_items=4_000, deadline_s=0.1)
    assert advice.refused is None
    assert any("no setting is sure to end" in reason for reason in advice.reasons)
    assert advice.makespan_s <= 1.05 * advice.grid["makespan_s"].min()


def test_more_risk_allows_fewer_workers(model: Recommender) -> None:
    """A deadline just after what two workers are expected to need."""
    two = model.recommend(n_items=4_000, max_workers=2)
    careful, bold = (
        model.recommend(n_items=4_000, objective="cost", deadline_s=1.02 * two.makespan_s, deadline_risk=risk)
        for risk in (0.01, 0.4)
    )
    assert bold.workers == 2 < careful.workers
    assert bold.makespan_s > careful.makespan_s
    assert any("99 % probability" in reason for reason in careful.reasons)
    assert "deadline" in careful.binds


def test_a_weight_lies_between_makespan_and_cost(model: Recommender) -> None:
    workers = [model.recommend(n_items=4_000, objective=weight).workers for weight in (0.0, 0.5, 1.0)]
    assert workers == sorted(workers, reverse=True)
    assert workers[0] == 4
    assert workers[-1] == 1
    assert model.recommend(n_items=4_000, objective=0.5).objective == "0.5"


def test_how_surely_it_beats_the_current_setting(model: Recommender) -> None:
    far = model.recommend(n_items=4_000, current={"batch_size": 1, "workers": 4})
    low, high = far.intervals["saving"]
    assert far.saving is not None
    assert low < far.saving < high
    assert far.better is not None
    assert far.better > 0.99
    same = model.recommend(n_items=4_000, current={"batch_size": far.batch_size, "workers": far.workers})
    assert same.better is None
    assert same.saving == pytest.approx(0.0)


def test_a_run_without_its_share_of_the_processors_counts_less() -> None:
    frame = simulate_runs(WORK, 2_000, DESIGN)
    last = frame["run_id"] == frame["run_id"].iloc[-1]
    slow = frame.assign(service_s=frame["service_s"].where(~last, 1.5 * frame["service_s"]))
    seen = slow.assign(cpu_user_s=slow["cpu_user_s"].where(~last, slow["service_s"] / 1.5))
    told = Recommender().fit(seen).recommend(n_items=2_000)
    assert any("less of the processors" in reason for reason in told.reasons)
    assert not any("less of the processors" in r for r in Recommender().fit(frame).recommend(n_items=2_000).reasons)


def test_saving_is_against_the_current_setting(model: Recommender) -> None:
    advice = model.recommend(n_items=4_000, current={"batch_size": 1, "workers": 4})
    assert advice.baseline["setting"] == "the current setting"
    assert advice.saving == pytest.approx(1 - advice.makespan_s / advice.baseline["makespan_s"])
    assert advice.saving > 0.8
    assert model.recommend(n_items=4_000).baseline["setting"].startswith("the rule of thumb")


@pytest.mark.parametrize(
    "question",
    [
        {"n_items": 0},
        {"n_items": 1.5},
        {"n_items": 10, "objective": "speed"},
        {"n_items": 10, "objective": 1.5},
        {"n_items": 10, "deadline_s": 5.0, "deadline_risk": 1.0},
        {"n_items": 10, "max_workers": 0},
        {"n_items": 10, "deadline_s": -1.0},
        {"n_items": 10, "max_worker_memory_bytes": 0},
        {"n_items": 10, "current": {"batch_size": 5}},
        {"n_items": 10, "current": {"batch_size": "auto", "workers": 2}},
    ],
)
def test_a_senseless_question_is_refused(model: Recommender, question: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        model.recommend(**question)


@pytest.mark.parametrize("n_items", [1, 2, 7, 10**7])
def test_any_number_of_items_gets_an_answer(model: Recommender, n_items: int) -> None:
    advice = model.recommend(n_items=n_items, max_workers=4)
    assert 1 <= advice.batch_size <= n_items
    assert 1 <= advice.workers <= 4
    assert 0 < advice.intervals["makespan_s"][0] < advice.makespan_s < advice.intervals["makespan_s"][1]


def test_many_workers_make_no_endless_grid() -> None:
    model = learn((5, 1), (50, 64), (400, 8), (5, 16), (20, 64), (100, 8))
    assert len(model.recommend(n_items=50_000, max_workers=64).grid) < 800


def test_a_worker_count_that_was_not_measured_is_not_chosen() -> None:
    advice = learn((5, 1), (50, 2), (400, 1), (5, 2), (50, 1)).recommend(n_items=2_000, max_workers=8)
    assert advice.workers == 2
    assert advice.grid[advice.grid["workers"] > 2]["extrapolated"].all()


def test_much_larger_batches_are_chosen_only_where_they_surely_win() -> None:
    costly = Workload(per_item_s=1e-4, per_batch_s=0.1)
    model = Recommender().fit(simulate_runs(costly, 2_000, [(2, 2), (8, 2), (16, 2), (4, 1), (16, 1)]))
    advice = model.recommend(n_items=20_000)
    assert advice.batch_size > 32
    assert bool(
        advice.grid.set_index(["batch_size", "workers"]).loc[(advice.batch_size, advice.workers), "extrapolated"]
    )
    assert advice.coverage_method == "model"
    plain = Workload(per_item_s=1e-3, gap_s=1e-5)
    model = Recommender().fit(simulate_runs(plain, 2_000, [(2, 2), (8, 2), (16, 2), (4, 1), (16, 1)]))
    assert model.recommend(n_items=20_000).batch_size <= 32


# --------------------------------------------------------------------------- no gamble


def test_the_loss_that_is_risked_counts_how_probable_and_how_large_it_is() -> None:
    mean, sd = np.array([[0.0, -0.5, 0.3], [0.0, -0.5, -0.3]]), np.full((2, 3), 0.1)
    loss = Paired(np.array([0.25, 0.75]), mean, sd).loss
    assert loss[0] == pytest.approx(0.1 / math.sqrt(2 * math.pi))  # of a normal one around nothing
    assert loss[1] < 1e-6
    assert loss[2] == pytest.approx(0.25 * 0.3, abs=1e-3)
    gain = Paired(np.array([0.25, 0.75]), mean, sd).gain
    assert gain == pytest.approx([loss[0], 0.5, 0.75 * 0.3], abs=1e-3)


def test_what_may_well_be_slower_than_the_rule_of_thumb_is_not_advised() -> None:
    """Given a device whose first items are free: what sizes and worker counts beyond the runs do is anyone's guess."""
    device = Workload(per_item_s=8e-4, per_batch_s=0.06, free_items=64.0, sigma=0.15, kappa=0.01)
    settings = [(2, 8), (16, 8), (120, 4), (20, 2), (145, 8)]
    model = Recommender().fit(simulate_runs(device, 2_048, settings, seed=10_001, warm=False))
    advice = model.recommend(n_items=8_192, max_workers=8)
    grid = predict_grid(model.models_[device.name], 8_192, 8)
    chosen, rule = (
        int(np.flatnonzero((grid.batch_size == size) & (grid.workers == count))[0])
        for size, count in ((advice.batch_size, advice.workers), (256, 8))
    )
    assert grid.makespan_s.min() < 0.95 * grid.makespan_s[chosen]  # others promise more
    assert any("may well be slower than the rule of thumb" in reason for reason in advice.reasons)
    beside = paired(model.models_[device.name], 8_192, 0.0, grid, np.array([rule, chosen]))
    assert chosen == rule or 5.0 * beside.loss < beside.gain or beside.loss < 0.005


@pytest.mark.parametrize("seed", [110, 118, 127])
def test_a_few_items_a_run_do_not_prove_that_batches_are_free(seed: int) -> None:
    # given five runs of 16 items that vary by half, and a batch that costs as much as half an item
    work = Workload(per_item_s=1.0, per_batch_s=0.5, item_sigma=0.5)
    runs = simulate_runs(work, 16, [(1, 8), (1, 8), (2, 4), (1, 2), (2, 8)], seed=seed)

    advice = Recommender().fit(runs).recommend(n_items=64, max_workers=8)

    # then the rule of thumb, of two items, is not left for batches of one
    assert advice.batch_size >= 2


def test_the_rule_of_thumb_is_left_only_for_what_is_surely_faster_also_beyond_the_data() -> None:
    """Given batches of 114 items at most, when the rule asks for 250, a smaller size predicted slower is no better."""
    work = Workload(per_item_s=0.01, per_batch_s=0.1, item_sigma=0.4)
    frame = simulate_runs(work, 250, [(2, 1), (19, 1), (104, 1), (14, 1), (114, 1)], seed=10_111, warm=False)
    advice = Recommender().fit(frame).recommend(n_items=1_000, max_workers=1)
    assert advice.batch_size >= 250
    assert not any("may well be slower" in reason for reason in advice.reasons)


def test_a_sure_gain_over_the_rule_of_thumb_is_taken() -> None:
    costly = Workload(per_item_s=2e-3, per_batch_s=0.5, item_sigma=0.4)
    model = Recommender().fit(simulate_runs(costly, 1_000, [(2, 4), (12, 4), (60, 2), (12, 1), (120, 4)]))
    assert model.recommend(n_items=4_000).batch_size > 2 * 250  # which is the rule's


# --------------------------------------------------------------------------- refusals


def check_refused(advice: Recommendation, *words: str) -> None:
    for word in words:
        assert word in (advice.refused or "")
    assert advice.kwargs() == {"batch_size": "auto", "max_workers": "auto"}
    assert math.isnan(advice.makespan_s)
    assert advice.intervals == {}
    assert "no recommendation" in str(advice)
    assert json.loads(json.dumps(advice.to_dict(), allow_nan=True)) is not None


def test_without_history_it_says_what_to_do() -> None:
    empty = Recommender().fit(simulate_run(WORK, 10, 5, 1).iloc[:0])
    for advice in (empty.recommend(n_items=10), empty.recommend("docs.ocr", n_items=10)):
        check_refused(advice, "No finished batch", "batch_size='auto'")
        assert (advice.batch_size, advice.workers) == (0, 0)
        assert list(advice.grid.columns) == list(GRID_COLUMNS)
    assert empty.recommend("docs.ocr", n_items=10).task == "docs.ocr"


def test_a_task_with_only_bad_rows_has_no_history() -> None:
    model = Recommender().fit(simulate_run(WORK, 10, 5, 1).assign(service_s=np.nan))
    check_refused(model.recommend("demo.task", n_items=10), "No finished batch")
    check_refused(model.recommend(n_items=10), "No finished batch")


def test_no_measured_worker_count_within_the_limit() -> None:
    advice = learn((5, 4), (50, 4), (100, 4)).recommend(n_items=2_000, max_workers=2)
    check_refused(advice, "only 4", "max_workers=2")
    assert (advice.batch_size, advice.workers) == (0, 0)


def test_fewer_workers_than_measured_are_interpolated() -> None:
    """One worker alone has no contention, so two lie between what is known."""
    advice = learn((5, 4), (50, 4), (100, 8)).recommend(n_items=2_000, max_workers=2)
    assert advice.refused is None
    assert advice.workers == 2


def test_one_size_cannot_tell_batch_from_item() -> None:
    model = learn((50, 1), (50, 2), (50, 4), (50, 2))
    advice = model.recommend(n_items=2_000, max_workers=4)
    check_refused(advice, "same size", "batch_size=400 and max_workers=4")
    assert advice.workers == 4
    assert 50 <= advice.batch_size <= 500
    assert model.recommend(n_items=2_000, objective="cost").workers == 1
    assert advice.grid["measured"].all()


def test_meanwhile_batches_are_large_where_they_vary_little_and_smaller_where_hosts_differ() -> None:
    uneven = (0.25, 1.0, 1.0, 1.0)
    alike, unlike = (Workload(per_item_s=0.01, item_sigma=0.1, speeds=speeds) for speeds in ((1.0,), uneven))
    sizes = []
    for work in (alike, unlike):
        advice = Recommender().fit(simulate_runs(work, 1_000, [(2, 4)])).recommend(n_items=4_000)
        check_refused(advice, "same size")
        assert advice.workers == 4
        sizes.append(advice.batch_size)
    assert 500 <= sizes[0] <= 1_000
    assert sizes[1] <= 400


def test_meanwhile_the_rule_of_thumb_where_runs_are_unlike_each_other() -> None:
    runs = [simulate_runs(WORK, 2_000, [setting], seed=i) for i, setting in enumerate(DESIGN[:6])]
    unlike = [
        run.assign(
            run_id=f"run-{i}", service_s=run["service_s"] * (9.0 if i % 2 else 1.0),
            claimed_at=run["claimed_at"] + pd.Timedelta(hours=i),
        )
        for i, run in enumerate(runs)
    ]  # fmt: skip
    advice = Recommender().fit(pd.concat(unlike, ignore_index=True)).recommend(n_items=4_000)
    check_refused(advice, "too unlike each other")
    assert (advice.batch_size, advice.workers) == (250, 4)


def test_size_and_workers_always_changed_together() -> None:
    frame = simulate_runs(Workload(gap_s=1e-6, stagger_s=0.0), 8_000, [(1, 1), (10, 2), (100, 4), (1000, 8)])
    # The ends of runs, with fewer busy workers, would untie the two a little.
    advice = Recommender().fit(frame[~frame["tail"]]).recommend(n_items=8_000)
    check_refused(advice, "always changed together", "max_workers=8")


def test_a_model_that_does_not_beat_throughput_is_not_used() -> None:
    """The task got 20 times slower for sizes above 30: no straight line has that."""
    frame = simulate_runs(WORK, 2_000, [(5, 2), (20, 2), (25, 2), (40, 2), (100, 2), (200, 2), (6, 1), (150, 1)] * 2)
    frame["service_s"] = frame["service_s"] * np.where(frame["batch_size"] > 30, 20.0, 1.0)
    begun = frame["claimed_at"].min()
    step = (frame["claimed_at"] - begun).dt.total_seconds()
    hours = np.floor(step / 3600)
    within = (step - 3600 * hours) * np.where(frame["batch_size"] > 30, 20.0, 1.0)
    frame["claimed_at"] = begun + pd.to_timedelta((hours * 3600 + within).round(6), unit="s")
    advice = Recommender().fit(frame).recommend(n_items=2_000)
    assert advice.refused is None
    assert advice.coverage_method == "throughput"
    assert advice.batch_size <= 30
    assert advice.grid["measured"].all()
    assert any("plain throughput does better" in reason for reason in advice.reasons)
    low, high = advice.intervals["makespan_s"]
    assert low < advice.makespan_s < high


def test_one_worker_count_restricts_the_advice_and_is_said() -> None:
    advice = learn((5, 2), (50, 2), (400, 2), (20, 2)).recommend(n_items=2_000, max_workers=8)
    assert advice.refused is None
    assert advice.workers == 2
    assert any("other worker counts are not judged" in reason for reason in advice.reasons)
    assert "max_workers=4" in advice.experiment


def test_two_runs_are_believed_with_a_warning() -> None:
    advice = learn((5, 2), (100, 2)).recommend(n_items=2_000)
    assert advice.refused is None
    assert advice.coverage_method == "model"
    assert any("no prediction could be checked" in reason for reason in advice.reasons)
    low, high = advice.intervals["makespan_s"]
    assert (high - low) / advice.makespan_s > 0.15


# --------------------------------------------------------------------------- the answer


def test_it_says_what_why_and_how_sure(model: Recommender) -> None:
    advice = model.recommend(n_items=4_000)
    text = str(advice)
    for part in (f"batch size {advice.batch_size}", "4 workers", "90 % interval", "a batch costs"):
        assert part in text
    assert "8 runs predicted from the others" in text
    assert advice.kwargs() == {"batch_size": advice.batch_size, "max_workers": advice.workers}
    assert advice.evidence["runs"] == 8
    assert advice.n_items == 4_000


def test_percentages_read_as_in_every_view(model: Recommender) -> None:
    # Given an answer in full: with a comparison, a deadline, and the errors on left-out runs
    advice = model.recommend(n_items=4_000, current={"batch_size": 3, "workers": 2}, deadline_s=1.0)
    # Then each of its percentages stands apart from its sign, and has no digit that says nothing
    said = f"{advice!s} {advice!r} {advice.evidence} {advice.baseline}"
    assert len(re.findall(r"\d %", said)) >= 4
    assert not re.search(r"\d%|\d\d\.\d %", said)


def test_its_plain_text_is_the_answer_in_a_few_lines(model: Recommender) -> None:
    advice = replace(model.recommend(n_items=4_000, current={"batch_size": 3, "workers": 2}), binds=("overhead",))
    low, high = advice.intervals["makespan_s"]
    other = f"the current setting, batch size 3, 2 workers, predicted {seconds(advice.baseline['makespan_s'])}"
    assert repr(advice).splitlines() == [
        f"demo.task, 4,000 items: batch size {advice.batch_size} with 4 workers.",
        f"  Predicted {seconds(advice.makespan_s)}, 90 % interval {seconds(low)} to {seconds(high)} (from the model).",
        "  Bound by overhead.",
        f"  Compared with {other}: saves {percent(advice.saving)}.",
    ]
    refused = learn((50, 2), (50, 2)).recommend(n_items=2_000)
    assert repr(refused).splitlines() == [
        f"demo.task, 2,000 items: no recommendation. {refused.refused}",
        f"  Meanwhile: batch size {refused.batch_size:,} with 2 workers.",
    ]


def test_its_text_cannot_steer_a_terminal(model: Recommender) -> None:
    advice = replace(model.recommend(n_items=4_000), task="evil\x1b[2J\nname")
    for text in (repr(advice), str(advice)):
        assert "\x1b" not in text
        assert text.startswith("evil\N{REPLACEMENT CHARACTER}[2J name, 4,000 items")


def test_grid_and_pareto_have_declared_columns(model: Recommender) -> None:
    advice = model.recommend(n_items=4_000)
    for frame in (advice.grid, advice.pareto, grid_frame()):
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == GRID_COLUMNS
    measured = advice.grid[advice.grid["measured"]]
    assert set(zip(measured["batch_size"], measured["workers"], strict=True)) == set(DESIGN)


def test_pareto_settings_trade_makespan_for_cost(model: Recommender) -> None:
    pareto = model.recommend(n_items=4_000).pareto
    assert len(pareto) >= 3
    assert pareto["makespan_s"].is_monotonic_increasing
    assert (pareto["cost_worker_s"].diff().dropna() < 0).all()
    assert not pareto["extrapolated"].any()


def test_it_survives_being_written(model: Recommender) -> None:
    for advice in (
        model.recommend(n_items=4_000),
        Recommender().fit(simulate_run(WORK, 9, 3, 1)[:0]).recommend(n_items=1),
    ):
        again = Recommendation.from_dict(json.loads(json.dumps(advice.to_dict())))
        pd.testing.assert_frame_equal(again.grid, advice.grid, check_exact=True)
        assert str(again) == str(advice)
        assert again.to_dict() == advice.to_dict()
    with pytest.raises(TuningError, match="saved recommendation"):
        Recommendation.from_dict({})


@pytest.fixture
def renderer() -> Iterator[None]:
    before = dict(renderers._renderers)
    renderers._renderers.clear()
    yield
    renderers._renderers.clear()
    renderers._renderers.update(before)


def test_without_a_notebook_its_html_is_escaped_text(renderer: None) -> None:
    hostile = Recommender().fit(simulate_runs(Workload(name="<script>x</script>"), 500, [(5, 1), (50, 2), (5, 2)]))
    page = hostile.recommend(n_items=500)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_notebook_draws_it_when_present(renderer: None, model: Recommender) -> None:
    renderers.register("recommendation_html", lambda advice: f"<b>{advice.batch_size}</b>")
    advice = model.recommend(n_items=4_000)
    assert advice._repr_html_() == f"<b>{advice.batch_size}</b>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 µs"),
        (4.2e-7, "0.42 µs"),
        (0.00123, "1.23 ms"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (119.4, "119 s"),
        (125.0, "2 min 05 s"),
        (3725.0, "1 h 02 min"),
        (math.nan, "unknown"),
    ],
)
def test_durations_as_text(value: float, text: str) -> None:
    assert seconds(value) == text
