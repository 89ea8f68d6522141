"""An iterable in batches of the recommended size, for code that sends them itself: `batched`."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from toolkit.errors import InvalidInput, ToolkitError
from toolkit.instruments.reading import open_ledger, pull
from toolkit.settings import ServerAddress, Settings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FEWEST_ROWS = 20  # executions before a recommendation is asked for
_TYPICAL_ITEMS = 10_000  # of an iterable that does not know its length
_FACTORS = (0.5, 2.0)  # of the recommended size, for a batch that explores


class Batches(Iterator[list[T]], Generic[T]):
    """The batches of an iterable, made by `batched`.

    Attributes
    ----------
    batch_size : int
        Items of a batch, but for the last one and for those that explore.
    reason : str
        Why this size.
    """

    def __init__(
        self, items: Iterable[T], batch_size: int, reason: str, explore: float, random_: random.Random,
        most: int | None = None,
    ) -> None:  # fmt: skip
        self.batch_size = batch_size
        self.reason = reason
        self._items = iter(items)
        self._explore = explore
        self._random = random_
        self._most = most

    def __repr__(self) -> str:
        return f"<batches of {self.batch_size:,}: {self.reason}>"

    def __next__(self) -> list[T]:
        size = self.batch_size
        if self._random.random() < self._explore:
            size = max(1, round(size * self._random.choice(_FACTORS)))
            size = min(size, self._most or size)
        batch = list(islice(self._items, size))
        if not batch:
            raise StopIteration
        return batch


def batched(  # noqa: PLR0913 - one call says all; every option has a default
    iterable: Iterable[T], task: str, *, fallback: int = 32, explore: float = 0.05, max_batch_size: int | None = None,
    ledger: str | ServerAddress | None = None, seed: int | None = None,
) -> Batches[T]:  # fmt: skip
    """Cut an iterable into lists of the recommended size, for code that goes on calling ``task.delay(batch)``.

    The size comes from the rows that `toolkit.instrument` recorded of the task, whose ``items=`` must count the items
    of a call. A small share of batches is half or twice as large, so that there is something to learn from. Where the
    server is away, scikit-learn is missing, or the rows are too few or too alike, batches have `fallback` items;
    ``reason`` of the result says so, and it is logged. ``TOOLKIT_DISABLED=1`` gives batches of `fallback` items only.

    Parameters
    ----------
    iterable : iterable
        The items; drawn one batch at a time.
    task : str
        Name of the task, as Celery knows it.
    fallback : int
        Items of a batch where nothing is recommended.
    explore : float
        Share of batches that explore, from 0 (none) to 1.
    max_batch_size : int, optional
        Upper limit of the size, exploration included.
    ledger : str or ServerAddress, optional
        Server with the rows; by default ``TOOLKIT_LEDGER_URL``.
    seed : int, optional
        Of the exploration's random numbers.

    Returns
    -------
    Batches
        An iterator of lists with the attributes ``batch_size`` and ``reason``.

    Raises
    ------
    InvalidInput
        An argument makes no sense.

    Examples
    --------
    >>> for batch in toolkit.batched(pages, task="docs.ocr", fallback=32):  # doctest: +SKIP
    ...     ocr.delay(batch)
    """
    _check(iterable, task, fallback, explore, max_batch_size)
    dice = random.Random(seed)  # noqa: S311 - no secret
    if Settings.from_env().disabled:
        return Batches(iterable, fallback, "fallback: TOOLKIT_DISABLED=1", 0.0, dice)
    try:
        size, reason = _recommended(task, len(iterable) if isinstance(iterable, Sized) else None, ledger)
    except (ToolkitError, ImportError) as error:
        size, reason = 0, str(error)
    except Exception as error:  # work goes on, whatever is wrong with its history
        logger.exception("toolkit.batched: no recommendation for task %s", task)
        size, reason = 0, f"{type(error).__name__} while asking for a recommendation, see the log"
    if not size:
        logger.warning("toolkit.batched: batches of %d items for task %s; %s", fallback, task, reason)
        size, reason = fallback, f"fallback: {reason}"
    if max_batch_size is not None and size > max_batch_size:
        size, reason = max_batch_size, f"{reason}; at most {max_batch_size:,} were allowed"
    return Batches(iterable, size, reason, explore, dice, max_batch_size)


def _check(iterable: object, task: str, fallback: int, explore: float, most: int | None) -> None:
    if isinstance(iterable, str | bytes | dict) or not isinstance(iterable, Iterable):
        raise InvalidInput(
            f"toolkit.batched: expected an iterable of items, got {type(iterable).__name__}; pass a list or a generator"
        )
    if not isinstance(task, str) or not task:
        raise InvalidInput(f"toolkit.batched: task={task!r}; expected the name that Celery has for it, as 'docs.ocr'")
    for name, value in (("fallback", fallback), ("max_batch_size", most if most is not None else 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInput(f"toolkit.batched: {name}={value!r}; expected a whole number of 1 or more")
    if not isinstance(explore, int | float) or not 0 <= explore <= 1:
        raise InvalidInput(f"toolkit.batched: explore={explore!r}; expected a share from 0 to 1")


def _recommended(task: str, n_items: int | None, ledger: str | ServerAddress | None) -> tuple[int, str]:
    """Batch size and why; 0 where there is none."""
    with open_ledger(ledger, retry_s=0.0) as connection:
        frame, _ = pull(connection, task)
    good = frame[(frame["ok"] > 0) & ~frame["cut_off"]]
    if len(good) < _FEWEST_ROWS:
        return 0, f"{len(good)} executions of {task} are recorded, {_FEWEST_ROWS} are needed"
    return _ask(good, task, n_items or _TYPICAL_ITEMS)


def _ask(frame: pd.DataFrame, task: str, n_items: int) -> tuple[int, str]:
    from toolkit.tuning import Recommender

    advice = Recommender().fit(frame).recommend(task, n_items=n_items)
    if advice.refused:
        return 0, advice.refused
    return int(advice.batch_size), f"recommended from {len(frame):,} executions"
