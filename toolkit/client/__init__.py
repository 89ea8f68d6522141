"""Submit, hold a run, ask for advice."""

from toolkit.client.client import Client
from toolkit.client.export import read_letters
from toolkit.client.feed import MetricsFeed
from toolkit.client.run import Run

__all__ = ["Client", "MetricsFeed", "Run", "read_letters"]
