"""Modules that are edited between the tickets of a worker: who gets the new code, and what is left of the old."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery

from tests.integration.ledgers import identity, new_run_id
from toolkit import codec
from toolkit._version import PROTOCOL, __version__
from toolkit.errors import LedgerUnavailable
from toolkit.execution import Modules
from toolkit.ledger import Ask, Claim, Ledger, NoClaim, Page, Progress, Reader, keys, new_claim_id
from toolkit.records import RunSpec
from toolkit.settings import ServerAddress
from toolkit.transport.servant import Installation, Servant

Edit = Callable[[int], None]
SOURCE = """
import pickle
import toolkit as tk
STEP = {step}
@tk.task
def work(item):
    if item < 0:
        raise ValueError(item)
    return item + STEP
class Point:
    def __init__(self, x):
        self.x = x
@tk.task
def pickled(item):
    import tk_lazily
    return pickle.loads(pickle.dumps(Point(item))).x + STEP + tk_lazily.STEP
class Model:
    def __init__(self):
        import tk_models
        tk_models.ALL.add(self)
@tk.task(setup=Model)
def modelled(item, model):
    return item + STEP
"""


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)

    def write(step: int) -> None:
        (tmp_path / "tk_between.py").write_text(SOURCE.format(step=step))
        (tmp_path / "tk_lazily.py").write_text(f"STEP = {100 * step}\n")

    yield write
    for name in ("tk_between", "tk_lazily"):
        sys.modules.pop(name, None)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[weakref.WeakSet[object]]:
    """What the setup of `modelled` returned and is still there, where no garbage is collected by chance."""
    module, kept = ModuleType("tk_models"), weakref.WeakSet[object]()
    vars(module)["ALL"] = kept
    monkeypatch.setitem(sys.modules, "tk_models", module)
    gc.disable()
    yield kept
    gc.enable()


@pytest.fixture
def worker(address: ServerAddress) -> Callable[..., Servant]:
    """Start a worker that has loaded nothing; one at a time, since they share this process."""

    def start(*, allow_imports: bool = True) -> Servant:
        for name in ("tk_between", "tk_lazily"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        app = Celery("edited", broker="memory://", set_as_current=False)
        return Servant(Installation(app, address, allow_imports=allow_imports), "n@h")

    return start


def submit(ledger: Ledger, items: list[int], task: str = "work", *, close: bool = True) -> RunSpec:
    run_id, path = new_run_id(), f"tk_between:{task}"
    spec = RunSpec(run_id, path, path=path, queue=run_id, toolkit_version=__version__, protocol=PROTOCOL)
    ledger.create(spec, batch_size=2, auto=False, max_workers=0)
    append(ledger, spec, items, 0, close=close)
    return spec


def append(ledger: Ledger, spec: RunSpec, items: list[int], at: int, *, close: bool = False) -> None:
    ledger.append(spec.run_id, Page(at, at + len(items), codec.encode_page(items)), expected=at, close=close)


def results(ledger: Ledger, spec: RunSpec) -> dict[int, int]:
    found: dict[int, int] = {}
    for ranges, values in Reader(ledger.connection, spec.run_id).outputs():
        found.update(zip((i for a, b in ranges for i in range(a, b)), values, strict=True))
    return found


@pytest.mark.parametrize("restarted", [False, True])
def test_a_generation_that_has_begun_goes_on_with_its_code(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant], restarted: bool
) -> None:
    # Given a run whose dead letters were sent back to work, and a worker that is on them: one that knew the run before,
    # or that meets it only now
    edit(10)
    servant = worker()
    spec = submit(ledger, [1, -1], close=False)
    servant.serve(spec.run_id, "t1", 0)
    assert ledger.retry_dead(spec.run_id, [1]) == 1
    servant = worker() if restarted else servant
    servant.serve(spec.run_id, "t2", 0)
    assert ledger.status(spec.run_id).generation == 1
    # When its module is edited, then the generation goes on with what it has
    edit(1000)
    append(ledger, spec, [2, 3], 2)
    servant.serve(spec.run_id, "t3", 0)
    assert results(ledger, spec) == {0: 11, 2: 12, 3: 13}
    # And the next one begins with the edited code
    assert ledger.retry_dead(spec.run_id, [1]) == 1
    append(ledger, spec, [4], 4, close=True)
    servant.serve(spec.run_id, "t4", 0)
    assert results(ledger, spec)[4] == 1004


@pytest.mark.parametrize("knows", [True, False])
def test_dead_letters_sent_back_while_a_worker_takes_their_run_are_retried_with_the_edited_code(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant], monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    # Given a run with a dead letter, and a worker that takes it, which knew it before or meets it only now
    edit(10)
    servant = worker()
    spec = submit(ledger, [1, -1], close=False)
    servant.serve(spec.run_id, "t1", 0)
    servant = servant if knows else worker()
    claim = servant.ledger.claim
    asked = []

    def late(run_id: str, ask: Ask) -> Claim | NoClaim:
        if not asked:
            # When its module is edited and the letter sent back just before it claims
            edit(1000)
            assert ledger.retry_dead(run_id, [1]) == 1
            append(ledger, spec, [2], 2)
        asked.append(ask)
        return claim(run_id, ask)

    monkeypatch.setattr(servant.ledger, "claim", late)
    servant.serve(spec.run_id, "t2", 0)
    # Then all is executed with the edited code, by the same ticket
    assert results(ledger, spec) == {0: 11, 2: 1002}
    assert [ask.ticket for ask in asked[:2]] == ["t2", "t2"]


def test_a_worker_that_imports_nothing_serves_each_generation(
    ledger: Ledger, edit: Edit, worker: Callable[..., Servant]
) -> None:
    # Given a worker of an application, whose modules are those that it was started with, and a run with a dead letter
    edit(10)
    servant = worker(allow_imports=False)
    importlib.import_module("tk_between")
    spec = submit(ledger, [1, -1], close=False)
    servant.serve(spec.run_id, "t1", 0)
    # When its module is edited and the letter sent back to work, then that worker goes on with what it has
    edit(1000)
    assert ledger.retry_dead(spec.run_id, [1]) == 1
    append(ledger, spec, [2], 2)
    servant.serve(spec.run_id, "t2", 0)
    assert ledger.status(spec.run_id).dead == 1
    assert results(ledger, spec) == {0: 11, 2: 12}


def test_a_run_finds_its_own_modules_by_name_however_often_runs_of_other_editions_come_between(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant]
) -> None:
    # Given a run whose items pickle an object of a class of its module, and import another module when they need it
    edit(1)
    servant = worker()
    older = submit(ledger, [0, 1], "pickled", close=False)
    servant.serve(older.run_id, "t1", 0)
    edit(1000)
    newer = submit(ledger, [0, 1], "pickled", close=False)
    # When it takes turns with a run that began after an edit
    for at in (2, 4):
        servant.serve(newer.run_id, "t2", 0)
        append(ledger, older, [at, at + 1], at, close=at == 4)
        servant.serve(older.run_id, "t3", 0)
        append(ledger, newer, [at, at + 1], at, close=at == 4)
        latest = submit(ledger, [0, 1], "pickled")  # begins while the edition of the first one is in place
        servant.serve(latest.run_id, "t", 0)
        assert results(ledger, latest) == {0: 101_000, 1: 101_001}
    servant.serve(newer.run_id, "t4", 0)
    # Then each has had its own modules all the time, and what the first one leaves behind is none
    for spec, step in ((older, 101), (newer, 101_000)):
        assert ledger.status(spec.run_id).dead == 0
        assert results(ledger, spec) == {i: i + step for i in range(6)}
    assert not servant._modules.several


def test_a_run_that_cannot_be_read_is_no_fault_of_one_that_begins(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant]
) -> None:
    # Given a run that began before an edit, and was spoiled since
    edit(10)
    servant = worker()
    spoiled = submit(ledger, [1, 2], close=False)
    servant.serve(spoiled.run_id, "t1", 0)
    head = keys.of(spoiled.run_id, "head")
    ledger.connection.command("DEL", head)
    ledger.connection.command("SET", head, "spoiled")
    # When one begins after it, then it is executed
    edit(200)
    spec = submit(ledger, [1, 2])
    servant.serve(spec.run_id, "t2", 0)
    status = ledger.status(spec.run_id)
    assert (str(status.state), status.reason) == ("finished", "")
    assert results(ledger, spec) == {0: 201, 1: 202}


def test_a_run_goes_on_with_its_code_after_the_server_did_not_say_which_generation_it_is(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(10)
    servant = worker()
    spec = submit(ledger, [1, 2], close=False)
    servant.serve(spec.run_id, "t1", 0)
    edit(200)
    append(ledger, spec, [3], 2, close=True)

    def away(run_id: str) -> int:
        raise LedgerUnavailable(f"run {run_id}: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(servant.ledger, "generation", away)
        servant.serve(spec.run_id, "t2", 0)
    servant.serve(spec.run_id, "t3", 0)
    assert results(ledger, spec) == {0: 11, 1: 12, 2: 13}


def test_only_one_thread_at_a_time_looks_at_the_modules(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look goes through what another thread's import may change at that moment."""
    edit(10)
    servant = worker()
    looks = []

    class Watched(Modules):
        def look(self) -> None:
            looks.append(servant._making.locked())
            super().look()

    monkeypatch.setattr(servant, "_modules", Watched())
    spec = submit(ledger, [1, -1], close=False)
    servant.serve(spec.run_id, "t1", 0)
    for _ in range(2):
        ledger.retry_dead(spec.run_id, [1])
        before = len(looks)
        servant.serve(spec.run_id, "t2", 0)
        assert len(looks) > before
    assert all(looks)


