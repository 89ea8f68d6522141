"""The pieces of a run's picture: pure functions from a `RunView` to markup.

The live panel and the static summary are made of the same pieces, whose looks are said in `toolkit.notebook.sheet`.
They use only tags and styles that the sanitiser of an untrusted notebook keeps: no SVG, no CSS variables; colours that
are legible on white and on black; and no fact that only a colour tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from toolkit.notebook import escape
from toolkit.notebook import format as fmt
from toolkit.notebook.sheet import BLUE, FONT, GREEN, GREY, RED, still
from toolkit.notebook.trend import TimeLeft
from toolkit.notebook.view import MAX_ERRORS, MAX_WORKERS, ErrorLine, Errors, RunView, WorkerLine
from toolkit.records import RunEvent, RunState, RunStatus

__all__ = ["BLUE", "FONT", "GREEN", "GREY", "RED"]  # read here by those that draw beside a run

MIX: Final = 3
"""Categories of failures named in the line about them."""


def rows(
    head: tuple[str, ...], body: Sequence[tuple[str, ...]], left: tuple[int, ...] = (0,), caption: str = ""
) -> str:
    """Return a table of cells that are markup already, with classes; columns in `left` are text, the others numbers."""
    ends = ["l" if i in left else "r" for i in range(len(head))]
    top = "".join(f"<th class=h{end} scope=col>{cell}</th>" for end, cell in zip(ends, head, strict=True))
    cells = (
        "".join(f"<td class=t{end}>{cell}</td>" for end, cell in zip(ends, row, strict=True)) for row in body
    )  # fmt: skip
    lines = "".join(f"<tr>{row}</tr>" for row in cells)
    title = f"<caption class=cap>{caption}</caption>" if caption else ""
    return (
        f"<div class=wide><table class=tab>{title}<thead><tr class=row>{top}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def deck(head: tuple[str, ...], body: Sequence[tuple[str, ...]], kinds: tuple[str, ...]) -> str:
    """Return a table whose lines become cards where there is no room for them; `kinds` are the columns' classes.

    Each line shares the width by itself, by what its columns ask for at least, so those of all lines stay in line.
    """
    top = "".join(f"<th class={kind} scope=col>{cell}</th>" for kind, cell in zip(kinds, head, strict=True))
    lines = "".join(
        f"<tr class=card>{''.join(f'<td class={k}>{cell}</td>' for k, cell in zip(kinds, row, strict=True))}</tr>"
        for row in body
    )
    return (
        f"<table class=deck><thead class=blk><tr class=card>{top}</tr></thead><tbody class=blk>{lines}</tbody></table>"
    )


def table(
    head: tuple[str, ...], body: Sequence[tuple[str, ...]], caption: str = "", left: tuple[int, ...] = (0,)
) -> str:
    """Return the same table with its looks written into it, for what stands by itself."""
    return still(rows(head, body, left, caption))


def details(words: str, body: str, opened: bool = False) -> str:
    """Return a part of a static summary that opens by a click; in a live view it would close at each refresh."""
    return f"<details class=gap{' open' if opened else ''}><summary class=sum>{words}</summary>{body}</details>"


# --------------------------------------------------------------------------- a run's head


def chip(words: str, kind: str) -> str:
    """Return a short word on a coloured ground; `kind` is run, good, bad or off, the words are escaped here."""
    return f"<span class={kind}>{escape.html(words)}</span>"


_KINDS: Final = {
    RunState.RUNNING: "run", RunState.PAUSED: "off", RunState.CANCELLING: "bad", RunState.CANCELLED: "off",
}  # fmt: skip


def status_chip(status: RunStatus) -> str:
    """Return the state as a word on its colour; a finished run with dead letters says so."""
    if status.state is not RunState.FINISHED:
        return chip(str(status.state), _KINDS[status.state])
    if status.dead:
        return chip(f"✖ finished, {fmt.quantity(status.dead, 'dead letter')}", "bad")
    return chip("✔ finished", "good")


def state_chip(view: RunView) -> str:
    """Return the state of a view: what was asked for by a button, else what the server says."""
    if view.status is None:
        return chip("no answer yet", "off")
    if view.asked and not view.status.state.final:
        return chip(view.asked.lower(), "bad")
    return status_chip(view.status)


def head(view: RunView) -> str:
    """Return the line that says which run this is, and its state."""
    task = f" · {escape.html(view.task, 80)}" if view.task and view.task != view.title else ""
    return (
        f"<div class=head><span class=name>{escape.html(view.title, 80)}</span> &nbsp;{state_chip(view)}&nbsp; "
        f"<span class=dim>run {escape.html(view.run_id, 64)}{task}</span></div>"
    )


# --------------------------------------------------------------------------- what beats: bar and numbers


def executed(status: RunStatus) -> int:
    """Return the items that ended by being executed; those that a cancel skipped are counted apart."""
    return status.ok + status.dead


def _segment(part: int, total: int, kind: str, words: str) -> str:
    if not part:
        return ""
    return f'<div class={kind} style="width:{100 * part / total:.1f}%" title="{fmt.count(part)} {words}"></div>'


def bar(status: RunStatus | None, kind: str = "bar") -> str:
    """Return the progress bar: ended well, dead, skipped, and on a worker now."""
    if status is None:
        return f"<div class={kind}></div>"
    total = max(1, status.submitted)
    parts = (
        _segment(status.ok, total, "bg" if status.state.final else "bo", "ok")
        + _segment(status.dead, total, "bd", "dead letters")
        + _segment(status.skipped, total, "bs", "skipped")
        + _segment(status.claimed, total, "bc", "on a worker now")
    )
    # The role tells a screen reader in the live panel; the sanitiser drops it where only the static summary is left.
    share = 100 * executed(status) // total
    role = f'role=progressbar aria-label="items done" aria-valuenow={share}'
    return f"<div class={kind} {role}>{parts}</div>"


def tile(value: str, label: str, kind: str = "v", wide: bool = False) -> str:
    """Return a number over what it counts; a wide one takes two places, so that those below each other are in line."""
    return f"<div class={'tt' if wide else 't'}><b class={kind}>{value}</b><i class=l>{label}</i></div>"


def span(left: TimeLeft | None) -> str:
    """Return the interval of the time left as text; empty when there is none."""
    if left is None or left.low != left.low:
        return ""
    return fmt.rough_interval(left.low, left.high)


def left_text(view: RunView) -> str:
    """Return the time left as text; unknown while paused, because nothing moves."""
    left = view.time_left
    return fmt.UNKNOWN if left is None else fmt.rough(left.best)


def sizes_text(view: RunView) -> str:
    """Return the batch size, after those that it was before."""
    status = view.status
    known = view.trend.sizes[:-1] if view.trend.sizes else ()
    now = fmt.count(status.batch_size) if status is not None and status.batch_size else fmt.UNKNOWN
    return " → ".join([*(fmt.count(size) for size in known[-2:]), now])


def pulse(view: RunView) -> str:
    """Return what changes all the time, in one piece, so that a refresh is one message: bar, numbers, history line."""
    status = view.status
    if status is None:
        return f"<div class=all>{bar(None)}</div>"
    return f"<div class=all>{bar(status)}{''.join(_tiles(view, status))}{_details(view, status)}</div>"


def _tiles(view: RunView, status: RunStatus) -> list[str]:
    total = fmt.count(status.submitted) + ("" if status.closed else "+")
    done = executed(status)
    more = "" if status.closed else ", more to come"
    cells = [
        tile(f"{fmt.count(done)} / {total} · {fmt.progress(done, status.submitted)}", f"items done{more}", wide=True),
        tile(fmt.duration(status.elapsed_s if status.started_at else None), "elapsed"),
    ]
    if not view.final:
        sure = span(view.time_left)
        cells.append(tile(left_text(view), f"left, 90 %: {sure}" if sure else "left"))
    cells.append(_rate(view, status))
    if not view.final:
        cells.append(tile(f"{fmt.count(status.active)} / {fmt.count(status.known_workers)}", "workers busy / known"))
    cells.append(tile(sizes_text(view), "batch size, steered" if status.auto else "batch size"))
    if view.tally is not None and not isinstance(view.tally, str) and view.tally.service_s is not None:
        took = f"{fmt.duration(view.tally.wait_s)} / {fmt.duration(view.tally.service_s)}"
        cells.append(tile(took, "wait / service of a batch"))
    return cells


def _rate(view: RunView, status: RunStatus) -> str:
    """The pace now, and of a run that has ended its average; the line of blocks shows how it went."""
    mean = status.rate if status.elapsed_s else None
    pace = mean if view.final or view.trend.pace is None else view.trend.pace
    history = view.trend.history()
    words = f"mean {fmt.rate(mean)}"
    line = f'<span class=hist title="{words}">{history}</span> ' if history else ""
    return tile(fmt.rate(pace), f"{line}{'mean ' if view.final else ''}throughput", wide=True)


def _details(view: RunView, status: RunStatus) -> str:
    """What is worth a word, but no tile, and the time stamp: a view without one looks alive when it is not."""
    if view.final:
        parts = [f"{status.state} {fmt.moment(status.finished_at or status.at)}"]
    else:
        parts = [f"as of {fmt.clock(view.at)}"]
    parts += [fmt.quantity(status.batches, "batch", "batches")]
    if status.retried:
        parts.append(f"{fmt.count(status.retried)} retried")
    if status.delayed:
        parts.append(f"{fmt.count(status.delayed)} waiting for a retry")
    if status.skipped:
        parts.append(f"{fmt.count(status.skipped)} skipped")
    if status.lost:
        parts.append(f"{fmt.quantity(status.lost, 'batch', 'batches')} lost with their process")
    if status.max_workers:
        parts.append(f"at most {fmt.quantity(status.max_workers, 'worker')}")
    return f"<div class=foot>{' · '.join(parts)}</div>"


# --------------------------------------------------------------------------- what fails, and why nothing moves


def failures(view: RunView) -> str:
    """Return failed executions by category, and an example; empty when nothing failed."""
    status = view.status
    if status is None or not (status.errors or status.dead):
        return ""
    most = sorted(status.errors.items(), key=lambda pair: -pair[1])
    mix = [f"{fmt.count(n)} {escape.html(category.replace('_', ' '), 40)}" for category, n in most[:MIX]]
    if most[MIX:]:
        mix.append(f"{fmt.count(sum(n for _, n in most[MIX:]))} other")
    parts = [f"<span class=dead>{fmt.quantity(status.dead, 'dead letter')}</span>"] if status.dead else []
    parts += [f"failed executions: {', '.join(mix)}"] if mix else []
    return f"<div class=fail>{' · '.join(parts)}{_example(view.errors)}</div>"


def _example(errors: Errors | str | None) -> str:
    if not isinstance(errors, Errors) or not errors.lines:
        return ""
    line = errors.lines[0]
    return (
        f" <span class=dim>· for example item {fmt.count(line.index)}:</span> "
        f"{escape.html(line.error_type or 'unknown', 80)}: {escape.html(line.message, 160)}"
    )


def notes(view: RunView) -> str:
    """Return what keeps the run from moving, and what came of a click; empty when there is nothing to say."""
    found = []
    status = view.status
    if view.trouble is not None:
        since = fmt.clock(view.trouble.since_at)
        found.append(f"<div class=warn>⚠ no answer since {since} · {escape.html(view.trouble.message)}</div>")
    elif status is not None:
        found += _standstill(status)
    if view.notice:
        found.append(f"<div class=note>{escape.html(view.notice)}</div>")
    return f"<div class=all>{''.join(found)}</div>" if found else ""


def _standstill(status: RunStatus) -> list[str]:
    """Why nothing moves, as far as the snapshot tells."""
    if status.state is RunState.PAUSED:
        reason = escape.html(status.reason or "somebody asked for it")
        return [f"<div class=note>Paused: {reason}. <code>run.resume()</code> goes on.</div>"]
    if status.state.final or status.done == status.submitted:
        return []
    if not status.known_workers and not status.active:
        return ["<div class=warn>⚠ No worker listens to this run's queue.</div>"]
    if not status.started_at:
        waited = fmt.duration(max(0.0, status.at - status.created_at))
        return [f"<div class=note>Queued for {waited}: no worker was free yet.</div>"]
    return []


def reloaded() -> str:
    """Return what a page has to be told that was loaded while the run went on and cannot keep its last picture."""
    return (
        "<div class=all><div class=note>This page was loaded while the run went on: run the cell again before you save,"
        " and the notebook keeps this summary.</div></div>"
    )


def later(view: RunView) -> str:
    """Return what a notebook says that was saved while the run went on."""
    return (
        "<div class=all><div class=note>So it stood when this was saved: "
        f"<code>client.get_run({escape.html(repr(view.run_id), 80)})</code> shows what became of it.</div></div>"
    )


# --------------------------------------------------------------------------- sections


def _note(text: str) -> str:
    return f"<div class=all><span class=dim>{text}</span></div>"


def kept(markup: str) -> str:
    """Keep a name on one line; where there is no room the table scrolls."""
    return f"<span class=nw>{markup}</span>"


def _missing(reason: str | None) -> str:
    return _note(escape.html(reason or "Not asked for yet."))


def meter(share: float) -> str:
    """Return a share of 1 as a small gauge and in words."""
    words = fmt.percent(share)
    return f'<meter class=met min="0" max="1" value="{share:.2f}">{words}</meter> {words}'


def workers(lines: tuple[WorkerLine, ...] | str | None) -> str:
    """Return the table of workers."""
    if lines is None or isinstance(lines, str):
        return _missing(lines)
    if not lines:
        return _note("No batch has ended yet.")
    body = [
        (
            kept(escape.html(line.worker, 80)), kept(escape.html(line.host, 60)), fmt.count(line.batches),
            fmt.count(line.items), fmt.count(line.failed), meter(line.busy),
        )
        for line in lines[:MAX_WORKERS]
    ]  # fmt: skip
    more = len(lines) - len(body)
    rest = _note(f"and {fmt.quantity(more, 'more worker')}: see <code>run.metrics()</code>") if more else ""
    return rows(("worker", "host", "batches", "items", "failed", "busy"), body, (0, 1)) + rest


def errors(found: Errors | str | None) -> str:
    """Return the table of dead letters by kind of error."""
    if found is None or isinstance(found, str):
        return _missing(found)
    if not found.lines:
        return _note("No dead letters.")
    part = found.read / max(found.dead, 1)
    body = [_error(line, part) for line in found.lines[:MAX_ERRORS]]
    more = len(found.lines) - len(body)
    rest = f"and {fmt.quantity(more, 'more kind')} of error. " if more else ""
    if found.read < found.dead:
        rest += f"~ by {fmt.count(found.read)} of them, evenly spread. "
    hint = _note(
        f"{rest}All of them: <code>run.dead_letters()</code>; one under the debugger: <code>run.replay(index)</code>."
    )
    return rows(("error", "category", "items", "such as item", "its message"), body, (0, 1, 4)) + hint


def _error(line: ErrorLine, part: float) -> tuple[str, ...]:
    """A line of the table; `part` is the share of all dead letters that was read for it."""
    items = fmt.count(line.items) if part >= 1 else f"~{fmt.number(line.items / part, 2)}"
    return (
        f"<b>{escape.html(line.error_type or 'unknown', 120)}</b>", escape.html(line.category, 40),
        items, fmt.count(line.index), f"<span class=msg>{escape.html(line.message)}</span>",
    )  # fmt: skip


def events(found: tuple[RunEvent, ...] | str | None) -> str:
    """Return what happened to the run lately, the latest first; re-plans of the batch size with their reasons."""
    if found is None or isinstance(found, str):
        return _missing(found)
    body = [
        (
            kept(fmt.clock(e.at.timestamp())),
            escape.html(e.kind.replace("_", " "), 40),
            escape.html(e.detail, 300),
        )
        for e in reversed(found)
    ]
    return rows(("at", "what", "why"), body, (0, 1, 2)) if body else _note("Nothing yet.")
