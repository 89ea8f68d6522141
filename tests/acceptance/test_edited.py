"""Modules that the user edits: a run executes what their files hold when it begins, and its rows say which that was."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolkit.client import Client
from toolkit.client.run import Run
from toolkit.execution import code_version

SOURCE = """
import toolkit as tk
STEP = {step}
def g(x): return x + {step}
@tk.task
def h(x): return x + {step}
@tk.task(setup=lambda: STEP)
def with_setup(x, state): return x + state
@tk.task
def slow(x, gate):
    import pathlib, time
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
    return x + STEP
"""


@pytest.fixture
def edit(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    folder = tmp_path_factory.getbasetemp() / "edited"  # one for all tests: to the workers another file is a namesake
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(folder)

    def write(step: int) -> None:
        (folder / "tk_edited.py").write_text(SOURCE.format(step=step))

    yield write
    sys.modules.pop("tk_edited", None)


def versions(run: Run) -> set[str]:
    return set(run.metrics()["code_version"])


def test_a_run_executes_the_modules_as_they_are_edited(client: Client, edit: Callable[[int], None]) -> None:
    # Given workers that have loaded a module: by a task, a plain function, and a function typed here
    edit(1)
    edited = importlib.import_module("tk_edited")

    def typed(x: int) -> int:
        import tk_edited  # type: ignore[import-not-found]

        return int(tk_edited.g(x))

    def results() -> list[list[int]]:
        return [
            client.map(f, [1] * 8, batch_size=1).results(60) for f in (edited.g, edited.h, edited.with_setup, typed)
        ]

    assert results() == [[2] * 8] * 4
    before = code_version(edited.h)
    # When it is edited and imported again here, then so do the workers
    edit(1000)
    edited = importlib.reload(edited)
    assert results() == [[1001] * 8] * 4
    run = client.map(edited.h, [1])
    assert run.results(60) == [1001]
    assert versions(run) == {code_version(edited.h)} != {before}
    run = client.map(edited.g, [1])
    assert run.results(60) == [1001]
    assert versions(run) == {code_version(edited.g)}
    assert "code_version" not in {event.kind for event in run.events()}


def test_a_run_that_has_begun_goes_on_with_its_code(
    client: Client, edit: Callable[[int], None], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    edit(1)
    edited = importlib.import_module("tk_edited")
    gate = tmp_path / "gate"
    run = client.map(edited.slow, [1, 1], kwargs={"gate": str(gate)}, batch_size=1, max_workers=1)
    eventually(lambda: run.status().claimed)
    edit(1000)
    assert client.map(importlib.reload(edited).h, [1]).results(60) == [1001]
    gate.touch()
    assert run.results(60) == [2, 2]


def test_an_edit_that_the_client_has_not_imported_is_told(
    client: Client, edit: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    edit(1)
    edited = importlib.import_module("tk_edited")
    assert client.map(edited.h, [1]).results(60) == [2]
    assert "importlib.reload" not in capsys.readouterr().err
    edit(1000)
    run = client.map(edited.h, [1])
    assert "importlib.reload(tk_edited)" in capsys.readouterr().err
    assert run.results(60) == [1001]
    assert versions(run) != {edited.h.code_version}
    told = [event.detail for event in run.events() if event.kind == "code_version"]
    assert told, "each worker that met the run says so"
    assert all(edited.h.code_version in detail for detail in told)
