"""A whole automatic run, played as the product plays it: controllers of workers, tapering, and the client's planner."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from toolkit.client.planner import MAX_REPLANS, PERIOD_S, close
from toolkit.execution.beginning import COMPARED, WORTH_S, first_size
from toolkit.execution.sizing import Controller
from toolkit.execution.tapering import Proposal, taken
from toolkit.tuning import replan
from toolkit.tuning.engine import Batches, Played, play
from toolkit.tuning.plan import Row
from toolkit.tuning.simulate import Luck

_PROBES = 3  # batches of a worker at most: of one item, of another size, and one that tells imports from a fixed cost


class Automatic:
    """One run whose batches taper, its functions batched: ``batch_size="auto"`` of a task that was never run.

    Parameters
    ----------
    luck : Luck
        One seed.
    workers : int
        All that there are.
    size : int
        Given batch size, with ``taper=True``; 0 for an automatic one.
    """

    def __init__(self, luck: Luck, workers: int, size: int = 0) -> None:
        self._luck, self._workers = luck, workers
        n = luck.n_items
        self._batches = Batches(np.zeros((1, n)), np.zeros((1, n)), np.zeros((1, n)))
        self._controllers = [Controller() for _ in range(workers)]
        self._learned = [-1] * workers  # the last batch of each worker
        self._told: list[tuple[float, int, int]] = [(0.0, 0, 0)] * workers  # at its claim: hint, batch size asked, left
        self._sizes = np.zeros(n, dtype=np.int64)
        self._count, self._asked = 0, 1
        self._given = size
        self._planned, self._plans, self._look_at = size, MAX_REPLANS if size else 0, 0.0
        self.left = n

    def makespan_s(self) -> float:
        """Play it to its end; seconds."""
        return self.played()[0]

    def played(self) -> tuple[float, float]:
        """Play it to its end; seconds, and the share of the workers' time that exploring cost.

        Exploring are the first batches of each worker, before its largest one, and what they cost is what they took
        beyond what their items take in all the others.
        """
        rules = self._luck.workload.rules(self._workers)
        done = play(self._batches, rules, self._cut)
        makespan_s = float(done.makespan_s(self._batches)[0]) + self._luck.workload.gap_s
        worker, service = done.worker[0, : self._count], (done.end_s - done.start_s)[0, : self._count]
        sizes, first = self._sizes[: self._count], np.zeros(self._count, dtype=bool)
        for one in range(self._workers):
            mine = np.flatnonzero(worker == one)
            first[mine[: min(_PROBES, sizes[mine].argmax())] if len(mine) else mine] = True
        beyond = service[first] - sizes[first] * service[~first].sum() / sizes[~first].sum()
        return makespan_s, float(np.maximum(beyond, 0.0).sum()) / (self._workers * makespan_s)

    def _cut(self, worker: int, now: float, done: Played) -> int:
        """Cut the batch that `worker` asks for; returns how many there are."""
        at = self._count
        if not self.left:
            return at
        ended = np.flatnonzero(done.end_s[0, :at] <= now)
        self._plan(now, done, ended)
        proposal = self._propose(worker, ended, done)
        asked = self._planned or proposal.want
        size = int(taken(Proposal(asked, proposal.floor), self.left, self._workers))
        self._sizes[at] = size
        self._count, self.left, self._learned[worker] = at + 1, self.left - size, at
        service = (done.end_s[0] - done.start_s[0])[ended]
        hint = float(service.sum() / self._sizes[ended].sum()) if len(ended) else 0.0
        self._told[worker], self._asked = (hint, int(asked), self.left), int(asked)
        one = self._luck.batches(self._sizes[: at + 1])
        for name in ("items", "work_s", "held_s"):
            getattr(self._batches, name)[0, at] = getattr(one, name)[0, at]
        return at + 1

    def _propose(self, worker: int, ended: NDArray[np.int64], done: Played) -> Proposal:
        """What the worker wants, once it has learned from its last batch: of the run it knows what that claim told."""
        last, controller = self._learned[worker], self._controllers[worker]
        if last < 0:
            if not self._count or len(ended):
                return Proposal(self._asked, 1)
            return Proposal(first_size(self._luck.n_items - self.left, self.left, self._workers), 1)
        service = (done.end_s - done.start_s)[0]
        controller.observe(int(self._sizes[last]), float(service[last]), float(done.idle_s[0, last]))
        mine = ended[done.worker[0, ended] == worker]
        blind = not self._given and not (done.end_s[0, ended] <= done.start_s[0, mine[0]]).any()
        if blind and len(mine) <= COMPARED and service[last] >= WORTH_S:
            others = [(int(self._sizes[i]), float(service[i])) for i in ended if done.worker[0, i] != worker]
            settled = not self._luck.workload.warm_s
            controller.compare(others, self._told[worker][2] / self._workers, settled=settled)
        return controller.propose(*self._told[worker], self._workers)

    def _plan(self, now: float, done: Played, ended: NDArray[np.int64]) -> None:
        """Plan anew as the client does, which looks every so often."""
        if self._plans >= MAX_REPLANS or now < self._look_at or self.left < 4 * self._workers:
            return
        self._look_at = (math.floor(now / PERIOD_S) + 1) * PERIOD_S
        items, active, idle = self._sizes[ended], done.active[0, ended], done.idle_s[0, ended]
        service = done.end_s[0, ended] - done.start_s[0, ended]
        rows: list[Row] = list(zip(items, service, active, idle, np.isnan(idle), strict=True))
        plan = replan(rows, remaining=self.left, workers=self._workers)
        if plan is not None and plan.confident and not close(plan.batch_size, self._planned):
            self._planned, self._plans = plan.batch_size, self._plans + 1
