"""Static HTML of a run and of a recommendation: what stays in a saved notebook.

Only tags and styles that survive the sanitiser of an untrusted notebook; every foreign text passes
`toolkit.notebook.escape`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from toolkit.notebook import escape, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.heat import HeatGrid, setting
from toolkit.notebook.view import RunView, answered, blank, unanswered, with_details

_BOX: Final = f"border:1px solid #8888;border-radius:8px;padding:10px 14px;max-width:820px;{leaves.FONT}"


def _details(summary: str, body: str, opened: bool = False) -> str:
    mark = " open" if opened else ""
    return f'<details{mark} style="margin-top:6px"><summary style="cursor:pointer">{summary}</summary>{body}</details>'


def summary(view: RunView) -> str:
    """Return the picture of a run as it stands, for good: no widget, no script."""
    parts = [leaves.head(view), leaves.bar(view), leaves.tiles(view)]
    status = view.status
    if status is not None and status.dead:
        hint = '<div style="margin-top:6px">Why: <code>run.dead_letters()</code></div>'
        words = f"Dead letters ({fmt.count(status.dead)})"
        parts.append(_details(words, leaves.errors(view.errors), opened=True) if view.errors else hint)
    if view.workers:
        parts.append(_details("Workers", leaves.workers(view.workers)))
    parts.append(leaves.foot(view))
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def look(run: Any) -> RunView:
    """Ask a run for its state once and return what a view shows; never raises.

    Parameters
    ----------
    run : Run
        Anything with ``run_id``, ``spec`` and ``status()``. Of a run that has ended, workers and dead letters
        are read too.
    """
    view = blank(run)
    try:
        view = answered(view, run.status(), time.time())
    except Exception as error:  # noqa: BLE001 - a representation must not raise, whatever the server or a proxy throws
        return unanswered(view, error, time.time())
    return with_details(run, view) if view.final else view


def run_html(run: Any) -> str:
    """Return a summary of `run` as HTML, from one cheap call; details of the dead letters once it has ended.

    Parameters
    ----------
    run : Run
        The handle. When the server does not answer, the summary says so instead of raising.
    """
    return summary(look(run))


# --------------------------------------------------------------------------- a recommendation


def _span(recommendation: Any, name: str) -> str:
    bounds = (recommendation.intervals or {}).get(name)
    return "" if bounds is None else f" (90 % interval {fmt.interval(*bounds)})"


def headline(recommendation: Any) -> str:
    """Return the recommendation as one sentence of plain text, with its interval."""
    if recommendation.refused:
        return f"No recommendation: {recommendation.refused}"
    answer = setting(recommendation.batch_size, recommendation.workers).capitalize()
    return f"{answer}: predicted {fmt.duration(recommendation.makespan_s)}{_span(recommendation, 'makespan_s')}"


def spoken(value: Any) -> str:
    """Return a value of a record (number, text, sequence or mapping) as plain text."""
    if value is None:
        return fmt.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return fmt.count(value)
    if isinstance(value, float):
        return fmt.number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {spoken(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(spoken(part) for part in value)
    return str(value)


def facts(value: Any) -> list[tuple[str, str]]:
    """Return a mapping, or a sentence, as pairs of name and plain text."""
    if value is None or value == "" or (hasattr(value, "__len__") and not len(value)):
        return []
    if isinstance(value, Mapping):
        return [_fact(str(key), part) for key, part in value.items()]
    return [("", spoken(value))]


def _fact(name: str, value: Any) -> tuple[str, str]:
    if name.endswith("_s") and isinstance(value, (int, float)):
        return name.removesuffix("_s").replace("_", " "), fmt.duration(value)
    return name.replace("_", " "), spoken(value)


def how_sure(recommendation: Any) -> str:
    """Return in a sentence where the interval comes from."""
    if recommendation.coverage_method == "conformal":
        return "Interval: 90 %, from the errors of earlier predictions (conformal, grouped by run)."
    return "Interval: 90 %, from the model alone; too few runs to check it against."


def saving_text(recommendation: Any) -> str:
    """Return what following the advice saves against the baseline, as plain text; empty when unknown."""
    saving = recommendation.saving
    if isinstance(saving, (int, float)) and not isinstance(saving, bool):
        # Both readings occur in people's heads: a share of the baseline's time is the one that is used here.
        return f"{fmt.percent(saving)} less time than the baseline" if saving > 0 else "no faster than the baseline"
    return spoken(saving) if saving else ""


def recommendation_html(recommendation: Any) -> str:
    """Return a recommendation as HTML: the answer, its interval, the reasons, the evidence and the map.

    Parameters
    ----------
    recommendation : Recommendation
        As `Recommender.recommend` returns it; a refused one says why it is refused.
    """
    refused = bool(recommendation.refused)
    edge = leaves.GREY if refused else leaves.BLUE
    answer = f"border-left:4px solid {edge};padding:2px 10px;font-size:15px;font-weight:600"
    parts = [
        f'<div style="opacity:.75">{escape.html(recommendation.task or "all tasks", 80)}</div>',
        f'<div style="{answer}">{escape.html(headline(recommendation), 600)}</div>',
    ]
    if not refused:
        cost = f"{fmt.duration(recommendation.cost_worker_s)} of worker time{_span(recommendation, 'cost_worker_s')}"
        extra = [text for text in (cost, saving_text(recommendation)) if text]
        parts.append(f'<div style="margin-top:4px">{escape.html(" · ".join(extra), 600)}</div>')
        parts.append(f'<div style="opacity:.75">{escape.html(how_sure(recommendation))}</div>')
    if recommendation.reasons:
        items = "".join(f"<li>{escape.html(reason, 600)}</li>" for reason in recommendation.reasons)
        parts.append(f'<ul style="margin:6px 0 0 0">{items}</ul>')
    if not refused:
        code = ", ".join(f"{key}={value!r}" for key, value in recommendation.kwargs().items())
        parts.append(f'<div style="margin-top:6px"><code>client.map(task, items, {escape.html(code)})</code></div>')
    grid = HeatGrid.from_recommendation(recommendation)
    if grid:
        parts.append(_details("Predicted makespan of every setting", grid.html()))
    rows = [
        (escape.html(k), escape.html(v, 600)) for k, v in [*facts(recommendation.evidence), *_baseline(recommendation)]
    ]
    if rows:
        parts.append(_details("Evidence", leaves.table(("", ""), rows, left=(0, 1))))
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def _baseline(recommendation: Any) -> list[tuple[str, str]]:
    return [(f"baseline {name}".strip(), text) for name, text in facts(recommendation.baseline)]
