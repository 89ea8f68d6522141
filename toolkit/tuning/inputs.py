"""What estimators are given: read, checked, and refused with the row and the reason."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.errors import MissingDependency, TuningError
from toolkit.tuning.regress.rows import Array, Index, Mask

try:
    from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data
except ImportError as exc:
    raise MissingDependency("scikit-learn", "tuning", "RuntimeRegressor") from exc

FEWEST_ROWS = 3


class UnusableInput(TuningError, ValueError):
    """The rows given to an estimator cannot be used; the text says which, why and what to do."""


def read_training(estimator: Any, X: Any, y: Any) -> tuple[Array, Array]:  # noqa: N803
    """Features and targets as arrays; values may still be unusable."""
    # Each row is judged by itself, a missing target like a missing feature: neither is refused here.
    x = validate_data(estimator, X, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=FEWEST_ROWS)
    if y is None:
        raise UnusableInput("requires y to be passed, but the target y is None; give one duration or peak for each row")
    target = column_or_1d(y, warn=True)
    check_consistent_length(x, target)
    return x, np.asarray(target, dtype=np.float64)


def refuse_few(name: str, x: Array, usable: int, reasons: str) -> None:
    """Raise if fewer than three rows are left."""
    if usable < FEWEST_ROWS:
        with np.errstate(invalid="ignore"):
            negative = f"Negative values in data passed to {name}. " if (x < 0).any() else ""
        raise UnusableInput(
            f"{negative}{usable} usable rows of {len(x)}, at least {FEWEST_ROWS} are needed: {reasons}; "
            "repair or add rows"
        )


def read_asked(estimator: Any, X: Any) -> Array:  # noqa: N803
    """Features to predict for, all of them usable."""
    x = np.asarray(validate_data(estimator, X, reset=False, dtype=np.float64, ensure_all_finite=False))
    sound = np.isfinite(x) & (x >= 0)
    if not sound.all():
        row, column = (int(i) for i in np.argwhere(~sound)[0])
        name = str(estimator.feature_names_in_[column]) if hasattr(estimator, "feature_names_in_") else column
        raise UnusableInput(
            f"row {row}, column {name!r} is {float(x[row, column])}, which nothing can be predicted for; "
            "features are neither NaN, nor infinite, nor negative"
        )
    return x


def group_codes(groups: Any, n_rows: int) -> Index | None:
    """Group of each row as a number, or None where none were given."""
    if groups is None:
        return None
    given = np.asarray(groups)
    if given.shape != (n_rows,):
        raise UnusableInput(f"groups has shape {given.shape}; give one label for each of the {n_rows} rows")
    return np.asarray(np.unique(given, return_inverse=True)[1], dtype=np.int64)


def row_mask(censored: Any, n_rows: int) -> Mask:
    """Which rows are censored; none, where that was not said."""
    if censored is None:
        return np.zeros(n_rows, dtype=bool)
    mask = np.asarray(censored)
    if mask.shape != (n_rows,) or mask.dtype != np.bool_:
        raise UnusableInput(
            f"censored has shape {mask.shape} and type {mask.dtype}; give one bool for each of the {n_rows} rows"
        )
    return np.asarray(mask, dtype=bool)


def told(reasons: list[tuple[str, Index]]) -> str:
    """Each reason, how many rows it applies to and the first of them."""
    return ", ".join(f"{reason}: {len(rows)} (first row {int(rows[0])})" for reason, rows in reasons) or "none was bad"
