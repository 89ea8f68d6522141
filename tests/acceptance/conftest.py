"""A private LocalCluster, and a client of it, for tests with real worker processes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolkit.client import Client
from toolkit.cluster import LocalCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two workers on a server of their own, stopped at the end."""
    state = Path(tempfile.mkdtemp(prefix="tk-acc-"))
    local = LocalCluster(2, state_dir=state)
    try:
        local.start()
        local.wait_ready(60)
        yield local
    finally:
        local.stop()
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client of the private cluster."""
    with Client(cluster=cluster) as made:
        yield made


@pytest.fixture
def eventually() -> Callable[[Callable[[], object], float], None]:
    """Wait until something is true, or fail; never assume how long it takes."""

    def wait(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait
