"""Profiles of a run's batches: which ones are sampled, and how they are stored.

A profile lies among the run's events, compressed, and so lives and ends with the run.
"""

from __future__ import annotations

import base64
import logging
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from toolkit.errors import LedgerError
from toolkit.execution.profiling import bounded, fold, sampling
from toolkit.ledger import Ledger
from toolkit.records import RunSpec

logger = logging.getLogger(__name__)

MAX_PROFILES: Final = 50
"""Batches of a run that are sampled, at most and about: workers that end one at once may all store theirs."""
MAX_BYTES: Final = 16_384
"""Of one stored profile; at half as many stacks it is tried again."""
_OFF: Final[AbstractContextManager[None]] = nullcontext()


def batch(ledger: Ledger, spec: RunSpec, nth: int) -> AbstractContextManager[None]:
    """Execute a batch inside, the `nth` (from 1) of this process, and sample it where the run asks for that.

    The 1st, 2nd, 4th, 8th ... batch of each process: what begins and what goes on is both seen.
    """
    if not spec.profile or nth & (nth - 1):
        return _OFF
    return _sampled(ledger, spec)


@contextmanager
def _sampled(ledger: Ledger, spec: RunSpec) -> Iterator[None]:
    with sampling() as stacks:
        yield
    if not stacks:
        return
    most = len(stacks)
    packed = b""
    while most and (not packed or len(packed) > MAX_BYTES):
        text = fold(bounded(stacks, most)).encode("utf-8", "replace")
        packed = base64.b64encode(zlib.compress(text))
        most //= 2
    try:
        ledger.store_profile(spec.run_id, packed, MAX_PROFILES)
    except LedgerError as error:
        logger.warning("run %s: a profile is lost (%s)", spec.run_id, error)
