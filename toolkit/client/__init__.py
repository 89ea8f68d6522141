"""Submit, hold a run, ask for advice."""

from toolkit.client.client import Client
from toolkit.client.run import Run

__all__ = ["Client", "Run"]
