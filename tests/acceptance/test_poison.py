"""An item that kills its process each time: it alone becomes a dead letter, after a known number of deaths."""

from __future__ import annotations

import math
import os
import signal

import pytest

import toolkit as tk
from toolkit.client import Client

POISON = 37


@pytest.mark.parametrize(("k", "batched"), [(64, True), (7, True), (64, False)])
def test_only_the_poison_item_dies(client: Client, k: int, batched: bool) -> None:
    def one(item: int) -> int:
        if item == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return -item

    @tk.task(batched=True)
    def many(items: list[int]) -> list[int]:
        return [one(item) for item in items]

    items = range(POISON - k // 2, POISON - k // 2 + k)
    run = client.map(many if batched else one, items, batch_size=k, max_workers=1)
    found = run.results(120, return_exceptions=True)
    (letter,) = run.dead_letters().itertuples()
    assert (letter.item, letter.category) == (POISON, "worker_lost")
    assert [x for x in found if not isinstance(x, Exception)] == [-i for i in items if i != POISON]
    assert run.status().lost <= (math.ceil(math.log2(k)) + 3 if batched else 3)
    assert run.status().lost >= 3
    run.verify()
