"""What people say to a run: pause, resume, cancel, update, retry and drop dead letters; and what it answers."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from tests.integration.ledgers import LETTER, Run, new_run_id
from toolkit import codec
from toolkit.ledger import Connection, FailedItem, Ledger, NoClaim, Page, Range, Registry, keys, reading
from toolkit.records import METRIC_ROW, NodeInfo, RunSpec, RunState
from toolkit.settings import ServerAddress

# --------------------------------------------------------------------------- steer


@pytest.mark.parametrize(
    ("verbs", "state"),
    [
        (["pause"], "paused"),
        (["pause", "resume"], "running"),
        (["resume"], "running"),
        (["cancel"], "cancelled"),
        (["pause", "cancel"], "cancelled"),
        (["cancel", "resume"], "cancelled"),
        (["cancel", "pause"], "cancelled"),
        (["dance"], "running"),
        (["pause", "dance"], "paused"),
    ],
)
def test_verbs_lead_to_states_and_repeating_them_leads_nowhere(ledger: Ledger, verbs: list[str], state: str) -> None:
    run = Run(ledger, 8)
    for verb in verbs:
        answer = ledger.steer(run.run_id, verb, "because")
        before = run.everything()
        assert ledger.steer(run.run_id, verb, "because") == answer
        assert run.everything() == before
    assert answer == run.status().state == state
    run.check()


def test_a_cancelled_run_skips_all_at_once_when_nothing_is_claimed(ledger: Ledger) -> None:
    run = Run(ledger, 8, close=False)
    run.commit(run.claim(), failed=[FailedItem(1, "retry", 60), FailedItem(2, "dead", letter=LETTER)])
    assert ledger.steer(run.run_id, "cancel", "enough") == "cancelled"
    assert run.counts() == (2, 1, 5, 0)
    assert ledger.steer(run.run_id, "cancel", "enough") == "cancelled"
    assert run.counts() == (2, 1, 5, 0)
    assert [fields["detail"] for _, fields in run.reader.events() if fields["event"] == "cancel"] == ["enough"]
    run.check()


def test_a_paused_run_lets_live_claims_end_and_may_finish(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    claim = run.claim()
    assert ledger.steer(run.run_id, "pause") == "paused"
    assert run.commit(claim, 2, last=False).state == "paused"
    assert run.commit(claim, start=2).state == "finished"
    assert ledger.steer(run.run_id, "resume") == "finished"
    assert ledger.steer(run.run_id, "cancel") == "finished"
    assert run.counts() == (4, 0, 0, 0)
    run.check()


# --------------------------------------------------------------------------- update


def test_an_update_changes_what_is_not_yet_claimed(ledger: Ledger) -> None:
    run = Run(ledger, 20, batch_size=4, max_workers=1)
    held = run.claim()
    ledger.update(run.run_id, batch_size=6, detail="larger")
    assert run.refusal().reason == "busy"
    ledger.update(run.run_id, max_workers=2, auto=False)
    assert (len(held), len(run.claim())) == (4, 6)
    status = run.status()
    assert (status.batch_size, status.max_workers, status.auto) == (6, 2, False)
    ledger.update(run.run_id, auto=True, batch_size=0)
    status = run.status()
    assert (status.auto, status.batch_size) == (True, 6)  # 0 shows the latest one
    run.check()


def test_a_controller_leaves_a_size_that_a_user_fixed_alone(ledger: Ledger) -> None:
    run = Run(ledger, 20, auto=True, batch_size=4)
    ledger.update(run.run_id, batch_size=5, detail="planned", steered=True)
    assert run.status().batch_size == 5
    ledger.update(run.run_id, batch_size=3, auto=False, detail="for the memory")
    ledger.update(run.run_id, batch_size=15, detail="planned", steered=True)
    assert (run.status().batch_size, run.status().auto) == (3, False)
    assert [fields["detail"] for _, fields in run.reader.events() if fields["event"] == "updated"] == [
        "planned",
        "for the memory",
    ]


def test_an_update_repeated_tells_nothing_new(ledger: Ledger) -> None:
    run = Run(ledger, 20)
    ledger.update(run.run_id, batch_size=6, max_workers=3, auto=True, detail="larger")
    before = run.everything()
    ledger.update(run.run_id, batch_size=6, max_workers=3, auto=True, detail="larger")
    ledger.update(run.run_id, detail="nothing")
    assert run.everything() == before
    assert [fields["detail"] for _, fields in run.reader.events() if fields["event"] == "updated"] == ["larger"]


# --------------------------------------------------------------------------- dead letters


def test_dead_letters_go_back_to_work_while_the_run_runs(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.die(1, 3)
    assert ledger.retry_dead(run.run_id, [1, 2, 99]) == 1  # only what is dead
    status = run.status()
    assert (status.dead, status.ready, status.generation, status.state) == (1, 1, 1, RunState.RUNNING)
    assert run.ready() == [Range(1, 2)]
    assert [letter.index for letter in run.reader.dead_letters()] == [3]
    assert run.commit(run.claim()).state == "running"
    assert run.commit(run.claim()).state == "finished"
    assert run.head("finals") == "1"
    run.check()


def test_a_finished_run_starts_again_and_ends_once_more(ledger: Ledger) -> None:
    run = Run(ledger, 4, retention_s=3600)
    run.die(0, 1, 3)
    assert run.status().state is RunState.FINISHED
    command = ledger.connection.command
    assert command("PTTL", keys.of(run.run_id, "dead")) == -1  # dead letters stay until somebody decides
    for generation, indexes in ((1, [0, 1]), (2, [3])):
        assert ledger.retry_dead(run.run_id, indexes) == len(indexes)
        status = run.status()
        assert (status.state, status.generation, status.finished_at) == (RunState.RUNNING, generation, 0)
        assert {command("PTTL", key) for key in keys.of_run(run.run_id)} <= {-1, -2}  # nothing expires meanwhile
        assert command("PTTL", keys.metrics_segment(run.run_id, 0)) == -1
        claim = run.claim()
        assert claim.attempts() == [1] * len(indexes)
        assert run.commit(claim).state == "finished"
        assert int(run.head("finals")) == generation + 1
        lifetimes = [command("PTTL", keys.of(run.run_id, "head")), command("PTTL", keys.metrics_segment(run.run_id, 0))]
        assert all(left == -1 if generation == 1 else left > 0 for left in lifetimes)
        run.check()
    assert run.counts() == (4, 0, 0, 0)
    assert run.events("retry_dead", "finished") == ["finished", "retry_dead", "finished", "retry_dead", "finished"]


def test_an_item_may_die_again_and_comes_back_with_a_clean_record(ledger: Ledger) -> None:
    run = Run(ledger, 1)
    for _ in range(3):
        run.lose(run.claim())
    assert ledger.retry_dead(run.run_id, [0]) == 1
    assert run.ready() == [Range(0, 1)]
    run.die(0)
    assert run.counts() == (0, 1, 0, 0)
    assert ledger.retry_dead(run.run_id, [0]) == 1
    assert run.commit(run.claim()).state == "finished"
    assert int(run.head("finals")) == 3
    run.check()


@pytest.mark.parametrize("verb", ["retry_dead", "drop_dead"])
def test_a_revival_repeated_gets_its_answer_again_though_the_items_died_once_more(ledger: Ledger, verb: str) -> None:
    run = Run(ledger, 2)
    run.die(0, 1)
    call = ("a1b2", 1, 0, 1)
    state, n = ledger.connection.call(verb, keys.of_run(run.run_id), *call)
    assert n == 2
    before = run.everything()
    assert ledger.connection.call(verb, keys.of_run(run.run_id), *call) == [state, n]
    assert run.everything() == before
    if verb == "retry_dead":
        run.die(0, 1)
        before = run.everything()
        assert ledger.connection.call(verb, keys.of_run(run.run_id), *call)[1] == 2
        assert run.everything() == before
    assert ledger.retry_dead(run.run_id, [0, 1]) == (2 if verb == "retry_dead" else 0)
    run.check()


def test_a_cancelled_run_keeps_its_dead_letters(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    run.die(2)
    held = run.claim()
    ledger.steer(run.run_id, "cancel")
    assert ledger.retry_dead(run.run_id, [2]) == 0
    run.commit(held)
    before = run.everything()
    assert ledger.retry_dead(run.run_id, [2]) == 0
    assert run.everything() == before
    assert run.counts() == (7, 1, 4, 0)
    assert ledger.drop_dead(run.run_id, [2]) == 1
    assert run.counts() == (7, 0, 5, 0)
    run.check()


def test_dropped_letters_count_as_skipped(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.die(0, 1, 2)
    assert ledger.drop_dead(run.run_id, [0, 2, 5]) == 2
    assert run.counts() == (1, 1, 2, 4)
    assert ledger.drop_dead(run.run_id, [0, 2, 5]) == 0
    assert ledger.retry_dead(run.run_id, [0]) == 0
    assert run.commit(run.claim()).state == "finished"
    assert ledger.drop_dead(run.run_id, [1]) == 1
    assert run.counts() == (5, 0, 3, 0)
    assert run.head("finals") == "1"
    run.check()


@pytest.mark.parametrize("ending", ["finished", "cancelled"])
def test_a_run_that_ended_expires_once_its_last_dead_letter_is_dropped(ledger: Ledger, ending: str) -> None:
    run = Run(ledger, 8, retention_s=3600)
    run.die(1, 2)
    if ending == "cancelled":
        ledger.steer(run.run_id, "cancel")
    else:
        run.commit(run.claim())
    assert run.status().state == ending
    every = [*keys.of_run(run.run_id), keys.metrics_segment(run.run_id, 0)]
    for index, expires in ((1, False), (2, True)):
        assert ledger.drop_dead(run.run_id, [index]) == 1
        left = {ms > 0 for key in every if (ms := ledger.connection.command("PTTL", key)) != -2}
        assert left == {expires}


def test_a_run_that_runs_does_not_expire(ledger: Ledger) -> None:
    """Whatever set an expiry on a run that ended, perhaps an earlier version: it goes when the run starts again."""
    command = ledger.connection.command
    run = Run(ledger, 8, retention_s=3600)
    run.die(1, 2)
    assert ledger.drop_dead(run.run_id, [1, 2]) == 2
    every = [*keys.of_run(run.run_id), keys.metrics_segment(run.run_id, 0)]
    stored = [key for key in every if command("EXISTS", key)]
    assert {command("PTTL", key) for key in stored} == {-1}
    run.die(5)
    assert run.status().state == "finished"
    stored = [key for key in every if command("PEXPIRE", key, 3_600_000)]
    assert len(stored) >= 8
    assert ledger.retry_dead(run.run_id, [5]) == 1
    assert {command("PTTL", key) for key in stored if command("EXISTS", key)} == {-1}


def test_a_call_that_finds_nothing_dead_does_not_use_up_the_generation(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.die(3)
    assert ledger.retry_dead(run.run_id, [*range(1000, 3000), 3]) == 1
    assert run.status().generation == 1


def test_many_dead_letters_go_back_in_bounded_calls(ledger: Ledger) -> None:
    run = Run(ledger, 2500, page=1000, batch_size=2500)
    run.die(*range(2500))
    assert ledger.drop_dead(run.run_id, range(100)) == 100
    assert ledger.retry_dead(run.run_id, list(range(2500))) == 2400
    assert run.status().generation == 1  # one wish, however many calls it takes
    assert run.counts() == (0, 0, 100, 2400)
    assert len(run.ready()) == 2400
    run.check()


# --------------------------------------------------------------------------- what a run answers


def test_status_tells_the_server_s_time_to_the_millisecond(ledger: Ledger) -> None:
    registry, run = Registry(ledger.connection), Run(ledger, 4)
    for _ in range(5):
        before, at, after = registry.now(), run.status().at, registry.now()
        assert before - 0.001 <= at <= after


def test_status_tells_every_counter(ledger: Ledger) -> None:
    run = Run(ledger, 30, batch_size=5, known_workers=2)
    claim = run.claim()
    failed = [FailedItem(0, "dead", letter=LETTER), FailedItem(1, "retry"), FailedItem(2, "retry", 60)]
    run.commit(claim, 4, failed=failed, item_s=0.5)
    run.lose(run.claim(), blamed=0)
    run.claim()  # the suspect
    status = run.status()
    counters = (status.remaining, status.ready, status.delayed, status.claimed, status.ok, status.dead, status.skipped)
    assert counters == (22, 4, 1, 1, 1, 1, 0)
    assert (status.submitted, status.retried, status.lost, status.batches, status.active) == (30, 2, 1, 2, 1)
    assert (status.item_s, status.batch_size, status.known_workers, status.closed) == (0.5, 5, 2, True)
    assert status.created_at <= status.started_at <= status.at
    assert status.started_at == claim.at
    run.check()


def test_events_are_read_from_where_one_stopped(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    ledger.steer(run.run_id, "pause", "lunch")
    *_, (last, fields) = run.reader.events()
    assert (fields["event"], fields["detail"], fields["submitted"]) == ("pause", "lunch", "4")
    ledger.steer(run.run_id, "resume")
    run.commit(run.claim())
    assert [fields["event"] for _, fields in run.reader.events(after=last)] == ["resume", "finished"]


def test_outputs_are_read_from_where_one_stopped(ledger: Ledger) -> None:
    run = Run(ledger, 12)
    for _ in range(3):
        run.commit(run.claim())
    assert [ranges[0][0] for ranges, _ in run.reader.outputs(first=1)] == [4, 8]
    assert run.reader.output_ranges() == [(i, i + 1) for i in range(12)]
    assert list(run.reader.outputs(first=3)) == []


def test_bulk_is_read_in_bounded_calls(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_OUTPUTS_PER_CALL", 2)
    monkeypatch.setattr(reading, "_BYTES_PER_CALL", 2 * METRIC_ROW.size)
    for batches in range(6):
        run = Run(ledger, batches, batch_size=1)
        for _ in range(batches):
            run.commit(run.claim())
        assert list(run.results()) == list(range(batches))
        assert run.reader.output_ranges() == [(i, i + 1) for i in range(batches)]
        chunks, following = run.reader.metric_rows()
        assert (len(b"".join(chunks)), following) == (batches * METRIC_ROW.size, batches)
        assert all(len(chunk) <= 2 * METRIC_ROW.size for chunk in chunks)


def test_items_and_keys_are_read_by_index(ledger: Ledger) -> None:
    run = Run(ledger)
    for start, stop in ((0, 3), (3, 4), (4, 9)):
        items, names = list(range(start, stop)), [f"k{i}" for i in range(start, stop)]
        page = Page(start, stop, codec.encode_page(items), codec.encode_page(names))
        ledger.append(run.run_id, page, expected=start)
    assert [run.reader.item(i) for i in (0, 2, 3, 8)] == [(i, f"k{i}") for i in (0, 2, 3, 8)]
    assert run.reader.item_keys() == [f"k{i}" for i in range(9)]
    assert Run(ledger, 4).reader.item_keys() is None


def test_a_deleted_run_leaves_nothing(ledger: Ledger) -> None:
    run = Run(ledger, 8)
    run.die(1)
    run.reader.delete()
    every = [*keys.of_run(run.run_id), keys.metrics_segment(run.run_id, 0)]
    assert ledger.connection.command("EXISTS", *every) == 0
    assert run.refusal() == NoClaim("norun", 0)


# --------------------------------------------------------------------------- beside the runs


def test_unfinished_runs_are_listed_by_priority(ledger: Ledger) -> None:
    registry, queue = Registry(ledger.connection), new_run_id()
    specs = [RunSpec(new_run_id(), "t", queue=queue, priority=p) for p in ("normal", "urgent", "low")]
    for spec in specs:
        registry.add_run(spec)
        registry.add_run(spec)
    normal, urgent, low = (spec.run_id for spec in specs)
    assert registry.active_runs(queue) == [(urgent, 3), (normal, 1), (low, 0)]
    assert queue in registry.queues()
    indexed(ledger, 120, urgent)
    registry.deactivate(queue, urgent)
    assert registry.active_runs(queue) == [(normal, 1), (low, 0)]
    registry.activate(specs[1])
    assert registry.active_runs(queue)[0] == (urgent, 3)
    assert {normal, urgent, low} <= set(registry.run_ids())
    indexed(ledger, 120, normal, urgent, low)
    registry.forget_runs([normal, urgent, low])
    registry.forget_runs([])
    assert not {normal, urgent, low} & set(registry.run_ids())


def indexed(ledger: Ledger, seconds_ago: float, *run_ids: str) -> None:
    """Pretend that runs were indexed so long ago."""
    now = Registry(ledger.connection).now()
    for run_id in run_ids:
        ledger.connection.command("ZADD", keys.RUNS, now - seconds_ago, run_id)


def test_a_run_that_may_be_about_to_come_stays_listed(ledger: Ledger) -> None:
    registry, queue = Registry(ledger.connection), new_run_id()
    spec = RunSpec(new_run_id(), "t", queue=queue)
    registry.add_run(spec)  # a sweep, or somebody who lists all runs, looks before it is created
    registry.deactivate(queue, spec.run_id)
    registry.forget_runs([spec.run_id])
    assert registry.active_runs(queue) == [(spec.run_id, 1)]
    assert spec.run_id in registry.run_ids(since=registry.now() - 5)


def test_an_id_used_again_is_about_to_come_again(ledger: Ledger) -> None:
    registry, queue = Registry(ledger.connection), new_run_id()
    spec = RunSpec(new_run_id(), "t", queue=queue)
    registry.add_run(spec)
    indexed(ledger, 120, spec.run_id)
    registry.add_run(spec, anew=False)  # its submission goes on: it was created when it was
    assert spec.run_id not in registry.run_ids(since=registry.now() - 60)
    registry.add_run(spec)
    registry.deactivate(queue, spec.run_id)
    assert registry.active_runs(queue) == [(spec.run_id, 1)]


def test_who_comes_late_takes_no_run_that_goes_on_off_the_lists(ledger: Ledger) -> None:
    registry = Registry(ledger.connection)
    run = Run(ledger, 4)
    registry.add_run(run.spec)
    run.die(0)
    assert run.status().state == "finished"  # so a sweep saw it, and its deletion comes after the retry
    ledger.retry_dead(run.run_id, [0])
    registry.activate(run.spec)
    indexed(ledger, 120, run.run_id)
    registry.deactivate(run.spec.queue, run.run_id)
    registry.forget_runs([run.run_id])
    assert (run.run_id, 1) in registry.active_runs(run.spec.queue)
    assert run.run_id in registry.run_ids()
    run.commit(run.claim())
    registry.deactivate(run.spec.queue, run.run_id)
    assert (run.run_id, 1) not in registry.active_runs(run.spec.queue)


@pytest.mark.parametrize("which", ["unfinished", "all"])
def test_a_run_that_comes_while_it_is_taken_off_a_list_is_put_back(address: ServerAddress, which: str) -> None:
    class Beside(Connection):
        """Right before a deletion somebody else creates the run."""

        def command(self, *args: Any, **options: Any) -> Any:
            if args[0] == "ZREM":
                ledger.create(run.spec, **run.sizes)
            return super().command(*args, **options)

    with closing(Ledger(address)) as ledger, closing(Beside(address)) as beside:
        run, registry = Run(ledger, create=False), Registry(beside)
        registry.add_run(run.spec)
        indexed(ledger, 120, run.run_id)
        if which == "all":
            registry.forget_runs([run.run_id])
            assert run.run_id in registry.run_ids()
        else:
            registry.deactivate(run.spec.queue, run.run_id)
            assert (run.run_id, 1) in registry.active_runs(run.spec.queue)


def test_nodes_report_and_are_forgotten(ledger: Ledger) -> None:
    registry, name = Registry(ledger.connection), new_run_id()

    def report(seen_at: float) -> NodeInfo:
        node = NodeInfo(name, "h", 1, 4, 1, ("q1", "q2"), ("t",), "1.0", 1, "3.11", True, seen_at - 5, seen_at)
        registry.report_node(node)
        return node

    def mine(*, alive_only: bool = True) -> list[NodeInfo]:
        return [node for node in registry.nodes(alive_only=alive_only) if node.node == name]

    node = report(registry.now())
    assert mine() == [node]
    node = report(registry.now() - 60)
    assert (mine(), mine(alive_only=False)) == ([], [node])
    node = report(registry.now() + 60)  # it died before the server's clock was set back
    assert (mine(), mine(alive_only=False)) == ([], [node])
    report(registry.now() - 7200)
    assert mine(alive_only=False) == []
    assert ledger.connection.command("HEXISTS", keys.NODES, name) == 1  # who only looks deletes nothing
    assert registry.nodes(forget=True) == registry.nodes()
    assert ledger.connection.command("HEXISTS", keys.NODES, name) == 0
    report(registry.now())
    registry.remove_node(name)
    assert mine(alive_only=False) == []


def test_one_sweeper_at_a_time(ledger: Ledger) -> None:
    registry = Registry(ledger.connection)
    ledger.connection.command("DEL", keys.SWEEPER)
    assert registry.elect_sweeper("a", 60.0)
    assert not registry.elect_sweeper("b", 60.0)
    assert registry.elect_sweeper("a", 60.0)
    assert 0 < ledger.connection.command("PTTL", keys.SWEEPER) <= 60_000
    ledger.connection.command("DEL", keys.SWEEPER)
    assert registry.elect_sweeper("b", 60.0)
    ledger.connection.command("DEL", keys.SWEEPER)


def test_a_sweeper_that_died_before_the_clock_was_set_back_is_followed(ledger: Ledger) -> None:
    # given one whose lease ends, by the clock as it is now, in an hour
    registry = Registry(ledger.connection)
    ledger.connection.command("DEL", keys.SWEEPER)
    assert registry.elect_sweeper("a", 60.0)
    ledger.connection.command("PEXPIRE", keys.SWEEPER, 3_660_000)
    # when others stand, then one of them is elected
    assert registry.elect_sweeper("b", 60.0)
    assert 0 < ledger.connection.command("PTTL", keys.SWEEPER) <= 60_000
    assert [registry.elect_sweeper(name, 60.0) for name in ("a", "b")] == [False, True]
    ledger.connection.command("DEL", keys.SWEEPER)


def test_a_run_that_is_gone_leaves_the_lists_though_the_clock_was_set_back(ledger: Ledger) -> None:
    registry, run = Registry(ledger.connection), Run(ledger, create=False)
    registry.add_run(run.spec)
    indexed(ledger, -3600, run.run_id)
    registry.deactivate(run.spec.queue, run.run_id)
    registry.forget_runs([run.run_id])
    assert run.run_id not in registry.run_ids()
    assert run.run_id not in [run_id for run_id, _ in registry.active_runs(run.spec.queue)]


def test_a_run_that_has_the_id_of_an_archived_one_is_not_deleted(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.commit(run.claim())
    archived = run.status()
    run.command("HINCRBY", "head", "created_at", 60_000)
    assert not run.reader.retire(archived)
    assert run.reader.retire(run.status())
