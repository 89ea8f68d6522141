"""Every single fault, and every pair of faults, at every call of a run: it ends, and each item is accounted once.

All single faults are tried here, and of the pairs a sample that is the same each time. ``LEDGER_FAULTS=all`` tries
every pair of faults at every pair of calls, on Valkey, in about a quarter of an hour; ``make faults`` does that.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from itertools import combinations, product

import pytest

from tests.conftest import Server
from tests.integration.ledger_play import FAULTS, Play
from toolkit.ledger import Ledger
from toolkit.settings import LedgerSettings

ALL = os.environ.get("LEDGER_FAULTS") == "all"
SAMPLE = {"valkey": 2, "redis": 1}  # pairs of calls for each pair of faults
STEPS = {"valkey": 1, "redis": 6}  # of the calls, every so many meet a single fault
WAYS = pytest.mark.parametrize("cancels", [False, True], ids=["to the end", "cancelled"])

Two = tuple[Ledger, Ledger]


@pytest.fixture
def two(server: Server) -> Iterator[Two]:
    """The ledger of the actors, whose wire has faults, and of those who look on."""
    with (
        closing(Ledger(server.address, LedgerSettings(retry_s=5.0))) as ledger,
        closing(Ledger(server.address)) as boss,
    ):
        yield ledger, boss


def play(two: Two, faults: dict[int, str], cancels: bool) -> Play:
    """One run to its end, audited from outside."""
    done = Play(*two, faults, cancels).perform()
    done.audit()
    done.run.reader.delete()
    return done


@pytest.fixture(scope="module")
def calls(server: Server) -> Callable[[bool], int]:
    """How many calls there are without faults."""

    @cache
    def count(cancels: bool) -> int:
        with closing(Ledger(server.address)) as ledger, closing(Ledger(server.address)) as boss:
            return len(play((ledger, boss), {}, cancels).line.names)

    return count


@WAYS
def test_without_faults_every_kind_of_call_is_made(two: Two, cancels: bool) -> None:
    done = play(two, {}, cancels)
    kinds = {"create", "append", "claim", "commit", "only", "lost", "renew", "sweep", "steer", "update", "tickets"}
    assert set(done.line.names) == (kinds if cancels else kinds | {"dead"})
    # every item but those that are made to fail is executed once
    assert cancels or {i for i, n in done.log.items() if n > 1} == {0, 2, 4, 5, 7, 8}


@WAYS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_call_loses_and_doubles_nothing(
    server: Server, two: Two, calls: Callable[[bool], int], fault: str, cancels: bool
) -> None:  # fmt: skip
    for at in range(1, calls(cancels) + 1, STEPS[server.engine]):
        assert at in play(two, {at: fault}, cancels).line.met, f"the fault at call {at} never happened"


@WAYS
@pytest.mark.parametrize(("first", "second"), list(product(FAULTS, FAULTS)))
@pytest.mark.timeout(1200)
def test_two_faults_at_any_calls_lose_and_double_nothing(
    server: Server, two: Two, calls: Callable[[bool], int], first: str, second: str, cancels: bool
) -> None:  # fmt: skip
    pairs = list(combinations(range(1, calls(cancels) + 4), 2))  # a fault makes a run longer
    if not (ALL and server.engine == "valkey"):
        pairs = random.Random(f"{first} {second}").sample(pairs, SAMPLE[server.engine])
    for at, then in pairs:
        play(two, {at: first, then: second}, cancels)
