"""Claims that a living process gave up by an exception: the server is told at once, or as soon as it answers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace

from toolkit.errors import LedgerError, LedgerFull, LedgerUnavailable
from toolkit.execution.failures import describe
from toolkit.ledger import NOBODY, UNKNOWN, Death, Ledger
from toolkit.records import WorkerIdentity
from toolkit.transport.batch import bare_letter

logger = logging.getLogger(__name__)

AGAIN_S = 0.5
"""How often a server that was away is asked."""
_TRIES = 3  # of an item that makes its worker raise, before it is a dead letter: `max_suspect` of every run


def give_back(ledger: Ledger, run_id: str, held: bytes, asked: bytes, death: Death, error: BaseException) -> None:
    """Report claims as lost, now or from a thread once the server answers; their leases would run out else.

    Whoever waits for a lease counts the process as dead, and suspects its items.

    Parameters
    ----------
    held, asked : bytes
        The claim that was being executed, and the one asked for last, which may have been granted; empty for none.
    death : Death
        What becomes of the items held. Of those asked for nothing was begun.
    error : BaseException
        Why they are given up.
    """
    owed = deque([(held, death)] if held else [])
    if asked and asked != held and not isinstance(error, LedgerFull):  # a full server grants nothing
        owed.append((asked, Death(NOBODY)))
    if not _report(ledger, run_id, owed):
        threading.Thread(
            target=_report_later, args=(ledger, run_id, owed), name="toolkit-give-back", daemon=True
        ).start()


def blame(error: BaseException, identity: str, at: float) -> Death:
    """Who is to blame for an exception that is no item's own, and stopped a batch.

    The server's is nobody's fault. Any other one may come from an item, each time that it is executed: its batch is
    halved until it is alone, and in the end it is a dead letter that tells the exception.
    """
    if isinstance(error, LedgerError):
        return Death(NOBODY)
    told = describe(error)
    told = replace(told, message=f"the worker gave up the item's batch, each time: {told.message}")
    letter = bare_letter(told, "fatal", _TRIES, WorkerIdentity.decode(identity).worker, at)
    return Death(UNKNOWN, "fatal", letter=letter)


def _report(ledger: Ledger, run_id: str, owed: deque[tuple[bytes, Death]]) -> bool:
    """Report what can be reported; False while the server is away."""
    while owed:
        claim_id, death = owed[0]
        try:
            ledger.lost(run_id, claim_id, death, retry_s=0.0)
        except LedgerUnavailable:
            return False
        except LedgerError as error:
            logger.warning("run %s: its lease will return what was claimed (%s)", run_id, error)
        owed.popleft()
    return True


def _report_later(ledger: Ledger, run_id: str, owed: deque[tuple[bytes, Death]]) -> None:
    pause = threading.Event()
    while not ledger.connection.gone() and not _report(ledger, run_id, owed):
        pause.wait(AGAIN_S)
