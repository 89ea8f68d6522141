"""Small samples of both public data sets: mean relative error after 3, 6, 9, 15 and 30 points, beside other methods.

Bell as in its paper's protocol (it has 15 scale-outs a job, so none with 30), Pollux' placements with the rest of the
rows to test on. Ours is to be ahead of Ernest, boosting and C3O at each size.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.evaluation import bell, pollux
from tests.evaluation.common import METHODS, Goal, command, in_parallel, judge, seeds, table

SIZES = (3, 6, 9, 15, 30)
BELL_SIZES = SIZES[:-1]
DRAWS, SHORT_DRAWS = 100, 20  # all methods on the same ones, though some are slow
SEEDS, SHORT_SEEDS = 20, 5
AHEAD_OF = ("Ernest-style NNLS", "gradient boosting", "C3O-style")


def main(final: bool, short: bool, processes: int) -> list[Goal]:
    """Print a table for each data set; returns the goals with what was reached."""
    draws, picked = SHORT_DRAWS if short else DRAWS, seeds(SHORT_SEEDS if short else SEEDS, final)
    print(f"Small samples, seeds {picked[0]}-{picked[-1]}, Bell seed {picked[0]} with {draws} draws a job; percent\n")
    tasks = [(name, n, draws, picked[0], 1) for n in BELL_SIZES for name in bell.jobs()]
    pairs = zip([n for _, n, *_ in tasks], in_parallel(bell.measure, tasks, processes), strict=True)
    goals = judged("Bell", [(n, {m: first for m, (first, _) in found.items()}) for n, found in pairs])
    rows = [(name, n, seed) for n in SIZES for name in pollux.applications() for seed in picked]
    measured = in_parallel(pollux.measure, rows, processes)
    goals += judged("Pollux", list(zip([n for _, n, _ in rows], measured, strict=True)))
    return goals


def judged(title: str, found: list[tuple[int, dict[str, float]]]) -> list[Goal]:
    """Print a row for each size and a column for each method, and whether ours is ahead."""
    means = {n: {m: _mean([e[m] for size, e in found if size == n]) for m in METHODS} for n in SIZES}
    table(title, list(METHODS), {f"{n} points": list(means[n].values()) for n in SIZES})
    goals = []
    for n in SIZES:
        if not np.isnan(means[n]["ours"]):
            best = min(AHEAD_OF, key=lambda m: means[n][m])
            goals.append(Goal(f"{title}, {n} points, ahead of {best}", means[n]["ours"], means[n][best]))
    judge(goals)
    return goals


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


if __name__ == "__main__":
    sys.exit(command(main, "small", __doc__))
