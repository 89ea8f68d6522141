"""The first batches of a run of which nothing is known, as its workers claim them and hear of each other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.integration.ledgers import Run, metric_row
from toolkit.execution import Task, task
from toolkit.execution.sizing import Controller
from toolkit.ledger import Claim, Ledger
from toolkit.records import FLAG_CUT_OFF, RunSpec
from toolkit.transport.beginning import Beginning
from toolkit.transport.loop import BatchLoop, Hooks, make_context
from toolkit.transport.marker import Marker

ITEMS, WORKERS = 2_000, 4


def batch(items: list[int]) -> list[int]:
    return items


def with_state(items: list[int], state: dict[str, int]) -> list[int]:
    return [item + len(state) for item in items]


class Listening(Controller):
    """Remembers what it was told of others."""

    __slots__ = ("heard",)

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[list[tuple[float, float]]] = []

    def compare(self, others: Sequence[tuple[float, float]], share: float, *, settled: bool) -> None:
        self.heard.append(list(others))
        super().compare(others, share, settled=settled)


def automatic(ledger: Ledger) -> Run:
    return Run(ledger, ITEMS, page=1_000, batch_size=0, auto=True, known_workers=WORKERS)


def begin(run: Run, worker: str) -> tuple[Beginning, Claim]:
    """A worker comes and claims its first batch."""
    beginning = Beginning(run.run_id, Controller())
    return beginning, run.claim(worker, want=beginning.want(run.ledger))


def end(run: Run, beginning: Beginning, claim: Claim, service_s: float, flags: int = 0) -> None:
    """It learns from it and commits."""
    beginning.controller.observe(len(claim), service_s, 0.0)
    beginning.end(run.ledger, claim, 1, service_s)
    run.commit(claim, row=metric_row(items=len(claim), worker=claim.worker, service_s=service_s, flags=flags))


def wanted(beginning: Beginning, claim: Claim) -> float:
    return beginning.controller.propose(claim.item_s, claim.last_batch, claim.left, WORKERS).want


def test_the_first_claimer_takes_one_item_and_the_others_a_few(ledger: Ledger) -> None:
    run = automatic(ledger)
    assert [len(begin(run, f"w{i}")[1]) for i in range(3)] == [1, 16, 16]


def test_who_comes_later_follows_the_others(ledger: Ledger) -> None:
    """Given a run one of whose batches ended, when a worker comes, then the ledger says what it takes."""
    run = automatic(ledger)
    run.commit(begin(run, "w1")[1], item_s=2.0)
    assert Beginning(run.run_id, Controller()).want(ledger) == 0


def test_a_given_size_is_not_asked_about(ledger: Ledger) -> None:
    run = Run(ledger, ITEMS, page=1_000, batch_size=50)
    assert Beginning(run.run_id, Controller()).want(ledger) == 0
    assert Beginning("test-gone", Controller()).want(ledger) == 0


def test_a_worker_hears_what_the_batches_of_others_took(ledger: Ledger) -> None:
    """Given batches that cost 2 s whatever they hold, when the second of them ends, then its worker knows."""
    run = automatic(ledger)
    (scout, one), (other, few) = begin(run, "w1"), begin(run, "w2")
    end(run, scout, one, 2.02)
    end(run, other, few, 2.32)
    assert wanted(other, few) > 400
    assert wanted(scout, one) < 50  # its own batch alone says nothing of what items cost


def test_batches_that_were_cut_off_say_nothing(ledger: Ledger) -> None:
    run = automatic(ledger)
    (scout, one), (other, few) = begin(run, "w1"), begin(run, "w2")
    end(run, scout, one, 2.02, FLAG_CUT_OFF)
    end(run, other, few, 2.32)
    assert wanted(other, few) < 50


def test_a_worker_looks_twice_and_its_own_batches_are_none_of_the_others(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a worker whose batch is under way, when another one serves the run, then it begins with a few items."""
    monkeypatch.setattr("toolkit.transport.beginning.WORTH_S", 0.0)
    run = automatic(ledger)
    begin(run, "w1")
    context = make_context(RunSpec(run.run_id, "t", batched=True), task(batch, batched=True), b"", host="h", node="n")
    listening = Listening()
    context.controller = listening
    assert context.beginning is not None
    context.beginning.controller = listening
    hooks = Hooks(Marker(), 0, lambda _: False, lambda: False, lambda _s, _t: None)
    BatchLoop(ledger, context, hooks).serve()
    assert next(row["items"] for row in run.rows()) == 16
    assert listening.heard == [[], []]


def test_only_functions_that_take_a_batch_and_have_no_setup_begin_so() -> None:
    def compared(made_of: Task, **spec: bool) -> bool:
        run = RunSpec("r", "t", batched=made_of.batched, **spec)
        return make_context(run, made_of, b"", host="h", node="n").beginning is not None

    assert compared(task(batch, batched=True))
    assert not compared(task(len))
    assert not compared(task(batch, batched=True), weighted=True)
    assert not compared(task(with_state, batched=True, setup=dict))
