"""Judge the recommendation: the recommended setting against a measured grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from toolkit.demo.design import GRID_REPEATS, Setting, Study
from toolkit.demo.measure import measure
from toolkit.demo.table import seconds, text_table, workers_text
from toolkit.records import percent

if TYPE_CHECKING:
    from toolkit.client import Client
    from toolkit.tuning import Recommendation

GOAL_REGRET = 0.10
"""The recommended setting is at most this much slower than the best cell."""

GOAL_WIDTH = 0.30
"""The interval is at most this wide, relative to the prediction."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How good a recommendation was.

    Attributes
    ----------
    task : str
        Label of the study.
    best : Setting
        Fastest cell of the grid.
    best_s : float
        Its makespan, the median of its repeats.
    recommended : Setting
        What was recommended.
    predicted_s : float
        Makespan that was predicted.
    low_s, high_s : float
        Its interval.
    measured_s : float
        Makespan of the recommended setting, the median of its repeats.
    """

    task: str
    best: Setting
    best_s: float
    recommended: Setting
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float

    @property
    def regret(self) -> float:
        """How much slower than the best cell, relative; negative when faster than all of them."""
        return self.measured_s / self.best_s - 1

    @property
    def covers(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.low_s <= self.measured_s <= self.high_s

    @property
    def width(self) -> float:
        """Width of the interval, relative to the prediction."""
        return (self.high_s - self.low_s) / self.predicted_s

    @property
    def met(self) -> bool:
        """Whether all goals are met."""
        return self.regret <= GOAL_REGRET and self.covers and self.width <= GOAL_WIDTH

    def row(self) -> dict[str, Any]:
        """Return what `text_table` shows."""
        return {
            "task": self.task,
            "recommended": f"{self.recommended.batch_size:,} × {self.recommended.workers}",
            "measured": seconds(self.measured_s),
            "best cell": f"{self.best.batch_size:,} × {self.best.workers}",
            "takes": seconds(self.best_s),
            "regret": f"{100 * self.regret:+.1f} %",
            "interval": f"{seconds(self.low_s)} to {seconds(self.high_s)}",
            "covers": self.covers,
            "width": percent(self.width),
            "goal": "met" if self.met else "MISSED",
        }


def evaluate(
    client: Client, advised: Sequence[tuple[Study, Recommendation]], session: str, say: Callable[[str], Any]
) -> bool:
    """Measure each study's grid and its recommended setting, and compare.

    All cells of all studies are measured once, then all again in the opposite order, and so on, so that a drift of the
    machine falls on all alike.

    Parameters
    ----------
    client : Client
        Where to run.
    advised : sequence of (Study, Recommendation)
        What was recommended, before any of this was measured.
    session : str
        Tag of the runs.
    say : callable of str
        Prints.

    Returns
    -------
    bool
        Whether all goals are met.
    """
    if not advised:
        say("\nThe grid: nothing was recommended, so there is nothing to compare; the goal is missed")
        return False
    recommended = [Setting(int(advice.batch_size), advice.workers) for _, advice in advised]
    cells = [
        (i, setting) for i, (study, _) in enumerate(advised) for setting in dict.fromkeys((*study.grid, recommended[i]))
    ]
    taken: dict[tuple[int, Setting], list[float]] = {cell: [] for cell in cells}
    say(f"\nThe grid: {len(cells)} cells, {GRID_REPEATS} times each")
    for repeat in range(GRID_REPEATS):
        for i, setting in cells if repeat % 2 == 0 else reversed(cells):
            run = measure(client, advised[i][0], setting, session, keep_results=False)  # there are dozens of them
            taken[i, setting].append(run.makespan_s)
        say(f"  round {repeat + 1} of {GRID_REPEATS} done")
    medians = {cell: median(values) for cell, values in taken.items()}
    judged = []
    for i, (study, advice) in enumerate(advised):
        grid = {setting: medians[i, setting] for setting in study.grid}
        say(f"\n{study.label}: median makespan by batch size and workers")
        say(_grid_table(grid))
        best = min(grid, key=grid.__getitem__)
        low, high = advice.intervals["makespan_s"]
        apart = spread([taken[cell] for cell in cells if cell[0] == i])
        say(f"The repeats of a cell are {percent(apart)} apart: smaller differences tell nothing")
        judged.append(
            Judged(
                task=study.label,
                best=best,
                best_s=grid[best],
                recommended=recommended[i],
                predicted_s=float(advice.makespan_s),
                low_s=float(low),
                high_s=float(high),
                measured_s=medians[i, recommended[i]],
            )
        )
    goal = f"regret at most {percent(GOAL_REGRET)}, an interval that covers and is at most {percent(GOAL_WIDTH)} wide"
    say(f"\nGoal: {goal}")
    say(text_table([one.row() for one in judged], list(judged[0].row())))
    return all(one.met for one in judged)


def spread(repeats: Sequence[Sequence[float]]) -> float:
    """How noisy the machine is: what separates the repeats of a cell.

    Parameters
    ----------
    repeats : sequence of sequences of float
        Makespans of each cell, in seconds.

    Returns
    -------
    float
        Slowest less fastest repeat, relative to the median of the cell; the median over the cells.
    """
    return median((max(cell) - min(cell)) / median(cell) for cell in repeats)


def _grid_table(grid: dict[Setting, float]) -> str:
    sizes, workers = sorted({s.batch_size for s in grid}), sorted({s.workers for s in grid})
    rows = [
        {"batch size": size, **{workers_text(w): seconds(grid[Setting(size, w)]) for w in workers}} for size in sizes
    ]
    return text_table(rows, ["batch size", *map(workers_text, workers)])
