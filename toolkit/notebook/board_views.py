"""The pieces of the dashboard: pure functions from a `Board` to markup, with the looks of a run's own pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from toolkit.notebook import board as of
from toolkit.notebook import escape, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.board import Board, RunLine
from toolkit.notebook.sheet import still
from toolkit.records import RunState

MOST: Final = 25
"""Runs, nodes or tasks shown in a table; the rest is counted."""

_KINDS: Final = ("ca", "cc", "cb", "cc", "cc", "cd")
"""Classes of the columns of runs: how much room each asks for."""


def totals(board: Board) -> str:
    """Return the numbers of all runs together."""
    if not board.at:
        return f"<div class=all><span class=dim>no answer yet</span>{_trouble(board)}</div>"
    waits = of.backlog(board)
    states = ", ".join(f"{fmt.count(n)} {state}" for state, n in board.states.items()) or "none yet"
    unknown = f", {fmt.quantity(waits.unmeasured, 'run')} unmeasured" if waits.unmeasured else ""
    cells = (
        leaves.tile(fmt.count(len(board.lines)), f"{'run' if len(board.lines) == 1 else 'runs'}: {states}"),
        leaves.tile(fmt.count(waits.items), "items in the backlog"),
        leaves.tile(fmt.rough(waits.time_s), f"until it is done{unknown}"),
        leaves.tile(f"{fmt.count(board.busy)} / {fmt.count(board.workers)}", "workers busy / known"),
        leaves.tile(fmt.count(board.dead), "dead letters", "w" if board.dead else "v"),
    )
    return f"<div class=all>{''.join(cells)}{_trouble(board)}</div>"


def _trouble(board: Board) -> str:
    if board.trouble is not None:
        since = fmt.clock(board.trouble.since_at)
        return f"<div class=warn>⚠ no answer since {since} · {escape.html(board.trouble.message)}</div>"
    if board.unreadable:
        return f"<div class=warn>⚠ {fmt.quantity(board.unreadable, 'run')} left out, whose data do not parse.</div>"
    if not board.workers and any(not line.status.state.final for line in board.lines):
        return "<div class=warn>⚠ No worker is there: unfinished runs wait.</div>"
    return ""


def table(lines: Sequence[RunLine], board: Board) -> str:
    """Return the table of the runs that were chosen, of all that are in sight."""
    if not lines:
        words = "No run fits the filters." if board.lines else "No runs yet."
        return f"<div class=all><span class=dim>{words}</span></div>" if board.at else ""
    head = ("run", "state", "items", "throughput", "left", "failed")
    body = [_run(line) for line in lines[:MOST]]
    more = len(lines) - len(body)
    rest = f"<div class=foot>and {fmt.quantity(more, 'more run')}: filter, or see <code>client.runs()</code></div>"
    return f"<div class=gap>{leaves.deck(head, body, _KINDS)}{rest if more else ''}</div>"


def _run(line: RunLine) -> tuple[str, ...]:
    status = line.status
    task = f"{escape.html(line.task, 60)}<br>" if line.task != line.title else ""
    name = (
        f"<b>{escape.html(line.title, 60)}</b><br>"
        f"<span class=dim>{task}<span class=nw>{escape.html(line.run_id, 64)}</span></span>"
    )  # fmt: skip
    done = leaves.executed(status)
    total = fmt.count(status.submitted) + ("" if status.closed else "+")
    words = f"{fmt.count(done)} / {total} · {fmt.progress(done, status.submitted)}"
    left = line.time_left
    sure = leaves.span(left)
    remaining = fmt.UNKNOWN if left is None else fmt.rough(left.best)
    return (
        name,
        _chip(line),
        f"{leaves.bar(status, 'thin')}<span class=nw>{words}</span>",
        f"{fmt.rate(line.pace)}<br><span class=hist>{line.trend.history(12)}</span>",
        fmt.UNKNOWN if status.state.final else f"{remaining}<br><span class=dim>{sure}</span>",
        f"{fmt.count(line.failed)}<br><span class=dim>{fmt.count(status.dead)} dead</span>" if line.failed else "0",
    )


def _chip(line: RunLine) -> str:
    """The state, in a column of limited width; what failed has a column of its own."""
    if line.status.state is RunState.FINISHED and line.status.dead:
        return leaves.chip("✖ finished", "bad")
    chip = leaves.status_chip(line.status)
    busy = f"<br><span class=dim>{fmt.count(line.status.active)} busy</span>"
    return chip if line.status.state.final else f"{chip}{busy}"


def workers(board: Board) -> str:
    """Return the table of nodes."""
    if not board.nodes:
        return "<div class=all><span class=dim>No node is alive.</span></div>"
    body = [
        (
            escape.html(node.node, 80), escape.html(node.host, 60), escape.html(", ".join(node.queues), 120),
            f"{fmt.count(node.busy)} / {fmt.count(node.workers)}", leaves.meter(node.busy / max(1, node.workers)),
            fmt.duration(max(0.0, board.at - node.started_at)),
        )
        for node in board.nodes[:MOST]
    ]  # fmt: skip
    more = len(board.nodes) - len(body)
    rest = f"<div class=foot>and {fmt.quantity(more, 'more node')}: see <code>client.workers()</code></div>"
    return leaves.rows(("node", "host", "queues", "busy / known", "busy", "up"), body, (0, 1, 2)) + (
        rest if more else ""
    )


def dead(board: Board) -> str:
    """Return the table of runs with dead letters."""
    lines = of.failing(board.lines)
    if not lines:
        return "<div class=all><span class=dim>No dead letters.</span></div>"
    body = [
        (
            escape.html(line.title, 60), escape.html(line.run_id, 64), fmt.count(line.status.dead),
            escape.html(of.error_mix(line.status), 200),
        )
        for line in lines[:MOST]
    ]  # fmt: skip
    hint = (
        "<div class=foot>Why: <code>client.get_run(run_id).dead_letters()</code>; again: <code>.retry_dead()</code>"
        "</div>"
    )
    return leaves.rows(("run", "id", "dead letters", "failed executions by category"), body, (0, 1, 3)) + hint


def by_task(board: Board) -> str:
    """Return the backlog by task."""
    tasks = sorted({line.task for line in board.lines if not line.status.state.final})
    if not tasks:
        return "<div class=all><span class=dim>Nothing waits.</span></div>"
    waits = sorted(((task, of.backlog(board, task)) for task in tasks), key=lambda pair: -pair[1].work_s)
    body = [
        (escape.html(task, 80), fmt.count(b.items), fmt.rough(b.work_s or None), fmt.rough(b.time_s))
        for task, b in waits[:MOST]
    ]
    head = ("task", "items", "worker time", "until it is done")
    hint = (
        "<div class=foot>By the average time of an item so far and the workers that listen; paused runs count no time."
        "</div>"
    )
    return leaves.rows(head, body) + hint


def foot(board: Board, frozen: bool = False) -> str:
    """Return the time stamp."""
    if frozen:
        return f"<div class=all><div class=foot>all runs as of {fmt.moment(board.at)}, no longer live</div></div>"
    return f"<div class=all><div class=foot>as of {fmt.clock(board.at)}</div></div>"


def summary(board: Board, text: str = "", state: str = "all", frozen: bool = True) -> str:
    """Return the board as it stands, for good: no widget, no script."""
    lines = of.chosen(board, text, state)
    limits = [f"filter {escape.html(text, 80)}"] if text.strip() else []
    limits += [f"state {escape.html(state)}"] if state != "all" else []
    head = f"<div class=head><span class=name>Runs</span> <span class=dim>{' · '.join(limits)}</span></div>"
    parts = [head, totals(board), table(lines, board)]
    for words, part, there in (
        ("Workers", workers(board), board.nodes),
        ("Dead letters", dead(board), board.dead),
        ("Backlog by task", by_task(board), of.backlog(board).items),
    ):
        if there:
            parts.append(leaves.details(words, part))
    parts.append(foot(board, frozen))
    return still(f"<div class=box>{''.join(parts)}</div>")


def line(board: Board) -> str:
    """Return the board as one line of plain text, not escaped."""
    waits = of.backlog(board)
    states = ", ".join(f"{n:,} {state}" for state, n in board.states.items()) or "no runs"
    said = f"{states}; backlog {fmt.quantity(waits.items, 'item')}"
    if waits.items and waits.time_s is not None:
        said += f", about {fmt.rough(waits.time_s)}"
    return f"{said}; {board.busy:,} of {board.workers:,} workers busy; {fmt.quantity(board.dead, 'dead letter')}"
