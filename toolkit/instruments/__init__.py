"""Measure an existing Celery application that knows nothing of runs, and size batches from what was recorded.

===============  ===================================================================
`signals`        connects an application's signals: `instrument`
`measuring`      one execution: clocks, processor time, memory, outcome
`outbox`         rows on their way: bounded, sent by a thread of their own
`packing`        executions as packed rows of their series
`reading`        the rows as a frame: `read_instrumented`, `instrumented`
`batching`       an iterable in batches of the recommended size: `batched`
===============  ===================================================================
"""

from __future__ import annotations

from toolkit.instruments.batching import Batches, batched
from toolkit.instruments.reading import SERIES, instrumented, pull, read_instrumented
from toolkit.instruments.signals import instrument

__all__ = ["SERIES", "Batches", "batched", "instrument", "instrumented", "pull", "read_instrumented"]
