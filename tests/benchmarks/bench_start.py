"""How long a newcomer waits: ``import toolkit``, and the first result after ``tk.Client()`` with no server running.

    python -m tests.benchmarks.bench_start [--rounds 5]

Each figure is taken in fresh processes, the two imports in turn; the median counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

FIRST_RESULT = """
import time
import toolkit as tk
from pathlib import Path
import sys
began = time.perf_counter()
cluster = tk.LocalCluster(state_dir=Path(sys.argv[1])) if sys.argv[2] == "private" else None
client = tk.Client(cluster=cluster)
def double(x):
    return 2 * x
run = client.map(double, range(100))
index, result = next(iter(run.as_completed()))
print(time.perf_counter() - began)
"""


def whole_process(code: str) -> float:
    """Seconds of a Python process that runs `code`."""
    began = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return perf_counter() - began


def first_result() -> float:
    """Seconds from ``tk.Client()`` to the first item's result, in a fresh process, with no server running."""
    from toolkit.cluster import LocalCluster

    state = Path(tempfile.mkdtemp(prefix="tk-start-"))
    try:
        environment = {**os.environ, "TOOLKIT_PROGRESS": "0"}
        done = subprocess.run(
            [sys.executable, "-c", FIRST_RESULT, str(state), "private"],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        return float(done.stdout)
    finally:
        LocalCluster(state_dir=state).stop()
        shutil.rmtree(state, ignore_errors=True)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    bare, ours = [], []
    for _ in range(2 * rounds + 1):
        bare.append(whole_process("pass"))
        ours.append(whole_process("import toolkit"))
    pairs = [b - a for a, b in zip(bare[1:], ours[1:], strict=True)]  # the first pair fills the page cache
    print(f"import toolkit, over bare Python   median {statistics.median(pairs) * 1e3:6.0f} ms")
    waits = [first_result() for _ in range(rounds)]
    print(f"tk.Client() to the first result    median {statistics.median(waits):6.2f} s  (max {max(waits):.2f} s)")


if __name__ == "__main__":
    main()
