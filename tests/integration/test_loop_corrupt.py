"""What a worker does when the server holds something that cannot be read: that run pauses and says why."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.integration.ledgers import Run
from toolkit import codec
from toolkit.errors import LedgerCorrupt, RunStateError
from toolkit.execution import task
from toolkit.ledger import Ledger, Page
from toolkit.records import RunState
from toolkit.transport.loop import BatchLoop, Hooks, make_context
from toolkit.transport.marker import Marker

PLACE = ZoneInfo("Europe/Lisbon")


def same(item: Any) -> Any:
    return item


def serve(run: Run) -> str:
    """What a worker does with one ticket of the run."""
    hooks = Hooks(Marker(), 0, lambda _: False, lambda: False, lambda _s, _t: None)
    context = make_context(run.spec, task(same), b"", host="h", node="n")
    return BatchLoop(run.ledger, context, hooks).serve().reason


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (("HSET", "pages", 4, b"\x07garbage"), r"pages, field 4"),
        (("HSET", "pages", 4, codec.encode_page([1])), r"pages, field .*4"),
        (("HSET", "pages", 4, b""), r"pages, field 4|page 4"),
        (("HDEL", "pages", 4), r"pages, field 4"),
        (("HSET", "pages", "k4", b"\x01\xc1"), r"pages, field 4 or k4"),
        (("HSET", "head", "ready", "many"), r"head, field ready"),
    ],
    ids=["garbage", "short", "empty", "missing", "keys", "counter"],
)
def test_a_run_whose_data_do_not_parse_pauses_and_names_key_and_field(
    ledger: Ledger, spoil: tuple[Any, ...], says: str
) -> None:
    run, other = Run(ledger, 8, batch_size=4), Run(ledger, 8)
    before = run.command("HGET", *spoil[1:3])
    run.command(*spoil)
    assert serve(run) == "paused"
    state, reason = run.command("HMGET", "head", "state", "reason")
    assert state == b"paused"
    assert re.search(says, reason.decode()), reason
    assert run.command("HLEN", "claims") == 0  # nothing is held until a lease ends
    serve(other)
    assert other.status().ok == 8
    # mended, it goes on as if nothing had been
    if before is None:
        run.command("HDEL", *spoil[1:3])
    else:
        run.command("HSET", *spoil[1:3], before)
    ledger.steer(run.run_id, "resume")
    serve(run)
    assert run.status().state is RunState.FINISHED
    assert (run.status().ok, run.status().dead, run.status().retried) == (8, 0, 0)
    run.check()


@pytest.mark.parametrize("release", [False, True])
def test_only_the_item_that_does_not_decode_is_a_dead_letter(ledger: Ledger, release: bool) -> None:
    run = Run(ledger, batch_size=16, release=release)
    moment = datetime(2026, 5, 1, 12, tzinfo=PLACE)
    items = [0, [1], moment, 3, moment.astimezone(UTC), [5]]
    page = codec.encode_page(items)
    assert page.count(b"Europe/Lisbon") == 1
    run.ledger.append(run.run_id, Page(0, 6, page.replace(b"Europe/Lisbon", b"Europe/Nowhre")), expected=0, close=True)
    serve(run)
    status = run.status()
    assert (status.ok, status.dead, status.retried, status.errors) == (5, 1, 0, {"bad_payload": 1})
    (letter,) = run.reader.dead_letters()
    assert (letter.index, letter.item, letter.category, letter.attempts) == (2, None, "bad_payload", 1)
    assert "does not decode" in letter.message
    assert "pages, field 0" in letter.message
    with pytest.raises(LedgerCorrupt, match=r"pages, field 0: item 2"):
        run.reader.item(2)
    if not release:
        assert run.reader.item(5) == ([5], None)  # its neighbours can be read
    run.check()
    # where the reason is gone, it can be retried
    ledger.connection.command("HSET", f"{{tk:{run.run_id}}}:pages", 0, page)
    assert ledger.retry_dead(run.run_id, [2]) == 1
    serve(run)
    assert run.status().ok == 6
    if release:
        with pytest.raises(RunStateError, match="not stored any more"):
            run.reader.item(2)


def test_a_damaged_letter_is_named(ledger: Ledger) -> None:
    run = Run(ledger, 4)
    run.die(0, 1)
    for blob in (b"\xc1", codec.encode({"error_type": 3}), codec.encode([1])):
        run.command("HSET", "dead", 1, blob)
        with pytest.raises(LedgerCorrupt, match=r"key dead, field 1"):
            run.reader.dead_letters()


def test_keyword_arguments_that_do_not_decode_are_named(ledger: Ledger) -> None:
    with pytest.raises(LedgerCorrupt, match="key head, field kwargs"):
        make_context(Run(ledger).spec, task(same), b"\xc1", host="h", node="n")
