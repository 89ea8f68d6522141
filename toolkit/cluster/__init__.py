"""A server and nodes on this machine: the embedded default."""

from toolkit.cluster.local import LocalCluster
from toolkit.cluster.status import ClusterStatus

__all__ = ["ClusterStatus", "LocalCluster"]
