"""What `Client.map` is given, checked before anything is stored."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from numbers import Real
from typing import Any

from toolkit import codec
from toolkit.errors import EncodeError, InvalidInput
from toolkit.records import PRIORITIES, Retry, check_name
from toolkit.settings import LedgerSettings

_MOST_WEIGHT = 1e30  # fits the fields of a metric row


@dataclass(frozen=True, slots=True)
class Size:
    """How many items a batch takes, and how many batches run at a time.

    Attributes
    ----------
    batch_size : int
        0 lets the controller choose.
    auto : bool
        Batches taper towards the end and, where their size was not given, may be re-planned.
    max_workers : int
        0 for no cap.
    weight_size : float or None
        Where items have weights, the weight of a batch, in the place of `batch_size`; 0 lets the controller choose.
    """

    batch_size: int
    auto: bool
    max_workers: int
    weight_size: float | None = None

    @classmethod
    def parse(
        cls, batch_size: float | str, max_workers: int | str, *, weighted: bool = False, taper: bool = False
    ) -> Size:
        """Read ``"auto"`` or a positive number for each; with `taper`, batches of a given size taper too.

        Raises
        ------
        InvalidInput
        """

        def number(value: float | str, name: str) -> int:
            if value == "auto":
                return 0
            whole = _whole(value)
            if whole is None or not 1 <= whole <= 2**31 - 1:
                raise InvalidInput(f"{name}={value!r}: expected a whole number >= 1, or 'auto'")
            return whole

        cap = number(max_workers, "max_workers")
        if weighted:
            weight = _weight_size(batch_size)
            return cls(0, taper or weight == 0, cap, weight)
        size = number(batch_size, "batch_size")
        return cls(size, taper or size == 0, cap)


def _whole(value: Any) -> int | None:
    """A whole number of any type, as numpy's; None for all else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _weight_size(value: Any) -> float:
    if value == "auto":
        return 0.0
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= _MOST_WEIGHT:
        raise InvalidInput(
            f"batch_size={value!r}: expected the weight of a batch, a number above 0 in the unit of weight=, or 'auto'"
        )
    return float(value)


def check_items(items: Any) -> Iterable[Any]:
    """Return `items` when it is an iterable of items.

    Raises
    ------
    InvalidInput
        It is a single value that would fall apart when iterated, or nothing to iterate; says what to pass instead.
    """
    kind = type(items).__name__
    if isinstance(items, str | bytes | bytearray):
        raise InvalidInput(f"items is one {kind}; put it in a list: [text], or text.splitlines() for its lines")
    if isinstance(items, Mapping):
        raise InvalidInput("items is a dict; pass list(d.items()), list(d.values()) or list(d)")
    if hasattr(items, "iloc") and hasattr(items, "columns"):
        raise InvalidInput('items is a DataFrame; pass df.to_dict("records") for one dict a row, or df["column"]')
    if isinstance(items, set | frozenset):
        raise InvalidInput(f"items is a {kind}, which has no order; pass sorted(items)")
    if getattr(items, "ndim", None) == 0:
        raise InvalidInput(f"items is one {kind} without dimensions; put it in a list: [items.item()]")
    if not hasattr(items, "__iter__"):
        raise InvalidInput(f"items: {kind} is not iterable; pass a list or a generator of items")
    if isinstance(items, Sized) and len(items) == 0:
        raise InvalidInput("items is empty: there is nothing to run")
    return items  # type: ignore[no-any-return]


def check_key(key: Any) -> Any:
    """Return `key` so that it names the item for which it fails; None stays None.

    Raises
    ------
    InvalidInput
        It cannot be called.
    """
    if key is None:
        return None
    if not callable(key):
        raise InvalidInput(f"key={key!r:.100}: expected a function of an item, for example key=lambda item: item['id']")

    def named(item: Any) -> Any:
        try:
            return key(item)
        except Exception as error:
            raise InvalidInput(f"key: {type(error).__name__}: {error} for the item {item!r:.100}") from error

    return named


def check_options(
    priority: str, queue: str, name: str, tags: Mapping[str, str] | None, retry: Retry | None, call: str
) -> None:
    """Check what does not depend on the task.

    Raises
    ------
    InvalidInput
    """
    if priority not in PRIORITIES:
        raise InvalidInput(f"priority={priority!r}: expected one of {', '.join(PRIORITIES)}")
    check_name(queue, "queue")
    if name != "":
        check_name(name)
    if call not in ("item", "args", "kwargs"):
        raise InvalidInput(f"call={call!r}: expected 'item', 'args' or 'kwargs'")
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidInput(f"retry={retry!r}: expected tk.Retry(...)")
    if tags is not None and not isinstance(tags, Mapping):
        raise InvalidInput(f"tags: expected a dict of text to text, not {type(tags).__name__}")
    for key, value in (tags or {}).items():
        check_name(key, "tag")
        if value != "":
            check_name(value, f"tag {key}")


def check_limits(item_time_limit_s: float | None, batch_time_limit_s: float | None, batched: bool) -> None:
    """Check time limits.

    Raises
    ------
    InvalidInput
        One is no number above 0, or a batched task is given a limit for its items.
    """
    for name, value in (("item_time_limit_s", item_time_limit_s), ("batch_time_limit_s", batch_time_limit_s)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InvalidInput(f"{name}={value!r}: expected seconds, a number above 0, or None for no limit")
    if batched and item_time_limit_s is not None:
        raise InvalidInput(
            f"item_time_limit_s={item_time_limit_s!r}: the task is batched, one call for many items, and no single "
            "one can be timed; limit the call by batch_time_limit_s"
        )


def encode_kwargs(kwargs: Mapping[str, Any] | None, limit: int) -> bytes:
    """Encode the shared keyword arguments.

    Raises
    ------
    InvalidInput
    """
    if not kwargs:
        return b""
    if not isinstance(kwargs, Mapping) or not all(isinstance(k, str) for k in kwargs):
        raise InvalidInput("kwargs: expected a dict with text keys, handed to the task as keyword arguments")
    try:
        data = codec.encode(dict(kwargs))
    except EncodeError as error:
        raise InvalidInput(f"kwargs cannot be stored: {error}") from error
    if len(data) > limit:
        raise InvalidInput(
            f"kwargs take {len(data):,} bytes, more than {limit:,}; store the value in a file and pass its path, or "
            "load it in setup="
        )
    return data


def make_spec_limits(settings: LedgerSettings, local: bool) -> dict[str, Any]:
    """Settings of the client that a run carries; on a LocalCluster nothing expires: it is archived, then deleted."""
    return {
        "lease_s": settings.lease_s,
        "retention_s": None if local else settings.retention_s,
        "max_result_bytes": settings.max_result_bytes,
    }


def new_run_id() -> str:
    """Time-ordered and random: ``20261123-141503-1a2b3c4d``."""
    import secrets

    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
