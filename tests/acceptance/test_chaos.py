"""A short chaos campaign, failpoints in real workers, and proof that the judge can see what it is there to see."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.chaos import plans, tasks
from tests.chaos.campaign import Campaign, Options
from tests.chaos.control import Control
from tests.chaos.deployment import deploy, patience, until
from tests.chaos.failpoints import POINTS, called, fired
from tests.chaos.journal import DTYPE, Event, Journal, Life
from tests.chaos.oracle import Evidence, Kill, judge
from tests.chaos.plans import RunPlan
from tests.chaos.report import failures, table
from tests.chaos.work import Worker

SHORT = Options(
    seed=3, seconds=6.0, totals={"child": 6, "node": 2, "server": 2, "freeze": 1, "network": 2}, nodes=2, lanes=2,
    scale=0.15, settle_s=60.0,
)  # fmt: skip

# Every function that a node calls, before and after: its processes die one after the other.
FAILPOINTS = """
claim:before:2 claim:after:1 commit:before:2 commit:after:3 commit_only:before:1 commit_only:after:1
tickets:before:1 tickets:after:1
renew:before:2 renew:after:3 lost:before:1 lost:after:1 sweep:before:2 sweep:after:2
report:before:2 report:after:2 elect:before:2 elect:after:2
""".split()


def test_short_campaign_keeps_every_promise(tmp_path: Path) -> None:
    outcome = Campaign(SHORT, tmp_path, quiet=True).run()
    broken = failures(outcome, dict.fromkeys(SHORT.totals, 1), 1000)
    assert not broken, table(outcome, {}, 0, "short campaign")


def test_plain_celery_is_seen_to_lose_items(tmp_path: Path) -> None:
    verdict = Control(seed=3, seconds=3.0, directory=tmp_path, per_s=2.0).run()
    assert sum(v.items for v in verdict.violations if v.kind == "lost") > 0


def test_processes_die_before_and_after_every_call(tmp_path: Path) -> None:
    told = {POINTS: " ".join(FAILPOINTS)}
    with deploy(tmp_path, 2, lease_s=1.0, environment=told) as made:
        worker, evidence = Worker(made.client, made.journal, patience(90)), []
        # runs are submitted, two at a time, until every process has died that is to die: which call comes when is for
        # the nodes to say
        for number in range(0, 20, 2):
            plans_ = [RunPlan(n, "slow", 400, 10, 0.004, bool(n % 2), (7,)) for n in (number, number + 1)]
            for run, plan in [worker.submit(plan, "points") for plan in plans_]:
                evidence.append(worker.finish(run, plan))
            if fired(made.journal) == set(FAILPOINTS):
                break
        assert fired(made.journal) == set(FAILPOINTS)
    verdict = judge(evidence, Journal.read(made.journal), [])
    assert not verdict.violations
    assert called(made.journal) == {word.split(":")[0] for word in FAILPOINTS}


def test_a_worker_that_stood_still_is_refused(tmp_path: Path) -> None:
    plan = RunPlan(0, "slow", 400, 10, 0.02, keep_results=True)
    with deploy(tmp_path, 2, lease_s=1.0) as made:
        worker = Worker(made.client, made.journal, patience(90))
        run, _ = worker.submit(plan, "frozen")
        node = made.fleet.nodes[0]
        until(lambda: busy(made.journal, node.children()), 60, "a child of the node is executing an item")
        frozen = [node.pid, *node.children()]
        node.signal(frozen, signal.SIGSTOP)
        try:
            until(lambda: run.status().lost >= 1, 60, "its claim was taken away")
        finally:
            node.signal(frozen, signal.SIGCONT)
        evidence = worker.finish(run, plan)
        until(lambda: Journal.read(made.journal).total(Event.REFUSED) >= 1, 60, "its commit was refused")
    verdict = judge([evidence], Journal.read(made.journal), [])
    assert not verdict.violations
    assert verdict.repeated > 0


def busy(journal: Path, pids: list[int]) -> bool:
    """Whether one of the processes was executing an item a moment ago."""
    return any(life.pid in pids and life.records["event"][-1] == Event.STARTED for life in Journal.read(journal).lives)


def test_a_seed_plans_the_same_campaign() -> None:
    def campaign(seed: int) -> tuple[object, ...]:
        found = plans.runs(seed)
        return plans.faults(seed, 60, plans.TARGETS), [next(found) for _ in range(50)]

    assert campaign(5) == campaign(5)
    assert campaign(5) != campaign(6)
    assert sum(f.after_s for f in plans.faults(5, 60, plans.TARGETS)) == pytest.approx(60)


# ---------------------------------------------------------------------- the judge on true and on falsified evidence

PLAN = RunPlan(4, "slow", 20, 5, 0.0, keep_results=True, fatal=(3,), killers=(8,))
DEAD = {3: "fatal", 8: "worker_lost"}


def life(pid: int, *events: tuple[Event, int]) -> Life:
    """What a process noted, one record a second from second 0 on."""
    records = [(PLAN.number, event, 1, index, float(at)) for at, (event, index) in enumerate(events)]
    return Life(pid, np.array(records, DTYPE))


def true_evidence() -> tuple[Evidence, list[Life]]:
    """A run that went as planned."""
    counted = np.array([0 if i in DEAD else 1 for i in range(PLAN.n)])
    done = [(event, i) for i in range(PLAN.n) if i not in DEAD for event in (Event.STARTED, Event.FINISHED)]
    planted = [(Event.STARTED, 3), (Event.FAILED, 3)]
    seen = Evidence(PLAN, "r", "finished", 0, 18, 2, 0, 20, 1, counted, (), DEAD)
    return seen, [life(1, *done, *planted), *(life(p, (Event.STARTED, 8), (Event.ENDING, 8)) for p in (2, 3, 4))]


def test_the_judge_finds_nothing_in_true_evidence() -> None:
    seen, lives = true_evidence()
    verdict = judge([seen, replace(seen, counted=None)], Journal(lives), [])
    assert verdict.violations == ()
    assert (verdict.items, verdict.repeated) == (40, 0)


def counted(index: int, times: int) -> Callable[[Evidence], Evidence]:
    def falsify(seen: Evidence) -> Evidence:
        assert seen.counted is not None
        results = seen.counted.copy()
        results[index] = times
        return replace(seen, counted=results)

    return falsify


@pytest.mark.parametrize(
    ("falsify", "kinds"),
    [
        (counted(5, 0), {"lost", "counters"}),
        (counted(5, 2), {"counted twice", "counters"}),
        (counted(3, 1), {"counted twice", "never executed", "counters"}),
        (lambda s: replace(s, letters={**DEAD, 5: "worker_lost"}), {"wrongly dead", "counted twice", "counters"}),
        (lambda s: replace(s, letters={3: "fatal"}, dead=1, ok=19), {"not dead", "lost", "counters"}),
        (lambda s: replace(s, letters={3: "worker_lost", 8: "worker_lost"}), {"wrongly dead"}),
        (lambda s: replace(s, wrong=(5,)), {"wrong result"}),
        (lambda s: replace(s, finals=2), {"final events"}),
        (lambda s: replace(s, generation=1, finals=1), {"final events", "wrongly dead"}),
        (lambda s: replace(s, problems="two ranges overlap"), {"verify"}),
        (lambda s: replace(s, ok=17, skipped=1), {"lost", "counters"}),
        (lambda s: replace(s, state="running"), {"stuck"}),
    ],
)
def test_the_judge_sees_a_falsified_ledger(falsify: Callable[[Evidence], Evidence], kinds: set[str]) -> None:
    seen, lives = true_evidence()
    assert {v.kind for v in judge([falsify(seen)], Journal(lives), []).violations} == kinds


def test_the_judge_sees_an_item_that_nobody_executed() -> None:
    seen, lives = true_evidence()
    records = lives[0].records
    torn = Life(1, records[~((records["index"] == 5) & (records["event"] == Event.FINISHED))])
    assert {v.kind for v in judge([seen], Journal([torn, *lives[1:]]), []).violations} == {"never executed"}
    blind = replace(seen, counted=None)
    assert {v.kind for v in judge([blind], Journal([torn, *lives[1:]]), []).violations} == {"lost"}


def test_an_item_is_unlucky_only_when_three_kills_hit_it() -> None:
    seen, lives = true_evidence()
    seen = counted(5, 0)(replace(seen, letters={**DEAD, 5: "worker_lost"}, dead=3, ok=17))
    hit = [life(pid, (Event.STARTED, 6), (Event.FINISHED, 6), (Event.STARTED, 5)) for pid in (11, 12, 13)]
    kills = [Kill(pid, 2.5) for pid in (11, 12, 13)]
    assert judge([seen], Journal([*lives, *hit]), kills).violations == ()
    assert len(judge([seen], Journal([*lives, *hit]), kills).unlucky) == 1
    for fewer in (kills[:2], [*kills[:2], Kill(13, 1.5)], [*kills[:2], Kill(99, 2.5)]):
        assert [v.kind for v in judge([seen], Journal([*lives, *hit]), fewer).violations] == ["wrongly dead"]


def test_a_torn_record_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_JOURNAL", str(tmp_path))
    child = os.fork()
    if child == 0:
        tasks.note(4, Event.STARTED, 5, 1)
        os._exit(0)
    os.waitpid(child, 0)
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"torn")
    (found,) = Journal.read(tmp_path).lives
    assert (found.pid, found.last_items()) == (child, (4, {5}))
