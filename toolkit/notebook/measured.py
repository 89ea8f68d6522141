"""What was measured, condensed: from a metrics frame of any length to a few records that tables and plots show.

Everything is grouped in pandas before a record is made, so a million batches cost a second and a report stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from toolkit.notebook import format as fmt

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from toolkit.tuning import Recommender

STEADY: Final = 0.8
"""Share of a run's items that one batch size must have for the run to count as a measurement of that size."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One run of a metrics frame.

    Attributes
    ----------
    run_id, task, name : str
        Which run.
    batch_size : int
        The batch size, before tapering, under which most of its items were executed.
    steady : bool
        That size has at least `STEADY` of the items.
    workers : int
        Most batches at a time.
    batches, items, failed : int
        Batches executed, items that ended well, items that failed (retried or dead).
    started_at : float
        Seconds since the epoch of its first claim.
    makespan_s : float
        Seconds from its first claim to the end of its last batch.
    busy : float
        Share of `workers` times `makespan_s` that was spent in batches.
    """

    run_id: str
    task: str
    name: str
    batch_size: int
    steady: bool
    workers: int
    batches: int
    items: int
    failed: int
    started_at: float
    makespan_s: float
    busy: float

    @property
    def rate(self) -> float:
        """Items that ended well per second."""
        return self.items / self.makespan_s if self.makespan_s > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class MeasuredSetting:
    """All steady runs of one batch size and worker count.

    Attributes
    ----------
    batch_size, workers : int
        The setting.
    runs, items : int
        Runs with it, and their items.
    rate, rate_low, rate_high : float
        Median and quartiles over the runs of items per second.
    item_s : float
        Median over the runs of worker seconds per item, in batches.
    """

    batch_size: int
    workers: int
    runs: int
    items: int
    rate: float
    rate_low: float
    rate_high: float
    item_s: float


MAX_SIZES: Final = 10
"""Batch sizes that are told apart; more are grouped."""


def size_groups(sizes: pd.Series) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the group of each batch size, and the groups' names: the sizes, or of many ranges by powers of four.

    Returns
    -------
    codes : ndarray of int64 of shape (n,)
        Group of each size, ascending by size.
    labels : tuple of str
        One a group.
    """
    values = sizes.to_numpy(dtype=np.int64)
    known, codes = np.unique(values, return_inverse=True)
    if len(known) > MAX_SIZES:  # of a steered run
        octave = np.floor(np.log2(np.maximum(known, 1)) / 2).astype(np.int64)
        groups, of_size = np.unique(octave, return_inverse=True)
        codes = of_size[codes]
        ends = [(int(known[of_size == g].min()), int(known[of_size == g].max())) for g in range(len(groups))]
    else:
        ends = [(int(size), int(size)) for size in known]
    names = [fmt.count(low) if low == high else f"{fmt.count(low)}–{fmt.count(high)}" for low, high in ends]
    return codes.astype(np.int64), tuple(names)


