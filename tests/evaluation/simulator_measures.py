"""What is measured of one workload: each function takes a case and seeds, and returns plain numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from tests.evaluation.simulator_cases import (
    Case,
    Truth,
    factoring,
    guided,
    history,
    joblib_size,
    kruskal_weiss,
    quarter,
    trapezoid,
)
from tests.evaluation.simulator_online import Automatic
from toolkit.tuning import Recommender, simulate_makespans, simulate_runs
from toolkit.tuning.memory import fit_memory
from toolkit.tuning.simulate import Luck, Workload

Numbers = dict[str, list[float]]
_TAPERED = 8  # seeds of the truth under which a tapered run is played, one event after the other


def setting(advice: Any) -> tuple[int, int]:
    """What would be run: the advice, also where it refuses (then what it says to run meanwhile)."""
    return max(1, advice.batch_size), max(1, advice.workers)


def regrets(case: Case, seeds: Sequence[int], truth: Truth, grid: dict[tuple[int, int], float]) -> Numbers:
    """Regret of ours and of the rules of thumb, relative to the oracle."""
    best = min(grid.values())
    fixed: Numbers = {"ours": [], "refused": [], "cost": [], "inside": [], "width": []}
    out: Numbers = {**fixed, "N/(4w)": [truth.mean(quarter(case), case.most) / best - 1]}
    out["joblib"] = [truth.mean(joblib_size(case), case.most) / best - 1]
    out["fixed 1,000"] = [truth.mean(1000, case.most) / best - 1]
    out["Kruskal-Weiss"] = [truth.mean(kruskal_weiss(case), case.most) / best - 1]
    for name, rule in (("guided", guided), ("factoring", factoring), ("trapezoid", trapezoid)):
        out[name] = [truth.sequence(rule(case), case.most) / best - 1]
    cheapest = min(w * seconds for (_, w), seconds in grid.items())
    for seed in seeds:
        model = Recommender().fit(history(case, seed))
        advice = model.recommend(n_items=case.n_items, max_workers=case.most)
        out["refused"].append(float(advice.refused is not None))
        chosen = setting(advice)
        out["ours"].append(truth.mean(*chosen) / best - 1)
        cheap = setting(model.recommend(n_items=case.n_items, max_workers=case.most, objective="cost"))
        out["cost"].append(cheap[1] * truth.mean(*cheap) / cheapest - 1)
        if advice.refused is None:
            low, high = advice.intervals["makespan_s"]
            took = truth.makespans(*chosen)
            out["inside"].append(float(((low <= took) & (took <= high)).mean()))
            out["width"].append((high - low) / advice.makespan_s)
    return out


def deadlines(case: Case, seeds: Sequence[int], truth: Truth, grid: dict[tuple[int, int], float]) -> Numbers:
    """Feasible deadlines (1.3 and 2 times the fastest) met at which cost; infeasible ones (half of it) said so."""
    best = min(grid.values())
    out: Numbers = {"met": [], "cost ratio": [], "said": []}
    for seed in seeds:
        model = Recommender().fit(history(case, seed))
        for slack in (1.3, 2.0):
            ask: dict[str, Any] = {
                "n_items": case.n_items,
                "max_workers": case.most,
                "objective": "cost",
                "deadline_s": slack * best,
            }
            size, workers = setting(model.recommend(**ask))
            out["met"].append(float((truth.makespans(size, workers) <= slack * best).mean()))
            cost = min(w * s for (_, w), s in grid.items() if s <= slack * best)
            out["cost ratio"].append(workers * truth.mean(size, workers) / cost)
        advice = model.recommend(n_items=case.n_items, max_workers=case.most, deadline_s=0.5 * best)
        told = advice.refused is not None or any("no setting is sure" in reason for reason in advice.reasons)
        out["said"].append(float(told))
    return out


def held_out(case: Case, seeds: Sequence[int]) -> Numbers:
    """Relative errors of predicted makespans: inside the measured settings, at ten times N, at four times the workers."""  # noqa: E501 - a table
    out: Numbers = {"inside": [], "10 N": [], "4 x workers": []}
    work = replace(case.work, warm_s=0.0)
    for seed in seeds:
        frame = history(case, seed)
        model = Recommender().fit(frame)
        rng = np.random.default_rng([seed, 5])
        low, high = frame["batch_size"].min(), frame["batch_size"].max()
        size = round(float(np.exp(rng.uniform(math.log(low), math.log(high)))))
        workers = int(rng.choice(sorted(frame["max_workers"].unique())))
        n = case.n_items // 4
        large = max(size, 10 * n // 1_500)
        for name, asked in (("inside", (n, size, workers)), ("10 N", (10 * n, min(large, int(high)), workers))):
            out[name].append(_error(model, work, *asked))
        few = frame[frame["max_workers"] <= max(1, case.most // 4) * 2]
        if case.most >= 4 and few["run_id"].nunique() >= 1 and few["max_workers"].max() * 2 <= case.most:
            settings = [(round(b), max(1, case.most // 4)) for b in np.geomspace(low, high, 4)]
            small = Recommender().fit(simulate_runs(case.work, n, settings, seed=20_000 + seed, warm=False))
            out["4 x workers"].append(_error(small, work, n, size, 4 * max(1, case.most // 4)))
    return out


def _error(model: Recommender, work: Workload, n_items: int, size: int, workers: int) -> float:
    asked = pd.DataFrame({"n_items": [n_items], "batch_size": [size], "workers": [workers]})
    true = simulate_makespans(work, n_items, [(min(size, n_items), workers)], seeds=range(7_000, 7_016)).mean()
    return abs(float(model.predict(asked)[0]) / float(true) - 1)


def no_history(case: Case, seeds: Sequence[int], grid: dict[tuple[int, int], float]) -> Numbers:
    """An automatic run of a task that was never run, against the best static setting under the same luck.

    And the share of its workers' time that exploring cost.
    """
    work, best = replace(case.work, warm_s=0.0), min(grid, key=grid.__getitem__)
    out: Numbers = {"probing": [], "explored": []}
    for seed in seeds:
        took, explored = Automatic(Luck(work, case.n_items, [9_000 + seed]), case.most).played()
        static = simulate_makespans(work, case.n_items, [best], seeds=[9_000 + seed])[0, 0]
        out["probing"].append(took / float(static) - 1)
        out["explored"].append(explored)
    return out


def tapering(case: Case, truth: Truth, grid: dict[tuple[int, int], float], seeds: Sequence[int]) -> Numbers:
    """What ``**advice.kwargs()`` runs, batches tapered by the ledger where it says so, against the best static setting.

    The workers of a tapered run learn what to taper to as in the product; both see the same luck.
    """
    best, few = min(grid, key=grid.__getitem__), truth.seeds[:_TAPERED]
    static = float(truth.makespans(*best)[:_TAPERED].mean())
    out: Numbers = {"tapered": []}
    for seed in seeds[:3]:
        advice = Recommender().fit(history(case, seed)).recommend(n_items=case.n_items, max_workers=case.most)
        size, workers = setting(advice)
        if advice.taper:
            lucks = [Luck(truth.work, case.n_items, [one]) for one in few]
            took = np.array([Automatic(luck, workers, int(advice.taper)).makespan_s() for luck in lucks])
        else:
            took = truth.makespans(size, workers)[:_TAPERED]
        out["tapered"].append(float(took.mean()) / static - 1)
    return out


# --------------------------------------------------------------------------- memory, speed


def memory_violations(draws: int) -> float:
    """Share of limits that a fresh process breaks with the largest batch that was said to fit."""
    rng = np.random.default_rng(42)
    broken = 0
    for _ in range(draws):
        n, sd = int(rng.integers(6, 60)), float(rng.choice([0.0, 0.02, 0.05]))
        sizes = np.exp(rng.uniform(0, math.log(500), n))
        base, slope = 60e6, float(rng.choice([1e4, 1e5, 1e6]))
        found = fit_memory(tuple(zip(sizes, (base + slope * sizes) * np.exp(sd * rng.standard_normal(n)), strict=True)))
        assert found is not None
        limit = base + slope * float(rng.uniform(20, 400))
        trial = np.arange(1.0, 501.0)
        fits = trial[found.upper_bytes(trial) <= limit]
        if len(fits):
            broken += bool((base + slope * fits[-1]) * math.exp(sd * rng.standard_normal()) > limit)
    return broken / draws


def speed() -> tuple[int, float, float]:
    """Rows, seconds of a fit, seconds of a recommendation."""
    frame = simulate_runs(Workload(item_sigma=0.5, cores=4), 20_000, [(10, 4), (20, 2), (40, 4), (10, 1), (200, 4)])
    begun = time.perf_counter()
    model = Recommender().fit(frame)
    fitted = time.perf_counter()
    model.recommend(n_items=50_000)
    return len(frame), fitted - begun, time.perf_counter() - fitted
