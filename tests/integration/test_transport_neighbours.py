"""A dead node on the same machine is noticed by its process: its claims end at once, those of the living stay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.integration.ledgers import Run, new_run_id
from toolkit.ledger import Ask, Claim, Ledger, Registry, new_claim_id
from toolkit.records import NodeInfo, WorkerIdentity
from toolkit.transport.neighbours import Neighbours, alive

PLACE = "here"


@pytest.fixture
def running() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until the test ends it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def ended() -> int:
    """The id of a process that is over."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def node(name: str, queue: str, pid: int, place: str = PLACE) -> NodeInfo:
    return NodeInfo(name, "host", pid, 2, 0, (queue,), (), "0", 1, "3.11", False, 1.0, 1.0, place)


def active_run(ledger: Ledger, queue: str) -> Run:
    """A run of 12 items that the queue's index lists."""
    run = Run(ledger, 12)
    Registry(ledger.connection).add_run(replace(run.spec, queue=queue))
    return run


def claim(run: Run, name: str, pid: int) -> Claim:
    answer = run.ledger.claim(run.run_id, Ask(new_claim_id(), WorkerIdentity("host", name, pid, "", "").encode()))
    assert isinstance(answer, Claim)
    return answer


def test_claims_of_a_dead_node_end_as_its_workers_do(
    ledger: Ledger, running: subprocess.Popen[bytes], ended: int
) -> None:
    queue = new_run_id()
    run = active_run(ledger, queue)
    dead, orphan, other = claim(run, "dead", ended), claim(run, "dead", running.pid), claim(run, "other", ended)
    swept = []

    def mend(run_id: str, workers: Sequence[int]) -> None:
        assert run_id == run.run_id
        swept.append(ledger.sweep(run_id, known_workers=3, idle_workers=1, lease_s=10.0, dead_workers=workers))

    neighbours = Neighbours(ledger, Registry(ledger.connection), PLACE)
    neighbours.meet([node("dead", queue, ended), node("alive", queue, running.pid)])
    neighbours.bury(mend)
    assert [s.expired for s in swept] == [1]
    assert swept[0].tickets == 1
    renewed = ledger.renew(run.run_id, 2, [c.claim_id for c in (dead, orphan, other)])
    assert renewed.gone == {dead.claim_id}
    neighbours.bury(mend)  # its last worker finishes its batch
    assert [s.expired for s in swept] == [1, 0]
    running.kill()
    running.wait()
    neighbours.bury(mend)
    assert sum(s.expired for s in swept) == 2
    rounds = len(swept)
    neighbours.bury(mend)
    assert (len(swept), run.status().claimed, run.status().lost) == (rounds, 4, 2)


@pytest.mark.parametrize("place", ["", "elsewhere"])
def test_a_process_id_of_another_machine_says_nothing(ledger: Ledger, ended: int, place: str) -> None:
    queue = new_run_id()
    claim(active_run(ledger, queue), "dead", ended)
    for here in (PLACE, ""):
        neighbours = Neighbours(ledger, Registry(ledger.connection), here)
        neighbours.meet([node("dead", queue, ended, place)])
        neighbours.bury(lambda *_: pytest.fail("buried"))


def test_a_process_that_ended_is_dead_before_anybody_waits_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        while alive(process.pid):
            pass
        assert process.poll() == 0
