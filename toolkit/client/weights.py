"""Weights of items: checked, and laid beside the pages of a submission."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from numbers import Real
from typing import Any, Final

from toolkit.errors import InvalidInput
from toolkit.ledger import Draw, Page, weigh_page

LEAST, MOST = 1e-12, 1e15
"""Range of a weight: sums of many are exact to many digits, and fit the fields of a metric row."""
HEAVY: Final = 32
"""An item is heavy, and begins before the others, from this part of a worker's share of all input on.

What begins late then weighs at most a thirty-second of a share, and so much more than ideal is what the last worker
takes at most. There are no more than so many heavy items a worker, since together they weigh no more than everything.
"""
MOST_ALONE: Final = 256
"""Heavy items of a page at most, the heaviest ones."""
_WORKERS: Final = 8
"""How many workers are expected where none is known yet."""

Weight = Callable[[Any], Any] | Iterable[Any]


class Weights:
    """Weights of the items of one submission, in their order.

    Parameters
    ----------
    weight : callable or iterable of number
        ``weight(item)``, or one number for each item.
    items : iterable
        The items. Of a sequence all weights are known, and checked, at once; of a stream as they are drawn.

    Raises
    ------
    InvalidInput
        `weight` is neither; or a weight is missing, no number, or not between `LEAST` and `MOST`; names its item.
    """

    def __init__(self, weight: Weight, items: Iterable[Any]) -> None:
        self._function = weight if callable(weight) else None
        self._given: Iterator[Any] = iter(()) if callable(weight) else iter(_numbers(weight))
        self._known = isinstance(items, Sized)
        self._drawn = array("d")  # of the items from `_start` on
        self._start = 0
        self._next = 0
        self._total = 0.0
        if isinstance(items, Sized):
            for item in items:
                self._weigh(item)
            self.end()

    def beside(self, draw: Draw) -> Draw:
        """The same source of items; those of a stream are weighed as they are drawn."""
        return draw if self._known else lambda start: self._stream(draw(start))

    def lay(self, page: Page, workers: int) -> Page:
        """Return a page, the next one, with its weights, for a run on so many workers (0 where that is not known)."""
        first, n = page.start - self._start, page.stop - page.start
        if not self._known and first:
            del self._drawn[:first]
            self._start, first = page.start, 0
        weights = self._drawn[first : first + n]
        return weigh_page(page, weights, heavy(weights, self._total, workers or _WORKERS))

    def end(self) -> None:
        """All items were drawn.

        Raises
        ------
        InvalidInput
            There are more weights than items.
        """
        if any(True for _ in self._given):
            raise InvalidInput(f"weight has more values than the {self._next:,} items; give one an item")

    def _stream(self, items: list[Any]) -> list[Any]:
        for item in items:
            self._weigh(item)
        if not items:
            self.end()
        return items

    def _weigh(self, item: Any) -> None:
        index = self._next
        if self._function is None:
            found = list(islice(self._given, 1))
            if not found:
                raise InvalidInput(f"weight ends before the items: item {index:,} has none; give one an item")
            value = found[0]
        else:
            try:
                value = self._function(item)
            except Exception as error:
                raise InvalidInput(
                    f"weight of item {index:,} is missing: the function raised {type(error).__name__}: {error}"
                ) from error
        checked = check_weight(value, index)
        self._drawn.append(checked)
        self._total += checked
        self._next += 1


def heavy(weights: Sequence[float], total: float, workers: int) -> list[int]:
    """Offsets of the items of a page that begin before the others, ascending, given the weight of all input."""
    least = total / (HEAVY * workers)
    found = [at for at, weight in enumerate(weights) if weight >= least]
    if len(found) > MOST_ALONE:
        found = sorted(sorted(found, key=lambda at: -weights[at])[:MOST_ALONE])
    return found


def check_weight(value: Any, index: int) -> float:
    """Return a weight as a float.

    Raises
    ------
    InvalidInput
        It is none; names the item and what to give.
    """
    if value is None:
        raise InvalidInput(f"weight of item {index:,} is missing; give a positive number for each item")
    if type(value) is not float and (isinstance(value, bool | str | bytes) or not isinstance(value, Real)):
        raise InvalidInput(f"weight of item {index:,} is {value!r:.60}: expected a positive number")
    try:
        weight = float(value)
    except OverflowError:
        weight = math.inf
    if math.isnan(weight):
        raise InvalidInput(f"weight of item {index:,} is NaN; give a positive number for each item")
    if not LEAST <= weight <= MOST:
        why = "not above 0" if weight <= 0 else "infinite" if math.isinf(weight) else f"not from {LEAST:g} to {MOST:g}"
        hint = "" if weight <= 0 or math.isinf(weight) else "; choose another unit"
        raise InvalidInput(f"weight of item {index:,} is {value!r:.60}, which is {why}{hint}")
    return weight


def _numbers(weight: Any) -> Iterable[Any]:
    """The values of a sequence of weights; of an array as plain numbers, which are checked faster."""
    kind = type(weight).__name__
    if isinstance(weight, str | bytes | bytearray | Mapping | set | frozenset) or not hasattr(weight, "__iter__"):
        raise InvalidInput(f"weight is a {kind}: expected a function of an item, or a sequence of one number an item")
    if getattr(weight, "ndim", 1) != 1:
        raise InvalidInput(f"weight is a {kind} of {weight.ndim} dimensions: expected one number an item")
    values: Iterable[Any] = weight.tolist() if hasattr(weight, "tolist") else weight
    return values
