"""`RuntimeRegressor`: how long something takes, from any rows of positive features. It knows nothing of batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import MissingDependency
from toolkit.tuning.inputs import (
    FEWEST_ROWS,
    UnusableInput,
    group_codes,
    read_asked,
    read_training,
    refuse_few,
    row_mask,
    told,
)
from toolkit.tuning.regress.mixture import Mixture, exceeding, fit_mixture
from toolkit.tuning.regress.rows import (
    Array,
    Cells,
    Index,
    Mask,
    condense,
    logarithms,
    nearest_other,
    numbered,
    places,
    repeated,
    stray,
    unusable,
)
from toolkit.tuning.regress.structure import Roles, Sum, term_names

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as exc:
    raise MissingDependency("scikit-learn", "tuning", "RuntimeRegressor") from exc

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd

_CENSORED_ROUNDS = 3
_FAR = math.log(8.0)  # a row this far from the others is no measurement of the same thing
_SIGMAS = 8.0


class RuntimeRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Predicts a runtime or service time from who shares the work, how much there is, and other positive features.

    Sums of non-negative scale-out terms, products of powers and pairs of such products (work, and what sharing it
    costs) give the structure, which is what predictions far from the data rest on. Gaussian processes correct it near
    the data. All are weighted by how well they predict some of the settings from others, or, where groups are given,
    each group from the others.

    Parameters
    ----------
    scale : str or int, default="workers"
        Column that counts who shares the work. In an array without column names, names stand for its first columns:
        the scale, then the sizes.
    size : sequence of (str or int), default=()
        Columns that say how much work there is. Columns that are neither are features of unknown meaning.
    random_state : int, default=0
        Seed of hyper-parameters, and of what is drawn where the rows are many.

    Attributes
    ----------
    n_features_in_ : int
        Columns seen by `fit`.
    flagged_ : DataFrame
        Columns ``row`` (position), ``reason`` and ``used``: every row that is suspect, and whether
        it was used nevertheless.
    n_cells_ : int
        Distinct settings that were used (of each group).
    error_ : float
        Mean absolute relative error of the cells when left out.
    baseline_error_ : float
        The same of the dumb baseline: what the nearest other setting took. A model whose `error_` is not smaller
        has learnt nothing that would be worth its trouble.

    Notes
    -----
    Beyond what was measured, the scale and the sizes go on by structure. Columns of unknown meaning do not: a
    prediction there is that of the nearest value that was measured, and its interval widens; most where that is the
    first of something, such as a single machine, since costs may begin with the second.

    Zeros count as half of the smallest positive value of their column. Rows with NaN, infinite or negative values are
    flagged and left out, and so are exact copies of a row and rows that are off by a factor of 8 or more. `predict`
    refuses rows that have such values.

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
        tags.target_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # the common checks score targets that have nothing to do with scaling
        return tags

    # ------------------------------------------------------------------ learning

    def fit(self, X: Any, y: Any, groups: Any = None, censored: Any = None) -> Self:  # noqa: N803 - the contract's name
        """Learn from measurements.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_features)
            Features, >= 0.
        y : array-like of shape (n_rows,)
            Measured durations, > 0, in any unit; predictions have the same.
        groups : array-like of shape (n_rows,), optional
            Rows of one group, such as a run, are left out together when models are weighed. By default
            each setting is a group.
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
        x, target = read_training(self, X, y)
        cut, group = row_mask(censored, len(target)), group_codes(groups, len(target))
        self._roles = self._read_roles()
        left = self._flag(x, target)
        refuse_few(type(self).__name__, x, int(left.sum()), told(self._reasons))
        if cut[left].all():
            raise UnusableInput("every usable row is censored: nothing says how long it takes; add rows that ended")
        positive = np.where(x[left] > 0, x[left], np.inf).min(axis=0)
        self._floor = np.where(np.isfinite(positive), positive / 2, 1.0)
        index = np.flatnonzero(left)
        logs, t = logarithms(x[index], self._floor), np.log(target[index])
        place = places(logs)
        stay = self._without_strays(index, logs, t, cut[index], place)
        index = index[stay]
        self._learn((logs[stay], t[stay], place[stay]), cut[index], None if group is None else group[index])
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

    def _learn(self, rows: tuple[Array, Array, Index], cut: Mask, group: Index | None) -> None:
        x, t, place = rows
        good = ~cut if (~cut).sum() >= FEWEST_ROWS else np.ones(len(t), dtype=bool)
        self._mixture = self._fit(x, t, place, group, good)
        for _ in range(_CENSORED_ROUNDS if cut.any() else 0):
            sd = np.hypot(self._mixture.spread(x[cut]), self._mixture.noise(x[cut]))
            filled = t.copy()
            filled[cut] = exceeding(self._mixture.log_mean(x[cut]), sd, t[cut])
            self._mixture = self._fit(x, filled, place, group, np.ones(len(t), dtype=bool))
        cells = self._mixture.cells
        self.n_cells_ = len(cells.t)
        self.error_ = _relative(self._mixture.left_out)
        self.baseline_error_ = _relative(cells.t - nearest_other(cells))

    def _fit(self, x: Array, t: Array, place: Index, group: Index | None, rows: Mask) -> Mixture:
        cells = condense(x[rows], t[rows], numbered(place[rows]), None if group is None else group[rows])
        return fit_mixture(cells, self._roles, self.random_state)

    def _without_strays(self, index: Index, x: Array, t: Array, cut: Mask, place: Index) -> Mask:
        """Leave out rows that are off by a large factor: from their repeats, then from what the others predict."""
        stay = np.ones(len(t), dtype=bool)
        good = np.flatnonzero(~cut)
        if len(good) <= 2 * FEWEST_ROWS:
            return stay
        stay[good[stray(place[good], t[good])]] = False
        good = good[stay[good]]
        place = numbered(place[good])
        cells = condense(x[good], t[good], place)
        # Off both from the nearest settings and from the model of the others, and not measured often.
        near = nearest_other(cells, 4)
        odd = (np.abs(cells.t - near) > _FAR) & (cells.n <= 2)
        if odd.any() and len(cells.t) > 2 * FEWEST_ROWS:
            odd &= self._unexplained(cells)
            if odd.sum() <= 0.2 * len(odd):
                stay[good[odd[place] & (np.abs(t[good] - near[place]) > _FAR)]] = False
        if not stay.all():
            self._reasons.append(("off by a factor of 8 or more", index[~stay]))
        return stay

    def _unexplained(self, cells: Cells) -> Mask:
        mixture = fit_mixture(cells, self._roles, self.random_state, rounds=0)
        typical = 1.4826 * float(np.median(np.abs(mixture.left_out)))
        return np.asarray(np.abs(mixture.left_out) > max(_FAR, _SIGMAS * min(typical, 0.5)))

    def _tell(self, n_rows: int) -> None:
        import pandas as pd

        parts = [pd.DataFrame({"row": rows, "reason": reason, "used": False}) for reason, rows in self._reasons]
        empty = pd.DataFrame({"row": np.empty(0, np.int64), "reason": np.empty(0, object), "used": np.empty(0, bool)})
        self.flagged_ = pd.concat(parts, ignore_index=True).sort_values("row", ignore_index=True) if parts else empty
        if parts:
            warnings.warn(
                f"{len(self.flagged_)} of {n_rows} rows were left out ({told(self._reasons)}); see flagged_",
                UserWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------------ asking

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Durations to expect: those with the least expected relative error.

        Medians where the model is sure of them. Where it is not, relative errors punish a guess that is twice too high
        more than one of half, and predictions lie below the median; `Mixture.least_error` says by how much.

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
        return np.asarray(np.exp(np.clip(self._mixture_of().least_error(self._read(X)), -700, 700)))

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Array:  # noqa: N803
        """Interval in which a new measurement lies with a given probability.

        Made of how uncertain the model is there, scaled by how left-out settings fared, and of how single measurements
        vary; `Mixture.half_width` says how.

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
        middle, half = mixture.log_mean(x), mixture.half_width(x, coverage)
        ends = np.clip(np.stack([middle - half, middle + half], axis=1), -700, 700)
        return np.asarray(np.exp(ends))

    def explain(self) -> pd.DataFrame:
        """What the prediction consists of, on average over the settings that were measured.

        Returns
        -------
        DataFrame
            One row per term: ``term``, ``coefficient``, ``unit`` (of the coefficient; `target` is the unit of `y`),
            ``kind`` and ``share``. Terms of kind "sum" add up, those of kind "power" multiply (their shares say
            how much each varies; of a pair of products the exponent is their mean); together their shares are 1. A
            "factor" multiplies the sums and has no share of its own, and that of the "residual" is the mean size of its
            correction.
        """
        import pandas as pd

        mixture = self._mixture_of()
        x = mixture.cells.x
        rows: list[tuple[str, float, str, str, float]] = []
        for part in mixture.parts:
            structure, weight = part.structure, float(part.weights.sum())
            if not isinstance(structure, Sum):
                exponents = structure.slopes(x, mixture.learnt(part) / weight)
                rows += _factors(self._roles.names, exponents, x, "power", weight)
                continue
            names = term_names(self._roles, structure.factors)
            values = structure.parts(x)
            shares = (values / np.maximum(values.sum(axis=1, keepdims=True), 1e-300)).mean(axis=0)
            for (name, unit), c, share in zip(names, structure.coefficients, shares, strict=True):
                if c > 0:
                    rows.append((name, float(c), unit, "sum", weight * float(share)))
            factors = [self._roles.names[i] for i in structure.factors]
            rows += _factors(factors, structure.exponents, x[:, structure.factors], "factor", 0.0)
        correction = _relative(mixture.structure_mean(x) - mixture.log_mean(x))
        rows.append(("residual", math.nan, "1", "residual", correction))
        frame = pd.DataFrame(rows, columns=["term", "coefficient", "unit", "kind", "share"])
        return frame.sort_values("share", ascending=False, kind="stable", ignore_index=True)

    def _mixture_of(self) -> Mixture:
        check_is_fitted(self, "n_cells_")
        return self._mixture

    def _read(self, X: Any) -> Array:  # noqa: N803
        check_is_fitted(self, "n_cells_")
        return logarithms(read_asked(self, X), self._floor)


def _relative(logs: Array) -> float:
    """Mean absolute relative error, for logarithms of measured over predicted."""
    return float(np.abs(np.expm1(np.clip(-logs, -50, 50))).mean())


def _factors(
    names: Sequence[str], exponents: Array, x: Array, kind: str, weight: float
) -> list[tuple[str, float, str, str, float]]:
    size = np.abs(exponents) * x.std(axis=0)
    shares = size / size.sum() if size.sum() > 0 else np.full(len(size), 1 / max(len(size), 1))
    return [
        (f"{name} ** g", float(g), "1", kind, weight * float(share))
        for name, g, share in zip(names, exponents, shares, strict=True)
    ]
