"""One campaign: a deployment, runs that are alive all the time, faults, and the verdict at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.chaos import plans
from tests.chaos.deployment import deploy
from tests.chaos.faults import Injector, refusals
from tests.chaos.journal import Event, Journal
from tests.chaos.oracle import Evidence, Verdict, Violation, judge
from tests.chaos.work import Worker, look
from toolkit.client import Run

WATCHED_S = 15.0
"""How long a run is left alone after its end: longer than any fault lasts."""
KEEP = "CHAOS_KEEP"
"""Environment variable: 1 keeps the logs of a campaign that went well, too."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a campaign is to be.

    Attributes
    ----------
    seed : int
        All that is planned comes from it.
    seconds : float
        How long faults are made.
    totals : mapping of str to int
        Faults planned, by target.
    items : int
        Go on submitting until so many items ended.
    nodes, lanes : int
        Nodes of two children each, and runs alive at a time.
    scale : float
        Size of the runs.
    lease_s : float
        Lease of the runs.
    appendfsync : str
        The server's.
    settle_s : float
        How long after the last fault everything must have ended.
    """

    seed: int
    seconds: float
    totals: Mapping[str, int]
    items: int = 0
    nodes: int = 3
    lanes: int = 3
    scale: float = 1.0
    lease_s: float = plans.LEASE_S
    appendfsync: str = "always"
    settle_s: float = 180.0


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes
    ----------
    verdict : Verdict
        The oracle's.
    faults, kinds, missed : Counter
        Faults that hit, by target and by kind, and those that found nothing to hit.
    frozen : Counter
        What became of the work of frozen processes.
    runs : int
        Runs judged.
    elapsed_s : float
        Seconds from the first fault to the last run's end.
    figures : mapping of str to object
        Further figures, for the report.
    """

    verdict: Verdict
    faults: Counter[str]
    kinds: Counter[str]
    missed: Counter[str]
    frozen: Counter[str]
    runs: int
    elapsed_s: float
    figures: Mapping[str, object] = field(default_factory=dict)


