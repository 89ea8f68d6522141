"""Pollux' placement measurements: step time of six applications by batch size, replicas and nodes.

Train on n random rows of an application, or on 90 % of them, and test on the rest; mean absolute percentage error,
over applications and seeds. A placement is written as digits, one a node, each the replicas on it.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pandas as pd

from tests.evaluation.common import (
    METHODS,
    Array,
    Goal,
    Problem,
    command,
    in_parallel,
    judge,
    public_data,
    seeds,
    table,
)

SIZES: dict[str, int | None] = {"90/10": None, "16 points": 16, "32 points": 32}
GOALS = {"90/10": 4.3, "16 points": 9.0, "32 points": 7.0}
SEEDS, SHORT_SEEDS = 20, 5


@cache
def applications() -> dict[str, tuple[Array, Array]]:
    """Features (replicas, batch size of a replica, nodes) and step times in seconds of each application."""
    out = {}
    for path in sorted(public_data("pollux").glob("*_placements.csv")):
        frame = pd.read_csv(path, dtype={"placement": str})
        replicas = frame["placement"].map(lambda digits: sum(int(d) for d in digits))
        nodes = frame["placement"].str.len()
        features = np.column_stack([replicas, frame["local_bsz"], nodes]).astype(float)
        out[path.stem.removesuffix("_placements")] = (features, frame["step_time"].to_numpy(dtype=float))
    return out


def measure(name: str, size: int | None, seed: int) -> dict[str, float]:
    """Mean absolute percentage error of each method on one application."""
    x, y = applications()[name]
    order = np.random.default_rng([seed, size or 0, sorted(applications()).index(name)]).permutation(len(y))
    train, test = np.split(order, [size or round(0.9 * len(y))])
    problem = Problem(sizes=1, seed=seed)
    return {
        method: 100 * float(np.abs(function(x[train], y[train], x[test], problem) / y[test] - 1).mean())
        for method, function in METHODS.items()
    }


def main(final: bool, short: bool, processes: int) -> list[Goal]:
    """Print the tables; returns the goals with what was reached."""
    picked = seeds(SHORT_SEEDS if short else SEEDS, final)
    tasks = [(name, size, seed) for size in SIZES.values() for name in applications() for seed in picked]
    found = dict(zip(tasks, in_parallel(measure, tasks, processes), strict=True))
    print(f"Pollux placements, step time, seeds {picked[0]}-{picked[-1]}; percent\n")

    def mean(method: str, size: int | None, names: list[str]) -> float:
        return float(np.mean([found[name, size, seed][method] for name in names for seed in picked]))

    names = list(applications())
    rows = {method: [mean(method, size, names) for size in SIZES.values()] for method in METHODS}
    table("mean over applications", list(SIZES), rows)
    table("ours, by application", list(SIZES), {a: [mean("ours", s, [a]) for s in SIZES.values()] for a in names})
    goals = [Goal(f"Pollux, {n}", v, GOALS[n]) for n, v in zip(SIZES, rows["ours"], strict=True)]
    judge(goals)
    return goals


if __name__ == "__main__":
    sys.exit(command(main, "pollux", __doc__))
