"""What the runner hands over: parts of a batch, with outputs, failures and what was measured.

The codec is imported where it is used: a module that only marks its functions as tasks does not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from toolkit.errors import EncodeError
from toolkit.execution.failures import MAX_MESSAGE_BYTES, Failure, clip, describe

MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024
"""Encoded output after which a part is handed over."""
HOPELESS_RESULTS: Final = 5
"""Results that cannot be stored, with none that could before them, after which the run pauses."""


class Stats(NamedTuple):
    """What a batch has cost so far, cumulative over its parts.

    Attributes
    ----------
    service_s : float
        User code, from the first item to the last, with its setup where this batch ran it.
    item_sum_s, item_sumsq_s2, item_max_s : float
        Durations of the items: sum, sum of squares, longest. A batched call counts as equal shares.
    cpu_user_s, cpu_system_s : float
        Processor time of the process while user code ran.
    peak_rss_kib : int
        Peak resident set of the process.
    output_bytes : int
        Encoded results.
    store_s : float
        Encoding them.
    """

    service_s: float = 0.0
    item_sum_s: float = 0.0
    item_sumsq_s2: float = 0.0
    item_max_s: float = 0.0
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    peak_rss_kib: int = 0
    output_bytes: int = 0
    store_s: float = 0.0


_NOTHING_YET: Final = Stats()._asdict()


class Tally:
    """Stats of a batch in progress."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, Any] = dict(_NOTHING_YET)

    def add(self, more: Mapping[str, float]) -> None:
        """Add measurements by field name; of maxima the larger one stays, unknown names are left out."""
        values = self._values
        for name, value in more.items():
            if name in ("item_max_s", "peak_rss_kib"):
                values[name] = max(values[name], value)
            elif name in values:
                values[name] += value

    def stats(self) -> Stats:
        """What has been added up so far."""
        return Stats(**self._values)


class Part(NamedTuple):
    """Items ``[start, stop)`` of a batch, executed; the parts of a batch follow each other without a gap.

    Attributes
    ----------
    start, stop : int
        Offsets in the batch.
    output : bytes or None
        `toolkit.codec.encode_page` of the results that are ok, in order; None if there are none or none are kept.
    n_ok : int
        Items that ended well; ``n_ok + len(failures) == stop - start`` unless `bisect`.
    failures : tuple of Failure
        The others, in order.
    last : bool
        Nothing follows.
    stopped : bool
        Given up early, on request: items from `stop` on were not executed.
    bisect : bool
        A batched call failed and nobody knows which item is to blame: none is settled. Split ``[start, stop)``
        in two and execute each half by itself, without charging an attempt.
    cause : Failure or None
        With `bisect`, the error; its position is `start`.
    stats : Stats
        Cumulative over the batch so far.
    """

    start: int
    stop: int
    output: bytes | None
    n_ok: int
    failures: tuple[Failure, ...]
    last: bool
    stopped: bool
    bisect: bool
    cause: Failure | None
    stats: Stats


class Storable:
    """Whether results of a run can be stored, as far as this process has seen; the ledger knows of the others."""

    __slots__ = ("any", "refused")

    def __init__(self) -> None:
        self.any = False
        self.refused = 0

    def judge(self, n_good: int, failed: list[Failure]) -> list[Failure]:
        """Count what was stored and what was refused; where all seems lost, the last failure asks for a pause."""
        self.any = self.any or n_good > 0
        self.refused += len(failed)
        if self.any or self.refused < HOPELESS_RESULTS or not failed:
            return failed
        self.refused = 0  # after run.resume() a few more are tried
        return [*failed[:-1], replace(failed[-1], pause=True, unless_ok=True)]