class Campaign:
    """A campaign; call `run` once.

    Parameters
    ----------
    options : Options
        What it is to be.
    directory : pathlib.Path
        For data, logs and the journal.
    quiet : bool
        Show no progress.
    """

    def __init__(self, options: Options, directory: Path, *, quiet: bool = False) -> None:
        self.options = options
        self.directory = directory
        self.evidence: list[Evidence] = []
        self.violations: list[Violation] = []
        self._watched: deque[tuple[float, Run, Evidence]] = deque()
        self._plans = plans.runs(options.seed, options.scale)
        self._lock = threading.Lock()
        self._ended = 0
        self._last_at = float("inf")
        self._faults_over = threading.Event()
        self._progress = Progress(quiet)

    def run(self) -> Outcome:
        """Start everything, make the faults, wait for the runs, judge, end everything."""
        options = self.options
        with deploy(self.directory, options.nodes, lease_s=options.lease_s, appendfsync=options.appendfsync) as made:
            worker = Worker(made.client, made.journal, lambda: time.monotonic() > self._last_at)
            injector = Injector(made.server, made.fleet, made.proxy, self.directory / "faults.log")
            began = time.monotonic()
            try:
                self._hit(injector, worker)
            finally:
                self._last_at = 0.0
                injector.settle()
                self._progress.end()
            elapsed_s = time.monotonic() - began
            self._look_again(0.0)
            figures = {
                "node starts": sum(n.starts for n in made.fleet.nodes),
                "nodes that ended by themselves": made.fleet.own_deaths,
                "children that outlived their node": len(injector.orphans),
                "submissions repeated": len(worker.abandoned),
                "server back after, s (median, max)": _middle(made.server.back_s),
                "connections and cut answers of the proxy": (made.proxy.connections, made.proxy.cut),
            }
        return self._judge(injector, elapsed_s, figures)

    # ------------------------------------------------------------------ while it lasts

    def _hit(self, injector: Injector, worker: Worker) -> None:
        lanes = [
            threading.Thread(target=self._lane, args=(worker,), name=f"chaos-lane-{i}", daemon=True)
            for i in range(self.options.lanes)
        ]
        for lane in lanes:
            lane.start()
        due = time.monotonic()
        for fault in plans.faults(self.options.seed, self.options.seconds, self.options.totals):
            due += fault.after_s
            while (left := due - time.monotonic()) > 0:
                self._show(injector, worker)
                time.sleep(min(left, 0.25))
            injector.execute(fault)
            due = max(due, time.monotonic() - 2.0)  # what was late is made up for, not what stood still
        injector.settle()
        self._faults_over.set()
        while any(lane.is_alive() for lane in lanes):
            if self._ended >= self.options.items:
                self._last_at = min(self._last_at, time.monotonic() + self.options.settle_s)
            self._show(injector, worker)
            time.sleep(0.1)

    def _lane(self, worker: Worker) -> None:
        while not self._faults_over.is_set() or self._ended < self.options.items:
            with self._lock:
                plan = next(self._plans)
            try:
                run, seen = worker.carry_out(plan, f"chaos-{self.options.seed}")
                self._look_again(WATCHED_S)
            except Exception as error:  # noqa: BLE001
                if self._last_at:
                    with self._lock:
                        text = f"{type(error).__name__}: {error}"
                        self.violations.append(Violation("client", f"run {plan.number} ({plan.shape})", text, 0))
                    continue
                return
            with self._lock:
                self._watched.append((time.monotonic(), run, seen))
                self.evidence.append(seen)
                self._ended += seen.ok + seen.dead + seen.skipped
            if self._last_at < time.monotonic():
                return

    def _show(self, injector: Injector, worker: Worker) -> None:
        going = 0
        for run in list(worker.open.values()):
            snapshot = run._snapshot
            going += snapshot.done if snapshot is not None else 0
        counts = " ".join(f"{k} {injector.done[k]}/{n}" for k, n in self.options.totals.items())
        self._progress.show(f"{counts} | {len(self.evidence)} runs, {self._ended + going:,} items")

    # ------------------------------------------------------------------ at the end

    def _look_again(self, after_s: float) -> None:
        """Look once more at runs that ended so long ago, then delete them.

        Nobody may have changed one after its end: not even a worker that came back from a freeze.
        """
        while True:
            with self._lock:
                if not self._watched or time.monotonic() - self._watched[0][0] < after_s:
                    return
                _, run, seen = self._watched.popleft()
            if seen.state not in ("finished", "cancelled"):
                continue
            now = look(run, seen.plan)
            same = now.counted is None or seen.counted is None or bool((now.counted == seen.counted).all())
            was, is_now = replace(seen, counted=None), replace(now, counted=None)
            if was != is_now or not same:
                with self._lock:
                    self.violations.append(Violation("changed", f"run {seen.plan.number}", f"{was} -> {is_now}", 0))
            run._reader.delete()
            run._registry.forget_runs([run.run_id])

    def _judge(self, injector: Injector, elapsed_s: float, figures: Mapping[str, object]) -> Outcome:
        written = Journal.read(self.directory / "journal")
        verdict = judge(self.evidence, written, injector.kills)
        verdict = replace(verdict, violations=(*self.violations, *verdict.violations))
        refused = {"commits accepted": written.total(Event.ACCEPTED), "commits refused": written.total(Event.REFUSED)}
        shapes = Counter(seen.plan.shape for seen in self.evidence)
        return Outcome(
            verdict, injector.done, injector.kinds, injector.missed, refusals(injector.freezes, written),
            len(self.evidence), elapsed_s, {**figures, **refused, "runs by shape": dict(shapes)},
        )  # fmt: skip


class Progress:
    """One line in a terminal; a line now and then elsewhere.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began = time.monotonic()
        self._every_s = 0.5 if sys.stderr.isatty() else 30.0
        self._next = 0.0

    def show(self, text: str) -> None:
        """Show `text`, unless it was shown a moment ago."""
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + self._every_s
        line = f"{now - self._began:6.0f} s | {text}"
        sys.stderr.write(f"\r\x1b[K{line}" if sys.stderr.isatty() else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if not self._quiet and sys.stderr.isatty():
            sys.stderr.write("\n")


@contextlib.contextmanager
def workplace(prefix: str = "tk-chaos-") -> Iterator[Path]:
    """A directory that is removed unless what happens in it fails."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    except BaseException:
        sys.stderr.write(f"\nlogs, journal and data are kept in {directory}\n")
        raise
    if os.environ.get(KEEP) != "1":
        shutil.rmtree(directory, ignore_errors=True)


def _middle(values: list[float]) -> tuple[float, float] | None:
    ordered = sorted(values)
    return (round(ordered[len(ordered) // 2], 3), round(ordered[-1], 3)) if ordered else None
