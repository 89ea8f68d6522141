"""The slots by which a node tells its workers apart."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from toolkit.errors import TransportError
from toolkit.transport.marker import SLOTS, Marker


def test_each_process_of_the_largest_local_cluster_has_a_slot_of_its_own() -> None:
    marker = Marker()
    for index in range(1024):
        with marker.slot(index) as slot:
            marker.begin(slot, f"run-{index}", index.to_bytes(16, "big"), -1, born=index)
    works = marker.works()
    assert [work.run_id for work in works] == [f"run-{index}" for index in range(1024)]
    assert [work.born for work in works] == list(range(1024))
    assert len({work.claim_id for work in works}) == 1024


def test_threads_and_greenlets_give_their_slots_back() -> None:
    marker = Marker()
    for _ in range(3 * SLOTS):  # one after the other, each a ticket of a greenlet of its own
        with marker.slot(None) as slot:
            assert 0 <= slot < SLOTS
    with pytest.raises(KeyError), marker.slot(None):
        raise KeyError
    with ExitStack() as at_once:
        assert len({at_once.enter_context(marker.slot(None)) for _ in range(SLOTS)}) == SLOTS


def test_more_workers_than_slots_are_refused() -> None:
    marker = Marker()
    with pytest.raises(TransportError, match=r"more than 2,048 workers"), marker.slot(SLOTS):
        pass
    with ExitStack() as at_once:
        for _ in range(SLOTS):
            at_once.enter_context(marker.slot(None))
        with pytest.raises(TransportError, match=r"another node beside it"):
            at_once.enter_context(marker.slot(None))
    with marker.slot(None):
        pass
