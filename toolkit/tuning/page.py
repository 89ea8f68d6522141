"""A page of what a `Recommender` knows, for people without a notebook: one HTML file without script or address."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from toolkit._version import __version__
from toolkit.tuning import explain
from toolkit.tuning.recommendation import seconds

if TYPE_CHECKING:
    from toolkit.tuning.model import TaskModel

_STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em;line-height:1.4}"
    "table{border-collapse:collapse;margin:.5em 0}"
    "td,th{padding:.2em .8em;border-bottom:1px solid #8888;text-align:left}"
    "@media (prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
)
_MOST_ROWS = 100


def page(models: dict[str, TaskModel], unknown: Sequence[str]) -> str:
    """HTML of all tasks; `unknown` are those without a usable batch."""
    parts = [_task(name, model) for name, model in models.items()]
    if unknown:
        parts.append(f"<p>Without a usable batch: {_text(', '.join(unknown))}.</p>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>What batches cost</title>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style><h1>What batches cost</h1>{''.join(parts)}"
        f"<p>batch-analytics-toolkit {_text(__version__)}</p></html>\n"
    )


def _task(name: str, model: TaskModel) -> str:
    runs = model.history.runs[-_MOST_ROWS:]
    found = model.backtest
    of = {run_id: i for i, run_id in enumerate(found.run_ids)}
    rows = []
    for run in runs:
        i = of.get(run.run_id)
        told = seconds(float(found.predicted_s[i])) if i is not None and found.model[i] == found.model[i] else ""
        error = f"{found.measured_s[i] / found.predicted_s[i] - 1:+.1%}" if i is not None and told else ""
        rows.append((run.run_id, run.items, run.batch_size, run.workers, seconds(run.makespan_s), told, error))
    refusal = explain.refusal(model)
    return (
        f"<h2>{_text(name)}</h2>"
        + (f"<p><strong>No recommendation:</strong> {_text(refusal)}</p>" if refusal else "")
        + _table(("what it rests on", ""), explain.evidence(model).items())
        + "".join(f"<p>{_text(line)}.</p>" for line in explain.how_sure(model))
        + _table(("run", "items", "batch size", "workers", "measured", "predicted from the others", "off by"), rows)
        + (
            f"<p>{len(model.history.runs):,} runs, the latest {_MOST_ROWS} shown.</p>"
            if len(model.history.runs) > _MOST_ROWS
            else ""
        )
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return html.escape(str(value))
