"""Is the advice right on real workers? ``python -m tests.evaluation.live`` prints: takes a quarter of an hour.

Four kinds of work on a LocalCluster. From ten designed runs of each the `Recommender` advises a setting; then that one
and a grid of twelve are measured, three times over, all in turn. The advice is to be within 10 % of the best cell, and
its 90 % interval to cover what was measured and be no wider than 30 %.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import toolkit as tk
from tests.benchmarks.work import calibrate
from tests.evaluation import live_tasks as work
from toolkit.demo.design import Setting, Study, alternate, designed
from toolkit.demo.grid import evaluate
from toolkit.demo.measure import measure
from toolkit.demo.table import seconds

CORES = (1, 2, 3)  # workers: one, what two cores have, one too many
SERVICE = (2, 4, 8)  # of work that waits


def studies(folder: Path, scale: float = 1.0) -> list[Study]:
    """The four kinds of work with their items, designed sets and grids.

    Parameters
    ----------
    folder : Path
        For the file that only one may write.
    scale : float
        Factor on the items.
    """
    rounds, chance = calibrate(50e-6), Random(7)
    twos = [min(40.0, chance.lognormvariate(-0.7, 1.2)) for _ in range(round(2_500 * scale))]  # of 2 ms, mean 1
    return [
        designed(work.cheap, [rounds] * round(80_000 * scale), (60, 8_000), CORES),
        designed(work.call, range(round(20_000 * scale)), (40, 2_500), SERVICE),
        designed(work.uneven, [round(40 * two * rounds) for two in twos], (1, 400), CORES),
        designed(work.store, [8 * rounds] * round(8_000 * scale), (20, 1_000), CORES, path=str(folder / "store")),
    ]


def judge(client: tk.Client, plan: Sequence[Study], session: str) -> None:
    """Measure the designed sets, advise, and print how good the advice is; `session` is the tag of the runs."""
    for study in plan:
        measure(client, study, Setting(len(study.items) // 50, study.most_workers), "warm-up")
    for study, setting in alternate(plan):
        one = measure(client, study, setting, session)
        print(f"{study.label}, {setting}: {seconds(one.makespan_s)}", flush=True)
    model = tk.Recommender().fit(client.metrics(tags={"demo": session}), runs=client.runs())
    advised = []
    for study in plan:
        advice = model.recommend(task=study.task.name, n_items=len(study.items), max_workers=study.most_workers)
        print(f"\n{study.label}: {advice}", flush=True)
        if not advice.refused:
            advised.append((study, advice))
    evaluate(client, advised, session, lambda text: print(text, flush=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns 0, whatever is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.evaluation.live", description=__doc__.partition("\n")[2])
    parser.add_argument("--only", default="", help="only tasks with this in their name")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the items, for a look at the form")
    options = parser.parse_args(argv)
    session = secrets.token_hex(4)
    with tempfile.TemporaryDirectory(prefix="tk-live-") as folder:
        plan = [study for study in studies(Path(folder), options.scale) if options.only in study.label]
        cluster = tk.LocalCluster(max(SERVICE), state_dir=Path(folder))
        try:
            with tk.Client(cluster=cluster) as client:
                cluster.wait_ready()
                judge(client, plan, session)
        finally:
            cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
