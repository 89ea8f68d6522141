"""The dumb baseline that stands beside the model: what a setting's runs did per second, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolkit.tuning.history import Array, RunSummary

_SAME = 0.2  # settings closer than this in log size and log workers count as the same


def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """How far two settings (batch size, workers) are apart, in logarithms; worker counts weigh twice."""
    return abs(math.log(a[0] / b[0])) + 2 * abs(math.log(a[1] / b[1]))


def throughput(runs: Sequence[RunSummary], setting: tuple[float, float]) -> float:
    """Items per second that the baseline expects of a setting: the median of its runs, else of the nearest setting's.

    Raises
    ------
    ValueError
        There are no runs.
    """
    if not runs:
        raise ValueError("no runs")
    apart = [distance(setting, (run.batch_size, run.workers)) for run in runs]
    nearest = max(min(apart), _SAME)
    rates = sorted(run.rate for run, d in zip(runs, apart, strict=True) if d <= nearest)
    middle = len(rates) // 2
    return rates[middle] if len(rates) % 2 else (rates[middle - 1] + rates[middle]) / 2


def baseline_errors(runs: Sequence[RunSummary]) -> list[float]:
    """For each run the logarithm of measured over expected makespan, expected from the other runs."""
    errors = []
    for i, run in enumerate(runs):
        others = [*runs[:i], *runs[i + 1 :]]
        expected = run.items / throughput(others, (run.batch_size, run.workers)) if others else math.nan
        errors.append(math.log(run.makespan_s / expected) if others else math.nan)
    return errors


def best_measured(runs: Sequence[RunSummary], most_workers: int, cost: bool = False) -> RunSummary | None:
    """The run whose setting had the highest throughput (per worker, if `cost`), within a limit of workers."""
    allowed = [run for run in runs if run.workers <= most_workers]

    def value(run: RunSummary) -> float:
        rate = throughput(runs, (run.batch_size, run.workers))
        return rate / run.workers if cost else rate

    return max(allowed, key=value, default=None)


def common_heuristic(n_items: int, workers: int) -> int:
    """Batch size of the rule of thumb ``N / (4 w)``, as in ``multiprocessing.Pool.map`` of the standard library."""
    return max(1, -(-n_items // (4 * workers)))


def mean_absolute(errors: Array | Sequence[float]) -> float:
    """Mean absolute relative error of logarithmic errors, NaN without any."""
    known = [abs(math.expm1(abs(float(e)))) for e in errors if math.isfinite(e)]
    return sum(known) / len(known) if known else math.nan
