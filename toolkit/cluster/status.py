"""How a cluster does, as a frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One look at a LocalCluster.

    Attributes
    ----------
    state_dir : pathlib.Path
        Where it keeps its data and logs.
    running : bool
        Whether its server answers.
    engine, version : str
        ``valkey`` or ``redis``, and its version; empty when none runs.
    server_binary : str
        The program that runs.
    server_pid, guard_pid : int
        Process ids, 0 when none runs.
    server_restarts : int
        How often the server died and was started again.
    leases : int
        Who keeps the cluster alive: clients, and nodes that work.
    node : str
        Key of the node for this Python environment.
    queue : str
        Its Celery queue.
    workers : int
        Workers wanted, 0 when no node is.
    node_state : str
        ``ready``, ``starting``, ``draining``, ``failing`` or ``none``.
    node_pid : int
        Process id of its main process, 0 when there is none.
    node_restarts : int
        How often the node died and was started again.
    """

    state_dir: Path
    running: bool
    engine: str
    version: str
    server_binary: str
    server_pid: int
    guard_pid: int
    server_restarts: int
    leases: int
    node: str
    queue: str
    workers: int
    node_state: str
    node_pid: int
    node_restarts: int

    def line(self) -> str:
        """One line of text for terminals and logs."""
        if not self.running:
            return f"local cluster in {self.state_dir}: not running"
        parts = [f"local cluster in {self.state_dir}: {self.engine} {self.version}, pid {self.server_pid}"]
        if self.workers:
            parts.append(f"node {self.node} {self.node_state} with {self.workers} workers")
        restarts = self.server_restarts + self.node_restarts
        if restarts:
            parts.append(f"{restarts} restarts")
        return ", ".join(parts)
