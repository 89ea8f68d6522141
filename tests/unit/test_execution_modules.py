"""Modules that were edited since they were loaded: forgotten together, and only the user's own."""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from toolkit.execution import Modules, dump_function, load_function
from toolkit.execution.modules import own_file

Write = Callable[[str, str], Path]
KEY = b"0123456789abcdef"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module of the user's; all are forgotten afterwards."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)

    def put(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return path

    yield put
    for name in [n for n in sys.modules if n.startswith("tk_own")]:
        del sys.modules[name]


def test_an_edit_is_seen_by_those_who_import_it_and_what_was_made_before_keeps_the_old(write: Write):
    # Given a module that another one, in a package without a file of its own, took a function from
    write("tk_own_a.py", "def f(x): return x + 1\n")
    write("tk_own_b/inner.py", "from tk_own_a import f\ndef g(x): return f(x)\n")
    modules = Modules()
    before = importlib.import_module("tk_own_b.inner")
    modules.look()
    assert not modules.renew()
    assert modules.edition == 0
    # When only the first one is edited
    write("tk_own_a.py", "def f(x): return x + 1000\n")
    assert modules.renew()
    # Then both are imported anew, and a function from before goes on with what it had
    from tk_own_b import inner  # type: ignore[import-not-found]  # by the package, which is new too

    assert inner.g(1) == 1001
    assert before.g(1) == 2
    assert modules.edition == 1
    assert not modules.renew()


def test_an_edit_that_may_have_come_after_the_import_counts(write: Write):
    path = write("tk_own_c.py", "X = 1\n")
    modules = Modules()
    importlib.import_module("tk_own_c")
    later = modules._looked_at_ns + 1_000_000_000
    os.utime(path, ns=(later, later))  # nobody has looked in between
    assert modules.renew()


def test_a_time_in_the_future_is_doubted_once_and_then_compared_like_any_other(write: Write):
    # Given a module whose file is of tomorrow, as a file server's clock or an archive may leave it
    path = write("tk_own_g.py", "X = 1\n")
    tomorrow = time.time_ns() + 86_400_000_000_000
    os.utime(path, ns=(tomorrow, tomorrow))
    modules = Modules()
    importlib.import_module("tk_own_g")
    modules.look()
    # When nobody edits it, then it is loaded anew once at most: it may have been edited between its import and the look
    renewed = []
    for _ in range(5):
        renewed.append(modules.renew())
        importlib.import_module("tk_own_g")
        modules.look()
    assert renewed == [True, False, False, False, False]
    # When it is edited, and is of tomorrow again, then that counts
    write("tk_own_g.py", "X = 22\n")
    os.utime(path, ns=(tomorrow + 1, tomorrow + 1))
    assert modules.renew()
    assert importlib.import_module("tk_own_g").X == 22


def test_a_file_that_is_gone_counts_once(write: Write):
    path = write("tk_own_d.py", "X = 1\n")
    modules = Modules()
    importlib.import_module("tk_own_d")
    modules.look()
    path.unlink()
    assert modules.renew()
    assert not modules.renew()


def test_modules_of_the_environment_of_the_toolkit_and_from_before_stay(write: Write):
    assert own_file("json", importlib.import_module("json")) is None
    assert own_file("numpy", importlib.import_module("numpy")) is None
    assert own_file("toolkit.codec", importlib.import_module("toolkit.codec")) is None
    assert own_file("__main__", importlib.import_module("__main__")) is None
    write("tk_own_e.py", "X = 1\n")
    importlib.import_module("tk_own_e")
    modules = Modules()
    write("tk_own_e.py", "X = 22\n")
    assert not modules.renew()
    assert "tk_own_e" in sys.modules


def test_a_function_of_a_module_has_the_version_that_is_loaded_where_it_runs(write: Write):
    # Given a function that was shipped by the name that its module gives it
    source = "def f(x): return x + {}\n"
    write("tk_own_f.py", source.format(1))
    modules = Modules()
    module = importlib.import_module("tk_own_f")
    modules.look()
    blob = dump_function(module.f, "run-000001", KEY)
    first = load_function(blob, "run-000001", KEY)
    # When its module is edited before it arrives
    write("tk_own_f.py", source.format(1000))
    assert modules.renew()
    second = load_function(blob, "run-000001", KEY, edition=modules.edition)
    # Then code and version are those of the file, and nothing that a setup returned is taken over
    assert (first(1), second(1)) == (2, 1001)
    assert first.code_version != second.code_version
    assert first.digest != second.digest


def copied(value: object) -> type:
    """The class that pickle finds by its name, for a copy of an object."""
    return type(pickle.loads(pickle.dumps(value)))  # noqa: S301 - our own


def test_an_edition_is_put_back_with_what_was_imported_while_it_was_in_place(write: Write):
    # Given a package of two editions, of which the first one imports a module only later
    write("tk_own_h/__init__.py", "")
    write("tk_own_h/sub.py", "class Point: pass\n")
    write("tk_own_i.py", "X = 1\n")
    modules = Modules()
    old = importlib.import_module("tk_own_h.sub")
    modules.look()
    write("tk_own_h/sub.py", "class Point: X = 2\n")
    assert modules.renew()
    new = importlib.import_module("tk_own_h.sub")
    modules.place(0)
    # Then an object of the first one is pickled by name, and by the attribute of its package
    assert copied(old.Point()) is old.Point
    assert sys.modules["tk_own_h"].sub is old
    late = importlib.import_module("tk_own_i")
    # And what it imported meanwhile is its own
    modules.place(1)
    assert sys.modules["tk_own_h"].sub is sys.modules["tk_own_h.sub"] is new
    assert "tk_own_i" not in sys.modules
    assert copied(new.Point()) is new.Point
    write("tk_own_i.py", "X = 22\n")
    assert not modules.edited()  # the newest edition has not loaded it
    modules.place(0)
    assert importlib.import_module("tk_own_i") is late


def test_an_edition_that_nobody_uses_is_let_go(write: Write):
    write("tk_own_j.py", "X = 0\n")
    modules, kept = Modules(), weakref.WeakSet[ModuleType]()
    for step in range(1, 5):
        kept.add(importlib.import_module("tk_own_j"))
        modules.look()
        write("tk_own_j.py", f"X = {10**step}\n")
        assert modules.renew()
    modules.place(1)
    # When only one of them is used, then it stays where it is, and with the newest it is all that stays
    assert modules.drop([1])
    assert not modules.drop([1])
    gc.collect()
    assert [module.X for module in kept] == [10]
    assert sys.modules["tk_own_j"].X == 10
    # And when none is, the newest one is in place
    assert modules.drop([])
    gc.collect()
    assert (len(kept), modules.placed, modules.several) == (0, modules.edition, False)
    assert importlib.import_module("tk_own_j").X == 10_000


def test_a_package_that_belongs_to_no_edition_holds_the_module_that_is_in_place(write: Write):
    # Given a package that was there before, and a module in it that came later
    write("tk_own_k/__init__.py", "")
    importlib.import_module("tk_own_k")
    modules = Modules()
    write("tk_own_k/sub.py", "X = 1\n")
    importlib.import_module("tk_own_k.sub")
    modules.look()
    write("tk_own_k/sub.py", "X = 22\n")
    assert modules.renew()

    def seen() -> int:
        from tk_own_k import sub  # type: ignore[import-not-found]

        return int(sub.X)

    assert seen() == 22
    for edition, value in ((0, 1), (1, 22)):
        modules.place(edition)
        assert sys.modules["tk_own_k"].sub.X == seen() == value
