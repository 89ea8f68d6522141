"""How good is the advice where the truth is known? ``python -m tests.evaluation.simulator`` prints the tables.

Twenty workloads, each with histories of five runs at a quarter of the size. Seeds are fixed: the odd ones are for
development (``--seeds odd``, or some of them: ``--seeds 1,3,5``), the even ones, the default, for the final table. Each
part is measured alone with ``--parts``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any

import numpy as np

from tests.evaluation import simulator_measures as measures
from tests.evaluation.simulator_cases import CASES, SEEDS, Truth
from tests.evaluation.simulator_spoiled import SPOILED, bad_rows

RULES = ("N/(4w)", "joblib", "fixed 1,000", "Kruskal-Weiss", "guided", "factoring", "trapezoid")
SHORT = ("cpu, tiny items", "fixed overhead", "lognormal 1.5", "few items")

Found = dict[str, Any]
"""What was measured of one workload, by part."""


def measure(name: str, seeds: Sequence[int], parts: Sequence[str]) -> Found:
    """The `parts` of one workload."""
    case = next(case for case in CASES if case.name == name)
    truth = Truth(case)
    grid = truth.search()
    best = min(grid.values())
    measured: dict[str, Callable[[], Any]] = {
        "regret": lambda: measures.regrets(case, seeds, truth, grid),
        "deadline": lambda: measures.deadlines(case, seeds, truth, grid),
        "error": lambda: measures.held_out(case, seeds),
        "probing": lambda: measures.no_history(case, seeds, grid),
        "tapered": lambda: measures.tapering(case, truth, grid, seeds)["tapered"],
        "bad": lambda: bad_rows(case, seeds, truth, best),
    }
    return {"name": name, "uneven": case.uneven, **{part: measured[part]() for part in parts if part in measured}}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns 0, whatever is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.evaluation.simulator", description=__doc__)
    parser.add_argument("--short", action="store_true", help="four workloads, two seeds")
    parser.add_argument("--seeds", default="even", help="odd, even, all, or numbers such as 1,3,5")
    parser.add_argument("--parts", default=",".join(TABLES), help="which of %(default)s")
    parser.add_argument("--only", default="", help="only workloads with this in their name")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(argv)
    parts = options.parts.split(",")
    unknown = sorted(set(parts) - set(TABLES))
    if unknown:
        parser.error(f"--parts {','.join(unknown)}: expected some of {', '.join(TABLES)}")
    names = list(SHORT) if options.short else [case.name for case in CASES if options.only in case.name]
    named = {"odd": SEEDS[1::2], "even": SEEDS[::2], "all": SEEDS}
    picked = named.get(options.seeds) or tuple(int(seed) for seed in options.seeds.split(","))
    picked = picked[:2] if options.short else picked
    results: list[Found] = []
    if set(parts) - {"memory", "speed"}:
        with get_context("spawn").Pool(options.processes) as pool:
            results = pool.starmap(measure, [(name, picked, parts) for name in names], chunksize=1)
        print(f"{len(names)} workloads, seeds {', '.join(str(seed) for seed in picked)}, truth of 64 seeds")
    for part in parts:
        print()
        TABLES[part](results, options.short)
    return 0


def goal(text: str, value: float, most: float, least: float | None = None, unit: str = "%") -> None:
    """One line: what was measured, the goal, and whether it is met."""
    met = value <= most and (least is None or value >= least)

    def shown(number: float) -> str:
        return f"{number:.1%}" if unit == "%" else f"{number:,.3g} {unit}"

    bound = f"<= {shown(most)}" if least is None else f"{shown(least)} to {shown(most)}"
    print(f"{text:60s} {shown(value):>9s}   goal {bound:18s} {'met' if met else 'MISSED'}")


def pooled(results: list[Found], table: str, column: str) -> np.ndarray:
    """A column of all workloads."""
    return np.concatenate([np.asarray(found[table][column], dtype=float) for found in results])


def row(name: str, values: Sequence[float], width: int = 9) -> None:
    """One line of a table of shares."""
    print(f"{name:20s} " + " ".join(f"{value:{width}.1%}" for value in values))


def head(title: str, names: Sequence[str], width: int = 9) -> None:
    """The heading of such a table."""
    print(f"{title:20s} " + " ".join(f"{name[:width]:>{width}s}" for name in names))


# --------------------------------------------------------------------------- one table a part


def show_regret(results: list[Found], _short: bool) -> None:
    """Regret, intervals, and the rules of thumb beside ours."""
    head("regret", ("mean", "max", "cost", "refused", "covered", "width", *RULES))
    worse = []
    for found in results:
        r = found["regret"]
        cells = [np.mean(r["ours"]), np.max(r["ours"]), np.mean(r["cost"]), np.mean(r["refused"])]
        row(found["name"], [*cells, _mean(r["inside"]), _mean(r["width"]), *(r[rule][0] for rule in RULES)])
        worse.append((1 + max(r["ours"])) / (1 + r["N/(4w)"][0]) - 1)
    ours = pooled(results, "regret", "ours")
    goal("regret, median", float(np.median(ours)), 0.01)
    goal("regret, mean", float(ours.mean()), 0.03)
    goal("regret, P95", float(np.quantile(ours, 0.95)), 0.10)
    goal("regret, max", float(ours.max()), 0.20)
    goal(f"worse than N/(4w), max (> 1 % in {sum(w > 0.01 for w in worse)} workloads)", max(worse), 0.01)
    goal("cost objective, mean regret", float(pooled(results, "regret", "cost").mean()), 0.03)
    goal("coverage of 90 % intervals", float(pooled(results, "regret", "inside").mean()), 0.94, 0.88)
    lowest = min((_mean(f["regret"]["inside"]) for f in results if f["regret"]["inside"]), default=1.0)
    goal("coverage, lowest workload", lowest, 1.0, 0.85)
    goal("width, median", float(np.median(pooled(results, "regret", "width"))), 0.25)


def show_deadline(results: list[Found], _short: bool) -> None:
    """Deadlines: feasible ones met and at which cost, infeasible ones said so."""
    names = ("met", "cost ratio", "said")
    head("deadlines", names, 10)
    for found in results:
        row(found["name"], [_mean(found["deadline"][name]) for name in names], 10)
    goal("deadlines met where feasible", float(pooled(results, "deadline", "met").mean()), 1.0, 0.95)
    goal("their cost over the oracle's, mean excess", float(pooled(results, "deadline", "cost ratio").mean()) - 1, 0.10)
    goal("infeasible deadlines said so", float(pooled(results, "deadline", "said").mean()), 1.0, 0.99)


def show_error(results: list[Found], _short: bool) -> None:
    """Errors of predicted makespans on settings that were not measured."""
    most = {"inside": 0.04, "10 N": 0.06, "4 x workers": 0.10}
    head("makespan error", tuple(most), 11)
    for found in results:
        row(found["name"], [_mean(found["error"][name]) for name in most], 11)
    for name, bound in most.items():
        values = pooled(results, "error", name)
        goal(f"makespan error, {name}, mean (median {np.median(values):.1%})", float(values.mean()), bound)


def show_probing(results: list[Found], _short: bool) -> None:
    """No history at all: regret of a run that finds its batch size by itself, and what exploring cost."""
    head("no history", ("mean", "max", "exploring"))
    for found in results:
        took = found["probing"]
        row(found["name"], [_mean(took["probing"]), max(took["probing"]), _mean(took["explored"])])
    probing = pooled(results, "probing", "probing")
    goal("no history, mean regret", float(probing.mean()), 0.08)
    goal("no history, P95", float(np.quantile(probing, 0.95)), 0.20)
    most = max(_mean(found["probing"]["explored"]) for found in results)
    goal("exploring, share of the workers' time, highest workload", most, 0.10)


def show_tapered(results: list[Found], _short: bool) -> None:
    """Tapered batches against the best static setting; below 0 is faster."""
    head("tapered", ("mean", "max"))
    for found in results:
        row(found["name"] + (" *" if found["uneven"] else ""), [_mean(found["tapered"]), max(found["tapered"])])
    uneven = [_mean(found["tapered"]) for found in results if found["uneven"]]
    other = [_mean(found["tapered"]) for found in results if not found["uneven"]]
    goal("tapered, uneven work (*), worst mean over best static", max(uneven, default=-1.0), -0.05)
    goal("tapered, other work, worst mean over best static", max(other, default=0.0), 0.01)


def show_bad(results: list[Found], _short: bool) -> None:
    """Bad rows: what they add to the regret, and whether they were flagged."""
    for name in SPOILED:
        worse = np.concatenate([found["bad"][name][0] for found in results])
        flagged = float(np.mean([found["bad"][name][1] for found in results]))
        goal(f"{name}: regret worsens, mean (max {worse.max():.0%})", float(worse.mean()), 0.05)
        goal(f"{name}: flagged", flagged, 1.0, 1.0)


def show_memory(_results: list[Found], short: bool) -> None:
    """Memory limits that a fresh process breaks."""
    draws = 1_000 if short else 10_000
    goal(f"memory limits broken, of {draws:,}", measures.memory_violations(draws), 0.01)


def show_speed(_results: list[Found], _short: bool) -> None:
    """How long fitting and asking take."""
    rows, fitted, asked = measures.speed()
    goal(f"fit of {rows:,} rows", fitted, 1.0, unit="s")
    goal("then a recommendation", asked, 0.1, unit="s")


TABLES: dict[str, Callable[[list[Found], bool], None]] = {
    "regret": show_regret,
    "deadline": show_deadline,
    "error": show_error,
    "probing": show_probing,
    "tapered": show_tapered,
    "bad": show_bad,
    "memory": show_memory,
    "speed": show_speed,
}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


if __name__ == "__main__":
    sys.exit(main())
