"""Submission: check everything, then write the run, then its items page by page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

from toolkit import codec
from toolkit.errors import EncodeError, InvalidInput, LedgerError, RunStateError, ToolkitError
from toolkit.ledger import Ledger, Page, Registry, make_pages
from toolkit.records import PRIORITIES, Retry, RunSpec, check_name
from toolkit.settings import LedgerSettings

_CHECKED_AHEAD_BYTES = 64 * 1024 * 1024
"""Encoded bytes of a sequence that are checked before the run is created."""
_HEAD_START_S = 0.25
"""How long the first tickets wait for the input of whole batches: a batch cut short there spoils an even split."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many items a batch takes, and how many batches run at a time.

    Attributes
    ----------
    batch_size : int
        0 lets the controller choose.
    auto : bool
        Batches taper towards the end and may be re-planned.
    max_workers : int
        0 for no cap.
    """

    batch_size: int
    auto: bool
    max_workers: int

    @classmethod
    def parse(cls, batch_size: int | str, max_workers: int | str) -> Size:
        """Read ``"auto"`` or a positive number for each.

        Raises
        ------
        InvalidInput
        """

        def number(value: int | str, name: str) -> int:
            if value == "auto":
                return 0
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31 - 1:
                raise InvalidInput(f"{name}={value!r}: expected a whole number >= 1, or 'auto'")
            return value

        size = number(batch_size, "batch_size")
        return cls(size, size == 0, number(max_workers, "max_workers"))


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
    if not hasattr(items, "__iter__"):
        raise InvalidInput(f"items: {kind} is not iterable; pass a list or a generator of items")
    if isinstance(items, Sized) and len(items) == 0:
        raise InvalidInput("items is empty: there is nothing to run")
    return items  # type: ignore[no-any-return]


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
    if name:
        check_name(name)
    if call not in ("item", "args", "kwargs"):
        raise InvalidInput(f"call={call!r}: expected 'item', 'args' or 'kwargs'")
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidInput(f"retry={retry!r}: expected tk.Retry(...)")
    for key, value in (tags or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidInput(f"tags: {key!r}: {value!r} - both must be text")
        check_name(key, "tag")


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


class Submission:
    """One run on its way into the ledger.

    Parameters
    ----------
    ledger, registry
        Where it goes.
    spec : RunSpec
        What it is.
    size : Size
        Its batch size and worker cap.
    send : callable of int
        Sends that many tickets.
    """

    def __init__(
        self, ledger: Ledger, registry: Registry, spec: RunSpec, size: Size, send: Callable[[int], Any]
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._spec = spec
        self._size = size
        self._send = send

    def write(self, items: Iterable[Any], key: Callable[[Any], Any] | None, function: bytes, kwargs: bytes) -> int:
        """Check and encode items, create the run, append its pages, send its first tickets.

        A sequence is encoded before anything is stored (up to 64 MiB of it); a stream page by page. When a later
        page fails, the run is cancelled, and the error says so.

        Returns
        -------
        int
            Items submitted.
        """
        limit = self._ledger.settings.max_item_bytes
        pages = make_pages(items, key=key, max_item_bytes=limit)
        checked = self._check_ahead(pages, isinstance(items, Sized))
        nodes = [n for n in self._registry.nodes() if self._spec.queue in n.queues]
        known = sum(n.workers for n in nodes)
        self._registry.add_run(self._spec)
        self._ledger.create(
            self._spec, function=function, kwargs=kwargs, batch_size=self._size.batch_size, auto=self._size.auto,
            max_workers=self._size.max_workers, known_workers=known, release=not self._spec.keep_results,
        )  # fmt: skip
        try:
            return self._append(chain(checked, pages), known)
        except BaseException as error:
            self._abandon(error)
            raise

    def _check_ahead(self, pages: Iterator[Page], everything: bool) -> list[Page]:
        checked: list[Page] = []
        size = 0
        for page in pages:
            checked.append(page)
            size += len(page.items)
            if not everything or size > _CHECKED_AHEAD_BYTES:
                break
        if not checked:
            raise InvalidInput("items is empty: there is nothing to run")
        return checked

    def _append(self, pages: Iterable[Page], known: int) -> int:
        run_id, submitted, tickets = self._spec.run_id, 0, self._first_tickets(known)
        enough, latest = tickets * self._size.batch_size, time.monotonic() + _HEAD_START_S
        pending: Page | None = None
        for page in pages:
            if pending is not None:
                submitted, _taken = self._ledger.append(run_id, pending, expected=submitted)
                if tickets and (submitted >= enough or time.monotonic() >= latest):
                    self._send(tickets)
                    tickets = 0
            pending = page
        submitted, _taken = self._ledger.append(run_id, pending, expected=submitted, close=True)
        if tickets:
            self._send(tickets)
        return submitted

    def _first_tickets(self, known: int) -> int:
        cap = self._size.max_workers or 64
        return max(1, min(cap, known or 2))

    def _abandon(self, error: BaseException) -> None:
        """Half a run is worse than none: cancel what was stored."""
        try:
            self._ledger.steer(self._spec.run_id, "cancel", "submission failed")
        except (LedgerError, ToolkitError):
            error.add_note(f"run {self._spec.run_id} could not be cancelled; client.get_run(...).cancel() when back")
            return
        if not isinstance(error, RunStateError):
            error.add_note(f"run {self._spec.run_id} was cancelled: its input is incomplete")


def make_spec_limits(settings: LedgerSettings) -> dict[str, Any]:
    """Settings of the client that a run carries."""
    return {
        "lease_s": settings.lease_s,
        "retention_s": settings.retention_s,
        "max_result_bytes": settings.max_result_bytes,
    }


def new_run_id() -> str:
    """Time-ordered and random: ``20261123-141503-1a2b3c4d``."""
    import secrets

    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
