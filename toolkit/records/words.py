"""The fixed words of the toolkit: states, priorities, categories; and what an id and a name may be."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Final

from toolkit.errors import InvalidInput


class RunState(StrEnum):
    """State of a run; `closed` (the input is complete) is a flag beside it."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FINISHED = "finished"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in (RunState.CANCELLED, RunState.FINISHED)


PRIORITIES: Final = ("low", "normal", "high", "urgent")
"""Priorities between runs, from the least to the most pressing."""

CATEGORIES: Final = ("", "retryable", "fatal", "timeout", "worker_lost", "out_of_memory", "bad_payload")
"""Error categories; the position is the code in a metric row, 0 means no error."""

INLINE_QUEUE: Final = "inline"
"""Queue name of runs that execute in the submitting process: no ticket is ever sent to it."""

_RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{5,63}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]{1,200}")


def check_run_id(run_id: str) -> str:
    """Return `run_id` when it is well formed.

    Raises
    ------
    InvalidInput
        It is not 6 to 64 of ``a-z 0-9 -``; no key is ever built from such a value.
    """
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidInput(f"run id {run_id!r}: expected 6 to 64 characters of a-z, 0-9 and '-'; see client.runs()")
    return run_id


def check_name(name: str, what: str = "name") -> str:
    """Return `name` when it is printable text of 1 to 200 characters.

    Raises
    ------
    InvalidInput
        It is empty, too long, or holds control or bidirectional characters.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(f"{what} {name!r}: expected 1 to 200 printable characters")
    return name


def quantity(count: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun, for example ``1 worker`` or ``12,000 batches``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def percent(share: float) -> str:
    """Return a share of 1 as a percentage, for example ``42 %`` or ``3.4 %``; an en dash where it is not finite."""
    value = 100 * share
    if not math.isfinite(value):
        return "–"
    if 0 < value < 0.05:
        return "<0.1 %"
    return f"{value:.1f} %" if 0 < abs(value) < 9.95 and abs(value - round(value)) > 0.05 else f"{value:,.0f} %"


def progress(done: int, total: int) -> str:
    """Return how much of a whole is done; 0 % and 100 % are said only when exact."""
    if done >= total:
        return "100 %"
    return "<1 %" if 0 < done * 100 < total else f"{done * 100 // total} %"


def one_line(text: str, limit: int = 300) -> str:
    """Return foreign text as one line of at most `limit` printable characters, which cannot steer a terminal.

    Line breaks become spaces; control and bidirectional characters, and what no encoder takes, the replacement
    character.
    """
    cut = text[: limit + 1]  # before cleaning: a text of many megabytes costs no more than a short one
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(cut.split()))
    return clean[: max(0, limit - 1)] + "…" if len(text) > limit else clean
