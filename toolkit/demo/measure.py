"""Run one setting and say how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.demo.design import Setting, Study
from toolkit.errors import RunFailed
from toolkit.records import quantity

if TYPE_CHECKING:
    from toolkit.client import Client

RUN_TIMEOUT_S = 300.0
"""A run of the demo that takes longer is stuck."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run took.

    Attributes
    ----------
    task : str
        Label of the study.
    setting : Setting
        As asked for.
    run_id : str
        The run.
    items : int
        Items of the run.
    batches : int
        Batches executed.
    makespan_s : float
        From the first claim to the end, by the server's clock.
    """

    task: str
    setting: Setting
    run_id: str
    items: int
    batches: int
    makespan_s: float

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.makespan_s if self.makespan_s > 0 else 0.0


def measure(client: Client, study: Study, setting: Setting, session: str, *, keep_results: bool = True) -> Measured:
    """Run all items of `study` with `setting`, and wait for the end.

    Parameters
    ----------
    client : Client
        Where to run.
    study : Study
        Task and items.
    setting : Setting
        Batch size and worker count.
    session : str
        Tag of the run, by which ``client.metrics(tags=...)`` finds it again.
    keep_results : bool
        Whether the server keeps the run's items and results, 30 MB for all paragraphs; else only its metrics.

    Raises
    ------
    RunFailed
        An item failed; the demo's tasks have no reason to.
    WaitTimeout
        The run did not end in `RUN_TIMEOUT_S`.
    """
    run = client.map(
        study.task, study.items, kwargs=study.kwargs, batch_size=setting.batch_size, max_workers=setting.workers,
        name=f"demo {study.label}", tags={"demo": session}, keep_results=keep_results,
    )  # fmt: skip
    status = run.wait(RUN_TIMEOUT_S, progress=False)
    if status.dead:
        first = run.dead_letters().iloc[0]
        raise RunFailed(
            f"run {run.run_id} of {study.label} left {quantity(status.dead, 'dead letter')}, the first is item "
            f"{first['index']}: {first['error_type']}: {first['message']}"
        )
    return Measured(study.label, setting, run.run_id, status.submitted, status.batches, status.elapsed_s)
