"""`PeakMemoryRegressor`: memory that is hardly ever exceeded, for a batch size."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import MissingDependency
from toolkit.tuning.inputs import UnusableInput, read_asked, read_training, refuse_few
from toolkit.tuning.nonneg import weighted_nonneg
from toolkit.tuning.regress.rows import Array

try:
    from scipy.stats import t as student
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as exc:
    raise MissingDependency("scikit-learn", "tuning", "PeakMemoryRegressor") from exc

if TYPE_CHECKING:
    from typing import Self

_LARGEST_CELLS = 256  # batch sizes beyond this are binned
_ROUNDS = 5
_LEAST_SPREAD = 0.01  # peaks are never known better than to a percent: allocators grow in steps


class PeakMemoryRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Predicts an upper quantile of peak memory, never falling with the batch size.

    The middle is ``base + per_unit * x + root * sqrt(x)`` with non-negative coefficients, fitted to
    relative errors; local medians above it lift it where memory grows otherwise. The
    quantile is the empirical one of what lies above the middle, and with
    too few rows that of a t distribution.

    Parameters
    ----------
    quantile : float, default=0.99
        Share of batches that stay below the prediction.

    Attributes
    ----------
    base_bytes_, per_unit_bytes_ : float
        Intercept and slopes' sum at the largest batch that was seen, in the unit of `y`.
    factor_ : float
        What the quantile is above the middle, >= 1.
    n_features_in_ : int
        Columns seen by `fit`; the first is the batch size (items, weight or bytes), others enter in the same way.
    flagged_ : ndarray of int
        Positions of rows that were left out: missing, infinite, negative or zero values.

    Examples
    --------
    >>> import numpy as np
    >>> sizes = np.array([[1.0], [10.0], [100.0]])
    >>> model = PeakMemoryRegressor().fit(sizes, 50e6 + 1e6 * sizes[:, 0])
    >>> bool(model.predict([[200.0]])[0] > 250e6)
    True
    """

    def __init__(self, quantile: float = 0.99) -> None:
        self.quantile = quantile

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.target_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # an upper quantile is no mean
        return tags

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - the contract's name
        """Learn from peaks.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_features)
            Batch sizes, and other things that memory grows with, >= 0.
        y : array-like of shape (n_rows,)
            Peak memory in bytes (or any unit), > 0.

        Returns
        -------
        PeakMemoryRegressor
            Itself.

        Raises
        ------
        ValueError
            `quantile` is not between 0.5 and 1, or fewer than three usable rows remain.

        Warns
        -----
        UserWarning
            Rows were left out; `flagged_` lists them.
        """
        if not 0.5 <= self.quantile < 1:
            raise UnusableInput(f"quantile={self.quantile!r}: give a share of at least 0.5 and below 1, such as 0.99")
        x, peak = read_training(self, X, y)
        with np.errstate(invalid="ignore"):
            good = np.isfinite(x).all(axis=1) & (x >= 0).all(axis=1) & np.isfinite(peak) & (peak > 0)
        self.flagged_: NDArray[np.int64] = np.flatnonzero(~good)
        first = f"the first bad one is row {int(self.flagged_[0])}" if len(self.flagged_) else "none was bad"
        refuse_few(type(self).__name__, x, int(good.sum()), first)
        self._learn(x[good], peak[good])
        if len(self.flagged_):
            text = f"{len(self.flagged_)} of {len(peak)} rows were left out (not finite, not positive); see flagged_"
            warnings.warn(text, UserWarning, stacklevel=2)
        return self

    def _learn(self, x: Array, peak: Array) -> None:
        values = _terms(x)
        design = values / peak[:, None]
        size = np.sqrt((design**2).mean(axis=0)) + 1e-300
        design = design / size
        ridge = np.full((1, design.shape[1]), 1e-8 * len(peak))
        weights = np.ones(len(peak))
        for _ in range(_ROUNDS):
            found = weighted_nonneg(design[None], np.ones((1, len(peak))), weights[None], ridge)[0]
            miss = np.abs(design @ found - 1)
            weights = 1 / np.maximum(miss, max(0.01, float(np.median(miss))))
        self._coefficients = found / size
        self._lift(x, np.log(peak / np.maximum(values @ self._coefficients, 1e-300)))
        above = np.log(peak / self._middle(x))
        self.factor_ = math.exp(max(0.0, _upper(above, self.quantile, int((self._coefficients > 0).sum()))))
        self.base_bytes_ = float(self._coefficients[0])
        top = x[np.argmax(x[:, 0])]
        self.per_unit_bytes_ = float((_terms(top[None])[0, 1:] @ self._coefficients[1:]) / max(top[0], 1e-300))

    def _lift(self, x: Array, above: Array) -> None:
        """Learn, where rows are many, by how much local medians exceed the middle; a running maximum keeps order."""
        self._knots, self._lifts = np.array([0.0]), np.array([0.0])
        bins = min(len(above) // 20, _LARGEST_CELLS)
        if bins < 4:
            return
        order = np.argsort(x[:, 0], kind="stable")
        groups = np.array_split(order, bins)
        self._knots = np.array([float(x[g, 0].min()) for g in groups])
        self._lifts = np.array([max(0.0, float(np.median(above[g]))) for g in groups])

    def _middle(self, x: Array) -> Array:
        """Middle of the peaks, monotone by construction: the linear part, and the highest lifted knot so far."""
        base = _terms(x) @ self._coefficients
        knots = np.zeros((len(self._knots), x.shape[1]))  # whatever else memory grows with counts from nothing
        knots[:, 0] = self._knots
        lifted = np.maximum.accumulate(_terms(knots) @ self._coefficients * np.exp(self._lifts))
        place = np.searchsorted(self._knots, x[:, 0], side="right") - 1
        reached = np.where(place >= 0, lifted[np.maximum(place, 0)], 0.0)
        return np.asarray(np.maximum(np.maximum(base, reached), 1e-300))

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Memory that a share `quantile` of batches stays below.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_features)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_rows,)
            In the unit of `y`; never falls when a feature grows.

        Raises
        ------
        ValueError
            A value is missing, infinite or negative, or columns are not those of `fit`.
        """
        check_is_fitted(self, "factor_")
        x = read_asked(self, X)
        return np.asarray(self._middle(x) * self.factor_)


def _terms(x: Array) -> Array:
    return np.column_stack([np.ones(len(x)), x, np.sqrt(x)])


def _upper(above: Array, quantile: float, used: int) -> float:
    """Upper quantile of logarithmic errors for a new row, honest about how few there are."""
    # Rows lie nearer to what was fitted to them than a new one will.
    above = above / (1 - min(used / len(above), 0.5))
    rank = math.ceil((len(above) + 1) * quantile - 1e-9)
    if rank <= len(above):
        return float(np.sort(above)[rank - 1])
    # Peaks are skewed: what is above the middle is farther from it than what is below.
    upper = np.maximum(above, 0.0)
    upper = upper[upper > 0] if (upper > 0).any() else above
    sd = max(float(np.sqrt((above**2).mean())), float(np.sqrt((upper**2).mean())), _LEAST_SPREAD)
    # A t quantile with one degree of freedom would be the 32-fold: three rows count as if another like them were known.
    free = max(len(above) - used, 2)
    return max(float(above.max()), float(student.ppf(quantile, free)) * sd * math.sqrt(1 + used / len(above)))
