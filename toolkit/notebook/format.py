"""Numbers as people read them: pure functions from plain values to short text.

Every function takes NaN and None and answers with `UNKNOWN`; none raises on a number.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

from toolkit.records import words

UNKNOWN: Final = "–"
"""What stands where a number is not known."""


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def duration(seconds: float | None) -> str:
    """Return a duration in seconds with the two units that matter, for example ``3 min 05 s``."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def rough(seconds: float | None) -> str:
    """Return an estimate of seconds with two digits and one unit: more of them would change at each look."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 0.95:
        return "<1 s" if seconds > 0 else "0 s"
    size, unit = next((size, unit) for most, size, unit in _UNITS if seconds < most)
    return f"{number(seconds / size, 2)} {unit}"


_UNITS: Final = ((99.5, 1, "s"), (99.5 * 60, 60, "min"), (48 * 3600, 3600, "h"), (math.inf, 86400, "d"))
"""Up to how many seconds an estimate is told in a unit, and that unit in seconds."""


def limit(seconds: float) -> str:
    """Return a duration that somebody chose, without zeros that say nothing: ``15 s``, ``1 min``, ``2 h 30 min``."""
    return re.sub(r" 00? (?:s|min|h)$", "", re.sub(r"\.0+(?= s$)", "", duration(seconds)))


def count(value: float | None) -> str:
    """Return a whole number with separators, for example ``12,345``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{round(value):,}"


def batch_size(value: float) -> str:
    """Return a batch size: a whole number of items, or a weight, which may have a fraction."""
    return count(value) if value >= 100 or value == round(value) else number(value)


def quantity(count_: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun, for example ``1 worker`` or ``2 workers``."""
    return words.quantity(count_, singular, plural)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and no exponent up to 10¹⁵."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 15 or size < -5:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - size)
    text = f"{round(value, digits - 1 - size):,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(part: float | None) -> str:
    """Return a share of 1 as a percentage, for example ``42 %``."""
    return UNKNOWN if part is None else words.percent(part)


def progress(done: int, total: int) -> str:
    """Return how much of a whole is done; 0 % and 100 % are said only when exact."""
    return UNKNOWN if total <= 0 else words.progress(done, total)


def rate(per_second: float | None, noun: str = "items") -> str:
    """Return a throughput per second, or per minute or hour when that reads better."""
    if per_second is None or not _known(per_second):
        return UNKNOWN
    if per_second == 0 or per_second >= 0.5:
        return f"{number(per_second)} {noun}/s"
    if per_second >= 0.5 / 60:
        return f"{number(per_second * 60)} {noun}/min"
    return f"{number(per_second * 3600)} {noun}/h"


def size(value: float | None) -> str:
    """Return a number of bytes in binary units, for example ``1.2 MiB``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1000:
            return f"{number(amount)} {unit}"
        amount /= 1024
    return f"{number(amount)} TiB"


def interval(low: float | None, high: float | None) -> str:
    """Return a range of seconds; the unit is said once where both ends share it."""
    return _between(duration(low), duration(high))


def rough_interval(low: float | None, high: float | None) -> str:
    """Return a range of estimated seconds, likewise; more digits where two do not tell its ends apart."""
    first, second = rough(low), rough(high)
    return _between(first, second) if first != second else interval(low, high)


def _between(first: str, second: str) -> str:
    if first == second:
        return second
    head, _, unit = first.rpartition(" ")
    if head and unit == second.rpartition(" ")[2] and " " not in head and second.count(" ") == 1:
        return f"{head}–{second}"
    return f"{first} – {second}"


def _utc(at: float | None, pattern: str) -> str:
    if at is None or not at or not _known(at):
        return UNKNOWN
    try:
        return datetime.fromtimestamp(at, UTC).strftime(pattern)
    except (OverflowError, OSError, ValueError):  # a moment outside the calendar, from a corrupt row
        return UNKNOWN


def clock(at: float | None) -> str:
    """Return a moment, in seconds since the epoch, as ``14:03:22 UTC``."""
    return _utc(at, "%H:%M:%S UTC")


def moment_among(at: float, latest: float) -> str:
    """Return a moment in UTC as short as it tells moments up to `latest` apart: on another day without the seconds."""
    same_day = _utc(at, "%Y-%m-%d") == _utc(latest, "%Y-%m-%d")
    return _utc(at, "%H:%M:%S" if same_day else "%m-%d %H:%M")


def minute(at: float | None) -> str:
    """Return a moment in UTC, in seconds since the epoch, as ``2026-11-23 14:03``."""
    return _utc(at, "%Y-%m-%d %H:%M")


def moment(at: float | None) -> str:
    """Return a moment, in seconds since the epoch, as ``2026-11-23 14:03:22 UTC``."""
    return _utc(at, "%Y-%m-%d %H:%M:%S UTC")
