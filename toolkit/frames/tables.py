"""Runs, items, workers, dead letters and events as frames."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from toolkit.frames import schema
from toolkit.records import CATEGORIES, Counters, DeadLetter, NodeInfo, RunSpec, RunState, RunStatus

_OK, _DEAD, _SKIPPED, _PENDING = range(len(schema.ITEM_STATES))


def runs_frame(runs: Sequence[tuple[RunSpec, RunStatus]]) -> pd.DataFrame:
    """One row per run."""
    values = {
        name: [getattr(status, name) for _, status in runs]
        for name in (
            "run_id", "name", "task", "submitted", "ok", "dead", "skipped", "retried", "batches", "lost", "batch_size",
            "auto", "max_workers", "known_workers", "created_at", "started_at", "finished_at", "item_s",
        )
    }  # fmt: skip
    values["state"] = [str(status.state) for _, status in runs]
    values["makespan_s"] = [s.finished_at - s.started_at if s.finished_at and s.started_at else np.nan for _, s in runs]
    for name in ("priority", "queue", "code_version"):
        values[name] = [getattr(spec, name) for spec, _ in runs]
    values["tags"] = [json.dumps(dict(spec.tags), sort_keys=True, ensure_ascii=False) for spec, _ in runs]
    return schema.build(schema.RUNS, values, len(runs))


def items_frame(
    run_id: str, submitted: int, ok_ranges: Sequence[tuple[int, int]], dead: Mapping[int, DeadLetter], state: str,
    keys: Sequence[object] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One row per item of a run.

    Parameters
    ----------
    run_id : str
        The run.
    submitted : int
        Its items.
    ok_ranges : sequence of (start, stop)
        Items that ended ok.
    dead : mapping of int to DeadLetter
        Dead letters by index.
    state : str
        State of the run: in a cancelled one, or a finished one, what ended neither way was skipped.
    keys : sequence, optional
        The user's keys.
    """
    codes = np.full(submitted, _PENDING if not RunState(state).final else _SKIPPED, dtype="int8")
    for start, stop in ok_ranges:
        codes[start:stop] = _OK
    attempts = np.zeros(submitted, dtype="int64")
    categories = np.zeros(submitted, dtype="int8")
    types = np.full(submitted, None, dtype=object)
    for index, letter in dead.items():
        if index >= submitted:  # appended after the status was taken
            continue
        codes[index] = _DEAD
        attempts[index] = letter.attempts
        categories[index] = CATEGORIES.index(letter.category) if letter.category in CATEGORIES else -1
        types[index] = letter.error_type
    known = list(keys or ())[:submitted]
    values = {
        "run_id": run_id,
        "index": np.arange(submitted, dtype="int64"),
        "key": known + [None] * (submitted - len(known)),
        "state": schema.from_codes(codes, schema.ITEM_STATES),
        "attempts": pd.arrays.IntegerArray(attempts, codes != _DEAD),
        "error_category": schema.from_codes(categories, CATEGORIES),
        "error_type": types,
    }
    return schema.build(schema.ITEMS, values, submitted)


def workers_frame(nodes: Sequence[NodeInfo]) -> pd.DataFrame:
    """One row per node."""
    names = ("node", "host", "pid", "workers", "busy", "toolkit_version", "protocol", "python", "functions")
    values = {name: [getattr(n, name) for n in nodes] for name in (*names, "started_at", "seen_at")}
    values["queues"] = [",".join(n.queues) for n in nodes]
    values["n_tasks"] = [len(n.tasks) for n in nodes]
    return schema.build(schema.WORKERS, values, len(nodes))


def dead_letters_frame(run_id: str, task: str, letters: Sequence[DeadLetter]) -> pd.DataFrame:
    """One row per dead letter."""
    names = ("index", "key", "category", "error_type", "message", "attempts", "worker", "logs", "item", "at")
    values: dict[str, object] = {name: [getattr(x, name) for x in letters] for name in names}
    values["traceback"] = [x.traceback_text for x in letters]
    values |= {"run_id": run_id, "task": task}
    return schema.build(schema.DEAD_LETTERS, values, len(letters))


def concat_dead_letters(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack dead letters of several runs."""
    return schema.concat(schema.DEAD_LETTERS, frames)


def events_frame(run_id: str, events: Sequence[tuple[str, Mapping[str, str]]]) -> pd.DataFrame:
    """One row per event.

    Parameters
    ----------
    events : sequence of (id, fields)
        As the stream holds them; the id starts with milliseconds since the epoch.
    """
    values: dict[str, object] = {
        "run_id": run_id,
        "event_id": [event_id for event_id, _ in events],
        "at": [int(event_id.split("-")[0]) / 1000 for event_id, _ in events],
        "event": [fields.get("event", "") for _, fields in events],
        "detail": [fields.get("detail", "") for _, fields in events],
    }
    for name in ("submitted", "ok", "dead", "skipped", "retried"):
        values[name] = [_count(fields.get(name, "")) for _, fields in events]
    return schema.build(schema.EVENTS, values, len(events))


def progress_frame(samples: Sequence[tuple[float, Counters]]) -> pd.DataFrame:
    """One row per moment at which something had changed.

    Parameters
    ----------
    samples : sequence of (seconds since the epoch, Counters)
        In order.
    """
    values: dict[str, object] = {"at": [at for at, _ in samples]}
    for name in ("ok", "dead", "retried", "submitted", "skipped"):
        values[name] = np.fromiter((getattr(counters, name) for _, counters in samples), "int64", len(samples))
    return schema.build(schema.PROGRESS, values, len(samples))


def profile_frame(stacks: Mapping[tuple[str, ...], int]) -> pd.DataFrame:
    """One row per function, that with the most samples of its own first.

    Parameters
    ----------
    stacks : mapping of tuple of str to int
        Samples by stack, outermost function first.
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack, n in stacks.items():
        own[stack[-1]] += n
        for name in set(stack):  # a function that calls itself is there once
            total[name] += n
    names = sorted(total, key=lambda name: (-own[name], -total[name], name))
    values: dict[str, object] = {"function": names, "own": [own[n] for n in names], "total": [total[n] for n in names]}
    values["share"] = np.array([total[n] for n in names], "float64") / max(1, sum(stacks.values()))
    return schema.build(schema.PROFILE, values, len(names))


def _count(text: str) -> int | None:
    """Read a counter; None where it is missing or none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
