"""The version of the package, and of what it stores on the server."""

__version__ = "0.1.0"

PROTOCOL = 2
"""Version of the ledger's layout. Nodes and clients of another protocol decline a run."""
