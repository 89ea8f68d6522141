"""What the tuning explorer asks and shows: questions, their answers, what a wrong choice would cost. Pure functions.

The explorer's widgets only pick a `Question`; everything that they show is made here of plain values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

from toolkit.errors import ToolkitError
from toolkit.notebook import escape, leaves
from toolkit.notebook import format as fmt
from toolkit.notebook.heat import HeatGrid, setting
from toolkit.notebook.html import BOX, answer_parts, call_text, evidence_table, headline, reasons_list
from toolkit.notebook.sheet import still

if TYPE_CHECKING:
    from toolkit.tuning import Recommendation, Recommender

_NORMAL: Final = NormalDist()
USUAL_RISK: Final = 0.05
"""Chance beyond the upper end of a 90 % interval, which is what `Recommender.recommend` keeps a deadline with."""

MIB: Final = 2**20
OBJECTIVES: Final = (("soonest done", "makespan"), ("least worker time", "cost"))
RISKS: Final = tuple((fmt.percent(risk), risk) for risk in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
DEADLINES: Final = (
    ("none", 0.0),
    *(
        (fmt.limit(s), float(s))
        for s in (1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 5400,
                  7200, 10800, 14400, 21600, 28800, 43200, 86400)
    ),
)  # fmt: skip
MEMORIES: Final = (
    ("no limit", 0),
    *((fmt.size(n * MIB), n * MIB) for k in range(6, 17) for n in (2**k, 3 * 2 ** (k - 1))),
)


def item_choices(n_items: int) -> tuple[tuple[str, int], ...]:
    """Return the numbers of items to choose from: 1, 2 and 5 times the powers of ten, and `n_items` itself."""
    known = {step * 10**power for power in range(1, 8) for step in (1, 2, 5)} | {n_items}
    return tuple((fmt.count(n), n) for n in sorted(known))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the model.

    Attributes
    ----------
    task : str
        For which task.
    n_items : int
        Items of the next run.
    objective : str
        ``makespan`` or ``cost``.
    max_workers : int
        Most workers to consider.
    max_worker_memory_bytes : int
        No worker is to grow beyond this; 0 for no limit.
    deadline_s : float
        The run is to end within this time; 0 for none.
    risk : float
        Chance to miss the deadline that is accepted.
    """

    task: str
    n_items: int
    objective: str = "makespan"
    max_workers: int = 1
    max_worker_memory_bytes: int = 0
    deadline_s: float = 0.0
    risk: float = USUAL_RISK

    def options(self) -> dict[str, Any]:
        """Return the arguments of `Recommender.recommend`, but for the deadline."""
        names = ("task", "n_items", "objective", "max_workers", "max_worker_memory_bytes")
        return {name: getattr(self, name) or None for name in names}

    def words(self) -> str:
        """Return the question as one line of plain text."""
        parts = [
            fmt.quantity(self.n_items, "item"),
            next(words for words, key in OBJECTIVES if key == self.objective),
            f"at most {fmt.quantity(self.max_workers, 'worker')}",
        ]
        if self.max_worker_memory_bytes:
            parts.append(f"{fmt.size(self.max_worker_memory_bytes)} a worker")
        if self.deadline_s:
            parts.append(f"within {fmt.limit(self.deadline_s)}, at a risk of {fmt.percent(self.risk)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Answer:
    """What the model says to a question.

    Attributes
    ----------
    question : Question
        The question.
    recommendation : Recommendation or None
        None where the question could not be answered.
    trouble : str
        Why not.
    """

    question: Question
    recommendation: Recommendation | None = None
    trouble: str = ""


def ask(model: Recommender, question: Question) -> Answer:
    """Ask the model; an error of this package becomes the answer's trouble."""
    options = question.options()
    if question.deadline_s:
        options |= {"deadline_s": question.deadline_s, "deadline_risk": question.risk}
    try:
        return Answer(question, model.recommend(**options))
    except ToolkitError as error:
        return Answer(question, None, str(error))


def next_question(before: Question, now: Question, choices: Mapping[str, Sequence[Any]]) -> Question | None:
    """Return what is asked after `now` if the control that was moved goes on by a step, in its direction.

    Parameters
    ----------
    before, now : Question
        The last two that were asked.
    choices : mapping of str to sequence
        What each control offers, in its order, by the field of a question that it decides.

    Returns
    -------
    Question or None
        None where not exactly one of these controls was moved, or it is at its end, or offers other values by now.
    """
    moved = [name for name in choices if getattr(before, name) != getattr(now, name)]
    if len(moved) != 1 or replace(before, **{moved[0]: getattr(now, moved[0])}) != now:
        return None
    values, held = list(choices[moved[0]]), [getattr(asked, moved[0]) for asked in (before, now)]
    if not set(held) <= set(values):
        return None
    start, place = (values.index(value) for value in held)
    following = place + (1 if place > start else -1)
    return replace(now, **{moved[0]: values[following]}) if 0 <= following < len(values) else None


def _spread(recommendation: Recommendation, slow: bool) -> float:
    """Standard deviation of the log makespan on one side of what is expected, from the 90 % interval."""
    low, high = recommendation.intervals["makespan_s"]
    ratio = high / recommendation.makespan_s if slow else recommendation.makespan_s / low
    return math.log(max(ratio, 1.0)) / _NORMAL.inv_cdf(1 - USUAL_RISK)


def chance_late(recommendation: Recommendation, deadline_s: float) -> float:
    """Return the chance that the recommended setting takes longer than `deadline_s`; NaN when refused.

    The makespan counts as lognormal, with a standard deviation of its own on either side of what is expected.
    """
    if recommendation.refused:
        return math.nan
    distance = math.log(deadline_s / recommendation.makespan_s)
    spread = _spread(recommendation, slow=distance > 0)
    if spread <= 0:
        return 0.0 if distance >= 0 else 1.0
    return 1.0 - _NORMAL.cdf(distance / spread)


# --------------------------------------------------------------------------- what it would cost to be wrong


@dataclass(frozen=True, slots=True)
class Mistake:
    """Another choice than the recommended one, or another outcome than the expected one.

    Attributes
    ----------
    what : str
        In words.
    makespan_s : float
        What the run would take.
    change : float
        Share of the recommended setting's makespan that this is more; negative for less.
    extrapolated : bool
        It is outside of what was measured.
    around : bool
        It is another setting, and no less known than the recommended one.
    """

    what: str
    makespan_s: float
    change: float
    extrapolated: bool = False
    around: bool = False


def mistakes(recommendation: Recommendation) -> tuple[Mistake, ...]:
    """Return what the settings around the recommended one would take, and the slow end of its interval."""
    if recommendation.refused or recommendation.grid.empty:
        return ()
    expected, size, workers = recommendation.makespan_s, recommendation.batch_size, recommendation.workers
    columns = ("batch_size", "workers", "makespan_s", "extrapolated")
    cells = list(zip(*(recommendation.grid[name].tolist() for name in columns), strict=True))
    same_count = [cell for cell in cells if cell[1] == workers]
    same_size = [cell for cell in cells if cell[0] == size]
    guessed = any(cell[3] for cell in same_count if cell[0] == size)
    found = [
        _nearest("smaller batches", [c for c in same_count if c[0] < size], 0, size / 2, expected),
        _nearest("larger batches", [c for c in same_count if c[0] > size], 0, size * 2, expected),
        _nearest("fewer workers", [c for c in same_size if c[1] < workers], 1, workers - 1, expected),
        _nearest("more workers", [c for c in same_size if c[1] > workers], 1, workers + 1, expected),
    ]
    other = recommendation.baseline
    if {"setting", "batch_size", "workers", "makespan_s"} <= set(other):
        words = f"{other['setting']}: {setting(float(other['batch_size']), int(other['workers']))}"
        beyond = not any(cell[1] == other["workers"] and not cell[3] for cell in cells)
        found.append(_mistake(words, float(other["makespan_s"]), expected, beyond))
    others = [replace(m, around=guessed or not m.extrapolated) for m in found if m is not None]
    low, high = recommendation.intervals["makespan_s"]
    slow = _mistake("the same setting, at the slow end of its interval", high, expected)
    return (*others, slow, _mistake("the same setting, at the fast end", low, expected))


def _nearest(
    what: str, cells: list[tuple[float, int, float, bool]], varied: int, wanted: float, expected: float
) -> Mistake | None:
    """Return the cell that is nearest to the wanted batch size (0) or worker count (1), by ratio."""
    if not cells:
        return None
    size, workers, makespan_s, beyond = min(cells, key=lambda cell: abs(math.log(cell[varied] / max(wanted, 1))))
    return _mistake(f"{what}: {setting(size, workers)}", makespan_s, expected, beyond)


def _mistake(words: str, makespan_s: float, expected: float, extrapolated: bool = False) -> Mistake:
    return Mistake(words, makespan_s, makespan_s / expected - 1, extrapolated)


def mistake_finding(found: tuple[Mistake, ...]) -> str:
    """Return in a sentence whether the choice is a sharp one."""
    around = [m for m in found if m.around]
    if not around:
        return ""
    worst = max(around, key=lambda m: m.change)
    if worst.change < 0.005:
        return "The choice is not a sharp one: no setting around it is noticeably slower."
    if worst.change < 0.05:
        return f"The choice is not a sharp one: no setting around it costs more than {fmt.percent(worst.change)}."
    return f"It matters most to avoid {worst.what}: {fmt.percent(worst.change)} longer."


# --------------------------------------------------------------------------- markup


def answer_html(answer: Answer) -> str:
    """Return the answer in short: the setting, its interval, cost, saving, and the chance of being late."""
    found = answer.recommendation
    if found is None:
        return f'<div style="{leaves.FONT}"><b>No answer.</b> {escape.html(answer.trouble, 600)}</div>'
    parts = answer_parts(found)
    deadline_s = answer.question.deadline_s
    if deadline_s and not found.refused:
        chance = max(chance_late(found, deadline_s), 1e-9)
        word = "within the risk" if chance <= 1.02 * answer.question.risk else "more than the risk that you accept"
        words = f"Chance to miss the deadline of {fmt.limit(deadline_s)}: <b>{fmt.percent(chance)}</b>, {word}."
        parts.append(f"<div>{words}</div>")
    finding = mistake_finding(mistakes(found))
    if finding:
        parts.append(f"<div>{escape.html(finding, 400)}</div>")
    return f'<div role="status" style="{leaves.FONT}">{"".join(parts)}</div>'


def map_html(answer: Answer) -> str:
    """Return the map of makespans; empty where nothing was predicted."""
    found = answer.recommendation
    return "" if found is None else HeatGrid.from_recommendation(found).html()


def wrong_html(answer: Answer) -> str:
    """Return what it would cost to be wrong."""
    found = mistakes(answer.recommendation) if answer.recommendation is not None else ()
    if not found:
        return ""
    rows = [
        (
            escape.html(m.what, 160),
            f"{'~' if m.extrapolated else ''}{fmt.duration(m.makespan_s)}",
            f"{100 * m.change:+.0f} %" if abs(m.change) >= 0.005 else "as long",
        )
        for m in found
    ]
    return leaves.table(("if it were", "predicted", "against the advice"), rows)


def why_html(answer: Answer) -> str:
    """Return the reasons, the experiment that would teach most, and the evidence."""
    found = answer.recommendation
    if found is None:
        return ""
    return f'<div style="{leaves.FONT}">{reasons_list(found)}{evidence_table(found)}</div>'


def code(answer: Answer) -> str:
    """Return the call that runs the next run so, as code."""
    found = answer.recommendation
    arguments = call_text(found) if found is not None else "task, items"
    return f"run = client.map({arguments})"


def static_html(answer: Answer) -> str:
    """Return question and answer as HTML that survives saving, reopening and the sanitiser of untrusted notebooks."""
    asked = f"{answer.question.task or 'all tasks'}: {answer.question.words()}"
    sections = (
        ("Makespan of every setting", map_html(answer), True),
        ("What it would cost to be wrong", wrong_html(answer), False),
        ("Why", why_html(answer), False),
    )
    body = "".join(still(leaves.details(words, content, opened)) for words, content, opened in sections if content)
    return (
        f'<div style="{BOX}"><div style="opacity:.75">{escape.html(asked, 400)}</div>{answer_html(answer)}{body}'
        f'<div style="margin-top:6px"><code>{escape.html(code(answer))}</code></div></div>'
    )


def plain_text(answer: Answer) -> str:
    """Return the answer as one line."""
    found = answer.recommendation
    return escape.plain(headline(found) if found is not None else f"No answer. {answer.trouble}", 600)
