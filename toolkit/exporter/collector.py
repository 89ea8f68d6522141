"""The figures in the form of Prometheus. `CATALOGUE` is the list of all metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from toolkit.errors import LedgerError
from toolkit.exporter.watch import Seen, Watch
from toolkit.records import CATEGORIES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Described:
    """One metric.

    Attributes
    ----------
    name : str
        As it is exported; counters end in ``_total``.
    labels : tuple of str
        Its labels.
    text : str
        What it says.
    source : str
        Field of `Figures` (gauges by task) or name in its counts; empty for metrics of the whole ledger.
    """

    name: str
    labels: tuple[str, ...]
    text: str
    source: str = ""


_TASK: Final = ("task",)
GAUGES: Final = (
    Described("toolkit_backlog_items", _TASK, "Items that have not ended, those being executed included.", "backlog"),
    Described("toolkit_claimed_items", _TASK, "Items being executed.", "claimed"),
    Described(
        "toolkit_oldest_item_age_seconds", _TASK,
        "Age of the oldest run with items that have not ended: none of its items is older. 0 without any.",
        "oldest_age_s",
    ),
    Described(
        "toolkit_estimated_work_seconds", _TASK,
        "Worker seconds in the backlog, by the moving average of an item's time; absent until one was measured.",
        "work_s",
    ),
    Described("toolkit_dead_letters", _TASK, "Items that will not be tried again unless somebody asks for it.", "dead"),
    Described(
        "toolkit_recommended_workers", _TASK,
        "Workers that would finish the backlog of runs that are not paused in the time given by --drain.",
        "recommended_workers",
    ),
)  # fmt: skip
COUNTERS: Final = (
    Described("toolkit_items_total", ("task", "outcome"), "Items that ended, by outcome: ok, dead, skipped.", "items"),
    Described("toolkit_submitted_items_total", _TASK, "Items submitted.", "submitted"),
    Described("toolkit_retried_items_total", _TASK, "Attempts that failed and were tried again.", "retried"),
    Described("toolkit_batches_total", _TASK, "Batches executed.", "batches"),
    Described("toolkit_lost_batches_total", _TASK, "Batches whose process died.", "lost"),
    Described("toolkit_errors_total", ("task", "category"), "Failed executions by error category.", "errors"),
)
WHOLE: Final = (
    Described("toolkit_up", (), "1 when the ledger's server answered, else 0."),
    Described("toolkit_scrape_errors_total", (), "Looks at the ledger that failed."),
    Described("toolkit_scrape_duration_seconds", (), "How long the look took."),
    Described("toolkit_unreadable_runs", (), "Runs whose data do not parse; they are left out of everything else."),
    Described("toolkit_runs", ("state",), "Unfinished runs: running, paused or cancelling."),
    Described("toolkit_nodes", (), "Nodes that are alive."),
    Described("toolkit_known_workers", (), "Workers of these nodes."),
    Described("toolkit_busy_workers", (), "Workers that hold a claim."),
)
CATALOGUE: Final = (*WHOLE, *GAUGES, *COUNTERS)
_VALUES: Final = {"items": ("ok", "dead", "skipped"), "errors": CATEGORIES[1:]}
_STATES: Final = ("running", "paused", "cancelling")
_TEXTS: Final = {d.name: d.text for d in CATALOGUE}


class LedgerCollector(Collector):
    """Looks at the ledger when it is scraped.

    Parameters
    ----------
    watch : Watch
        What is looked at.
    fresh_s : float
        Scrapes within so many seconds share one look: however many ask, the server is asked no more often.
    """

    def __init__(self, watch: Watch, fresh_s: float = 1.0) -> None:
        self._watch = watch
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._seen: Seen | None = None
        self._looked_at = -float("inf")
        self._took_s = 0.0
        self._errors = 0
        self._silent = False

    def describe(self) -> list[Metric]:
        """Nothing: registering this must not ask the server."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; while the server is away only those that do not tell of now."""
        with self._lock:
            if time.monotonic() - self._looked_at >= self._fresh_s:
                self._look()
            found = [*self._whole(), *self._by_task()]
        yield from found

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._seen = self._watch.look()
            if self._silent:
                logger.warning("the ledger answers again")
            self._silent = False
        except LedgerError as error:
            self._seen = None
            self._errors += 1
            if not self._silent:
                logger.warning("%s", error)
            self._silent = True
        self._looked_at = time.monotonic()
        self._took_s = self._looked_at - began

    def _whole(self) -> Iterator[Metric]:
        seen = self._seen
        yield _gauge("toolkit_up", float(seen is not None))
        yield CounterMetricFamily("toolkit_scrape_errors", _TEXTS["toolkit_scrape_errors_total"], value=self._errors)
        yield _gauge("toolkit_scrape_duration_seconds", self._took_s)
        if seen is None:
            return
        yield _gauge("toolkit_unreadable_runs", seen.unreadable)
        runs = GaugeMetricFamily("toolkit_runs", _TEXTS["toolkit_runs"], labels=("state",))
        for state in _STATES:
            runs.add_metric((state,), seen.runs[state])
        yield runs
        yield _gauge("toolkit_nodes", seen.nodes)
        yield _gauge("toolkit_known_workers", seen.known_workers)
        yield _gauge("toolkit_busy_workers", seen.busy_workers)

    def _by_task(self) -> Iterator[Metric]:
        for described in GAUGES if self._seen is not None else ():
            gauge = GaugeMetricFamily(described.name, described.text, labels=described.labels)
            for task, figures in self._seen.tasks.items() if self._seen is not None else ():
                value = getattr(figures, described.source)
                if value is not None:
                    gauge.add_metric((task,), value)
            yield gauge
        for described in COUNTERS:
            counter = CounterMetricFamily(described.name, described.text, labels=described.labels)
            for task, counts in self._watch.counted().items():
                for value in _VALUES.get(described.source, ("",)):
                    counter.add_metric((task, value) if value else (task,), counts[described.source, value])
            yield counter


def _gauge(name: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, _TEXTS[name], value=value)
