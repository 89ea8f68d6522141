"""What the evaluations share: where the public data lie, the methods that stand beside ours, and tables."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Method = Callable[[Array, Array, Array, "Problem"], Array]

FINAL = 100  # seeds from here on are for the final table only
ENVIRONMENT = "TOOLKIT_PUBLIC_DATA"


class NoData(Exception):
    """The public data are not on this machine."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Which columns mean what: the first is the scale-out, then the sizes, then others.

    Attributes
    ----------
    sizes : int
        How many columns are sizes.
    seed : int
        Seed of methods that draw.
    """

    sizes: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that is to be reached by ours, in percent."""

    text: str
    value: float
    most: float


def public_data(name: str) -> Path:
    """Directory of a public data set: in `TOOLKIT_PUBLIC_DATA`, or ``shared/data`` beside the checkout or above it.

    Raises
    ------
    NoData
        It is in none of these places.
    """
    checkout = Path(__file__).resolve().parents[2]
    given = os.environ.get(ENVIRONMENT)
    above = [folder / "shared" / "data" for folder in checkout.parents[:2]]
    places = [Path(given)] if given else above
    for base in places:
        if any((base / name).glob("*.csv")):
            return base / name
    looked = " or ".join(str(base) for base in places)
    raise NoData(f"no {name}/*.csv in {looked}; set {ENVIRONMENT} to the directory that holds {name}/")


def seeds(count: int, final: bool) -> range:
    """Return the seeds of development, below 100, or those of the final table, from 100 on."""
    return range(FINAL, FINAL + count) if final else range(count)


# --------------------------------------------------------------------------- methods


def ours(x: Array, y: Array, at: Array, problem: Problem) -> Array:
    """`RuntimeRegressor` as it comes."""
    from toolkit.tuning import RuntimeRegressor

    model = RuntimeRegressor(scale=0, size=tuple(range(1, 1 + problem.sizes)), random_state=problem.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about rows that it leaves out
        return np.asarray(model.fit(x, y).predict(at))


def _ernest_terms(x: Array, problem: Problem) -> Array:
    scale = x[:, 0]
    columns = [np.ones(len(x)), 1 / scale, np.log(scale), scale]
    for j in range(1, x.shape[1]):
        columns += [x[:, j], x[:, j] / scale] if j <= problem.sizes else [x[:, j]]
    return np.stack(columns, axis=1)


def ernest(x: Array, y: Array, at: Array, problem: Problem) -> Array:
    """Non-negative least squares over the terms of Ernest (NSDI 2016)."""
    from scipy.optimize import nnls

    design = _ernest_terms(x, problem)
    size = np.sqrt((design**2).mean(axis=0)) + 1e-300
    found, _ = nnls(design / size, y)
    return np.asarray(_ernest_terms(at, problem) @ (found / size))


def boosting(x: Array, y: Array, at: Array, problem: Problem) -> Array:
    """Gradient boosting of logarithms."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(random_state=problem.seed)
    return np.asarray(np.exp(model.fit(np.log(x), np.log(y)).predict(np.log(at))))


def forest(x: Array, y: Array, at: Array, problem: Problem) -> Array:
    """Random forest of logarithms."""
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(random_state=problem.seed)
    return np.asarray(np.exp(model.fit(np.log(x), np.log(y)).predict(np.log(at))))


def interpolation(x: Array, y: Array, at: Array, problem: Problem) -> Array:
    """Straight lines between points on log-log paper; with more features, the nearest measurement."""
    if x.shape[1] == 1:
        places, back = np.unique(x[:, 0], return_inverse=True)
        level = np.bincount(back, weights=np.log(y)) / np.bincount(back)
        return np.asarray(np.exp(np.interp(np.log(at[:, 0]), np.log(places), level)))
    a, b = np.log(x), np.log(at)
    spread = a.std(axis=0) + 1e-12
    nearest = ((((b[:, None, :] - a[None, :, :]) / spread) ** 2).sum(axis=2)).argmin(axis=1)
    return np.asarray(y[nearest])


def _optimistic(x: Array, y: Array, at: Array, problem: Problem) -> Array:
    """Effects of features are independent: a product of powers, quadratic in the scale-out, by least squares."""

    def design(rows: Array) -> Array:
        logs = np.log(rows)
        return np.column_stack([np.ones(len(rows)), logs, logs[:, 0] ** 2])

    found = np.linalg.lstsq(design(x), np.log(y), rcond=None)[0]
    return np.asarray(np.exp(np.clip(design(at) @ found, -50, 50)))


def c3o(x: Array, y: Array, at: Array, problem: Problem) -> Array:
    """In the manner of C3O (IC2E 2021): of Ernest, boosting and the optimistic model, the best in cross-validation."""
    candidates = (ernest, boosting, _optimistic)
    folds = np.random.default_rng(problem.seed).permutation(len(y)) % min(len(y), 5)
    errors = np.zeros(len(candidates))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        for k, method in enumerate(candidates):
            errors[k] += np.abs(method(x[~held], y[~held], x[held], problem) / y[held] - 1).sum()
    return candidates[int(errors.argmin())](x, y, at, problem)


METHODS: dict[str, Method] = {
    "ours": ours,
    "Ernest-style NNLS": ernest,
    "gradient boosting": boosting,
    "random forest": forest,
    "C3O-style": c3o,
    "log-log interpolation": interpolation,
}
SLOW = ("gradient boosting", "random forest", "C3O-style")

# --------------------------------------------------------------------------- running and printing


def command(main: Callable[[bool, bool, int], object], name: str, about: str | None) -> int:
    """Run an evaluation as a command; without its data it says so and is no failure."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.evaluation.{name}", description=about)
    parser.add_argument("--final", action="store_true", help="the seeds of the final table; others are for development")
    parser.add_argument("--short", action="store_true", help="a fraction of the draws")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    try:
        main(options.final, options.short, options.processes)
    except NoData as exc:
        print(f"skipped: {exc}")
    return 0


def in_parallel(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], processes: int) -> list[Any]:
    """Results of the function for each tuple of arguments, in order."""
    if processes == 1:
        return [function(*task) for task in tasks]
    with get_context("spawn").Pool(processes) as pool:
        return pool.starmap(function, list(tasks), chunksize=1)


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
    """Print percentages; what is not a number was not measured."""
    wide = max(len(name) for name in [*rows, title]) + 2
    each = [max(len(c) + 2, 12) for c in columns]
    print(title.ljust(wide) + "".join(c.rjust(w) for c, w in zip(columns, each, strict=True)))
    for name, values in rows.items():
        texts = ["-" if np.isnan(v) else f"{v:.2f}" for v in values]
        print(name.ljust(wide) + "".join(text.rjust(w) for text, w in zip(texts, each, strict=True)))
    print()


def judge(goals: Iterable[Goal]) -> None:
    """Print each goal and whether it is met."""
    for goal in goals:
        met = "met" if goal.value <= goal.most else "MISSED"
        print(f"{goal.text:56s} {goal.value:7.2f} %   goal <= {goal.most:.2f} %   {met}")
    print()
