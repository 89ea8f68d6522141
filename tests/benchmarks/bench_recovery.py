"""How long items wait that a killed worker or node was on, and how long a cancelled run goes on.

    python -m tests.benchmarks.bench_recovery [--rounds 5] [--lease 10]

Two nodes of two workers share one server. What counts is the moment, by a journal on disk, when the item that a killed
process was executing, and the next one of its batch, have both begun in another process. ``busy``: all workers are on
the run, in batches of 0.15 s. ``idle``: the others have nothing to do, and no ticket is on its way. The clock is
`time.monotonic`, the same for all processes of the machine. The server is killed, too, and stays away for up to 5 s;
also it has no memory left for as long, which its other user, the broker, feels as much as the ledger.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import psutil

from tests.chaos.nodes import Server

if TYPE_CHECKING:
    from toolkit.client import Client, Run

os.environ.setdefault("TOOLKIT_PROGRESS", "0")
ROOT = Path(__file__).parents[2]
APP = "tests.benchmarks.recovery_app"
ITEM_S = 0.01
BATCH = 15


@dataclass(frozen=True, slots=True)
class Begun:
    """One execution of an item."""

    index: int
    pid: int
    at: float


class Deployment:
    """A server and two nodes.

    Parameters
    ----------
    folder : pathlib.Path
        For everything they write.
    hint : bool
        Whether nodes can see that they are on one machine.
    """

    def __init__(self, folder: Path, hint: bool) -> None:
        self.folder = folder
        self.server = Server(folder / "server", "everysec")
        self._environment = {
            "RECOVERY_BROKER": self.server.url(1), "RECOVERY_LEDGER": self.server.url(0),
            "RECOVERY_HINT": str(int(hint)),
        }  # fmt: skip
        os.environ.update(self._environment)
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("a", "b"):
            self.start(name)

    def start(self, name: str) -> None:
        """Start a node; does not wait for it."""
        command = [
            sys.executable, "-m", "celery", "-A", APP, "worker", "-c", "2", "-n", f"{name}@bench", "-l", "WARNING",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self.nodes[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def children(self, name: str) -> list[int]:
        """Worker processes of a node that live; it may not have noticed yet that one was killed."""
        found = []
        for child in psutil.Process(self.nodes[name].pid).children():
            with suppress(psutil.NoSuchProcess):  # it ended in between
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child.pid)
        return found

    def kill(self, name: str) -> None:
        """Kill a node as a whole."""
        os.killpg(self.nodes[name].pid, signal.SIGKILL)
        self.nodes[name].wait()

    def stop(self) -> None:
        """Kill everything."""
        for name, process in self.nodes.items():
            if process.poll() is None:
                self.kill(name)
        self.server.stop()


@contextmanager
def deployment(hint: bool, lease_s: float) -> Iterator[tuple[Deployment, Client]]:
    """Both nodes listening, and a client."""
    from toolkit.client import Client
    from toolkit.settings import LedgerSettings

    folder = Path(tempfile.mkdtemp(prefix="tk-recovery-"))
    made = Deployment(folder, hint)
    try:
        with Client(_application(made), made.server.url(0), settings=LedgerSettings(lease_s=lease_s)) as client:
            until(lambda: len(client.nodes()) == 2)
            client.map(_stamp(), range(8), kwargs=_journal(folder / "warm", 0.05), batch_size=1).wait(60)
            yield made, client
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _application(made: Deployment) -> object:
    from tests.benchmarks.recovery_app import QUEUE
    from toolkit.transport import make_app

    return make_app(made.server.url(1), QUEUE, "recovery")


def _stamp() -> object:
    from tests.benchmarks.recovery_app import stamp

    return stamp


def _journal(path: Path, pause_s: float) -> dict[str, object]:
    return {"journal": str(path), "pause_s": pause_s}


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until something is true."""
    deadline = monotonic() + timeout_s
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        sleep(0.005)


