"""What `verify` sees: bookkeeping spoiled on purpose, one way at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.integration.ledgers import LETTER, Run
from toolkit.ledger import FailedItem, Ledger, check_structure
from toolkit.settings import ServerAddress


@pytest.fixture
def run(address: ServerAddress) -> Iterator[Run]:
    """A run with something in every place."""
    with closing(Ledger(address)) as ledger:
        run = Run(ledger, 30, batch_size=6)
        failed = [FailedItem(0, "dead", letter=LETTER), FailedItem(2, "retry", 60)]
        run.commit(run.claim(), 4, failed=failed)  # 4 and 5 are given back
        ledger.update(run.run_id, batch_size=4)
        run.commit(run.claim(), 1, last=False)
        run.commit(run.claim(), 1)
        yield run


def test_a_sound_run_has_no_problems(run: Run) -> None:
    assert check_structure(run.reader.structure()) == []
    status = run.status()
    assert all((status.remaining, status.ready, status.delayed, status.claimed, status.ok, status.dead))


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("RPUSH", "ready", "12:14:0:0:0"), "ready holds"),
        (("DEL", "ready"), "ready holds"),
        (("ZADD", "delayed", 5, "20:21:0:0:0"), "delayed holds"),
        (("DEL", "claims"), "claims holds"),
        (("HSET", "dead", 25, b""), "dead letters"),
        (("HINCRBY", "head", "ok", 1), "is not what was submitted"),
        (("HINCRBY", "head", "cursor", 1), "is not what was submitted"),
        (("HINCRBY", "head", "claimed", -1), "claims holds"),
    ],
)
def test_what_does_not_add_up_is_told(run: Run, command: tuple[Any, ...], problem: str) -> None:
    name, key, *args = command
    run.command(name, key, *args)
    assert any(problem in text for text in check_structure(run.reader.structure()))


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (1, "two ranges overlap"),  # 0 is a dead letter, 1 ended well
        (6, "two ranges overlap"),  # waits for a worker
        (99, "beyond the cursor"),
    ],
)
def test_a_range_in_the_wrong_place_is_told_though_all_sums_are_right(run: Run, place: int, problem: str) -> None:
    first = run.ready()[0]
    run.command("LSET", "ready", 0, f"{place - 1}:{place - 1 + len(first)}:0:0:0")
    (found,) = check_structure(run.reader.structure())
    assert problem in found


def test_items_that_nobody_took_yet_cannot_wait_for_a_retry(run: Run) -> None:
    cursor = int(run.head("cursor"))
    first = run.ready()[0]
    run.command("LSET", "ready", 0, f"{cursor}:{cursor + len(first)}:0:0:0")
    assert check_structure(run.reader.structure()) == ["a range lies beyond the cursor"]
