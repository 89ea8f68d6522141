"""Runs whose batches are of one item: nothing is chosen for them, and nothing has to be learned."""

from __future__ import annotations

from itertools import count

from tests.integration.ledgers import Run
from toolkit.execution import task
from toolkit.ledger import Ledger
from toolkit.transport.loop import BatchLoop, Hooks, RunContext, make_context
from toolkit.transport.marker import Marker


def same(item: int) -> int:
    return item


def serve(run: Run, becomes_automatic_after: int = -1) -> RunContext:
    """Work on the run until it ends."""
    batches = count(1)

    def after_each() -> bool:
        if next(batches) == becomes_automatic_after:
            run.ledger.update(run.run_id, batch_size=0, auto=True)
        return False

    context = make_context(run.spec, task(same), b"", host="h", node="n")
    hooks = Hooks(Marker(), 0, lambda _: False, after_each, lambda _s, _t: None)
    assert BatchLoop(run.ledger, context, hooks).serve().reason == "finished"
    return context


def test_batches_of_one_ask_no_controller(ledger: Ledger) -> None:
    run, other = Run(ledger, 12, batch_size=1), Run(ledger, 12, batch_size=4)
    assert serve(run).controller.per_item_s == 0
    assert run.status().batches == 12
    assert serve(other).controller.per_item_s > 0


def test_batches_grow_once_the_run_chooses_their_size(ledger: Ledger) -> None:
    run = Run(ledger, 2000, page=1024, batch_size=1)
    context = serve(run, becomes_automatic_after=5)
    assert 5 < run.status().batches < 400  # one takes a few times as long where the processor is taken away meanwhile
    assert context.controller.per_item_s > 0
