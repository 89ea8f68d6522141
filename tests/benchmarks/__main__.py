"""How fast the whole path is, beside what people would use instead: everything in one run, and one table.

    python -m tests.benchmarks [PART ...] [--rounds 7] [--most 1000000] [--scale 1.0]

Parts are ``cpu``, ``sleep``, ``rows``, ``items``, ``frames``, ``size``, ``snapshot`` and ``network``; without any, all
of them: about a quarter of an hour on two cores that have nothing else to do. ``--most`` is the longest run of ``size``
(ten million items of 50 µs take another ten minutes), ``--scale`` a factor on the items of ``cpu`` and
``network``. Other benchmarks of this folder (``bench_*``) are commands of their own. A figure that misses its goal is
printed as missed; nothing is asserted but that results are right.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.table import Line, show

if TYPE_CHECKING:
    from toolkit.client import Client
    from toolkit.ledger import Ledger

PARTS = ("cpu", "sleep", "rows", "items", "frames", "size", "snapshot", "network")


@contextmanager
def warm(workers: int) -> Iterator[tuple[Client, Ledger]]:
    """A client of a cluster of its own, and the ledger behind it."""
    from toolkit.client import Client
    from toolkit.cluster import LocalCluster
    from toolkit.ledger import Ledger

    state = Path(tempfile.mkdtemp(prefix="tk-bench-"))
    cluster = LocalCluster(workers, state_dir=state)
    try:
        with Client(cluster=cluster) as client:
            cluster.wait_ready(60)
            ledger = Ledger(cluster.address)
            yield client, ledger
            ledger.close()
    finally:
        cluster.stop()
        shutil.rmtree(state, ignore_errors=True)


def lines(parts: list[str], rounds: int, most: int, scale: float) -> Iterator[Line]:
    """Measure the parts, one after the other."""
    from tests.benchmarks import costs, makespans, volume

    if "cpu" in parts:
        with warm(2) as (client, _):
            yield from makespans.cpu_bound(client, rounds, scale)
    if "sleep" in parts:
        with warm(8) as (client, _):
            yield from makespans.sleeping(client, rounds)
    if "rows" in parts:
        with warm(2) as (_, ledger):
            yield from costs.one_row(ledger, rounds)
        yield from costs.rows(rounds)
    with warm(2) as (client, ledger):
        if "items" in parts:
            yield from volume.items(client)
        if "frames" in parts:
            yield from volume.rows(client, ledger)
        if "size" in parts:
            yield from volume.size(client, ledger, most)
        if "snapshot" in parts:
            yield from volume.snapshot(ledger)
    if "network" in parts:
        yield from costs.network(rounds, int(120_000 * scale))


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--most", type=int, default=1_000_000, help="items of the longest run of the part size")
    arguments.add_argument("--scale", type=float, default=1.0, help="of the items of cpu and network")
    options = arguments.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        arguments.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    os.environ["TOOLKIT_PROGRESS"] = "0"
    from tests.benchmarks import work

    work.ROUNDS = work.calibrate()
    os.environ["SPIN_ROUNDS"] = str(work.ROUNDS)
    print(f"an item of 50 µs is {work.ROUNDS} hashes; {os.cpu_count()} cores; {options.rounds} rounds", flush=True)
    found = []
    for line in lines(options.parts or list(PARTS), options.rounds, options.most, options.scale):
        found.append(line)
        print(f"{line.work or found[-2].work}: {line.measure}: {line.figure:,.4g}", file=sys.stderr, flush=True)
    print("\n" + show(found))


if __name__ == "__main__":
    main()
