"""The pieces of a run's picture: pure functions from a `RunView` to markup.

The live panel and the static summary are made of the same pieces. They use only tags and styles that the sanitiser of
an untrusted notebook keeps: no style element, no SVG, no CSS variables; colours that are legible on white and on
black; and no fact that only a colour tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from toolkit.notebook import escape
from toolkit.notebook import format as fmt
from toolkit.notebook.view import MAX_ERRORS, MAX_WORKERS, ErrorLine, RunView, WorkerLine
from toolkit.records import RunState, RunStatus

# Okabe-Ito hues, darkened until white text on them reaches a contrast of 4.5.
BLUE: Final = "#0067a3"
GREEN: Final = "#00785a"
RED: Final = "#b84a00"
GREY: Final = "#666c75"

SKY: Final = "#56b4e9"
"""Items on a worker, in the bar."""

FONT: Final = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px;line-height:1.45"
_CELL: Final = "text-align:right;padding:2px 10px"
_FIRST: Final = "text-align:left;padding:2px 10px 2px 0"


def table(
    head: tuple[str, ...], rows: Sequence[tuple[str, ...]], caption: str = "", left: tuple[int, ...] = (0,)
) -> str:
    """Return a table of cells that are markup already; columns in `left` are text, the others numbers."""
    style = [_FIRST if i in left else _CELL for i in range(len(head))]
    top = "".join(
        f'<th scope="col" style="{s};font-weight:600">{cell}</th>' for s, cell in zip(style, head, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{s};vertical-align:top">{c}</td>' for s, c in zip(style, row, strict=True))
        + "</tr>"
        for row in rows
    )
    title = f'<caption style="text-align:left;opacity:.8">{caption}</caption>' if caption else ""
    return (
        f'<table style="border-collapse:collapse;{FONT}">{title}<thead><tr style="border-bottom:1px solid #8888">'
        f"{top}</tr></thead><tbody>{body}</tbody></table>"
    )


def chip(text: str, colour: str) -> str:
    """Return a short word on a coloured ground; `text` is escaped here."""
    return (
        f'<span style="background-color:{colour};color:#fff;border-radius:9px;padding:1px 9px;font-size:12px;'
        f'font-weight:600;white-space:nowrap">{escape.html(text)}</span>'
    )


def state_chip(view: RunView) -> str:
    """Return the state as a word on its colour; a finished run with dead letters says so."""
    status = view.status
    if status is None:
        return chip("no answer yet", GREY)
    if view.cancelling and not status.state.final:
        return chip("cancel asked", RED)
    if status.state is RunState.FINISHED:
        if status.dead:
            return chip(f"✖ finished, {fmt.quantity(status.dead, 'dead letter')}", RED)
        return chip("✔ finished", GREEN)
    colour = {RunState.RUNNING: BLUE, RunState.PAUSED: GREY, RunState.CANCELLING: RED, RunState.CANCELLED: GREY}
    return chip(str(status.state), colour.get(status.state, GREY))


def head(view: RunView) -> str:
    """Return the line that says which run this is, and its state."""
    task = f" · {escape.html(view.task, 80)}" if view.task and view.task != view.title else ""
    return (
        f'<div style="{FONT};margin-bottom:4px"><b style="font-size:15px">{escape.html(view.title, 80)}</b>'
        f'<span style="opacity:.75">{task} · run {escape.html(view.run_id, 64)}</span> &nbsp;{state_chip(view)}</div>'
    )


def _segment(part: int, total: int, colour: str, words: str) -> str:
    if not part:
        return ""
    return (
        f'<div title="{fmt.count(part)} {words}" style="float:left;height:14px;width:{100 * part / total:.3f}%;'
        f'background-color:{colour}"></div>'
    )


def bar(view: RunView) -> str:
    """Return the progress bar: ended well, dead, skipped, and on a worker now."""
    status = view.status
    total = max(1, status.submitted) if status else 1
    parts = ""
    label = "no answer yet"
    if status is not None:
        parts = (
            _segment(status.ok, total, GREEN if view.final else BLUE, "ok")
            + _segment(status.dead, total, RED, "dead letters")
            + _segment(status.skipped, total, GREY, "skipped")
            + _segment(status.claimed, total, SKY, "on a worker now")
        )
        label = f"{fmt.progress(executed(status), status.submitted)} of the items done"
    # The role tells a screen reader in the live panel; the sanitiser drops it where only the static summary is left.
    done = executed(status) if status else 0
    role = f'role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}"'
    style = "height:14px;width:100%;overflow:hidden;border-radius:4px;background-color:#8883"
    return f'<div {role} title="{label}" style="{style}">{parts}</div>'


def _tile(value: str, label: str, colour: str = "") -> str:
    paint = f";color:{colour}" if colour else ""
    return (
        '<div style="display:inline-block;vertical-align:top;margin:6px 20px 0 0">'
        f'<div style="font-size:16px;font-weight:600;white-space:nowrap{paint}">{value}</div>'
        f'<div style="font-size:11.5px;opacity:.75;white-space:nowrap">{label}</div></div>'
    )


def executed(status: RunStatus) -> int:
    """Return the items that ended by being executed; those that a cancel skipped are counted apart."""
    return status.ok + status.dead


def left(status: RunStatus) -> str:
    """Return the time left as text; unknown while paused, because nothing moves."""
    return fmt.UNKNOWN if status.state is RunState.PAUSED else fmt.duration(status.eta_s)


def tiles(view: RunView) -> str:
    """Return the numbers of a run: items, times, throughput, workers, batch size, retried, dead letters."""
    status = view.status
    if status is None:
        return ""
    total = fmt.count(status.submitted) + ("" if status.closed else "+")
    cells = [
        _tile(
            f"{fmt.count(executed(status))} / {total} · {fmt.progress(executed(status), status.submitted)}",
            "items done" if status.closed else "items done, more to come",
        ),
        _tile(fmt.duration(status.elapsed_s if status.started_at else None), "elapsed"),
    ]
    if not view.final:
        cells.append(_tile(left(status), "left"))
    cells.append(_tile(fmt.rate(status.rate if status.elapsed_s else None), "throughput"))
    if not view.final:
        cells.append(_tile(f"{fmt.count(status.active)} / {fmt.count(status.known_workers)}", "workers busy / known"))
    auto = "batch size, steered" if status.auto else "batch size"
    cells.append(_tile(fmt.count(status.batch_size) if status.batch_size else fmt.UNKNOWN, auto))
    cells.append(_tile(fmt.count(status.batches), "batches"))
    cells.append(_tile(fmt.count(status.retried), "retried"))
    # The count is said in words as well, so the colour (legible on white and on black) only draws the eye.
    cells.append(_tile(fmt.count(status.dead), "dead letters", "#d55e00" if status.dead else ""))
    if status.skipped:
        cells.append(_tile(fmt.count(status.skipped), "skipped"))
    if status.lost:
        cells.append(_tile(fmt.count(status.lost), "batches lost"))
    return f'<div style="{FONT}">{"".join(cells)}</div>'


def _warning(markup: str, colour: str) -> str:
    return f'<div style="border-left:4px solid {colour};padding:2px 8px;margin-top:6px">{markup}</div>'


def foot(view: RunView) -> str:
    """Return the time stamp, and what keeps the run from moving, if anything."""
    notes = []
    status = view.status
    if view.trouble is not None:
        since = fmt.clock(view.trouble.since_at)
        notes.append(_warning(f"⚠ no answer since {since} · {escape.html(view.trouble.message)}", RED))
    elif status is not None and status.state is RunState.RUNNING and not status.known_workers:
        hint = (
            "No worker listens to the queue of this run. Start one; <code>toolkit doctor</code> says what is missing."
        )
        notes.append(_warning(hint, GREY))
    elif status is not None and status.state is RunState.PAUSED:
        why = escape.html(status.reason) or "somebody asked for it"
        notes.append(_warning(f"Paused: {why}. <code>run.resume()</code> goes on.", GREY))
    if view.notice:
        notes.append(_warning(escape.html(view.notice), RED))
    if status is not None and view.final:
        stamp = f"{status.state} {fmt.moment(status.finished_at or status.at)}"
    else:
        stamp = f"as of {fmt.clock(view.at)}"
    small = "font-size:11.5px;opacity:.75;margin-top:6px"
    return f'<div style="{FONT}">{"".join(notes)}<div style="{small}">{stamp}</div></div>'


def _note(text: str) -> str:
    return f'<div style="{FONT};opacity:.75">{text}</div>'


def _meter(share: float) -> str:
    words = fmt.percent(share)
    return f'<meter min="0" max="1" value="{share:.3f}" style="width:80px">{words}</meter> {words}'


def workers(lines: tuple[WorkerLine, ...] | str | None) -> str:
    """Return the table of workers."""
    if lines is None or isinstance(lines, str):
        return _note(escape.html(lines or "Not asked for yet."))
    if not lines:
        return _note("No batch has ended yet.")
    rows = [
        (
            escape.html(line.worker, 80),
            escape.html(line.host, 60),
            fmt.count(line.batches),
            fmt.count(line.items),
            fmt.count(line.failed),
            _meter(line.busy),
        )
        for line in lines[:MAX_WORKERS]
    ]
    more = len(lines) - len(rows)
    rest = _note(f"and {fmt.quantity(more, 'more worker')}: see <code>run.metrics()</code>") if more else ""
    return table(("worker", "host", "batches", "items", "failed", "busy"), rows, left=(0, 1)) + rest


def errors(lines: tuple[ErrorLine, ...] | str | None) -> str:
    """Return the table of dead letters by kind of error."""
    if lines is None or isinstance(lines, str):
        return _note(escape.html(lines or "Not asked for yet."))
    if not lines:
        return _note("No dead letters.")
    rows = [
        (
            f"<b>{escape.html(line.error_type or 'unknown', 120)}</b>",
            escape.html(line.category, 40),
            fmt.count(line.items),
            fmt.count(line.index),
            escape.html(line.message),
        )
        for line in lines[:MAX_ERRORS]
    ]
    more = len(lines) - len(rows)
    rest = f"and {fmt.quantity(more, 'more kind')} of error. " if more else ""
    hint = _note(
        f"{rest}All of them: <code>run.dead_letters()</code>; one under the debugger: <code>run.replay(index)</code>."
    )
    return table(("error", "category", "items", "first index", "its message"), rows, left=(0, 1, 4)) + hint
