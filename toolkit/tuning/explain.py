"""Why and how sure, in sentences; and which run would teach most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.records import percent
from toolkit.tuning.learning import disturbance
from toolkit.tuning.model import TaskModel
from toolkit.tuning.recommendation import seconds
from toolkit.tuning.rivals import gap_s

if TYPE_CHECKING:
    from toolkit.tuning.grids import Grid

_UNUSABLE = 0.4  # mean relative error on left-out runs beyond which the model is not used
_LOSES = 1.25  # how much worse than the baseline it may be, beside a percentage point
_GOOD = 0.05  # mean relative error that is good enough, whatever the baseline does
_WORTH = 0.01  # expected gain below which no experiment is worth a run
_NOTABLE = 0.05
_FEW_RUNS = 4  # from this many left-out runs the comparison with the baseline counts


def refusal(model: TaskModel) -> str | None:
    """Why the data support no recommendation; None when they do."""
    checks, backtest = model.checks, model.backtest
    if not checks.size_known:
        size = max(run.batch_size for run in model.history.runs)
        return (
            f"all batches had about the same size ({size:,} items), so the cost of a batch and the cost of an item "
            "cannot be told apart."
        )
    if checks.tied:
        return (
            "batch size and worker count were always changed together, so it cannot be told which of them made the "
            "difference."
        )
    known = np.isfinite(backtest.model).sum() >= _FEW_RUNS
    # The middle error, since a single run that had bad luck says little of the next one.
    if known and min(float(np.nanmedian(np.abs(np.expm1(e)))) for e in (backtest.model, backtest.baseline)) > _UNUSABLE:
        return (
            f"on left-out runs the model is off by {percent(backtest.model_error)} on average, and the plain "
            f"throughput of earlier runs by {percent(backtest.baseline_error)}: these runs are too unlike each other."
        )
    return None


def loses(model: TaskModel) -> bool:
    """Whether plain throughput predicts left-out runs clearly better: then only measured settings are compared."""
    ours, dumb = model.backtest.model_error, model.backtest.baseline_error
    enough = np.isfinite(model.backtest.model).sum() >= _FEW_RUNS
    return bool(enough and ours > max(_LOSES * dumb + 0.01, _GOOD))


def binds(
    model: TaskModel, n_items: int, setting: tuple[int, int], makespan_s: float, remarks: list[str]
) -> tuple[str, ...]:
    """What keeps the run from being faster, each with a share of its time above `_NOTABLE`, the largest first."""
    size, workers = np.array([float(setting[0])]), np.array([float(min(setting[1], -(-n_items // setting[0])))])
    one = np.ones(1)
    busy = float(model.costs.service_s(size, workers)[0, 0])
    alone = float(model.costs.service_s(size, one)[0, 0])
    factor = model.costs.contention(workers)[0]
    gap = float(gap_s(model.gap, size, workers, factor)[0])
    fixed = float(model.costs.base[0, 0] * factor[0]) if model.costs.kind != "serial" else 0.0
    cycle = busy + gap
    load_s = (
        n_items
        / setting[0]
        * cycle
        / workers[0]
        * math.exp(model.effects.shift(model.points(*(np.array([v], dtype=np.int64) for v in (n_items, *setting))))[0])
    )
    shares = {
        "overhead": (fixed + gap) / cycle,
        "shared resource" if model.costs.kind == "serial" else "contention": (busy - alone) / cycle,
        "tail": 1.0 - load_s / makespan_s,
    }
    found = [name for name, share in sorted(shares.items(), key=lambda one: -one[1]) if share > _NOTABLE]
    found += [name for name in ("memory", "deadline") if any(f"{name} binds" in remark for remark in remarks)]
    return tuple(found)


def why(model: TaskModel, n_items: int, batch_size: int, workers: int) -> list[str]:
    """What makes the setting good."""
    per_batch, per_item = model.costs.base[0, :2].tolist()
    factor = float(model.costs.contention(np.array([float(workers)]))[0, 0])
    gap = float(gap_s(model.gap, np.array(float(batch_size)), np.array(float(workers)), np.array(factor)))
    busy = float(model.costs.service_s(np.array([float(batch_size)]), np.array([float(workers)]))[0, 0])
    fixed = per_batch * busy / max(per_batch + per_item * batch_size, 1e-12) + gap
    costs = f"a batch costs {seconds(per_batch)} and an item {seconds(per_item)}, with {seconds(gap)} between batches"
    lines = [f"{costs}: at {batch_size:,} items {percent(fixed / (busy + gap))} of the time is not spent on items"]
    if model.checks.workers_known:
        if workers > 1:
            lines.append(f"{workers} workers do the work of {workers / factor:.1f}")
        rest = [w for w in model.checks.workers if w > workers]
        if rest:
            more = float(model.costs.contention(np.array([float(rest[0])]))[0, 0])
            lines.append(f"{rest[0]} workers do the work of {rest[0] / more:.1f}")
    else:
        lines.append(f"only {model.checks.workers[0]} at a time was measured, so other worker counts are not judged")
    batches = math.ceil(n_items / batch_size)
    if workers > 1 and batches % workers == 0 and batches <= 8 * workers:
        lines.append(f"{batches:,} batches: {batches // workers} for each worker, so all end together")
    return lines


def how_sure(model: TaskModel) -> list[str]:
    """How well left-out runs were predicted, and what was left out of the data."""
    lines = []
    backtest = model.backtest
    known = int(np.isfinite(backtest.model).sum())
    if known:
        lines.append(
            f"each of {known} runs predicted from the others: off by {percent(backtest.model_error)} on average, "
            f"plain throughput by {percent(backtest.baseline_error)}"
        )
    else:
        lines.append(f"{_count(len(model.history.runs), 'run')} only: no prediction could be checked on a left-out run")
    if loses(model):
        lines.append("plain throughput does better here, so measured settings are compared by it, and no others")
    disturbed = int((disturbance(model.history.runs) > 0).sum())
    if disturbed:
        lines.append(
            f"{_count(disturbed, 'run')} had less of the processors than others of their kind: they count less"
        )
    if model.effects.drift_sd > _NOTABLE:
        drift = percent(model.effects.drift_sd)
        lines.append(f"the machine drifts by about {drift} from run to run; later runs count more")
    dropped = ", ".join(f"{count:,} {name}" for name, count in model.history.dropped.items() if count)
    if dropped:
        lines.append(f"rows left out: {dropped}")
    hosts = sum(1 for host in model.history.hosts if host)
    if hosts > 1 and not model.hosts.differ:
        lines.append(f"{hosts} hosts are equally fast")
    for name, factor in zip(model.hosts.names, model.hosts.slowdown.tolist(), strict=True):
        if factor != 1.0:
            lines.append(f"host {name} takes {factor:.2g} times as long for a batch as the usual one")
    return lines


def errors(model: TaskModel) -> dict[str, Any]:
    """Errors on left-out runs, None where none could be left out."""
    pair = {"model error": model.backtest.model_error, "throughput error": model.backtest.baseline_error}
    return {name: None if math.isnan(value) else percent(value) for name, value in pair.items()}


def evidence(model: TaskModel) -> dict[str, Any]:
    """What the model rests on."""
    history, checks = model.history, model.checks
    low, high = checks.sizes
    return {
        "runs": len(history.runs),
        "batches": sum(run.batches for run in history.runs),
        "items": sum(run.items for run in history.runs),
        "batch_sizes": f"{low:,.0f} to {high:,.0f}",
        "workers": list(checks.workers),
        "settings": len(checks.settings),
        "hosts": max(1, sum(1 for host in history.hosts if host)),
        "contention": model.costs.kind,
        "per_batch_s": float(model.costs.base[0, 0]),
        "per_item_s": float(model.costs.base[0, 1]),
        "per_batch_interval": [seconds(bound) for bound in checks.per_batch_s],
        "per_item_interval": [seconds(bound) for bound in checks.per_item_s],
        "equal_runs_differ_by": percent(model.effects.noise_sd),
    }


# --------------------------------------------------------------------------- experiments


def experiment_for_refusal(model: TaskModel, n_items: int, limit: int) -> str:
    """Which run would lift a refusal."""
    checks = model.checks
    size = max(run.batch_size for run in model.history.runs)
    workers = max(run.workers for run in model.history.runs)
    if not checks.size_known:
        other = size * 8 if size * 8 * workers <= n_items else max(1, size // 8)
        if other != size:
            return f"run it with batch_size={other} and max_workers={workers}."
    if checks.tied:
        smallest = min(run.batch_size for run in model.history.runs)
        with_most = {run.batch_size for run in model.history.runs if run.workers == workers}
        return f"run it with batch_size={smallest if smallest not in with_most else size} and max_workers={workers}."
    if limit < min(checks.workers) or (not checks.workers_known and limit > workers):
        return f"run it with batch_size={size} and max_workers={limit}."
    return "repeat a setting that was measured, so that the difference between equal runs is known."


def experiment(model: TaskModel, grid: Grid, chosen: int) -> str:
    """The run with the largest expected improvement (Jones, Schonlau and Welch, J. Global Optimization 13, 1998)."""
    checks = model.checks
    if not checks.workers_known:
        other = checks.workers[0] * 2 if grid.workers.max() >= checks.workers[0] * 2 else max(1, checks.workers[0] // 2)
        if other != checks.workers[0]:
            return (
                f"batch_size={int(grid.batch_size[chosen])}, max_workers={other}: only one worker count was measured."
            )
    gain = np.maximum(0.0, 1.0 - grid.draws_s / grid.draws_s[:, [chosen]]).mean(axis=0)
    gain = np.where(grid.measured, 0.0, gain)
    best = int(np.argmax(gain))
    if gain[best] < _WORTH:
        return ""
    size, workers = int(grid.batch_size[best]), int(grid.workers[best])
    return f"batch_size={size}, max_workers={workers}: it may be up to {percent(_most(grid, best, chosen))} faster."


def _most(grid: Grid, other: int, chosen: int) -> float:
    return float(max(0.0, np.quantile(1.0 - grid.draws_s[:, other] / grid.draws_s[:, chosen], 0.95)))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