def test_what_a_setup_returned_goes_with_the_edition_of_its_module(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant], models: weakref.WeakSet[object]
) -> None:
    servant = worker()
    for step in (10, 200, 3000):
        edit(step)
        spec = submit(ledger, [1, 2, 3], "modelled")
        # for another worker the run ended with a batch of its own: to this one it is only empty
        claim = ledger.claim(spec.run_id, Ask(new_claim_id(), identity(), 2))
        assert isinstance(claim, Claim)
        servant.serve(spec.run_id, "t", 0)
        ledger.commit(spec.run_id, Progress(claim.claim_id, 0, 2, last=True))
        assert (ledger.status(spec.run_id).state, results(ledger, spec)) == ("finished", {2: 3 + step})
        assert len(models) == 1


def test_what_a_run_keeps_of_an_older_edition_goes_when_it_ends(
    ledger: Ledger, edit: Edit, worker: Callable[[], Servant], models: weakref.WeakSet[object]
) -> None:
    # Given a run that began before an edit, and one that began after it
    servant = worker()
    edit(10)
    older = submit(ledger, [1, 2], "modelled", close=False)
    servant.serve(older.run_id, "t1", 0)
    edit(200)
    newer = submit(ledger, [1, 2], "modelled")
    servant.serve(newer.run_id, "t2", 0)
    assert len(models) == 2
    # When the first one ends, with the code that it began with
    append(ledger, older, [3], 2, close=True)
    servant.serve(older.run_id, "t3", 0)
    assert results(ledger, older) == {0: 11, 1: 12, 2: 13}
    # Then it leaves nothing behind
    assert len(models) == 1
