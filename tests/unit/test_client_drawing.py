"""Drawing a stream on its own thread: quick sources in bulk, slow ones item by item."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from toolkit.client.drawing import Source


def all_of(source: Source, most: int) -> list[int]:
    found: list[int] = []
    while part := source.take(most):
        assert len(part) <= most
        found += part
    return found


def test_every_item_comes_once_and_in_order() -> None:
    for n, most in ((0, 10), (1, 10), (9, 10), (5000, 7), (5000, 1024), (5000, 100_000)):
        source = Source(iter(range(n)), "tests-draw")
        source.start()
        assert all_of(source, most) == list(range(n))


def test_what_a_quick_source_gives_before_it_stalls_is_there_at_once() -> None:
    # Given a source that was quick, so that it is drawn from in bulk, and stalls before and after one more item
    gates = [threading.Event(), threading.Event()]

    def stalling() -> Iterator[int]:
        yield from range(500)
        assert gates[0].wait(60)
        yield 500
        assert gates[1].wait(60)
        yield 501

    source = Source(stalling(), "tests-draw")
    source.start()
    found: list[int] = []
    while len(found) < 500:
        found += source.take(10_000, 0.01)
    # When one comes and then none, then it is there nevertheless
    gates[0].set()
    assert source.take(10_000, 0.01) == [500]
    gates[1].set()
    assert source.take(10_000) == [501]
    assert [*found, 500] == list(range(501))


def test_who_stops_a_quick_source_draws_a_few_items_more_at_most() -> None:
    drawn, gate = [0], threading.Event()

    def endless() -> Iterator[int]:
        while True:
            drawn[0] += 1
            yield drawn[0]
            if drawn[0] == 300:
                gate.set()

    source = Source(endless(), "tests-draw")
    source.start()
    assert gate.wait(60)
    source.stop()
    source._thread.join(60)
    assert not source._thread.is_alive()
    assert drawn[0] < 5000
