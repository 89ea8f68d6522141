"""What the integration tests share: a ledger on each real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from toolkit.ledger import Ledger
from toolkit.settings import ServerAddress


@pytest.fixture
def ledger(address: ServerAddress) -> Iterator[Ledger]:
    with closing(Ledger(address)) as ledger:
        yield ledger