def begun(path: Path) -> list[Begun]:
    """What the journal says."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="ascii").split("\n")[:-1]
    return [Begun(int(a), int(b), float(c)) for a, b, c in (line.split() for line in lines)]


def elsewhere(path: Path, run: Run, killed: set[int], at: float) -> float:
    """Seconds until the killed processes' latest items, and the next ones of their batches, began elsewhere."""
    before = [b for b in begun(path) if b.at <= at]
    wanted: set[int] = set()
    for pid in killed:
        mine = [b.index for b in before if b.pid == pid]
        if mine:
            wanted |= {mine[-1]} | ({mine[-1] + 1} if (mine[-1] + 1) % BATCH else set())
    last = run.status().submitted - 1
    wanted = {i for i in wanted if i <= last}

    def first() -> dict[int, float]:
        found: dict[int, float] = {}
        for b in begun(path):
            if b.at > at and b.index in wanted and b.pid not in killed:
                found.setdefault(b.index, b.at)
        return found

    # An item that was committed just before the kill is not executed again.
    until(lambda: len(first()) == len(wanted) or run.status().state == "finished")
    return max(first().values(), default=math.nan) - at


def child_kills(made: Deployment, client: Client, rounds: int, busy: bool) -> list[float]:
    """Seconds from the kill of a worker to its items elsewhere."""
    waits = []
    for number in range(rounds):
        path = made.folder / f"child-{busy}-{number}"
        n, pause_s, workers = (40 * BATCH, ITEM_S, 4) if busy else (1, 0.8, 1)
        run = client.map(
            _stamp(),
            range(n),
            kwargs=_journal(path, pause_s),
            batch_size=BATCH,
            max_workers=workers,
            keep_results=False,
        )
        until(lambda path=path, busy=busy: len(begun(path)) > (60 if busy else 0))
        victim = begun(path)[-1].pid
        at = monotonic()
        os.kill(victim, signal.SIGKILL)
        waits.append(elsewhere(path, run, {victim}, at))
        run.wait(60)
        run.verify()
        until(lambda: all(len(made.children(name)) == 2 for name in made.nodes))
    return waits


def node_kills(made: Deployment, client: Client, rounds: int) -> list[float]:
    """Seconds from the kill of a whole node to its items elsewhere."""
    waits = []
    for number in range(rounds):
        path = made.folder / f"node-{number}"
        name = "ab"[number % 2]
        run = client.map(_stamp(), range(60 * BATCH), kwargs=_journal(path, ITEM_S), batch_size=BATCH)
        victims = set(made.children(name))
        until(lambda path=path, victims=victims: victims <= {b.pid for b in begun(path)} and len(begun(path)) > 60)
        at = monotonic()
        made.kill(name)
        waits.append(elsewhere(path, run, victims, at))
        made.start(name)
        run.wait(60)
        run.verify()
        pid = made.nodes[name].pid
        until(lambda pid=pid: any(n.pid == pid for n in client.nodes()))
        sleep(1.5)  # the other one has met it: each node reads the others' records once a second
    return waits


def cancels(made: Deployment, client: Client, rounds: int) -> list[float]:
    """Seconds from a cancel to the state ``cancelled``, amid batches of one second."""
    waits = []
    for number in range(rounds):
        path = made.folder / f"cancel-{number}"
        run = client.map(_stamp(), range(2000), kwargs=_journal(path, ITEM_S), batch_size=100)
        until(lambda path=path: len(begun(path)) > 20 + 7 * (len(waits) % 10))
        at = monotonic()
        run.cancel()
        until(lambda run=run: run.status().state == "cancelled")
        waits.append(monotonic() - at)
    return waits


def new_since(path: Path, at: float) -> list[float]:
    """When items began after a moment that had not begun before it, ascending."""
    every = begun(path)
    known = {b.index for b in every if b.at <= at}
    return sorted(b.at for b in every if b.at > at and b.index not in known)


