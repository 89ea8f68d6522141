"""Snapshots, metric rows and hostile text for the tests of the notebook room, and a reader of the markup it makes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from toolkit.client.tally import Tally, WorkerTally
from toolkit.frames import RunInfo, concat_metrics, metrics_frame
from toolkit.notebook.trend import Trend
from toolkit.notebook.view import ErrorLine, Errors, RunView, Trouble
from toolkit.records import METRIC_NAMES, METRIC_ROW, Counters, RunEvent, RunState, RunStatus, WorkerIdentity
from toolkit.tuning import Recommendation, Recommender, Workload, simulate_runs

if TYPE_CHECKING:
    from toolkit.notebook.theme import Display

NOON = 1_790_000_000.0
"""A moment: 2026-09-21 14:13:20 UTC."""

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title></svg></pre><b>",
    "<!-- ]]> &lt; &#60;",
    "\x1b[31mred\x1b]0;title\x07\x08\x00\x85",
    "\u202egnp.exe\u2066\u200f\u2028",
    "$\\frac{1}{0}$ 100 % {0} {x!r}",
    "half a pair \ud83d",
    "line one\nline two\ttab\r",
)
"""Text that breaks out, reorders the line, drives a terminal, or is read as mathematics."""

EVERYTHING = " ".join(HOSTILE)

_FORBIDDEN_TAGS = {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject", "animate", "image"}
_VOID = {"br", "hr", "img", "meta", "input", "wbr", "col"}
_CONTROL = {chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))} - {"\n"}
_BIDI = set("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Reader(HTMLParser):
    """Reads markup as a browser's tokeniser would, and notes what a view must never produce."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.problems = [f"raw character {c!r}" for c in sorted((_CONTROL | _BIDI) & set(markup))]
        self._open: list[str] = []
        self.feed(markup)
        self.close()
        if self._open:
            self.problems.append(f"not closed: {self._open}")

    @property
    def text(self) -> str:
        """All character data, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in _FORBIDDEN_TAGS:
            self.problems.append(f"<{tag}>")
        for name, value in attrs:
            self._attribute(tag, name, value or "")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.problems.append(f"comment {data!r}")

    def _attribute(self, tag: str, name: str, value: str) -> None:
        self.attributes.append((name, value))
        if name == "id":
            self.ids.append(value)
        if name.startswith("on"):
            self.problems.append(f"{tag} {name}={value!r}")
        if name in ("href", "src", "action", "srcset", "xlink:href") and not value.startswith(("#", "data:image/png")):
            self.problems.append(f"{tag} {name}={value!r} leads outside")
        if "url(" in value and "url(#" not in value:
            self.problems.append(f"{tag} {name}={value!r} leads outside")


def status(**changes: Any) -> RunStatus:
    """Return a snapshot of a run that is half done."""
    sample = RunStatus(
        run_id="r7f3c-29ab41", name="thumbnails", task="docs.thumbnail", state=RunState.RUNNING, closed=True,
        submitted=1000, remaining=400, ready=0, delayed=20, claimed=80, ok=490, dead=10, skipped=0, retried=30,
        batches=52, active=4, known_workers=6, lost=1, batch_size=16, auto=True, max_workers=0, item_s=0.2,
        generation=0, created_at=NOON - 30, started_at=NOON - 25, finished_at=0.0, at=NOON,
        errors={"retryable": 30, "fatal": 10},
    )  # fmt: skip
    return replace(sample, **changes)


def ended(**changes: Any) -> RunStatus:
    """Return a snapshot of a run that has finished."""
    over = {"state": RunState.FINISHED, "remaining": 0, "delayed": 0, "claimed": 0, "ok": 990, "dead": 10, "active": 0}
    return status(**{**over, "finished_at": NOON + 30, "at": NOON + 31, **changes})


def view(snapshot: RunStatus | None = None, **changes: Any) -> RunView:
    """Return the view of a snapshot, by default of the run that is half done."""
    snapshot = snapshot or status()
    plain = RunView(snapshot.run_id, snapshot.name or snapshot.task, snapshot.task, snapshot, snapshot.at)
    return replace(plain, **changes)


def hostile_view(text: str, snapshot: RunStatus | None = None) -> RunView:
    """Return a view with `text` in every field that holds foreign text."""
    base = replace(snapshot or status(), run_id=text, name=text, task=text)
    letters = Errors((ErrorLine(text, text, 5, 7, text),), 5, 9)
    return RunView(
        run_id=text, title=text, task=text + text, status=replace(base, errors={text: 3}), at=NOON,
        trouble=Trouble(NOON, text), trend=trend(base), tally=tally(text), errors=letters,
        events=(event("updated", detail=text), event(text)), notice=text,
    )  # fmt: skip


def tally(name: str = "node-1/4000") -> Tally:
    """Return what two workers came to."""
    workers = (
        WorkerTally(name, name, 3, 150, 1, 18.75, NOON),
        WorkerTally("node-1/4001", "host-a", 2, 100, 0, 12.5, NOON),
    )
    return Tally(5, workers, 31.25, 0.5, service_s=1.25, wait_s=0.004)


def event(kind: str, at: float = NOON, done: int = 0, detail: str = "") -> RunEvent:
    """Return an event of a run of which `done` items had ended well."""
    return RunEvent("1-0", datetime.fromtimestamp(at, UTC), kind, Counters(1000, done), detail)


def trend(snapshot: RunStatus, looks: int = 40) -> Trend:
    """Return what was seen of a run that came to `snapshot` at an even pace."""
    seen = Trend()
    done = snapshot.ok + snapshot.dead
    for i in range(1, looks + 1):
        at = snapshot.started_at + snapshot.elapsed_s * i / looks
        seen = seen.add(replace(snapshot, ok=done * i // looks, dead=0, at=at, finished_at=0.0))
    return seen.add(snapshot)


def metrics(
    run_id: str = "r7f3c-29ab41", *, batch_size: int = 50, workers: int = 2, batches: int = 8, start_s: float = NOON,
    failing: int = 0, who: str = "node-1", task: str = "docs.thumbnail", name: str = "night run",
) -> pd.DataFrame:  # fmt: skip
    """Return the metric rows of a run of `batches` batches, each 1 s long, on `workers` workers that take turns."""
    rows = []
    for i in range(batches):
        bad = int(i < failing)
        values = dict.fromkeys(METRIC_NAMES, 0) | {
            "worker": i % workers, "outcome": bad, "category": 2 * bad, "attempt": 1, "active_claims": workers,
            "known_workers": workers, "asked": batch_size, "items": batch_size, "ok": batch_size - bad, "dead": bad,
            "first_index": i * batch_size, "claimed_at": start_s + 1.1 * (i // workers), "service_s": 0.8,
            "decode_s": 0.15, "store_s": 0.05, "idle_s": 0.1, "item_sum_s": 0.8, "item_max_s": 0.1,
        }  # fmt: skip
        rows.append(METRIC_ROW.pack(*(values[name] for name in METRIC_NAMES)))
    people = {i: WorkerIdentity("host-a", who, 4000 + i, "v1", "0.1.0").encode() for i in range(workers)}
    return metrics_frame(RunInfo(run_id, task, name, 0), rows, people)


def hostile_rows(text: str) -> pd.DataFrame:
    """Return metric rows with `text` in every column that holds names, some of them failed."""
    frame = metrics(text, who=text, task=text, name=text, failing=2)
    for column in ("host", "node", "worker", "code_version", "error_category"):
        # As objects, like those of the frames: as text, pandas would refuse half a surrogate pair.
        frame[column] = pd.Categorical.from_codes([0] * len(frame), pd.Index([text], dtype=object))
    return frame


def history() -> pd.DataFrame:
    """Return metric rows of four runs at three batch sizes and two worker counts."""
    settings = [(10, 2), (50, 2), (50, 4), (200, 4)]
    return concat_metrics(
        [
            metrics(f"run-{i}-abcdef", batch_size=size, workers=workers, start_s=NOON + 100 * i, failing=i)
            for i, (size, workers) in enumerate(settings)
        ]
    )


SETTINGS = ((1, 1), (10, 2), (100, 2), (10, 1), (100, 1), (40, 2))
"""Batch sizes and worker counts of the runs that `studied` learned from."""


@cache
def studied() -> tuple[pd.DataFrame, Recommender, Recommendation]:
    """History of a task, the model of it, and its advice."""
    workload = Workload(name="docs.classify", per_item_s=0.002, per_batch_s=0.03)
    frame = simulate_runs(workload, 500, SETTINGS, seed=1)
    model = Recommender(draws=20, replicates=8).fit(frame)
    return frame, model, model.recommend(n_items=2000, max_workers=4)


def check_display(display: Display) -> None:
    """Assert that a display draws itself and says, in title, caption and pictures, what it shows."""
    assert display.plot() is display
    assert display.ax_.get_title(loc="left").replace("\n", " ") == display.finding().replace("$", "\\$")
    assert isinstance(display.figure_, Figure)
    assert display.caption().startswith(display.finding())
    reader = Reader(display.svg("fig-x"))
    assert reader.problems == []
    assert display.finding() in reader.text
    assert reader.text.count(display.caption()) == 1
    picture = Reader(display._repr_html_())
    assert picture.problems == []
    assert dict(picture.attributes)["alt"] == display.caption()
