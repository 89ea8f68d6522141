"""What the demo shows of its runs: the metrics by setting, and what the tasks found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from toolkit.demo.design import Study
from toolkit.demo.eras import era_of
from toolkit.demo.measure import Measured
from toolkit.demo.tasks import find_mentions

if TYPE_CHECKING:
    import pandas as pd

CELL_COLUMNS = ("task", "batch size", "workers", "batches", "makespan s", "µs/item", "ms between batches", "CPU %")
"""Columns of `cells`."""


BUSY_BELOW = 85.0
"""Share of a processor, percent, below which a single worker did not have one to itself."""


def cells(frame: pd.DataFrame, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return one row per measured run, by task, batch size and workers.

    Parameters
    ----------
    frame : pandas.DataFrame
        Metric rows of all the runs.
    measured : sequence of Measured
        The runs.

    Returns
    -------
    list of dict
        `CELL_COLUMNS`: items in the function (µs/item), what a worker spends between two batches (fetching, storing,
        claiming), and the share of a processor that the function kept busy.
    """
    rows = []
    by_run = dict(iter(frame.groupby("run_id", observed=True)))
    for one in sorted(measured, key=lambda m: (m.task, m.setting.batch_size, m.setting.workers)):
        batches = by_run[one.run_id]
        service_s, between_s = batches["service_s"].sum(), batches[["decode_s", "store_s", "idle_s"]].sum(axis=1)
        rows.append(
            {
                "task": one.task,
                "batch size": one.setting.batch_size,
                "workers": one.setting.workers,
                "batches": len(batches),
                "makespan s": float(one.makespan_s),
                "µs/item": float(1e6 * service_s / batches["items"].sum()),
                "ms between batches": float(1e3 * between_s.mean()),
                "CPU %": float(100 * batches[["cpu_user_s", "cpu_system_s"]].to_numpy().sum() / service_s),
            }
        )
    return rows


def busy_hint(rows: Sequence[dict[str, Any]]) -> str | None:
    """Return a warning when other work took the processor away from the runs, else None.

    Parameters
    ----------
    rows : sequence of dict
        As `cells` returns them. Those with one worker count: alone it would have a processor to itself, and what these
        tasks do is all computing.
    """
    alone = [row["CPU %"] for row in rows if row["workers"] == 1]
    if not alone or median(alone) >= BUSY_BELOW:
        return None
    return (
        f"  This machine was busy with other work: a single worker got {median(alone):.0f} % of a processor. "
        "Expect noisy times, wide intervals or no recommendation."
    )


def outcome(study: Study, results: Sequence[Any]) -> str:
    """Return one line about what a run found.

    Parameters
    ----------
    study : Study
        Task and items.
    results : sequence
        Results of the run, in the order of the items.
    """
    if study.task is find_mentions:
        found = Counter((mention["kind"], mention["text"]) for mentions in results for mention in mentions)
        kinds: Counter[str] = Counter()
        for (kind, _), count in found.items():
            kinds[kind] += count
        counts = ", ".join(f"{count:,} × {kind}" for kind, count in kinds.most_common())
        places = [text for (kind, text), _ in found.most_common(40) if kind == "place"]
        return f"  found {found.total():,} mentions ({counts}), most often {', '.join(places[:4])}"
    pairs = zip(study.items, results, strict=True)
    unlike = sum(result["label"] != era_of(item["year"]) for item, result in pairs)
    eras = ", ".join(f"{count:,} {label}" for label, count in Counter(r["label"] for r in results).most_common())
    return f"  classified {len(results):,} paragraphs ({eras}); {unlike:,} sound like another era than theirs"
