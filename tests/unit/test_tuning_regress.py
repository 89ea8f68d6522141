"""The parts of `RuntimeRegressor`: cells, structures, left-out predictions in closed form; evaluation data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.evaluation import bell, common, pollux, small
from toolkit.tuning.regress.mixture import exceeding, fit_mixture, thin
from toolkit.tuning.regress.powers import pair, powers
from toolkit.tuning.regress.process import Hyper, Members, Space, fit_members, importance
from toolkit.tuning.regress.rows import Cells, condense, nearest_other, places, repeated, stray
from toolkit.tuning.regress.structure import Roles, fit_sum, sums, term_names, terms

Array = NDArray[np.float64]

ROLES = Roles(("workers", "n_items", "speed"), 0, (1,))


def made(seed: int, n: int = 14) -> Cells:
    rng = np.random.default_rng(seed)
    x = np.log(np.column_stack([rng.integers(1, 33, n), rng.choice([10.0, 20, 80], n), rng.choice([1.0, 2, 4], n)]))
    t = np.log(5 + 3 * np.exp(x[:, 1] - x[:, 0])) - x[:, 2] + rng.normal(0, 0.02, n)
    return condense(x, t, places(x))


# --------------------------------------------------------------------------- rows


def test_repeats_share_a_cell() -> None:
    x = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    cells = condense(x, np.array([1.0, 5.0, 2.0, 6.0]), places(x))
    order = np.argsort(cells.x[:, 0])
    assert (cells.x[order] == [[0.0, 1.0], [2.0, 1.0]]).all()
    np.testing.assert_allclose(cells.t[order], [3.0, 5.0])
    np.testing.assert_allclose(cells.n[order], [3, 1])
    assert cells.within == pytest.approx(np.sqrt((4 + 1 + 9) / 2))


def test_a_setting_is_known_again_to_the_last_bit() -> None:
    x = np.log(np.repeat([[3.0], [7.0], [11.0]], 10, axis=0))
    assert set(condense(x, x[:, 0], places(x)).x[:, 0]) == set(np.log([3.0, 7.0, 11.0]))


def test_repeats_of_different_groups_do_not() -> None:
    x = np.zeros((4, 1))
    cells = condense(x, np.array([1.0, 1.5, 7.0, 7.5]), places(x), np.array([4, 4, 9, 9]))
    assert sorted(zip(cells.group.tolist(), cells.t.tolist(), strict=True)) == [(4, 1.25), (9, 7.25)]


def test_too_many_settings_are_merged_with_their_neighbours() -> None:
    x = np.random.default_rng(0).uniform(0, 3, (5_000, 2))
    place = places(x, most=300)
    assert 30 < place.max() + 1 <= 300
    cells = condense(x, x[:, 0], place)
    assert np.abs(cells.x[place] - x).max() < 0.4


def test_cells_are_merged_no_more_than_they_must_be() -> None:
    x = np.log(np.column_stack([np.repeat(np.arange(1.0, 31.0), 20), np.tile(np.arange(1.0, 21.0), 30)]))
    assert len(np.unique(places(x, most=600))) == 600
    assert len(np.unique(places(np.tile(x, (20, 1)), most=600))) == 600
    assert 150 < len(np.unique(places(x, most=599))) <= 599


def test_noise_of_merged_cells_is_not_their_slope() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 3, (20_000, 2))
    cells = condense(x, -2 * x[:, 0] + x[:, 1] + rng.normal(0, 0.01, 20_000), places(x))
    assert cells.within == pytest.approx(0.01, rel=0.05)


def test_a_copy_has_the_same_digits() -> None:
    x = np.array([[1.0], [1.0], [1.0], [2.0], [1.0]])
    y = np.array([0.123456, 0.123457, 0.123456, 0.123456, 0.25])
    assert repeated(x, y).tolist() == [False, False, True, False, False]
    assert not repeated(np.ones((3, 1)), np.array([0.25, 0.25, 0.25])).any()


def test_a_stray_is_far_from_its_repeats() -> None:
    place = np.array([0, 0, 0, 0, 2, 2])
    found = stray(place, np.array([1.0, 1.1, 6.0, 0.9, 1.0, 9.0]))
    assert found.tolist() == [False, False, True, False, False, False]


def test_the_nearest_other_is_of_another_group() -> None:
    x = np.array([[0.0], [0.0], [1.0], [5.0]])
    cells = Cells(x, np.array([1.0, 2, 3, 4]), np.ones(4), np.array([7, 7, 8, 9]), np.zeros(4), np.empty(0))
    assert nearest_other(cells).tolist() == [3.0, 3.0, 1.0, 3.0] or nearest_other(cells).tolist() == [
        3.0,
        3.0,
        2.0,
        3.0,
    ]


# --------------------------------------------------------------------------- structure


def test_each_term_has_a_name_and_a_unit() -> None:
    x = np.log([[4.0, 100.0, 2.0]])
    for factors in ((), (2,)):
        assert terms(x, ROLES, factors).shape[1] == len(term_names(ROLES, factors))
    named = dict(zip((name for name, _ in term_names(ROLES)), terms(x, ROLES)[0], strict=True))
    assert named["n_items/workers"] == pytest.approx(25)
    assert named["n_items*workers"] == pytest.approx(400)
    assert named["1/sqrt(workers)"] == pytest.approx(0.5)
    assert named["1/speed"] == pytest.approx(0.5)


def test_a_sum_times_a_power_is_found_again() -> None:
    rng = np.random.default_rng(2)
    x = np.log(np.column_stack([rng.integers(1, 33, 40), rng.choice([10.0, 20, 80], 40), rng.choice([1.0, 2, 4], 40)]))
    t = np.log(5 + 3 * np.exp(x[:, 1] - x[:, 0])) - 0.7 * x[:, 2]
    found = fit_sum(condense(x, t, places(x)), ROLES, (2,))
    assert found.exponents == pytest.approx([-0.7], abs=0.02)
    np.testing.assert_allclose(found.log_mean(x), t, atol=0.03)


@pytest.mark.parametrize("overlap", [1.0, 2.0])
def test_the_basis_is_the_derivative_by_the_logarithms_of_the_coefficients(overlap: float) -> None:
    found = fit_sum(made(3), ROLES, (), overlap)
    x = made(4).x
    used = np.flatnonzero(found.coefficients > 0)
    basis = found.basis(x)
    for column, k in enumerate(used):
        more = found.coefficients.copy()
        more[k] *= 1 + 1e-6
        moved = replace(found, coefficients=more)
        np.testing.assert_allclose((moved.log_mean(x) - found.log_mean(x)) / 1e-6, basis[:, column], atol=1e-4)


def test_what_hides_other_work_is_found_again() -> None:
    # Given computing that hides half of the talking, which starts with the second machine.
    rng = np.random.default_rng(20)
    x = np.column_stack([rng.integers(1, 17, 60), rng.choice([8.0, 16, 32, 64], 60), rng.choice([1.0, 2, 4], 60)])
    talking = np.where(x[:, 2] > 1, 4.0, 0.0)
    x, t = np.log(x), np.log(np.hypot(0.1 * x[:, 1], talking))
    together, apart = (fit_sum(condense(x, t, places(x)), ROLES, (), overlap) for overlap in (2.0, 1.0))
    np.testing.assert_allclose(together.log_mean(x), t, atol=0.02)
    assert np.abs(apart.log_mean(x) - t).max() > 0.1
    named = dict(zip((name for name, _ in term_names(ROLES)), together.coefficients, strict=True))
    assert (named["n_items"], named["speed>1"]) == (pytest.approx(0.1, rel=0.05), pytest.approx(4.0, rel=0.05))


def test_a_step_that_all_are_beyond_is_no_term() -> None:
    cells = made(21, 30)
    beyond = replace(cells, x=cells.x + np.log([2.0, 1.0, 2.0]))
    names = [name for name, _ in term_names(ROLES)]
    found = fit_sum(beyond, ROLES, ()).coefficients
    assert found[names.index("workers>1")] == found[names.index("speed>1")] == 0


def test_powers_start_from_their_prior() -> None:
    prior = powers(made(5), ROLES)
    assert prior.exponents.tolist() == [-0.5, 0.5, 0.0]
    assert prior.slopes(made(5).x, np.array([9.0, 1.0, 0.0, 0.0, 7.0, 7.0])).tolist() == pytest.approx([-0.1, 0.5, 0.0])


def two_parts(n: int) -> Cells:
    """Work that is shared, and beside it what begins with the second of something and grows with the workers."""
    rng = np.random.default_rng(8)
    x = np.log(np.column_stack([rng.integers(1, 33, n), rng.choice([10.0, 20, 80], n), rng.choice([1.0, 2, 4], n)]))
    rest = np.where(x[:, 2] > 0, 3.0, 0.5) * np.exp(0.4 * x[:, 0])
    return condense(x, np.log(np.hypot(2 * np.exp(x[:, 1] - x[:, 0]), rest)), places(x))


def test_a_pair_finds_its_parts() -> None:
    cells = two_parts(80)
    found = pair(cells, ROLES)
    np.testing.assert_allclose(found.at(cells.x)[0], cells.t, atol=0.1)
    work, rest = found.found[1:4], found.found[5:10]
    np.testing.assert_allclose(work, [-1.0, 1.0, 0.0], atol=0.1)
    np.testing.assert_allclose(rest[:2], [0.4, 0.0], atol=0.1)
    assert rest[4] == pytest.approx(np.log(6.0), abs=0.5)  # of the step of the third feature


def test_a_pair_is_a_plane_in_its_parameters() -> None:
    cells = two_parts(30)
    found = pair(cells, ROLES)
    at_prior, moves = found.log_mean(cells.x), found.basis(cells.x)
    np.testing.assert_allclose(at_prior + moves @ ((found.found - found.prior) / found.sd), found.at(cells.x)[0])
    ahead = replace(found, found=found.found + 1e-6 * found.sd)
    slope = (ahead.at(cells.x)[0] - found.at(cells.x)[0]) / 1e-6
    np.testing.assert_allclose(slope, moves.sum(axis=1), atol=1e-4)


def test_a_first_one_that_was_not_measured_is_less_sure() -> None:
    cells = made(5, 40)
    several = cells.taken(np.flatnonzero(cells.x[:, 2] > 0))
    mixture = fit_mixture(several, ROLES, 0)
    asked = np.array([[1.5, 3.0, np.log(2.0)], [1.5, 3.0, 0.0]])
    sd = mixture.spread(asked)
    assert sd[1] ** 2 > sd[0] ** 2 + 0.6**2
    assert mixture.least_error(asked)[1] < mixture.least_error(asked)[0] - 0.6**2


# --------------------------------------------------------------------------- process and mixture


@pytest.mark.parametrize(("grouped", "n"), [(False, 14), (True, 14), (False, 60)])
def test_what_is_left_out_is_predicted_as_if_it_had_never_been_there(grouped: bool, n: int) -> None:
    cells = made(6, n)
    if grouped:
        group = np.arange(len(cells.t)) // 3
        cells = Cells(cells.x, cells.t, cells.n, group, cells.squares, cells.deviations)
    structure, space = sums(cells, ROLES)[0], Space.of(cells, ROLES)
    z = space.draw(2, 0)
    members = fit_members(z, cells, structure, space)
    # The same by really leaving it out: fitted to the others, asked through the covariance with all.
    gone = cells.group == cells.group[4]
    inverse = members.inverse[1]
    covariance = np.linalg.inv(inverse)
    residual = cells.t - structure.log_mean(cells.x)
    weights = covariance[np.ix_(gone, ~gone)] @ np.linalg.inv(covariance[np.ix_(~gone, ~gone)])
    np.testing.assert_allclose(members.left_out[1][gone], residual[gone] - weights @ residual[~gone], atol=1e-6)
    variance = np.diag(covariance[np.ix_(gone, gone)] - weights @ covariance[np.ix_(~gone, gone)])
    np.testing.assert_allclose(members.variance[1][gone], variance, rtol=1e-6)


def test_weights_add_up_and_each_structure_is_heard() -> None:
    mixture = fit_mixture(made(7, 40), ROLES, 0)
    assert sum(part.weights.sum() for part in mixture.parts) == pytest.approx(1.0)
    # The law is a sum times a power of the speed: plain powers do not win against it.
    weight = {type(part.structure).__name__: 0.0 for part in mixture.parts}
    for part in mixture.parts:
        weight[type(part.structure).__name__] += float(part.weights.sum())
    assert weight["Sum"] > 0.9


def test_a_deviation_that_repeats_is_predicted_and_one_that_does_not_is_smoothed() -> None:
    # Given a curve with one setting that is 20 % off, measured once or ten times.
    x = np.log(np.arange(2.0, 26.0, 2.0))[:, None]
    t = -x[:, 0]
    t[5] += 0.2
    roles = Roles(("workers",), 0, ())
    rng = np.random.default_rng(8)

    def at_it(times: int) -> float:
        rows = np.repeat(np.arange(len(t)), times)
        noisy = t[rows] + rng.normal(0, 0.01, len(rows))
        mixture = fit_mixture(condense(x[rows], noisy, places(x[rows])), roles, 0)
        return float(mixture.log_mean(x[5:6])[0] - t[5])

    assert abs(at_it(10)) < 0.01
    assert -0.2 < at_it(1) < -0.005


def test_the_spread_is_small_at_the_data_and_large_far_away() -> None:
    mixture = fit_mixture(made(9, 20), ROLES, 0)
    near, far = mixture.spread(np.vstack([mixture.cells.x[0], np.log([500.0, 5e4, 9.0])]))
    assert near < 0.05 < far


def test_no_trend_goes_on_beyond_what_was_measured_of_a_feature_of_unknown_meaning() -> None:
    # Given times that fall with the speed, measured for speeds of 1 to 4.
    mixture = fit_mixture(made(9, 30), ROLES, 0)
    inside, beyond, twice = np.log([[4.0, 20.0, 4.0], [4.0, 20.0, 8.0], [4.0, 20.0, 16.0]])
    mean, sd = mixture.moments(np.vstack([inside, beyond, twice]))
    assert mean[1:] == pytest.approx(mean[0], abs=0.1)
    assert sd[2] > sd[1] > 0.25 > sd[0]
    # The sizes do go on: ten times the items take much longer.
    assert mixture.log_mean(np.log([[4.0, 800.0, 4.0]]))[0] > mean[0] + 1


def test_the_least_relative_error_is_below_the_median_where_the_model_is_unsure() -> None:
    mixture = fit_mixture(made(9, 30), ROLES, 0)
    x = np.log([[4.0, 20.0, 2.0], [4.0, 20.0, 12.0]])
    (near, far), sd = mixture.moments(x)
    lower = mixture.least_error(x)
    assert near - lower[0] < 0.01
    # The prediction that is best for what the model expects far away, found by trying.
    drawn = far + sd[1] * np.random.default_rng(13).normal(size=100_000)
    tried = np.linspace(far - 1, far + 0.5, 301)
    errors = [np.abs(np.exp(f - drawn) - 1).mean() for f in tried]
    assert far - 0.05 > lower[1] == pytest.approx(tried[int(np.argmin(errors))], abs=0.03)


def test_a_prediction_asks_a_bounded_number_of_members() -> None:
    mixture = fit_mixture(made(14, 12), ROLES, 0)
    assert 1 < sum(len(part.weights) for part in mixture.parts) <= 32
    assert sum(part.weights.sum() for part in mixture.parts) == pytest.approx(1.0)


def test_members_from_all_samples_are_weighed_as_if_drawn_from_the_prior() -> None:
    space = Space.of(made(15), ROLES)
    k = space.dimensions
    rng = np.random.default_rng(16)
    drawn_from = [(np.zeros(k), np.ones(k), 4_000), (np.full(k, 0.3), np.full(k, 0.8), 4_000)]
    z = np.concatenate([mean + sd * rng.normal(size=(n, k)) for mean, sd, n in drawn_from])
    none = np.zeros(len(z))
    weights = np.exp(importance(Members(z, none, none, none, none, none), drawn_from))
    assert weights.mean() == pytest.approx(1.0, abs=0.05)
    assert (weights @ z / weights.sum()) == pytest.approx(np.zeros(k), abs=0.1)


@pytest.mark.parametrize("n", [14, 60])
def test_the_covariance_of_cells_is_the_kernel_of_each_pair(n: int) -> None:
    cells = made(17, n)
    structure, space = powers(cells, ROLES), Space.of(cells, ROLES)
    z = space.draw(2, 1)
    hyper, features, basis = Hyper.of(z, space), space.features(cells.x), structure.basis(cells.x)
    # The kernel as it is written in books, one member at a time.
    for member, inverse in enumerate(fit_members(z, cells, structure, space).inverse):
        each = []
        for k, apart in enumerate(np.abs(features.T[:, :, None] - features.T[:, None, :])):
            far = apart / hyper.length[member, k]
            smooth = (1 + np.sqrt(5) * far + 5 / 3 * far**2) * np.exp(-np.sqrt(5) * far)
            each.append(np.exp(-far) if hyper.rough[member, k] else smooth)
        joint = hyper.joint[member]
        kernel = joint * np.prod(each, axis=0) + (1 - joint) * np.mean(each, axis=0)
        own = hyper.nugget[member] ** 2 + hyper.noise[member] ** 2 * cells.doubt / cells.n
        covariance = kernel * hyper.amplitude[member] ** 2 + basis @ basis.T + np.diag(own)
        np.testing.assert_allclose(inverse @ covariance, np.eye(len(cells.t)), atol=1e-4)


def test_the_extremes_stay_when_cells_are_thinned() -> None:
    cells = made(10, 400)
    some = thin(cells, 40, np.random.default_rng(0))
    assert len(np.unique(some)) == 40
    np.testing.assert_allclose(cells.x[some].min(axis=0), cells.x.min(axis=0))
    np.testing.assert_allclose(cells.x[some].max(axis=0), cells.x.max(axis=0))


def test_what_exceeds_a_bound_is_expected_above_it() -> None:
    drawn = np.random.default_rng(11).normal(1, 2, 400_000)
    found = exceeding(np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.0, 2.0]), np.array([-9.0, 2.0, 200.0]))
    assert found[0] == pytest.approx(1.0, abs=0.01)
    assert found[1] == pytest.approx(drawn[drawn > 2].mean(), abs=0.02)
    assert found[2] == pytest.approx(200, rel=0.01)


# --------------------------------------------------------------------------- evaluation


def test_without_public_data_the_evaluation_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(common.ENVIRONMENT, str(tmp_path))
    monkeypatch.setattr("sys.argv", ["bell", "--short"])
    bell.jobs.cache_clear()
    assert common.command(bell.main, "bell", "about") == 0
    assert capsys.readouterr().out.startswith(f"skipped: no bell/*.csv in {tmp_path}")


def test_the_strict_protocol_never_tests_what_was_trained_on() -> None:
    rng = np.random.default_rng(12)
    job = {float(s): rng.uniform(1, 2, 5) for s in range(4, 64, 4)}
    for _ in range(50):
        x, y, at, _, other = bell.draw(job, 15, rng)
        assert len(np.unique(x)) == 15
        assert at in x
        assert other in job[at]
        assert other not in y


def test_seeds_of_development_and_of_the_final_table_are_apart() -> None:
    assert not set(common.seeds(100, final=False)) & set(common.seeds(100, final=True))


@pytest.mark.parametrize("method", sorted(set(common.METHODS) - set(common.SLOW)))
def test_each_method_predicts_a_runtime(method: str) -> None:
    x = np.array([[2.0], [4], [8], [12], [16], [24]])
    y = 5 + 100 / x[:, 0]
    found = common.METHODS[method](x, y, np.array([[6.0]]), common.Problem())
    assert found == pytest.approx([21.7], rel=0.6)


def test_small_samples_are_judged_against_the_best_of_the_named_methods(capsys: pytest.CaptureFixture[str]) -> None:
    others = dict.fromkeys(common.METHODS, 9.0)
    measured = [(6, {**others, "ours": 4.0, "C3O-style": 5.0}), (6, {**others, "ours": 6.0, "random forest": 1.0})]
    (goal,) = small.judged("Bell", measured)
    assert (goal.text, goal.value, goal.most) == ("Bell, 6 points, ahead of C3O-style", 5.0, 7.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["Bell", "ours"]
    assert lines[1].split() == ["3", "points", *"-" * len(common.METHODS)]
    assert lines[2].split()[:3] == ["6", "points", "5.00"]


def test_placements_are_read_as_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pollux").mkdir()
    (tmp_path / "pollux" / "ncf_placements.csv").write_text("placement,local_bsz,step_time\n1,8,0.5\n4211,16,0.7\n")
    monkeypatch.setenv(common.ENVIRONMENT, str(tmp_path))
    pollux.applications.cache_clear()
    try:
        features, step = pollux.applications()["ncf"]
    finally:
        pollux.applications.cache_clear()
    assert features.tolist() == [[1, 8, 1], [8, 16, 4]]
    assert step.tolist() == [0.5, 0.7]