class Outputs:
    """Encodes the results of a stretch of items, and says when enough have piled up.

    Parameters
    ----------
    keep : bool
        Whether results are kept at all.
    max_item_bytes : int
        Largest encoded result of one item.
    max_output_bytes : int
        Encoded output after which a part is handed over; no part is larger than twice this, unless one item is.
    storable : Storable, optional
        What earlier batches of the run have shown.
    """

    def __init__(
        self, keep: bool, max_item_bytes: int, max_output_bytes: int = MAX_OUTPUT_BYTES,
        storable: Storable | None = None,
    ) -> None:  # fmt: skip
        self._keep = keep
        self._storable = storable or Storable()
        self._max_item_bytes = max_item_bytes
        self._max_output_bytes = max_output_bytes
        self._sampled_bytes = 0
        self._samples = 0

    def room(self, results: Sequence[Any]) -> int:
        """How many more items may run before asking again; 0 says that enough output has piled up.

        Encoding every result twice to learn its size would cost too much, so one in a doubling number of
        results is sampled: the first, the second, the fourth, ….
        """
        if not self._keep:
            return 1 << 62
        if results:
            size = _size(results[-1])
            if size is None and not self._storable.any:
                # Perhaps none can be stored: see that soon, and not when all work is done.
                return int(len(results) + self._storable.refused < HOPELESS_RESULTS)
            self._sampled_bytes += size or 0
            self._samples += 1
        if not self._samples:
            return 1
        mean_bytes = max(1.0, self._sampled_bytes / self._samples)
        pending_bytes = mean_bytes * len(results)
        if pending_bytes >= self._max_output_bytes:
            return 0
        left = int((self._max_output_bytes - pending_bytes) / mean_bytes)
        return max(1, min(left, len(results) or left // 2))

    def encode(
        self, start: int, stop: int, results: list[Any], failures: list[Failure]
    ) -> Iterator[tuple[int, int, bytes | None, list[Failure]]]:
        """Encode the results of the items ``[start, stop)`` that are not among `failures`.

        A result that cannot be encoded becomes a failure. What is too large for one part comes in several.

        Yields
        ------
        start, stop, output, failures
            In order and without a gap.
        """
        pages: list[tuple[int, bytes]] = []
        if self._keep and results:
            try:
                pages = self._pages(results)
                self._storable.any = True
            except Exception:  # noqa: BLE001 - a result's own methods may raise anything; find out whose
                good, failures = self._sift(start, stop, results, failures)
                pages = self._pages(good)
        if len(pages) < 2:
            yield start, stop, pages[0][1] if pages else None, failures
            return
        failed_at = {f.position for f in failures}
        ok = [p for p in range(start, stop) if p not in failed_at]
        done = 0
        for count, page in pages:
            done += count
            end = ok[done] if done < len(ok) else stop
            yield start, end, page, [f for f in failures if start <= f.position < end]
            start = end

    def _pages(self, results: list[Any]) -> list[tuple[int, bytes]]:
        from toolkit import codec

        # Twice what makes a part due, since its size was estimated: a part of its own for a rest is not worth it.
        return codec.encode_pages(results, 0, self._max_item_bytes, 2 * self._max_output_bytes)

    def _sift(
        self, start: int, stop: int, results: list[Any], failures: list[Failure]
    ) -> tuple[list[Any], list[Failure]]:
        """Take out the results that cannot be encoded, as failures of their items."""
        from toolkit import codec

        failed_at = {f.position for f in failures}
        positions = [p for p in range(start, stop) if p not in failed_at]
        good: list[Any] = []
        bad: list[Failure] = []
        for position, result in zip(positions, results, strict=True):
            try:
                codec.encode_page([result], 0, self._max_item_bytes)
                good.append(result)
            except Exception as exc:  # noqa: BLE001 - as above
                bad.append(_bad_result(position, exc, result))
        failed = [*failures, *self._storable.judge(len(good), bad)]
        return good, sorted(failed, key=lambda f: f.position)


def _size(value: Any) -> int | None:
    """Encoded size, about; None for what will become a failure when its part is encoded."""
    if isinstance(value, bytes | str):
        return len(value)
    from toolkit import codec

    try:
        return len(codec.encode(value))
    except Exception:  # noqa: BLE001 - a result's own methods may raise anything
        return None


def _bad_result(position: int, error: Exception, result: Any) -> Failure:
    # Of the codec's own error the reason only: its index would be that in the page, not in the run.
    from toolkit.codec.hints import for_result

    reason = ""
    if isinstance(error, EncodeError):
        reason = f"{error.path and f'value{error.path}: '}{for_result(error.reason)}"
    told = describe(error)
    kind = type(result).__name__
    message = f"result of type {kind} cannot be stored: {reason or f'{told.error_type}: {told.message}'}"
    return Failure(position, False, 0.0, "bad_payload", told.error_type, clip(message, MAX_MESSAGE_BYTES), "", "")
