"""Which settings the demo measures: a small designed set, and the grid that judges the recommendation.

The set is small because it is what a user would spend; it still tells the cost of a batch from the cost of an item
(sizes far apart) and from contention (each worker count with at least two sizes). The runs of the two tasks alternate,
in no order of size, so that a machine that gets slower or faster meanwhile does not look like an effect of the size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.demo.tasks import classify_paragraphs, find_mentions
from toolkit.errors import InvalidInput
from toolkit.execution.tasks import Task

GRID_REPEATS = 3
"""Measurements of each cell of the grid; their median counts."""


FEWEST_ITEMS = 100
"""With fewer, the batch sizes fall together."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run is asked for.

    Attributes
    ----------
    batch_size : int
        Items a batch.
    workers : int
        Most batches at a time.
    """

    batch_size: int
    workers: int

    def __str__(self) -> str:
        return f"batch size {self.batch_size:,} with {self.workers:,} worker" + ("" if self.workers == 1 else "s")


@dataclass(frozen=True, slots=True)
class Study:
    """One task, its items and the settings to measure.

    Attributes
    ----------
    task : Task
        What is run.
    kwargs : mapping
        Its keyword arguments.
    items : sequence
        Its input.
    settings : tuple of Setting
        The designed set, in the order in which it is run.
    grid : tuple of Setting
        The cells that the recommendation is compared with.
    """

    task: Task
    items: Sequence[Any]
    settings: tuple[Setting, ...]
    grid: tuple[Setting, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def most_workers(self) -> int:
        """Largest worker count among the settings."""
        return max(setting.workers for setting in self.settings)

    @property
    def label(self) -> str:
        """The function's name, without its module."""
        return self.task.name.rpartition(":")[2]


def studies(items: Sequence[Any], model: Path, cores: int, *, quick: bool = False) -> list[Study]:
    """Return the two studies of the demo.

    Parameters
    ----------
    items : sequence
        Paragraphs.
    model : pathlib.Path
        Directory of the trained model.
    cores : int
        Processors of this machine, see `worker_counts`.
    quick : bool
        Half of the settings, for tests.

    Raises
    ------
    InvalidInput
        There are fewer than `FEWEST_ITEMS` items.
    """
    if len(items) < FEWEST_ITEMS:
        raise InvalidInput(f"the demo needs {FEWEST_ITEMS} paragraphs or more to tell settings apart, not {len(items)}")
    counts = worker_counts(cores)
    return [
        designed(find_mentions, items, (40, 2_500), counts, quick=quick),
        designed(classify_paragraphs, items, (150, 5_000), counts, quick=quick, model=str(model)),
    ]


def worker_counts(cores: int) -> tuple[int, int, int]:
    """Return three worker counts to compare: one, about what the machine has, and one too many.

    Machines with many processors are not filled: the demo's runs are too short for more than a few workers.
    """
    most = max(2, min(cores, 8))
    return 1, most, most + 1


def workers_needed(studies_: Sequence[Study], *, grid: bool) -> int:
    """Return how many workers there must be for what is measured: the designed sets, and the grids where `grid`."""
    return max(s.workers for study in studies_ for s in (*study.settings, *(study.grid if grid else ())))


def alternate(studies_: Sequence[Study]) -> list[tuple[Study, Setting]]:
    """Return all settings of all studies, one study after the other in turn."""
    longest = max(len(study.settings) for study in studies_)
    return [(study, study.settings[i]) for i in range(longest) for study in studies_ if i < len(study.settings)]


def designed(
    task: Task,
    items: Sequence[Any],
    sizes: tuple[int, int],
    counts: tuple[int, int, int],
    *,
    quick: bool = False,
    **kwargs: Any,
) -> Study:
    """Return a study of a task: a designed set of ten settings, and a grid of twelve.

    Parameters
    ----------
    task : Task
        What is run.
    items : sequence
        Its input.
    sizes : (int, int)
        Smallest and largest batch size; few items get smaller ones.
    counts : (int, int, int)
        Worker counts, ascending.
    quick : bool
        Only four settings, for tests.
    **kwargs
        Keyword arguments of the task.
    """
    # Even steps in ratio. Few items get smaller sizes: five batches at least, and eight times from end to end.
    huge = min(sizes[1], len(items) // 5)
    tiny = max(1, min(sizes[0], huge // 8))
    small, large = (round(tiny * (huge / tiny) ** step) for step in (1 / 3, 2 / 3))
    one, most, too_many = counts
    settings = [
        Setting(small, most),
        Setting(huge, one),
        Setting(large, most),
        Setting(small, one),
        Setting(tiny, most),
        Setting(large, too_many),
        Setting(huge, most),
        Setting(small, too_many),
        Setting(large, one),
        Setting(large, most),  # again, as the last one: how much do equal runs differ?
    ]
    return Study(
        task=task,
        items=items,
        settings=tuple(settings[:4] if quick else settings),
        grid=tuple(Setting(size, workers) for size in (tiny, small, large, huge) for workers in (one, most, too_many)),
        kwargs=kwargs,
    )
