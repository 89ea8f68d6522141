"""Static HTML of a run and of a recommendation: what stays in a saved notebook.

Only tags and styles that survive the sanitiser of an untrusted notebook; every foreign text passes
`toolkit.notebook.escape`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from toolkit.notebook import escape, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.heat import HeatGrid, setting
from toolkit.notebook.sheet import LOOKS, still
from toolkit.notebook.view import Errors, RunView, look

if TYPE_CHECKING:
    from toolkit.tuning import Recommendation

BOX: Final = LOOKS["box"]
"""The frame around a static summary."""


def summary(view: RunView, more: str = "") -> str:
    """Return the picture of a run as it stands, for good: no widget, no script; `more` is a last piece of markup."""
    parts = [leaves.head(view), leaves.pulse(view), leaves.failures(view)]
    if isinstance(view.errors, str) or (view.errors and view.errors.dead):
        dead = view.errors.dead if isinstance(view.errors, Errors) else view.status.dead if view.status else 0
        parts.append(leaves.details(f"Dead letters ({fmt.count(dead)})", leaves.errors(view.errors)))
    if view.workers:
        parts.append(leaves.details("Workers", leaves.workers(view.workers)))
    parts += [leaves.notes(view), more]
    return still(f"<div class=box>{''.join(parts)}</div>")


def run_html(run: Any) -> str:
    """Return a summary of `run` as HTML, from one cheap call; details of the dead letters once it has ended.

    Parameters
    ----------
    run : Run
        The handle. When the server does not answer, the summary says so instead of raising.
    """
    return summary(look(run))


# --------------------------------------------------------------------------- a recommendation


def _span(recommendation: Recommendation, name: str) -> str:
    bounds = recommendation.intervals.get(name)
    return "" if bounds is None else f" (90 % interval {fmt.interval(*bounds)})"


def headline(recommendation: Recommendation) -> str:
    """Return the recommendation as one sentence of plain text, with its interval."""
    items = fmt.quantity(recommendation.n_items, "item")
    if recommendation.refused:
        return f"No recommendation for {items}. {recommendation.refused}"
    answer = setting(recommendation.batch_size, recommendation.workers).capitalize()
    takes = f"{fmt.duration(recommendation.makespan_s)}{_span(recommendation, 'makespan_s')}"
    return f"{answer}: {items} in a predicted {takes}"


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


_NAMES: Final = {"cost_worker_s": "worker time"}


def _fact(name: str, value: Any) -> tuple[str, str]:
    words = _NAMES.get(name, name.removesuffix("_s").replace("_", " "))
    if name.endswith("_s") and isinstance(value, (int, float)):
        return words, fmt.duration(value)
    if name.endswith("_interval") and isinstance(value, (list, tuple)):
        return words, " to ".join(spoken(part) for part in value)
    return words, spoken(value)


def evidence_facts(recommendation: Recommendation) -> list[tuple[str, str]]:
    """Return the evidence and the baseline as pairs of name and plain text."""
    other = dict(recommendation.baseline)
    found = facts(recommendation.evidence)
    if {"setting", "batch_size", "workers", "makespan_s"} <= set(other):
        words = f"{other.pop('setting')}: {setting(other.pop('batch_size'), other.pop('workers'))}"
        found.append(("compared with", f"{words}, {fmt.duration(other.pop('makespan_s'))}{_at_cost(other)}"))
    found += [
        (f"{name} on left-out runs" if name.endswith("error") else f"baseline {name}", text)
        for name, text in facts(other)
    ]
    return found


def _at_cost(baseline: dict[str, Any]) -> str:
    cost = baseline.pop("cost_worker_s", None)
    return "" if cost is None else f", {fmt.duration(cost)} of worker time"


def how_sure(recommendation: Recommendation) -> str:
    """Return in a sentence where the interval comes from."""
    if recommendation.coverage_method == "conformal":
        return "The 90 % interval comes from the errors on left-out runs (conformal)."
    if recommendation.coverage_method == "throughput":
        return "The 90 % interval comes from plain throughput, which predicts these runs better than the model."
    return "The 90 % interval comes from the model, by how runs differed; with more runs it is checked on them."


def saving_text(recommendation: Recommendation) -> str:
    """Return what following the advice saves against the baseline, as plain text; empty when unknown."""
    saving = recommendation.saving
    if saving is None:
        return ""
    other = recommendation.baseline.get("setting", "the baseline")
    if all(recommendation.baseline.get(name) == getattr(recommendation, name) for name in ("batch_size", "workers")):
        return f"the same setting as {other}"
    if saving <= 0:
        workers = recommendation.baseline.get("workers", 0)
        seen = recommendation.evidence.get("workers") or [0]
        unseen = f", whose {fmt.quantity(workers, 'worker')} were never measured" if workers > max(seen) else ""
        return f"no better than {other}{unseen}"
    return f"{fmt.percent(saving)} less {'worker time' if recommendation.objective == 'cost' else 'time'} than {other}"


def recommendation_html(recommendation: Recommendation) -> str:
    """Return a recommendation as HTML: the answer, its interval, the reasons, the evidence and the map.

    Parameters
    ----------
    recommendation : Recommendation
        As `Recommender.recommend` returns it; a refused one says why it is refused.
    """
    parts = [
        f'<div style="opacity:.75">{escape.html(recommendation.task or "all tasks", 80)}</div>',
        *answer_parts(recommendation),
        reasons_list(recommendation),
    ]
    if not recommendation.refused:
        parts.append(
            f'<div style="margin-top:6px"><code>client.map({escape.html(call_text(recommendation))})</code></div>'
        )
    grid = HeatGrid.from_recommendation(recommendation)
    if grid:
        parts.append(leaves.details("Makespan of every setting", grid.html()))
    evidence = evidence_table(recommendation)
    if evidence:
        parts.append(leaves.details("Evidence", evidence))
    return still(f"<div class=box>{''.join(parts)}</div>")


def answer_parts(recommendation: Recommendation) -> list[str]:
    """Return the answer in short: the setting with its interval, then cost, saving and the source of the interval."""
    edge = leaves.GREY if recommendation.refused else leaves.BLUE
    answer = f"border-left:4px solid {edge};padding:2px 10px;font-size:15px;font-weight:600"
    return [
        f'<div style="{answer}">{escape.html(headline(recommendation), 600)}</div>',
        *_details_of_answer(recommendation),
    ]


def reasons_list(recommendation: Recommendation) -> str:
    """Return the reasons, and the experiment that would teach most."""
    items = "".join(f"<li>{escape.html(reason, 600)}</li>" for reason in recommendation.reasons)
    parts = [f'<ul style="margin:6px 0 0 0">{items}</ul>'] if items else []
    if recommendation.experiment and not recommendation.refused:
        parts.append(
            f'<div style="margin-top:6px">Would teach most: {escape.html(recommendation.experiment, 600)}</div>'
        )
    return "".join(parts)


def evidence_table(recommendation: Recommendation) -> str:
    """Return the evidence and the baseline as a table; empty without any."""
    rows = [(escape.html(name), escape.html(text, 600)) for name, text in evidence_facts(recommendation)]
    return still(leaves.table(("", ""), rows, left=(0, 1))) if rows else ""


def call_text(recommendation: Recommendation) -> str:
    """Return the arguments of ``client.map`` that follow the advice, as code."""
    return ", ".join(["task, items", *(f"{key}={value!r}" for key, value in recommendation.kwargs().items())])


def _details_of_answer(recommendation: Recommendation) -> list[str]:
    """Return cost, saving and the source of the interval; of a refused one, what to run meanwhile."""
    if recommendation.refused:
        if not recommendation.batch_size:
            return []
        meanwhile = setting(recommendation.batch_size, recommendation.workers)
        return [f'<div style="margin-top:4px">Meanwhile: {escape.html(meanwhile)}.</div>']
    cost = f"{fmt.duration(recommendation.cost_worker_s)} of worker time{_span(recommendation, 'cost_worker_s')}"
    line = " · ".join(text for text in (cost, saving_text(recommendation)) if text)
    return [
        f'<div style="margin-top:4px">{escape.html(line, 600)}</div>',
        f'<div style="opacity:.75">{escape.html(how_sure(recommendation))}</div>',
    ]
