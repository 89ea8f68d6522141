"""What lies beside the runs: the index of runs, the nodes, the elected sweeper. All derived, all repairable."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from toolkit import codec
from toolkit.errors import LedgerCorrupt, LedgerRefused, ToolkitError
from toolkit.ledger import keys
from toolkit.ledger.connection import Connection
from toolkit.records import PRIORITIES, NodeInfo, RunSpec, check_name, check_run_id, one_line

NODE_ALIVE_S = 6.0
"""A node whose report is older counts as gone; so does one whose report is that far ahead, of a clock set back."""
_NODE_FORGET_S = 3600.0
_COMING_S = 60.0
_FINAL = (b"finished", b"cancelled")


_MOST_TOLD = 1000
_UNSAID: Final[dict[str, Any]] = {
    "host": "", "pid": 0, "workers": 0, "busy": 0, "queues": (), "tasks": (), "toolkit_version": "", "protocol": 0,
    "python": "", "functions": False, "started_at": 0.0, "seen_at": 0.0, "place": "",
}  # fmt: skip
"""What a node's record counts as where it says nothing: one that another version wrote."""

logger = logging.getLogger(__name__)


class Registry:
    """The index of runs and of nodes on one server.

    Parameters
    ----------
    connection : Connection
        The door to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told: set[tuple[str, bytes]] = set()

    def now(self) -> float:
        """The server's clock, seconds since the epoch."""
        seconds, micros = self._connection.command("TIME")
        return int(seconds) + int(micros) / 1e6

    # ------------------------------------------------------------------ runs

    def add_run(self, spec: RunSpec, *, anew: bool = True) -> None:
        """Index a run; called before it is created, so that nothing that exists is unknown.

        Its moment says that it may be about to come; `anew=False`, for one that is there already, leaves that as it is.
        """
        command = self._connection.command
        command("ZADD", keys.RUNS, *(() if anew else ("NX",)), f"{self.now():.3f}", spec.run_id)
        command("SADD", keys.QUEUES, spec.queue)
        command("ZADD", keys.active(spec.queue), PRIORITIES.index(spec.priority), spec.run_id)

    def run_ids(self, created_before: float | None = None, since: float | None = None) -> list[str]:
        """Ids of all indexed runs, newest first; optionally only of those created in a span of the server's clock."""
        last = "+inf" if created_before is None else f"({created_before:.3f}"
        least = "-inf" if since is None else f"{since:.3f}"
        found = self._connection.command("ZREVRANGEBYSCORE", keys.RUNS, last, least)
        return [run_id for x in found if (run_id := self._read(keys.RUNS, x, check_run_id)) is not None]

    def forget_runs(self, run_ids: list[str]) -> None:
        """Drop runs from the index whose data are gone; a user who may only read leaves them to others.

        One that was indexed a moment ago stays, since it may be about to be created; so does one whose data are there.
        """
        command = self._connection.command
        gone = [run_id for run_id in run_ids if not self._may_come(run_id)]
        with suppress(LedgerRefused):
            if gone:
                command("ZREM", keys.RUNS, *gone)
            for run_id in gone:
                created_at = command("HGET", keys.of(run_id, "head"), "created_at")
                if created_at is not None and created_at.isdigit():
                    command("ZADD", keys.RUNS, "NX", f"{int(created_at) / 1000:.3f}", run_id)

    def goes_on(self, run_id: str) -> bool:
        """Whether a run is there and has not ended."""
        state = self._connection.command("HGET", keys.of(run_id, "head"), "state")
        return state is not None and state not in _FINAL

    def _may_come(self, run_id: str) -> bool:
        """Whether a run without data may be about to be created; not what lies far ahead of a clock set back."""
        indexed_at = self._connection.command("ZSCORE", keys.RUNS, run_id)
        return indexed_at is not None and abs(self.now() - float(indexed_at)) < _COMING_S

    def queues(self) -> list[str]:
        """Queues that ever carried a ticket."""
        found = (self._read(keys.QUEUES, x, check_name) for x in self._connection.command("SMEMBERS", keys.QUEUES))
        return sorted(queue for queue in found if queue is not None)

    def active_runs(self, queue: str, retry_s: float | None = None) -> list[tuple[str, int]]:
        """Unfinished runs of a queue with their priority (position in `PRIORITIES`), most pressing first."""
        key = keys.active(queue)
        flat = self._connection.command("ZREVRANGEBYSCORE", key, "+inf", "-inf", "WITHSCORES", retry_s=retry_s)
        pairs = flat if flat and isinstance(flat[0], list | tuple) else zip(flat[::2], flat[1::2], strict=True)
        found = ((self._read(key, member, check_run_id), score) for member, score in pairs)
        return [(run_id, int(max(-1e9, min(1e9, float(score))))) for run_id, score in found if run_id is not None]

    def activate(self, spec: RunSpec) -> None:
        """List a run as unfinished again."""
        self._connection.command("ZADD", keys.active(spec.queue), PRIORITIES.index(spec.priority), spec.run_id)

    def deactivate(self, queue: str, run_id: str) -> None:
        """List a run as ended, if it has ended or is gone.

        Whoever found it so may come late: it may be about to be created, or was sent back to work meanwhile. Then it
        stays listed; and what happens between the look and the deletion, a second look sees.
        """
        command, key = self._connection.command, keys.active(queue)
        priority, state = command("ZSCORE", key, run_id), command("HGET", keys.of(run_id, "head"), "state")
        if priority is None or (self._may_come(run_id) if state is None else state not in _FINAL):
            return
        command("ZREM", key, run_id)
        if self.goes_on(run_id):
            command("ZADD", key, "NX", priority, run_id)

    def _read(self, key: str, entry: bytes, check: Callable[[str], str]) -> str | None:
        """An entry of a shared list; None for one that somebody spoiled, which must not hide the others."""
        try:
            return check(entry.decode())
        except ValueError as error:
            self._tell(key, entry, error)
            return None

    def _tell(self, key: str, entry: bytes, why: Exception) -> None:
        if (key, entry) not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add((key, entry))
            logger.warning("key %s, entry %.100r is left alone, delete it: %s", key, entry, one_line(str(why)))

    # ------------------------------------------------------------------ nodes

    def report_node(self, node: NodeInfo) -> None:
        """Write a node's own record."""
        values = asdict(node)
        values["queues"], values["tasks"] = list(node.queues), list(node.tasks)
        self._connection.call("report", (keys.NODES.encode(),), node.node, codec.encode(values), retry_s=0.0)

    def remove_node(self, name: str) -> None:
        """Forget a node that stopped."""
        self._connection.command("HDEL", keys.NODES, name, retry_s=0.0)

    def nodes(self, *, alive_only: bool = True, retry_s: float | None = None, forget: bool = False) -> list[NodeInfo]:
        """Nodes that report, oldest first; `forget` deletes those long gone, which only workers may.

        A record that does not parse is left out, and told once.
        """
        stored = self._connection.fields(keys.NODES, retry_s)
        now = self.now()
        found = []
        for name, data in stored.items():
            try:
                node = _parse_node(name, data)
            except (ToolkitError, TypeError, ValueError) as error:
                self._tell(keys.NODES, name, error)
                continue
            age = abs(now - node.seen_at)
            if age > _NODE_FORGET_S and forget:
                self._connection.command("HDEL", keys.NODES, name)
            elif age <= NODE_ALIVE_S or (not alive_only and age <= _NODE_FORGET_S):
                found.append(node)
        return sorted(found, key=lambda n: (n.started_at, n.node))

    # ------------------------------------------------------------------ sweeper

    def elect_sweeper(self, name: str, lease_s: float) -> bool:
        """Whether `name` is the sweeper for the next `lease_s` seconds."""
        answer = self._connection.call("elect", (keys.SWEEPER.encode(),), name, int(lease_s * 1000), retry_s=0.0)
        return bool(answer)


def _parse_node(name: bytes, data: bytes) -> NodeInfo:
    """A node as its record says; fields that it lacks are empty, those that only a later version knows are left out."""
    stored = codec.decode(data)
    values = {field: stored.get(field, unsaid) for field, unsaid in _UNSAID.items()} if isinstance(stored, dict) else {}
    for field, unsaid in _UNSAID.items():
        value = values.get(field)
        if isinstance(unsaid, tuple):
            value = values[field] = tuple(value) if isinstance(value, list | tuple) else ()
            fits = all(isinstance(x, str) for x in value)
        elif isinstance(unsaid, float):
            fits = isinstance(value, int | float) and math.isfinite(value)
        else:
            fits = type(value) is type(unsaid)
        if not fits:
            raise LedgerCorrupt(f"field {field} of the record holds {value!r:.60}")
    return NodeInfo(node=check_name(name.decode(), "node"), **values)
