"""Every key on the server: its type, who writes it, when it expires.

All keys of run R share the hash tag ``{tk:R}``, hence one slot of a cluster. They live until the run's
retention has passed after its end (for ever where retention is None).

==========================  ========  ====================================================================
key                         type      content (writer)
==========================  ========  ====================================================================
``{tk:R}:head``             hash      spec, function, kwargs, state, counters, settings (every transition)
``{tk:R}:pages``            hash      first index -> encoded items; ``k`` + first index -> keys; ``w`` + first index
                                      -> running sums of weights; ``n`` + first index -> items to end (append)
``{tk:R}:page_index``       zset      first index of each page, scored by itself (append)
``{tk:R}:ready``            list      ranges given back, next at the left (commit, lost, sweep); where items have
                                      weights a zset of all ranges, see ``1_weights.lua`` (append, too)
``{tk:R}:delayed``          zset      ranges waiting for a retry, scored by due time in ms (commit)
``{tk:R}:claims``           hash      claim id -> claim, see ``stored.py`` (claim, renew, commit, sweep)
``{tk:R}:dead``             hash      index -> encoded dead letter (commit, lost)
``{tk:R}:outputs``          list      one element a commit: its ok ranges and their results (commit)
``{tk:R}:metrics:S``        string    metric rows of segment S, see `records.METRIC_FIELDS` (commit, lost)
``{tk:R}:workers``          hash      worker identity -> code used in metric rows (claim)
``{tk:R}:events``           stream    what happened, capped at about 10,000 (all)
``{tk:R}:closed``           zset      last 4,096 closed claim ids, at least; odd score: by commit (commit, lost)
``{tk:R}:tickets``          zset      ticket ids on their way, scored by expiry in ms (tickets, claim)
==========================  ========  ====================================================================

Beside the runs, derived and repaired by the sweep:

==========================  ========  ====================================================================
``tk:runs``                 zset      run ids, scored by creation (before create)
``tk:queues``               set       queue names that ever carried a ticket (before create)
``tk:active:Q``             zset      unfinished runs of queue Q, scored by priority (create, retry_dead, sweep)
``tk:nodes``                hash      node name -> encoded `records.NodeInfo` (each node, every second)
``tk:sweeper:P``            string    name of the elected sweeper of protocol P, expires after a few seconds
==========================  ========  ====================================================================

Of a task that is measured outside of runs (`toolkit.instrument`), one series S for each task and set of tags. It stays
until somebody deletes it; its rows are capped:

==========================  ========  ====================================================================
``{tk:S}:series``           hash      task, tags, schema, counters (record)
``{tk:S}:flushes``          zset      last 1,024 flush ids, scored by the server's time (record)
``{tk:S}:sessions``         list      number of the first row after each long pause (record)
``{tk:S}:rows:N``           string    metric rows of segment N, the oldest segments are deleted (record)
``{tk:S}:waits:N``          string    seconds that each of them waited in its queue, float32 (record)
``{tk:S}:series_workers:N``  hash     worker identity -> code used in the rows of segment N (record)
``{tk:series}:index``       hash      series id -> task and tags, as JSON (before record)
==========================  ========  ====================================================================
"""

from __future__ import annotations

from functools import lru_cache

from toolkit._version import PROTOCOL
from toolkit.records import check_name, check_run_id

RUNS = "tk:runs"
QUEUES = "tk:queues"
NODES = "tk:nodes"
SWEEPER = f"tk:sweeper:{PROTOCOL}"

_NAMES = (
    "head", "pages", "page_index", "ready", "delayed", "claims", "dead", "outputs", "metrics", "workers",
    "events", "closed", "tickets",
)  # fmt: skip

SERIES_INDEX = "{tk:series}:index"  # under a tag, so that the worker's rights on runs cover it
_SERIES_NAMES = ("series", "flushes", "sessions", "rows", "waits", "series_workers")


@lru_cache(maxsize=1024)
def active(queue: str) -> str:
    """Key of the unfinished runs of one queue.

    Raises
    ------
    InvalidInput
        The queue's name is malformed.
    """
    check_name(queue, "queue")
    return f"tk:active:{queue}"


@lru_cache(maxsize=1024)
def of_run(run_id: str) -> tuple[bytes, ...]:
    """Keys handed to every server-side function, in its order.

    Raises
    ------
    InvalidInput
        The run id is malformed.
    """
    check_run_id(run_id)
    return tuple(f"{{tk:{run_id}}}:{name}".encode() for name in _NAMES)


def of(run_id: str, name: str) -> bytes:
    """One key of a run by its name in the table above."""
    return of_run(run_id)[_NAMES.index(name)]


def metrics_segment(run_id: str, segment: int) -> bytes:
    """Key of one segment of metric rows."""
    return of(run_id, "metrics") + f":{segment}".encode()


@lru_cache(maxsize=1024)
def of_series(series_id: str) -> tuple[bytes, ...]:
    """Keys handed to `record`, in its order.

    Raises
    ------
    InvalidInput
        The id is malformed.
    """
    check_run_id(series_id)
    return tuple(f"{{tk:{series_id}}}:{name}".encode() for name in _SERIES_NAMES)


def series_segment(series_id: str, name: str, segment: int) -> bytes:
    """Key of one segment of `name`: rows, waits or series_workers."""
    return of_series(series_id)[_SERIES_NAMES.index(name)] + f":{segment}".encode()
