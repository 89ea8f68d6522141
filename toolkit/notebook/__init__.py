"""The notebook room: draws runs, recommendations and reports. It holds no logic and asks no server by itself.

==============  ==================================================================================
`escape`        the one place where foreign text is made harmless
`format`        numbers as people read them
`view`          what a run looks like at one moment, as plain records
`trend`         what a watcher learns by looking again and again: pace, time left, history
`sheet`         the looks of live views, and of what stays of them
`leaves`        pieces of markup made of a view
`flame`         the flame graph of a profile
`html`          static summaries, which survive saving and reopening
`outputs`       what a cell shows: static HTML beside live widgets; `folds`: sections that open by a click or a key
`live`          what every live view is: one thread that looks and draws, and an end as static HTML
`panel`         the live panel of a run
`board`         what all runs look like at one moment; `board_views`: its pieces of markup; `top`: its lines of text
`dashboard`     the live view of all runs of a client
`progress`      the progress bar in a terminal
`heat`          the map of predicted makespans, as values and as an HTML table
`theme`, `svg`  colours and figures; a figure as inline SVG
`plots`         display objects of a recommendation and of its predictions; `tradeoffs`: what a choice costs
`explorers`     opens the metrics explorer (`picking` makes what it shows) or the tuning explorer (`advice`); `latest`
                answers one question after the other
`timeline`      display objects of what was measured; more of them in `spread`, `failures` and `relation`
`report`        the report: as one HTML page, as Markdown, as a notebook
==============  ==================================================================================

Importing this package loads neither ipywidgets nor matplotlib; each view loads what it draws with when it is called.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from toolkit import renderers

if TYPE_CHECKING:
    from toolkit.notebook.dashboard import Dashboard
    from toolkit.notebook.explorers import explore
    from toolkit.notebook.failures import ErrorCounts
    from toolkit.notebook.flame import flame_graph, profile_html
    from toolkit.notebook.html import recommendation_html, run_html
    from toolkit.notebook.panel import RunPanel
    from toolkit.notebook.plots import MakespanMap, PredictedVsMeasured, ThroughputPlot
    from toolkit.notebook.progress import ProgressBar
    from toolkit.notebook.relation import Relation
    from toolkit.notebook.report import Report, write_report
    from toolkit.notebook.spread import Residuals, ServiceTimes
    from toolkit.notebook.timeline import TimeBreakdown, Timeline
    from toolkit.notebook.tradeoffs import ParetoFront, SpeedUp

_HOMES: Final = {
    "ErrorCounts": "failures",
    "Dashboard": "dashboard",
    "MakespanMap": "plots",
    "ParetoFront": "tradeoffs",
    "PredictedVsMeasured": "plots",
    "ProgressBar": "progress",
    "Relation": "relation",
    "Report": "report",
    "Residuals": "spread",
    "RunPanel": "panel",
    "ServiceTimes": "spread",
    "SpeedUp": "tradeoffs",
    "ThroughputPlot": "plots",
    "TimeBreakdown": "timeline",
    "Timeline": "timeline",
    "explore": "explorers",
    "flame_graph": "flame",
    "profile_html": "flame",
    "recommendation_html": "html",
    "run_html": "html",
    "write_report": "report",
}

__all__ = [
    "Dashboard",
    "ErrorCounts",
    "MakespanMap",
    "ParetoFront",
    "PredictedVsMeasured",
    "ProgressBar",
    "Relation",
    "Report",
    "Residuals",
    "RunPanel",
    "ServiceTimes",
    "SpeedUp",
    "ThroughputPlot",
    "TimeBreakdown",
    "Timeline",
    "explore",
    "flame_graph",
    "profile_html",
    "recommendation_html",
    "register",
    "run_html",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def register() -> None:
    """Register this room's renderers; cheap, because each imports its drawing library only when it is called."""
    renderers.register("run_display", _run_display)
    renderers.register("run_html", _run_html)
    renderers.register("client_display", _client_display)
    renderers.register("recommendation_html", _recommendation_html)
    renderers.register("profile_html", _profile_html)
    renderers.register("report", _report)
    renderers.register("progress", _progress)
    renderers.register("explore", _explore)


def _run_display(run: Any) -> None:
    from toolkit.notebook.panel import run_display

    run_display(run)


def _client_display(client: Any, text: str = "", state: str = "all") -> None:
    from toolkit.notebook.dashboard import client_display

    client_display(client, text, state)


def _run_html(run: Any) -> str:
    from toolkit.notebook.html import run_html

    return run_html(run)


def _profile_html(profile: Any) -> str:
    from toolkit.notebook.flame import profile_html

    return profile_html(profile)


def _recommendation_html(recommendation: Any) -> str:
    from toolkit.notebook.html import recommendation_html

    return recommendation_html(recommendation)


def _report(path: str | Path, **parts: Any) -> Path:
    from toolkit.notebook.report import Report

    return Report.of(**parts).write(path)


def _explore(source: Any, task: str | None) -> Any:
    from toolkit.notebook.explorers import explore

    return explore(source, task)


def _progress(stream: TextIO) -> ProgressBar:
    from toolkit.notebook.progress import ProgressBar

    return ProgressBar(stream)
