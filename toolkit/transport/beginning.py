"""A worker's first batches of a run of which nothing is known: larger ones beside the first, and a look at the others'.

What is decided is decided in `toolkit.execution.beginning`; here it is asked for, and what others took is read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from toolkit.errors import LedgerError, RunNotFound
from toolkit.execution.beginning import COMPARED, WORTH_S, first_size
from toolkit.execution.sizing import Controller
from toolkit.ledger import Claim, Ledger, Reader
from toolkit.records import FLAG_CUT_OFF, METRIC_NAMES, METRIC_ROW, OUTCOMES
from toolkit.transport.footprint import Footprint, footprint, unchanged

_WORKER, _FLAGS, _OUTCOME, _ITEMS, _SERVICE_S = (
    METRIC_NAMES.index(name) for name in ("worker", "flags", "outcome", "items", "service_s")
)
_MOST_ROWS = 256  # of a run whose other workers have gone on while one was on its first batch


@dataclass(slots=True)
class Beginning:
    """What one process does about its first batches of one run, whose function takes a whole batch.

    Attributes
    ----------
    run_id : str
        The run.
    controller : Controller
        Steers the batch size.
    blind : bool
        When it claimed its first batch none had ended, and the run chose no size.
    before : Footprint or None
        Of the process, before its first claim.
    settled : bool
        That batch left the process as it was.
    """

    run_id: str
    controller: Controller
    blind: bool = False
    before: Footprint | None = None
    settled: bool = False

    def want(self, ledger: Ledger) -> int:
        """Items to ask for at the first claim, 0 to leave them to the ledger; called right before it."""
        self.before = footprint()
        try:
            status = ledger.status(self.run_id)
        except RunNotFound:
            return 0  # as the claim will say
        if not status.auto or status.item_s:
            return 0
        workers = min(status.known_workers, status.max_workers or status.known_workers)
        return first_size(status.submitted - status.remaining, status.remaining, workers)

    def end(self, ledger: Ledger, claim: Claim, nth: int, service_s: float) -> None:
        """Compare the batch that ended, the `nth` of this process, with what the others say."""
        if nth == 1 and self.before is not None:
            self.blind = not claim.item_s and not claim.batch_size
            self.settled = self.blind and unchanged(self.before, footprint())
        if not self.blind or nth > COMPARED or service_s < WORTH_S:
            return
        others: list[tuple[float, float]] = []
        with suppress(LedgerError):  # to know more is a wish
            others = _others(ledger, self.run_id, claim.worker)
        workers = max(claim.known_workers, claim.active)
        workers = min(workers, claim.max_workers or workers)
        self.controller.compare(others, claim.left / max(1, workers), settled=self.settled)


def _others(ledger: Ledger, run_id: str, worker: int) -> list[tuple[float, float]]:
    """Items and seconds of the batches of other workers that ended well, among the first ones of the run."""
    found = []
    for row in METRIC_ROW.iter_unpack(Reader(ledger.connection, run_id).first_metric_rows(_MOST_ROWS)):
        well = OUTCOMES[row[_OUTCOME]] == "ok" and not row[_FLAGS] & FLAG_CUT_OFF
        if well and row[_WORKER] != worker and row[_ITEMS] > 0 and row[_SERVICE_S] > 0:
            found.append((float(row[_ITEMS]), float(row[_SERVICE_S])))
    return found
