"""Bell's measurements: six jobs at fifteen scale-outs, seven repeats each; mean relative error after n of them.

For each job the fastest and the slowest repeat of each scale-out are dropped. A draw takes n distinct scale-outs with
one of the remaining repeats each, and is tested on a random repeat of a random scale-out within their range: a
measurement that may have been trained on. Beside it stands the stricter protocol that never tests on such a one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from tests.evaluation.common import (
    METHODS,
    SLOW,
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

SIZES = (3, 5, 9, 15)
GOALS = {3: 5.0, 5: 3.9, 9: 3.3, 15: 2.4}
STRICT_GOAL = 2.8
DRAWS, SHORT_DRAWS, SLOW_SHARE = 2_000, 200, 20
Job = dict[float, Array]


@cache
def jobs() -> dict[str, Job]:
    """Each job's repeats in seconds by scale-out, without the fastest and the slowest."""
    out: dict[str, Job] = {}
    for path in sorted(public_data("bell").glob("*.csv")):
        frame = pd.read_csv(path)
        nodes, runtime = frame["Nodes"].to_numpy(dtype=float), frame["Runtime"].to_numpy(dtype=float) / 1e3
        out[path.stem] = {n: np.sort(runtime[nodes == n])[1:-1] for n in np.unique(nodes)}
    return out


def draw(job: Job, n: int, rng: np.random.Generator) -> tuple[Array, Array, float, float, float]:
    """Scale-outs and runtimes to train on, a scale-out to test, its runtime, and one that was not trained on."""
    known = np.array(sorted(job))
    train = rng.choice(known, min(n, len(known)), replace=False)
    repeats = [int(rng.integers(len(job[s]))) for s in train]
    inside = known[(known >= train.min()) & (known <= train.max())]
    at = float(rng.choice(inside))
    tested = other = int(rng.integers(len(job[at])))
    taken = dict(zip(train.tolist(), repeats, strict=True)).get(at)
    if tested == taken:
        other = int(rng.choice([i for i in range(len(job[at])) if i != taken]))
    runtimes = np.array([job[s][i] for s, i in zip(train, repeats, strict=True)])
    return train[:, None], runtimes, at, float(job[at][tested]), float(job[at][other])


def measure(name: str, n: int, draws: int, seed: int, slow_share: int = SLOW_SHARE) -> dict[str, tuple[float, float]]:
    """Mean relative errors of each method on one job, in percent: the paper's protocol, the stricter one.

    Slow methods see the first of the draws only, one of so many; with a share of 1 all methods see the same.
    """
    job = jobs()[name]
    rng = np.random.default_rng([seed, n, sorted(jobs()).index(name)])
    errors: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for i in range(draws):
        x, y, at, tested, other = draw(job, n, rng)
        for method, function in METHODS.items():
            if method not in SLOW or i < max(draws // slow_share, 10):
                found = float(function(x, y, np.array([[at]]), Problem(seed=seed))[0])
                errors[method].append((abs(found / tested - 1), abs(found / other - 1)))
    return {method: tuple(100 * np.mean(pairs, axis=0)) for method, pairs in errors.items()}


def main(final: bool, short: bool, processes: int) -> list[Goal]:
    """Print the tables; returns the goals with what was reached."""
    seed, draws = seeds(1, final)[0], SHORT_DRAWS if short else DRAWS
    tasks = [(name, n, draws, seed) for n in SIZES for name in jobs()]
    found = dict(zip([task[:2] for task in tasks], in_parallel(measure, tasks, processes), strict=True))
    columns = [f"n = {n}" for n in SIZES]
    print(f"Bell, seed {seed}, {draws} draws a job (tree methods: {max(draws // SLOW_SHARE, 10)}); percent\n")
    reached: dict[tuple[int, str], list[float]] = {}
    for which, title in enumerate(("the paper's protocol", "never trained on")):
        for method in METHODS:
            reached[which, method] = [_mean([found[name, n][method][which] for name in jobs()]) for n in SIZES]
        table(title, columns, {method: reached[which, method] for method in METHODS})
    table("ours, by job", columns, {name: [found[name, n]["ours"][0] for n in SIZES] for name in jobs()})
    goals = [Goal(f"Bell, n = {n}", v, GOALS[n]) for n, v in zip(SIZES, reached[0, "ours"], strict=True)]
    goals.append(Goal("Bell, n = 15, never trained on", reached[1, "ours"][-1], STRICT_GOAL))
    judge(goals)
    return goals


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    sys.exit(command(main, "bell", __doc__))
