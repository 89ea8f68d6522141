"""Carries a planned run out on a deployment that is being hit, and reads what the ledger says of it afterwards."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.chaos import tasks
from tests.chaos.oracle import Evidence
from tests.chaos.plans import RunPlan
from toolkit.client import Client, Run
from toolkit.errors import LedgerCorrupt, LedgerError, RunStateError
from toolkit.records import Retry, RunState

RETRY = Retry(max_attempts=12, backoff_s=0.05, max_backoff_s=0.4)
_TRIES = 50
_AGAIN = itertools.count(40_000)  # numbers, in the journal, of runs submitted once more


class Worker:
    """Submits, steers and watches runs.

    Parameters
    ----------
    client : Client
        Of the deployment.
    journal : pathlib.Path
        Directory of the journal.
    over : callable
        Whether the campaign waits no longer.

    Attributes
    ----------
    abandoned : list of str
        Runs whose submission failed since the server was away; each was submitted again as another run.
    """

    def __init__(self, client: Client, journal: Path, over: Callable[[], bool] = lambda: False) -> None:
        self.client = client
        self.journal = journal
        self.abandoned: list[str] = []
        self.open: dict[str, Run] = {}
        self._over = over
        self._lock = threading.Lock()

    def carry_out(self, plan: RunPlan, prefix: str) -> tuple[Run, Evidence]:
        """Bring a run to its end, or to where the campaign waits no longer."""
        run, plan = self.submit(plan, prefix)
        return run, self.finish(run, plan)

    def finish(self, run: Run, plan: RunPlan) -> Evidence:
        """Steer a submitted run as planned, until its end."""
        self.open[run.run_id] = run
        try:
            for share, verb in plan.steer:
                self._until(run, lambda share=share: _done(run) >= share * plan.n)  # type: ignore[misc]
                _steer(run, verb)
            self._until(run, lambda: False)
            if plan.revive and run.status().state is RunState.FINISHED and run.status().dead:
                tasks.mended(plan.number, self.journal).touch()
                run.retry_dead()
                self._until(run, lambda: False)
            return look(run, plan)
        finally:
            del self.open[run.run_id]

    def submit(self, plan: RunPlan, prefix: str) -> tuple[Run, RunPlan]:
        """Submit a run; where that fails since the server is away, again under another number."""
        task: Any = tasks.several if plan.batched else tasks.single
        items = [tasks.value_of(i) for i in range(plan.n)]
        for attempt in range(_TRIES):
            run_id = f"{prefix}-{plan.number}-{attempt}"
            try:
                made = self.client.map(
                    task, items, kwargs=plan.kwargs(), batch_size=plan.batch_size, retry=RETRY,
                    keep_results=plan.keep_results, name=plan.shape, run_id=run_id,
                )  # fmt: skip
                return made, plan
            except (LedgerError, RunStateError):
                if attempt == _TRIES - 1 or self._over():
                    raise
                with self._lock:
                    self.abandoned.append(run_id)
                    plan = replace(plan, number=next(_AGAIN))
                time.sleep(0.1)
        raise AssertionError("unreachable")

    def _until(self, run: Run, condition: Callable[[], bool]) -> None:
        pause = 0.02
        while not run.status().state.final and not condition() and not self._over():
            time.sleep(pause)
            pause = min(0.2, pause * 1.3)


def _done(run: Run) -> int:
    return run.status().done


def _steer(run: Run, verb: str) -> None:
    if verb == "pause":
        run.pause()
        time.sleep(0.4)
        run.resume()
    elif verb == "update":
        run.update(batch_size=64)
    else:
        run.cancel()


def look(run: Run, plan: RunPlan) -> Evidence:
    """Read what the ledger says of a run."""
    status = run._ledger.status(run.run_id)
    counted, wrong = (None, ()) if not plan.keep_results else _results(run, plan)
    finals = sum(fields["event"] in ("finished", "cancelled") for _, fields in run._reader.events())
    problems = ""
    if status.state.final:
        try:
            run.verify()
        except LedgerCorrupt as error:
            problems = str(error)
    letters = {letter.index: letter.category for letter in run._reader.dead_letters()}
    return Evidence(
        plan, run.run_id, str(status.state), status.generation, status.ok, status.dead, status.skipped,
        status.submitted, finals, counted, wrong, letters, problems,
    )  # fmt: skip


def _results(run: Run, plan: RunPlan) -> tuple[np.ndarray, tuple[int, ...]]:
    """How many results each index has, and which are wrong, by what `Run.results` hands out as well."""
    counted, wrong = np.zeros(plan.n, np.int64), []
    for ranges, values in run._reader.outputs():
        indexes = [i for a, b in ranges for i in range(a, b)]
        np.add.at(counted, indexes, 1)
        wrong += [i for i, v in zip(indexes, values, strict=True) if v != tasks.result_of(i, plan.number)]
    if run.status().state.final:
        given = run.results(return_exceptions=True)
        wrong += [i for i, v in enumerate(given) if counted[i] and v != tasks.result_of(i, plan.number)]
    return counted, tuple(sorted(set(wrong)))
