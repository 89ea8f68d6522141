"""How long whole runs take, beside the peers and beside what perfect workers would take.

Each round measures the serial time before and after, and between them everybody on the same items, results collected
and compared. Figures are medians over the rounds of ratios within a round, because a shared machine drifts by tens of
percent within minutes. Beside them the worker efficiency, ``makespan x workers / summed service time``, which drifts
less.
"""

from __future__ import annotations

import heapq
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tests.benchmarks import work
from tests.benchmarks.peers import OPTIONAL, all_of
from tests.benchmarks.table import Line, spread

if TYPE_CHECKING:
    from tests.benchmarks.peers import Mapper
    from toolkit.client import Client
    from toolkit.execution import Task

SLOW = {"Celery group": 2000, "Dask map": 2000}
"""Peers whose time would be minutes: they get so many items at most, and take part in few rounds."""
_SLOW_ROUNDS = 2
_nth = count()


@dataclass(frozen=True)
class Work:
    """Items and what is done with each."""

    kind: str
    function: str
    task: Task
    items: Sequence[Any]
    workers: int
    batch_size: int | str = "auto"
    part: int = 1  # the serial time is taken on one item in so many
    sleeping: bool = False
    weight: Sequence[float] | None = None
    peers: tuple[str, ...] = ("Pool", "joblib", "Celery chunks")

    @property
    def title(self) -> str:
        """How many of what."""
        return f"{len(self.items):,} {self.kind}"

    def ideal_s(self) -> float:
        """Seconds that perfect workers would take now, by the serial time."""
        if self.sleeping:
            return sum(self.items) / self.workers
        function, sample = getattr(work, self.function), self.items[:: self.part]
        began = perf_counter()
        for x in sample:
            function(x)
        return (perf_counter() - began) * len(self.items) / len(sample) / self.workers


@dataclass
class Found:
    """Ratios of the rounds so far."""

    ideal: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    pool: list[float] = field(default_factory=list)
    efficiency: list[float] = field(default_factory=list)
    absent: tuple[str, ...] = ()

    def others(self) -> str:
        """Times of the peers, in ideal ones."""
        said = [f"{name} {spread(found)}" for name, found in self.ideal.items() if name != "ours"]
        return ", ".join([*said, *(f"{name} not installed (make peers)" for name in self.absent)])


def list_scheduling(lengths: Sequence[float], workers: int) -> float:
    """Makespan when each free worker takes the next item in this order (Graham 1966), in seconds."""
    free = [0.0] * workers
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def _timed(call: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    began = perf_counter()
    results = call()
    return perf_counter() - began, results


def _round(client: Client, this: Work, peers: dict[str, Mapper], nth: int, found: Found) -> None:
    before_s = this.ideal_s()
    taken, truth = {}, None
    for name in this.peers:
        if name not in peers or (name in SLOW and nth >= _SLOW_ROUNDS):
            continue
        items = this.items[: SLOW.get(name, len(this.items))]
        seconds, results = _timed(lambda: peers[name](this.function, items))  # noqa: B023 - called at once
        taken[name] = seconds * len(this.items) / len(items)
        truth = results if len(items) == len(this.items) else truth
    run_name = f"{this.function} {next(_nth)}"
    options: dict[str, Any] = {"batch_size": this.batch_size, "weight": this.weight, "name": run_name}
    taken["ours"], ours = _timed(lambda: client.map(this.task, this.items, **options).results(600))
    assert truth is None or ours == truth
    ideal_s = (before_s + this.ideal_s()) / 2
    last = client.runs(source="server").iloc[0]
    assert last["name"] == run_name
    service_s = client.get_run(last["run_id"]).metrics()["service_s"].sum()
    for name, seconds in taken.items():
        found.ideal[name].append(seconds / ideal_s)
    found.efficiency.append(float(last["makespan_s"] * this.workers / service_s))
    if "Pool" in taken:
        found.pool.append(taken["ours"] / taken["Pool"])
    said = ", ".join(f"{name} {seconds / ideal_s:.2f}" for name, seconds in taken.items())
    print(f"  {this.title}, round {nth + 1}: times ideal: {said}; efficiency {found.efficiency[-1]:.3f}", flush=True)


def _measure(client: Client, this: Work, peers: dict[str, Mapper], rounds: int) -> Found:
    client.map(this.task, this.items[:: max(1, len(this.items) // 100)], name="warm").results(60)
    found = Found(absent=tuple(name for name in this.peers if name in OPTIONAL and name not in peers))
    for nth in range(rounds):
        _round(client, this, peers, nth, found)
    return found


def cpu_bound(client: Client, rounds: int, scale: float = 1.0) -> Iterator[Line]:
    """Items of pure CPU on two workers."""

    def some(n: int) -> range:
        return range(max(40, int(n * scale)))

    with all_of(2) as peers:
        this = Work("items of 50 µs", "spin", work.spin_item, some(200_000), 2, part=10)
        found = _measure(client, this, peers, rounds)
        yield Line(this.title, "times ideal", statistics.median(found.ideal["ours"]), 1.08, others=found.others())
        yield Line("", "times Pool", statistics.median(found.pool), 1.0)
        yield Line("", "efficiency", statistics.median(found.efficiency), 1.03)
        this = Work(
            "of the same, batch size 1", "spin", work.spin_item, some(20_000), 2, batch_size=1, part=2,
            peers=("Celery group", "Dask map"),
        )  # fmt: skip
        found = _measure(client, this, peers, rounds)
        yield Line(this.title, "times ideal", statistics.median(found.ideal["ours"]), 12.0, others=found.others())
        this = Work(
            "items of 5 ms", "spin_long", work.spin_long_item, some(1_200), 2, part=5,
            peers=("Pool", "joblib", "Celery chunks", "Celery group", "Dask map"),
        )  # fmt: skip
        found = _measure(client, this, peers, rounds)
        yield Line(this.title, "times ideal", statistics.median(found.ideal["ours"]), 1.05, others=found.others())
        yield Line("", "times Pool", statistics.median(found.pool), 1.02)
        yield Line("", "efficiency", statistics.median(found.efficiency), 1.03)


def sleeping(client: Client, rounds: int) -> Iterator[Line]:
    """Heavy-tailed sleeps on eight workers; `client` has as many."""
    lengths = work.naps()
    this = Work(
        "sleeping items, 8 workers", "nap", work.nap_item, lengths, 8, sleeping=True,
        peers=("Pool", "joblib", "Celery chunks", "Celery group", "Dask map"),
    )  # fmt: skip
    with all_of(8) as peers:
        found = _measure(client, this, peers, rounds)
    ideal_s = sum(lengths) / 8
    greedy = list_scheduling(lengths, 8) / ideal_s
    others = f"list scheduling {greedy:.2f}, {found.others()}"
    yield Line(this.title, "times ideal", statistics.median(found.ideal["ours"]), 1.27, others=others)
    this = replace(this, kind="of the same with weights", weight=lengths, peers=())
    found = _measure(client, this, {}, rounds)
    longest_first = list_scheduling(sorted(lengths, reverse=True), 8) / ideal_s
    others = f"list scheduling, longest first {longest_first:.2f}"
    yield Line(this.title, "times ideal", statistics.median(found.ideal["ours"]), 1.10, others=others)
