"""How long a report takes, and how large it gets, whatever the history: a run of 100,000 batches beside a few others.

    python -m tests.benchmarks.bench_report [--batches 100000]

From metric rows, model and advice to the file, once in each format, after a first small report that loads matplotlib.
A figure that misses its goal is printed as missed; nothing is asserted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.benchmarks.table import Line, show
from toolkit.frames import concat_metrics
from toolkit.notebook import Report
from toolkit.tuning import Recommender, Workload, simulate_runs

WORK = Workload(name="docs.ocr", per_item_s=0.004, per_batch_s=0.002, item_sigma=0.3)
SETTINGS = [(4, 1), (32, 2), (128, 4), (16, 8), (64, 8)]
SECONDS, BYTES = 5.0, 1_000_000


def lines(batches: int, folder: Path) -> list[Line]:
    """Measure fit and advice, and then each format."""
    few = simulate_runs(WORK, 4_000, SETTINGS)
    long = simulate_runs(WORK, batches, [(1, 8)], seed=1).assign(run_id="simulated-long")
    frame = concat_metrics([few, long])
    advice = Recommender().fit(few).recommend(n_items=batches)
    Report.of(frame=few, model=Recommender().fit(few), recommendation=advice).html()
    began = time.perf_counter()
    model = Recommender().fit(frame)
    advice = model.recommend(n_items=batches)
    work = f"{len(frame):,} batches"
    found = [Line(work, "fit and advice, s", time.perf_counter() - began, SECONDS)]
    for ending in (".html", ".md", ".ipynb"):
        began = time.perf_counter()
        path = Report.of(frame=frame, model=model, recommendation=advice).write(folder / f"report{ending}")
        found.append(Line(work, f"report{ending}, s", time.perf_counter() - began, SECONDS))
        found.append(Line(work, f"report{ending}, bytes", path.stat().st_size, BYTES))
    return found


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batches", type=int, default=100_000, help="batches of the long run")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(show(lines(asked.batches, Path(folder))))


if __name__ == "__main__":
    main()
