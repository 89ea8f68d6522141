"""What a run of some seconds loses when it starts beside a run of ten million items.

    python -m tests.benchmarks.bench_fair [--rounds 3] [--seconds 10] [--items 10000000]

Each round measures the short run alone, then beside the long one, whose items are streamed by a process of its own and
executed in batches of 5 ms. Equal shares make the ratio 2.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING

from tests.benchmarks import work

if TYPE_CHECKING:
    from toolkit.client import Client, Run

os.environ.setdefault("TOOLKIT_PROGRESS", "0")
ROOT = Path(__file__).parents[2]
GOAL = 2.2

SUBMIT = """
import sys
from pathlib import Path
import toolkit as tk
from tests.benchmarks import work
with tk.Client(cluster=tk.LocalCluster(2, state_dir=Path(sys.argv[1]))) as client:
    client.map(work.spin_item, iter(range(int(sys.argv[2]))), batch_size=100, keep_results=False, run_id=sys.argv[3])
"""


@contextmanager
def long_run(client: Client, state: Path, items: int, run_id: str) -> Iterator[Run]:
    """The long run, submitted by another process and under way; cancelled in the end."""
    from toolkit.errors import RunNotFound

    process = subprocess.Popen(
        [sys.executable, "-c", SUBMIT, str(state), str(items), run_id], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    run = None
    try:
        deadline = monotonic() + 60
        while monotonic() < deadline:
            try:
                run = run or client.get_run(run_id)
                if run.status().ok > 10_000:
                    break
            except RunNotFound:
                pass
            sleep(0.05)
        assert run is not None
        yield run
    finally:
        if run is not None:
            run.cancel()
            run.wait(60)
        process.wait(60)


def short_run(client: Client, items: int, name: str) -> float:
    """Makespan of the short run, in seconds from its submission."""
    began = perf_counter()
    client.map(work.spin_item, range(items), name=name, keep_results=False).wait(600)
    return perf_counter() - began


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=10.0, help="makespan of the short run when alone")
    arguments.add_argument("--items", type=int, default=10_000_000, help="of the long run")
    options = arguments.parse_args()
    from toolkit.client import Client
    from toolkit.cluster import LocalCluster

    os.environ["SPIN_ROUNDS"] = str(work.calibrate())
    state = Path(tempfile.mkdtemp(prefix="tk-fair-"))
    cluster = LocalCluster(2, state_dir=state)
    try:
        with Client(cluster=cluster) as client:
            cluster.wait_ready(60)
            few = 20_000
            items = int(few * options.seconds / min(short_run(client, few, "warm") for _ in range(3)))
            ratios = []
            for n in range(options.rounds):
                alone_s = short_run(client, items, f"alone {n}")
                with long_run(client, state, options.items, f"long-{n}-{os.getpid()}") as other:
                    done = other.status().ok
                    beside_s = short_run(client, items, f"beside {n}")
                    done = other.status().ok - done
                ratios.append(beside_s / alone_s)
                print(
                    f"round {n}: {items:,} items alone {alone_s:.2f} s, beside {beside_s:.2f} s: {ratios[-1]:.2f} "
                    f"times; the long run did {done:,} items meanwhile",
                    flush=True,
                )
            middle = statistics.median(ratios)
            verdict = "met" if middle <= GOAL else "MISSED"
            print(f"\nmedian {middle:.2f} times, goal at most {GOAL}: {verdict}")
    finally:
        cluster.stop()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
