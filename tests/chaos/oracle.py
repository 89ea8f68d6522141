"""The judge: compares what the ledger says of a run with what the journal proves.

Pure: everything it looks at is handed over, so that its verdict on falsified evidence can be tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tests.chaos.journal import Event, Journal
from tests.chaos.plans import RunPlan

Say = Callable[..., None]

SUSPICIONS = 3
"""Process deaths that bury an item, by design."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that the campaign killed.

    Attributes
    ----------
    pid : int
        Which.
    at : float
        Monotonic seconds.
    """

    pid: int
    at: float


@dataclass(frozen=True)
class Evidence:
    """What the ledger says of a run after its end.

    Attributes
    ----------
    plan : RunPlan
        What was asked for.
    run_id : str
        Its id, for messages.
    state : str
        Its state.
    generation : int
        How often dead letters were sent back.
    ok, dead, skipped, submitted : int
        Its counters.
    finals : int
        Final events.
    counted : numpy.ndarray or None
        How many results each index has; None without kept results.
    wrong : tuple of int
        Indexes whose result is not what the task returns for them.
    letters : mapping of int to str
        Category of each dead letter, by index.
    problems : str
        What `Run.verify` found.
    """

    plan: RunPlan
    run_id: str
    state: str
    generation: int
    ok: int
    dead: int
    skipped: int
    submitted: int
    finals: int
    counted: np.ndarray | None
    wrong: tuple[int, ...] = ()
    letters: Mapping[int, str] = field(default_factory=dict)
    problems: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise.

    Attributes
    ----------
    kind : str
        ``lost``, ``counted twice``, ``wrongly dead``, ``not dead``, ``wrong result``, ``never executed``, ``counters``,
        ``final events``, ``verify``, ``stuck`` or ``changed``.
    run : str
        Which run.
    text : str
        What exactly.
    items : int
        How many items it concerns.
    """

    kind: str
    run: str
    text: str
    items: int = 1

    def __str__(self) -> str:
        return f"{self.kind}: {self.run}: {self.text}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found.

    Attributes
    ----------
    violations : tuple of Violation
        Broken promises, none when all is well.
    unlucky : tuple of str
        Items that are dead because random kills hit them three times: by design, and told.
    items, executed, planned : int
        Items judged, their executions, and how many executions would have been needed without any fault.
    """

    violations: tuple[Violation, ...]
    unlucky: tuple[str, ...]
    items: int
    executed: int
    planned: int

    @property
    def repeated(self) -> float:
        """Share of executions beyond those that were needed."""
        return max(0, self.executed - self.planned) / max(1, self.planned)


def judge(evidence: Iterable[Evidence], journal: Journal, kills: Iterable[Kill]) -> Verdict:
    """Judge the runs of a campaign."""
    suspects = suspicions(journal, kills)
    violations: list[Violation] = []
    unlucky: list[str] = []
    items = executed = planned = 0
    for seen in evidence:
        found, bad_luck = judge_run(seen, journal, suspects)
        violations += found
        unlucky += bad_luck
        items += seen.submitted
        executed += int(journal.count(seen.plan.number, Event.STARTED, seen.plan.n).sum())
        planned += needed(seen, journal)
    return Verdict(tuple(violations), tuple(unlucky), items, executed, planned)


def suspicions(journal: Journal, kills: Iterable[Kill]) -> Counter[tuple[int, int]]:
    """How often each (run, item) was the latest work of a process that the campaign killed."""
    found: Counter[tuple[int, int]] = Counter()
    for kill in kills:
        life = journal.life_of(kill.pid, kill.at)
        if life is not None:
            run, items = life.last_items(kill.at)
            found.update((run, i) for i in items)
    return found


def needed(seen: Evidence, journal: Journal) -> int:
    """Executions that the run would have needed without any fault: planned failures count."""
    plan = seen.plan
    begun = int(np.count_nonzero(journal.count(plan.number, Event.STARTED, plan.n)))
    failed = int(journal.count(plan.number, Event.FAILED, plan.n).sum())
    ending = int(journal.count(plan.number, Event.ENDING, plan.n).sum())
    return begun + failed + ending


def judge_run(
    seen: Evidence, journal: Journal, suspects: Mapping[tuple[int, int], int]
) -> tuple[list[Violation], list[str]]:
    """Judge one run; returns its violations, and the items that died of bad luck."""
    plan, name = seen.plan, f"run {seen.plan.number} ({seen.plan.shape}, {seen.run_id})"
    found: list[Violation] = []

    def violation(kind: str, text: str, items: int = 1) -> None:
        found.append(Violation(kind, name, text, items))

    if seen.state not in ("finished", "cancelled"):
        violation("stuck", f"{seen.state}, {seen.submitted - seen.ok - seen.dead - seen.skipped} items open", 0)
        return found, []
    if seen.problems:
        violation("verify", seen.problems, 0)
    if seen.finals != seen.generation + 1:
        violation("final events", f"{seen.finals} for {seen.generation + 1} generations", 0)
    if seen.submitted != plan.n or seen.ok + seen.dead + seen.skipped != plan.n or seen.dead != len(seen.letters):
        violation("counters", f"{seen.ok} ok + {seen.dead} dead + {seen.skipped} skipped of {seen.submitted}, "
                  f"{plan.n} planned, {len(seen.letters)} letters", 0)  # fmt: skip
    if seen.skipped and seen.state != "cancelled":
        violation("lost", f"{seen.skipped} items skipped though the run was not cancelled", seen.skipped)
    finished = journal.count(plan.number, Event.FINISHED, plan.n)
    _judge_results(seen, finished, violation)
    unlucky = _judge_letters(seen, suspects, violation)
    return found, [f"{name}: item {i}" for i in unlucky]


def _judge_results(seen: Evidence, finished: np.ndarray, violation: Say) -> None:
    n, dead = seen.plan.n, np.zeros(seen.plan.n, bool)
    dead[[i for i in seen.letters if i < n]] = True
    if len(finished) > n:
        violation("counters", f"an item beyond the last one was executed: {len(finished) - 1}")
    finished = finished[:n]
    whole = seen.state == "finished"
    if seen.counted is None:
        if whole and (silent := np.flatnonzero((finished == 0) & ~dead)).size:
            violation("lost", f"counted, never finished: {_some(silent)}", silent.size)
        if not whole and seen.ok > np.count_nonzero(finished):
            violation("never executed", f"{seen.ok} counted ok, {np.count_nonzero(finished)} executed")
        return
    ok = seen.counted > 0
    if int(seen.counted.sum()) != seen.ok:
        violation("counters", f"{seen.ok} counted ok, {int(seen.counted.sum())} results", 0)
    if (double := np.flatnonzero((seen.counted > 1) | (ok & dead))).size:
        violation("counted twice", _some(double), double.size)
    if whole and (missing := np.flatnonzero(~ok & ~dead)).size:
        violation("lost", f"neither result nor dead letter: {_some(missing)}", missing.size)
    if (silent := np.flatnonzero(ok & (finished == 0))).size:
        violation("never executed", f"a result, but no finished execution: {_some(silent)}", silent.size)
    if seen.wrong:
        violation("wrong result", _some(np.asarray(seen.wrong)), len(seen.wrong))


def _judge_letters(seen: Evidence, suspects: Mapping[tuple[int, int], int], violation: Say) -> list[int]:
    plan, unlucky = seen.plan, []
    expected = dict.fromkeys(plan.killers, "worker_lost")
    if not seen.generation:
        expected.update(dict.fromkeys(plan.fatal, "fatal"))
    for index, category in seen.letters.items():
        if expected.get(index) == category:
            continue
        hits = suspects.get((plan.number, index), 0)
        if category == "worker_lost" and hits >= SUSPICIONS:
            unlucky.append(index)
        else:
            violation("wrongly dead", f"item {index}, category {category}, last work of {hits} killed processes")
    alive = [i for i in expected if i not in seen.letters]
    if alive and seen.state == "finished":
        violation("not dead", f"planted items without a dead letter: {_some(np.asarray(alive))}", len(alive))
    return unlucky


def _some(indexes: np.ndarray) -> str:
    shown = ", ".join(str(int(i)) for i in indexes[:5])
    return f"{len(indexes)} items ({shown}{', ...' if len(indexes) > 5 else ''})"
