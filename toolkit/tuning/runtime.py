"""`RuntimeRegressor`: how long something takes, from any rows of positive features. It knows nothing of batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import MissingDependency, TuningError
from toolkit.tuning.regress.mixture import Mixture, fit_mixture
from toolkit.tuning.regress.rows import Array, Index, Mask, condense, logarithms, places, repeated, stray, unusable
from toolkit.tuning.regress.structure import Roles, Sum, term_names, terms

try:
    from scipy.stats import norm
    from scipy.stats import t as student
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as exc:
    raise MissingDependency("scikit-learn", "tuning", "RuntimeRegressor") from exc

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd

FEWEST_ROWS = 3
_CENSORED_ROUNDS = 3
_FAR = math.log(8.0)  # a row this far from the others is no measurement of the same thing
_SIGMAS = 8.0


class UnusableInput(TuningError, ValueError):
    """The rows given to an estimator cannot be used; the text says which, why and what to do."""


class RuntimeRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Predicts a runtime or service time from who shares the work, how much there is, and other positive features.

    A sum of non-negative scale-out terms and a product of powers give the structure, which is what predictions
    far from the data rest on. Many small Gaussian processes correct it near the data. All are weighted by how they
    predict settings that were left out; repeats of one setting are always left out together.

    Parameters
    ----------
    scale : str or int, default="workers"
        Column that counts who shares the work. In an array without column names, names stand for its first columns:
        the scale, then the sizes.
    size : sequence of (str or int), default=()
        Columns that say how much work there is. Columns that are neither are features of unknown meaning.
    random_state : int, default=0
        Seed of what is drawn where the rows are many.

    Attributes
    ----------
    n_features_in_ : int
        Columns seen by `fit`.
    flagged_ : DataFrame
        Columns ``row`` (position), ``reason`` and ``used``: every row that is suspect, and whether
        it was used nevertheless.
    n_cells_ : int
        Distinct settings that were used.
    error_ : float
        Mean absolute relative error of the cells when left out.

    Notes
    -----
    Zeros count as half of the smallest positive value of their column. Rows with NaN, infinite or negative values are
    flagged and left out, and so are exact copies of a row and rows that are off by a factor of 8 or more.

    Examples
    --------
    >>> import numpy as np
    >>> workers = np.array([[1.0], [2.0], [4.0], [8.0]])
    >>> model = RuntimeRegressor().fit(workers, 10 + 100 / workers[:, 0])
    >>> round(float(model.predict([[16.0]])[0]))
    16
    """

    def __init__(self, scale: str | int = "workers", size: Sequence[str | int] = (), random_state: int = 0) -> None:
        self.scale = scale
        self.size = size
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.allow_nan = True
        tags.target_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # the common checks score targets that have nothing to do with scaling
        return tags

    # ------------------------------------------------------------------ learning

    def fit(self, X: Any, y: Any, censored: Any = None) -> Self:  # noqa: N803 - the contract's name
        """Learn from measurements.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_features)
            Features, >= 0.
        y : array-like of shape (n_rows,)
            Measured durations, > 0, in any unit; predictions have the same.
        censored : array-like of bool of shape (n_rows,), optional
            Rows that were cut off: their `y` is only known to be exceeded.

        Returns
        -------
        RuntimeRegressor
            Itself.

        Raises
        ------
        ValueError
            A column is missing, shapes disagree, or fewer than three usable rows remain.

        Warns
        -----
        UserWarning
            Rows were left out; `flagged_` lists them.
        """
        x, target = validate_data(
            self, X, y, dtype=np.float64, ensure_all_finite=False, y_numeric=True, ensure_min_samples=FEWEST_ROWS
        )
        target = np.asarray(target, dtype=np.float64)
        cut = _mask(censored, len(target))
        self._roles = self._read_roles()
        left = self._flag(x, target)
        if left.sum() < FEWEST_ROWS:
            raise UnusableInput(
                f"{int(left.sum())} usable rows of {len(target)}, at least {FEWEST_ROWS} are needed: "
                f"{_summary(self._reasons)}; repair or add rows"
            )
        if cut[left].all():
            raise UnusableInput("every usable row is censored: nothing says how long it takes; add rows that ended")
        positive = np.where(x[left] > 0, x[left], np.inf).min(axis=0)
        self._floor = np.where(np.isfinite(positive), positive / 2, 1.0)
        self._learn(np.flatnonzero(left), x[left], np.log(target[left]), cut[left])
        self._tell(len(target))
        return self

    def _read_roles(self) -> Roles:
        names = [str(name) for name in getattr(self, "feature_names_in_", ())]
        if isinstance(self.size, str):
            raise UnusableInput(f"size={self.size!r} is one text; give a sequence of columns, as ({self.size!r},)")
        asked = [self.scale, *self.size]
        if not names:
            in_order = iter(range(self.n_features_in_))
            columns = [c if isinstance(c, int) else next(in_order, -1) for c in asked]
            names = [f"x{i}" for i in range(self.n_features_in_)]
            for column, given in zip(columns, asked, strict=True):
                if isinstance(given, str) and 0 <= column < len(names):
                    names[column] = given
        else:
            columns = [c if isinstance(c, int) else names.index(c) if c in names else -1 for c in asked]
        for column, given in zip(columns, asked, strict=True):
            if not 0 <= column < self.n_features_in_:
                raise UnusableInput(
                    f"no column {given!r} among the {self.n_features_in_} given ({', '.join(names)}); "
                    "name it in scale= or size="
                )
        if len(set(columns)) < len(columns):
            raise UnusableInput(f"a column has two meanings in scale={self.scale!r}, size={tuple(self.size)!r}")
        return Roles(tuple(names), columns[0], tuple(columns[1:]))

    def _flag(self, x: Array, y: Array) -> Mask:
        left = np.ones(len(y), dtype=bool)
        self._reasons: list[tuple[str, Index]] = []
        for reason, rows in unusable(x, y):
            if (rows & left).any():
                self._reasons.append((reason, np.flatnonzero(rows & left)))
                left &= ~rows
        kept = np.flatnonzero(left)
        copies = kept[repeated(x[kept], y[kept])] if len(kept) else kept
        if len(copies) and len(kept) - len(copies) >= FEWEST_ROWS:
            self._reasons.append(("copy of another row", copies))
            left[copies] = False
        return left

    def _learn(self, index: Index, x: Array, t: Array, cut: Mask) -> None:
        logs = logarithms(x, self._floor)
        rng = np.random.default_rng(self.random_state)
        good = ~cut
        logs, t, cut, index = (
            self._without_strays(index, logs, t, cut) if good.sum() > 2 * FEWEST_ROWS else (logs, t, cut, index)
        )
        good = ~cut
        if good.sum() >= FEWEST_ROWS:
            self._mixture = self._fit(logs[good], t[good], rng)
        else:
            self._mixture = self._fit(logs, t, rng)
        for _ in range(_CENSORED_ROUNDS if cut.any() else 0):
            filled = t.copy()
            filled[cut] = _exceeding(self._mixture.log_mean(logs[cut]), self._mixture.spread(logs[cut]), t[cut])
            self._mixture = self._fit(logs, filled, np.random.default_rng(self.random_state))
        self.error_ = float(np.abs(np.expm1(np.clip(-self._mixture.left_out, -50, 50))).mean())

    def _without_strays(self, index: Index, x: Array, t: Array, cut: Mask) -> tuple[Array, Array, Mask, Index]:
        """Leave out rows that are off by a large factor: from their repeats, then from what the others predict."""
        good = np.flatnonzero(~cut)
        off = np.zeros(len(t), dtype=bool)
        off[good[stray(places(x[good]), t[good])]] = True
        good = np.flatnonzero(~cut & ~off)
        place = places(x[good])
        cells = condense(x[good], t[good], place)
        if len(cells.t) > 2 * FEWEST_ROWS:
            mixture = fit_mixture(cells, self._roles, np.random.default_rng(self.random_state))
            typical = 1.4826 * float(np.median(np.abs(mixture.left_out)))
            bound = max(_FAR, _SIGMAS * min(typical, 0.5))
            apart = np.abs(_smoothed(cells.x, cells.t) - cells.t)
            # Off both from the model of the others and from the nearest settings, and not measured often.
            odd = (np.abs(mixture.left_out) > bound) & (apart > bound)
            odd &= cells.n <= 2
            if odd.sum() <= 0.2 * len(odd):
                off[good[odd[place]]] = True
        if off.any():
            self._reasons.append(("off by a factor of 8 or more", index[off]))
        return x[~off], t[~off], cut[~off], index[~off]

    def _fit(self, x: Array, t: Array, rng: np.random.Generator) -> Mixture:
        cells = condense(x, t, places(x))
        self.n_cells_ = len(cells.t)
        return fit_mixture(cells, self._roles, rng)

    def _tell(self, n_rows: int) -> None:
        import pandas as pd

        parts = [pd.DataFrame({"row": rows, "reason": reason, "used": False}) for reason, rows in self._reasons]
        empty = pd.DataFrame({"row": np.empty(0, np.int64), "reason": np.empty(0, object), "used": np.empty(0, bool)})
        self.flagged_ = pd.concat(parts, ignore_index=True).sort_values("row", ignore_index=True) if parts else empty
        if parts:
            warnings.warn(
                f"{len(self.flagged_)} of {n_rows} rows were left out ({_summary(self._reasons)}); see flagged_",
                UserWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------------ asking

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Durations to expect (medians).

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_features)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_rows,)
            In the unit of `y`, > 0.

        Raises
        ------
        ValueError
            A value is missing, infinite or negative, or columns are not those of `fit`.
        """
        return np.asarray(np.exp(np.clip(self._mixture_of().log_mean(self._read(X)), -700, 700)))

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Array:  # noqa: N803
        """Interval in which a new measurement lies with a given probability.

        The half width is the model's spread at each row, times the quantile of the left-out errors in that unit
        (jackknife+ of Barber et al., Ann. Statist. 49, 2021, with the normalised score of Lei et al., JASA 113, 2018).
        With too few cells for the quantile, that of a t distribution takes its place.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_features)
            As in `fit`.
        coverage : float, default=0.9
            Probability, between 0 and 1.

        Returns
        -------
        ndarray of shape (n_rows, 2)
            Lower and upper ends.

        Raises
        ------
        ValueError
            `coverage` is not between 0 and 1, or as in `predict`.
        """
        if not 0 < coverage < 1:
            raise UnusableInput(f"coverage={coverage!r}: give a probability between 0 and 1, such as 0.9")
        x, mixture = self._read(X), self._mixture_of()
        middle, half = mixture.log_mean(x), mixture.spread(x) * _quantile(mixture, coverage)
        ends = np.clip(np.stack([middle - half, middle + half], axis=1), -700, 700)
        return np.asarray(np.exp(ends))

    def explain(self) -> pd.DataFrame:
        """What the prediction consists of, on average over the settings that were measured.

        Returns
        -------
        DataFrame
            One row per term: ``term``, ``coefficient``, ``unit`` (of the coefficient; `target` is the unit of `y`),
            ``kind`` ("sum", "power" or "residual") and ``share``. Shares of terms add up to 1; the share
            of the residual is the mean size of its correction, beside that.
        """
        import pandas as pd

        mixture = self._mixture_of()
        cells = mixture.x / mixture.stretch
        rows: list[tuple[str, float, str, str, float]] = []
        for share, structure in zip(mixture.shares, mixture.structures, strict=True):
            if isinstance(structure, Sum):
                parts = terms(cells, self._roles) * structure.coefficients
                parts = (parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)).mean(axis=0)
                for (name, unit), c, part in zip(term_names(self._roles), structure.coefficients, parts, strict=True):
                    rows.append((name, float(c), unit, "sum", float(share * part)))
            else:
                size = np.abs(structure.exponents) * cells.std(axis=0)
                size = size / size.sum() if size.sum() > 0 else np.full(len(size), 1 / len(size))
                for name, g, part in zip(self._roles.names, structure.exponents, size, strict=True):
                    rows.append((f"{name} ** g", float(g), "1", "power", float(share * part)))
        correction = np.abs(np.expm1(np.clip(mixture.log_mean(cells) - mixture.structure_mean(cells), -50, 50))).mean()
        rows.append(("residual", math.nan, "1", "residual", float(correction)))
        frame = pd.DataFrame(rows, columns=["term", "coefficient", "unit", "kind", "share"])
        return frame.sort_values("share", ascending=False, kind="stable", ignore_index=True)

    def _mixture_of(self) -> Mixture:
        check_is_fitted(self, "n_cells_")
        return self._mixture

    def _read(self, X: Any) -> Array:  # noqa: N803
        check_is_fitted(self, "n_cells_")
        x = np.asarray(validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite=False))
        sound = np.isfinite(x) & (x >= 0)
        if not sound.all():
            row, column = (int(i) for i in np.argwhere(~sound)[0])
            raise UnusableInput(
                f"row {row}, column {self._roles.names[column]!r}: {x[row, column]!r} cannot be predicted for; "
                "features are finite and not negative"
            )
        return logarithms(x, self._floor)


def _mask(censored: Any, n_rows: int) -> Mask:
    if censored is None:
        return np.zeros(n_rows, dtype=bool)
    mask = np.asarray(censored)
    if mask.shape != (n_rows,) or mask.dtype != np.bool_:
        raise UnusableInput(
            f"censored has shape {mask.shape} and type {mask.dtype}; give one bool for each of the {n_rows} rows"
        )
    return np.asarray(mask, dtype=bool)


def _summary(reasons: list[tuple[str, Index]]) -> str:
    return ", ".join(f"{reason}: {len(rows)} (first row {int(rows[0])})" for reason, rows in reasons) or "none was bad"


def _exceeding(mean: Array, sd: Array, bound: Array) -> Array:
    """Expected value of a normal variable that is known to exceed a bound."""
    z = (bound - mean) / sd
    # Beyond 30 the ratio of density and tail is the argument itself.
    ratio = np.where(z > 30, z, np.exp(norm.logpdf(np.minimum(z, 30)) - norm.logsf(np.minimum(z, 30))))
    return np.asarray(mean + sd * ratio)


def _smoothed(x: Array, t: Array, neighbours: int = 4) -> Array:
    """Median over the nearest other cells."""
    spread = x.std(axis=0) + 1e-12
    apart = (((x[:, None, :] - x[None, :, :]) / spread) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :neighbours]
    return np.asarray(np.median(t[nearest], axis=1))


def _quantile(mixture: Mixture, coverage: float) -> float:
    ratios = np.sort(np.abs(mixture.left_out) / mixture.left_out_sd)
    count = len(ratios)
    rank = math.ceil((count + 1) * coverage - 1e-9)
    if rank <= count:
        return float(ratios[rank - 1])
    # The t quantile alone trusts the model's spread; what the few left-out errors say may only widen it.
    size = max(1.0, float(np.sqrt((ratios**2).mean())))
    return float(student.ppf((1 + coverage) / 2, max(count - 1, 1))) * size