def restarts(made: Deployment, client: Client, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds from the server's return to the first new item, and shares of items executed again; away up to 5 s."""
    waits, shares = [], []
    for number in range(rounds):
        path = made.folder / f"restart-{number}"
        run = client.map(_stamp(), range(120 * BATCH), kwargs=_journal(path, ITEM_S), batch_size=BATCH)
        until(lambda path=path: len(begun(path)) > 100)
        made.server.kill((0.0, 2.5, 5.0)[number % 3])
        back = monotonic()
        until(lambda path=path, back=back: new_since(path, back))
        waits.append(new_since(path, back)[0] - back)
        run.wait(60)
        run.verify()
        executed = [b.index for b in begun(path)]
        shares.append(len(executed) / len(set(executed)) - 1)
    return waits, shares


def memory(made: Deployment, client: Client, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds from a full server's memory being back to a new item, of a run that waited and of one submitted then."""
    from toolkit.ledger import Ledger
    from toolkit.settings import ServerAddress

    admin = Ledger(ServerAddress.of(made.server.url(0))).connection
    waits, fresh = [], []
    for number in range(rounds):
        path, new = made.folder / f"full-{number}", made.folder / f"full-new-{number}"
        run = client.map(_stamp(), range(60 * BATCH), kwargs=_journal(path, ITEM_S), batch_size=BATCH)
        until(lambda path=path: len(begun(path)) > 100)
        admin.command("CONFIG", "SET", "maxmemory", 1)
        until(lambda run=run: run.status().active == 0)
        sleep((0.0, 2.0, 5.0)[number % 3])
        admin.command("CONFIG", "SET", "maxmemory", 0)
        back = monotonic()
        other = client.map(_stamp(), range(8), kwargs=_journal(new, ITEM_S), batch_size=1)
        until(lambda path=path, back=back: new_since(path, back))
        waits.append(new_since(path, back)[0] - back)
        until(lambda new=new: begun(new))
        fresh.append(begun(new)[0].at - back)
        for each in (run, other):
            each.wait(60)
            each.verify()
    admin.close()
    return waits, fresh


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share `q` does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def show(what: str, waits: Sequence[float], goal_median_s: float, goal_max_s: float) -> None:
    """One line of the table."""
    waits = [wait for wait in waits if not math.isnan(wait)]
    median, most = statistics.median(waits), quantile(waits, 0.99)
    met = median <= goal_median_s and most <= goal_max_s
    print(
        f"{what:<44} {len(waits):>4} {median:>8.2f} {most:>8.2f}   <= {goal_median_s:.1f}, <= {goal_max_s:.1f}   "
        f"{'met' if met else 'NOT MET'}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--lease", type=float, default=10.0, help="seconds, for the row without hint")
    given = arguments.parse_args()
    print(f"{'seconds':<44} {'n':>4} {'median':>8} {'p99/max':>8}   goal           verdict")
    with deployment(True, 10.0) as (made, client):
        show("child killed, other workers busy", child_kills(made, client, 2 * given.rounds, True), 0.5, 1.5)
        show("child killed, other workers idle", child_kills(made, client, given.rounds, False), 0.5, 1.5)
        show("node killed, with hint", node_kills(made, client, given.rounds), 1.5, 1.5)
        show("cancel to cancelled, batches of 1 s", cancels(made, client, 4 * given.rounds), 1.0, 1.0)
        waits, shares = restarts(made, client, 3 * max(1, given.rounds // 3))
        show("server away 0, 2.5, 5 s: progress after it", waits, 2.0, 2.0)
        print(f"{'    items executed again, share (largest)':<58} {max(shares):>8.1%}", flush=True)
        waits, fresh = memory(made, client, 3 * max(1, given.rounds // 3))
        show("server full 0, 2, 5 s: progress after it", waits, 2.0, 2.0)
        show("    first item of a run submitted then", fresh, 2.0, 2.0)
    with deployment(False, given.lease) as (made, client):
        goal = given.lease + 1
        waits = node_kills(made, client, max(2, given.rounds // 4))
        show(f"node killed, no hint, lease of {given.lease:g} s", waits, goal, goal)


if __name__ == "__main__":
    main()
