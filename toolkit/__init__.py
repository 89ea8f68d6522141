"""Run large batches of work from a notebook on Celery workers, and learn the batch size and worker count for next time.

>>> import toolkit as tk
>>> client = tk.Client()  # doctest: +SKIP
>>> run = client.map(str.upper, ["a", "b"])  # doctest: +SKIP
>>> run.results()  # doctest: +SKIP
['A', 'B']

Names are resolved when they are first used: importing the package loads neither Celery nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from toolkit import errors
from toolkit._version import __version__
from toolkit.errors import BatchError, TimeLimitExceeded

if TYPE_CHECKING:
    from toolkit.client import Client, Run
    from toolkit.cluster import LocalCluster
    from toolkit.execution import current_item, task
    from toolkit.instruments import batched, instrument, instrumented, read_instrumented
    from toolkit.records import Retry
    from toolkit.transport import install
    from toolkit.tuning import Recommender

__all__ = [
    "BatchError",
    "Client",
    "LocalCluster",
    "Recommender",
    "Retry",
    "Run",
    "TimeLimitExceeded",
    "__version__",
    "batched",
    "current_item",
    "errors",
    "install",
    "instrument",
    "instrumented",
    "read_instrumented",
    "task",
]

_HOMES = {
    "Client": "toolkit.client",
    "LocalCluster": "toolkit.cluster",
    "Recommender": "toolkit.tuning",
    "Retry": "toolkit.records",
    "Run": "toolkit.client",
    "batched": "toolkit.instruments",
    "current_item": "toolkit.execution",
    "install": "toolkit.transport",
    "instrument": "toolkit.instruments",
    "instrumented": "toolkit.instruments",
    "read_instrumented": "toolkit.instruments",
    "task": "toolkit.execution",
}
_DRAWN = {"Client", "Recommender", "Run"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}; public names: {', '.join(sorted(__all__))}")
    if name in _DRAWN:
        # What is drawn gets its renderers from the room above it; they load drawing libraries when called.
        importlib.import_module("toolkit.notebook").register()
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