def groups_of(frame: pd.DataFrame, by: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the group of each row by a column, and the groups' names: in order of size, number or name.

    Without a column there is one group, whose name is empty. Batch sizes, and other numbers of which there are many,
    are grouped by `size_groups`.
    """
    import pandas as pd

    if not by or frame.empty:
        return np.zeros(len(frame), dtype=np.int64), ("",) if len(frame) else ()
    column = frame[by]
    if pd.api.types.is_integer_dtype(column):
        return size_groups(column)
    # As categories: as text, pandas would refuse half a surrogate pair in a name.
    codes, values = pd.factorize(column, use_na_sentinel=False)
    names = [str(value) for value in values]
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return place[codes], tuple(names[i] for i in order)


def spent_s(frame: pd.DataFrame) -> pd.Series:
    """Return the seconds that each batch took its worker: decoding, user code and storing."""
    return frame["service_s"].fillna(0.0) + frame["decode_s"].fillna(0.0) + frame["store_s"].fillna(0.0)


def epoch_s(moments: pd.Series) -> pd.Series:
    """Return moments as float seconds since the epoch."""
    return moments.dt.tz_convert(None).to_numpy(dtype="datetime64[us]").astype("int64") / 1e6  # type: ignore[no-any-return]


def measured_runs(frame: pd.DataFrame) -> tuple[MeasuredRun, ...]:
    """Return one record per run of a metrics frame, the latest first."""
    if frame.empty:
        return ()
    seconds = spent_s(frame)
    start = epoch_s(frame["claimed_at"])
    table = frame.assign(spent_s=seconds, start_s=start, end_s=start + seconds.to_numpy())
    runs = table.groupby("run_id", observed=True).agg(
        task=("task", "first"),
        name=("name", "first"),
        workers=("active_claims", "max"),
        batches=("batch", "size"),
        ok=("ok", "sum"),
        items=("items", "sum"),
        failed=("failed", "sum"),
        spent_s=("spent_s", "sum"),
        start_s=("start_s", "min"),
        end_s=("end_s", "max"),
    )
    sizes = table.groupby(["run_id", "batch_size"], observed=True)["items"].sum().reset_index()
    leading = sizes.sort_values("items", kind="stable").drop_duplicates("run_id", keep="last")
    most = {
        str(run_id): (int(size), int(items))
        for run_id, size, items in zip(leading["run_id"], leading["batch_size"], leading["items"], strict=True)
    }
    found = []
    # Column by column: a row of its own would force names and numbers into one type.
    latest_first = runs.sort_values("start_s", ascending=False, kind="stable").reset_index()
    for run_id, task, name, workers, batches, ok, items, failed, spent, start, end in zip(
        *(latest_first[column].tolist() for column in latest_first.columns), strict=True
    ):
        batch_size, leading_items = most[str(run_id)]
        makespan, count = float(end - start), max(1, int(workers))
        found.append(
            MeasuredRun(
                run_id=str(run_id),
                task=str(task),
                name=str(name),
                batch_size=batch_size,
                steady=bool(leading_items >= STEADY * items),
                workers=count,
                batches=int(batches),
                items=int(ok),
                failed=int(failed),
                started_at=float(start),
                makespan_s=makespan,
                busy=min(1.0, float(spent) / (count * makespan)) if makespan > 0 else float("nan"),
            )
        )
    return tuple(found)


def remembered_runs(model: Recommender, task: str | None) -> tuple[MeasuredRun, ...]:
    """Return one record per run that a model remembers, the latest first: less exact than from the frame it learned."""
    found = []
    for history in model.histories_.values():
        if task and history.task != task:
            continue
        for run in history.runs:
            makespan = run.measured_s or run.ended_at - run.started_at
            leading = sum(items * count for items, count in run.body if round(items) == run.batch_size)
            most = sum(items * count for items, count in run.body)
            found.append(
                MeasuredRun(
                    run_id=run.run_id, task=history.task, name="", batch_size=run.batch_size,
                    steady=leading >= STEADY * most, workers=max(1, run.workers), batches=run.batches,
                    items=run.items - run.failed, failed=run.failed, started_at=run.started_at, makespan_s=makespan,
                    busy=min(1.0, run.spent_s / (max(1, run.workers) * makespan)) if makespan > 0 else float("nan"),
                )
            )  # fmt: skip
    return tuple(sorted(found, key=lambda run: -run.started_at))


def measured_settings(runs: tuple[MeasuredRun, ...]) -> tuple[MeasuredSetting, ...]:
    """Return one record per batch size and worker count of the steady runs, by workers and size."""
    groups: dict[tuple[int, int], list[MeasuredRun]] = {}
    for run in runs:
        if run.steady and run.makespan_s > 0:
            groups.setdefault((run.workers, run.batch_size), []).append(run)
    found = []
    for (workers, batch_size), members in sorted(groups.items()):
        low, middle, high = np.quantile([m.rate for m in members], [0.25, 0.5, 0.75])
        cost = [m.busy * m.workers * m.makespan_s / m.items for m in members if m.items]
        found.append(
            MeasuredSetting(
                batch_size=batch_size,
                workers=workers,
                runs=len(members),
                items=sum(m.items for m in members),
                rate=float(middle),
                rate_low=float(low),
                rate_high=float(high),
                item_s=float(np.median(cost)) if cost else float("nan"),
            )
        )
    return tuple(found)
