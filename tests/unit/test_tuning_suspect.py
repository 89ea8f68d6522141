"""Rows that cannot be true beside the others, and rows of heavy-tailed work, which are."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.tuning.suspect import far_out

SIZES = np.repeat([1.0, 8.0, 64.0], [1_000, 200, 40])
FIRST = np.arange(len(SIZES)) % 50 == 0
RUN = np.arange(len(SIZES)) // 400
RNG = np.random.default_rng(3)
TAILS = {
    "lognormal": lambda n: RNG.lognormal(0.0, 1.5, n),
    "pareto": lambda n: 1.0 + RNG.pareto(1.5, n),
    "bimodal": lambda n: np.where(RNG.random(n) < 0.02, 50.0, 1.0),
    "steady": np.ones,
}


def seconds(kind: str) -> np.ndarray:
    """What batches of such items take."""
    return np.array([0.02 + 0.04 * TAILS[kind](int(size)).sum() for size in SIZES])


@pytest.mark.parametrize("kind", TAILS)
def test_long_items_are_no_wrong_rows(kind: str) -> None:
    assert not far_out(SIZES, seconds(kind), FIRST, RUN).any()


@pytest.mark.parametrize("kind", TAILS)
@pytest.mark.parametrize("factor", [100.0, 1e3, 1e-3])
def test_rows_in_another_unit_are_found_among_long_items(kind: str, factor: float) -> None:
    wrong = RNG.random(len(SIZES)) < 0.1
    spent = seconds(kind)
    found = far_out(SIZES, np.where(wrong, factor * spent, spent), FIRST, RUN)
    assert found[wrong].mean() > 0.8
    assert found[~wrong].mean() < 0.03  # some of the longest items go with them


def test_imports_explain_the_first_rows_of_processes() -> None:
    spent = seconds("steady") + np.where(FIRST, 8.0, 0.0)
    assert not far_out(SIZES, spent, FIRST, RUN).any()
    wrong = np.arange(len(SIZES)) % 10 == 0  # all of them, and others
    wrong &= ~FIRST | (np.cumsum(FIRST) % 5 == 0)
    found = far_out(SIZES, np.where(wrong, 1e3 * spent, spent), FIRST, RUN)
    np.testing.assert_array_equal(found, wrong)


def test_a_batch_of_a_rare_size_is_compared_with_the_nearest_sizes() -> None:
    sizes = np.r_[np.full(100, 500.0), 2.0, 2.0]
    spent = np.r_[np.full(90, 5.0), np.full(10, 5_000.0), 4.0, 5_000.0]
    np.testing.assert_array_equal(
        np.flatnonzero(far_out(sizes, spent, sizes < 0, np.zeros(102, dtype=np.int64))), [*range(90, 100), 101]
    )


def test_in_short_runs_first_rows_count_as_others_unless_imports_explain_them() -> None:
    run, claim = np.divmod(np.arange(48), 12)
    first, items = claim < 8, np.ones(48)
    spent = np.random.default_rng(1).lognormal(0.0, 0.5, 48)
    imports = np.where(first & (run == 0), 60.0, 0.0)
    assert not far_out(items, spent + imports, first, run).any()
    wrong = np.isin(np.arange(48), [13, 15, 26, 37, 40])  # all of them first ones
    np.testing.assert_array_equal(far_out(items, np.where(wrong, 1e3, 1.0) * spent + imports, first, run), wrong)
