"""Tasks: what may be marked as one, how a worker finds it, and which version of its code it is."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from toolkit.errors import InvalidInput, UnknownTask
from toolkit.execution import as_task, code_version, extend_sys_path, resolve, task
from toolkit.records import Retry


@task
def square(item: int) -> int:
    """Square a number."""
    return item * item


@task(name="tests.named", batched=True, retry=Retry(max_attempts=2))
def doubled(items: list[int]) -> list[int]:
    return [2 * i for i in items]


class Holder:
    @staticmethod
    @task
    def inside(item: int) -> int:
        return item

    @task
    @staticmethod
    def outside(item: int) -> int:
        return item


def plain(item: int) -> int:
    return item


HERE = __name__


def run_cell(source: str) -> dict[str, Any]:
    """Run source as a kernel runs a cell, though without a file that `inspect` could find; returns its names."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)  # noqa: S102 - that is what a kernel does
    return namespace


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Write modules into a folder of their own, and forget them afterwards."""
    before, path = set(sys.modules), list(sys.path)

    def write(name: str, source: str, folder: str = "a") -> str:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        (target / f"{name}.py").write_text(textwrap.dedent(source))
        return str(target)

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("tk_probe"):
            del sys.modules[name]


# --------------------------------------------------------------------------- the marker


def test_a_task_is_called_like_its_function():
    assert square(3) == 9
    assert doubled([1, 2]) == [2, 4]


def test_a_task_carries_what_tools_ask_a_function_for():
    assert square.__name__ == "square"
    assert square.__doc__ == "Square a number."
    assert square.__module__ == HERE
    assert inspect.signature(square) == inspect.signature(square.fn)
    assert inspect.unwrap(square) is square.fn
    assert repr(square) == f"<task {HERE}:square>"


def test_options_are_kept():
    assert (doubled.name, doubled.batched, doubled.retry) == ("tests.named", True, Retry(max_attempts=2))
    assert (square.name, square.batched, square.setup, square.retry) == (f"{HERE}:square", False, None, None)


def test_a_task_cannot_be_changed():
    with pytest.raises(AttributeError):
        square.name = "other"


def test_static_methods_can_be_tasks():
    assert Holder.inside(4) == 4
    assert resolve(f"{HERE}:Holder.inside", allow_import=False) is Holder.inside
    assert Holder.outside(5) == 5


def test_partials_and_objects_can_be_tasks():
    class Adder:
        def __call__(self, item: int) -> int:
            return item + 1

    assert task(functools.partial(plain))(3) == 3
    assert task(functools.partial(plain)).name == f"{HERE}:plain"
    assert task(Adder()).name.endswith("<locals>.Adder")
    assert task(str.upper).name == "builtins:str.upper"
    assert task(Adder(), name="adder")(1) == 2


def test_as_task_leaves_tasks_alone():
    assert as_task(square) is square
    assert as_task(plain).fn is plain


async def coroutine(item: int) -> int:
    return item


async def async_generator(item: int) -> Any:
    yield item


def generator(item: int) -> Iterator[int]:
    yield item


class CoroutineObject:
    async def __call__(self, item: int) -> int:
        return item


@pytest.mark.parametrize(
    ("fn", "options", "message"),
    [
        (3, {}, "not callable"),
        (classmethod(plain), {}, "not callable"),
        (coroutine, {}, "async"),
        (async_generator, {}, "async"),
        (functools.partial(coroutine), {}, "async"),
        (CoroutineObject(), {"name": "x"}, "async"),
        (generator, {}, "generator"),
        (plain, {"setup": 3}, "setup: int 3 is not callable"),
        (plain, {"setup": coroutine}, "setup: .* is async"),
        (plain, {"setup": plain}, "without arguments"),
        (plain, {"setup": dict}, "second positional parameter"),
        (plain, {"name": "two\nlines"}, "task name"),
        (plain, {"name": ""}, "task name"),
        (plain, {"retry": 3}, "retry=3"),
        (square, {}, "already"),
    ],
)
def test_what_cannot_be_a_task_is_refused(fn: Any, options: dict[str, Any], message: str):
    with pytest.raises(InvalidInput, match=message):
        task(fn, **options)


# --------------------------------------------------------------------------- pickling


def test_a_task_of_a_module_travels_as_a_reference():
    assert square.importable
    assert pickle.loads(pickle.dumps(square)) is square  # noqa: S301 - our own
    assert copy.deepcopy(square) is square


def test_any_other_task_travels_with_its_function():
    made = task(lambda item: item + 1, name="lambda")
    assert not made.importable
    loaded = pickle.loads(cloudpickle.dumps(made))  # noqa: S301 - our own
    assert (loaded(1), loaded.name, loaded.code_version) == (2, "lambda", made.code_version)


def test_a_function_that_calls_its_own_task_travels():
    cell = run_cell("from toolkit.execution import task\n@task\ndef f(n): return 1 if n < 2 else n * f(n - 1)\n")
    program = f"import pickle\nprint(pickle.loads({cloudpickle.dumps(cell['f'])!r})(5))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "120"


def test_a_task_of_a_script_is_not_importable():
    program = "from toolkit.execution import task\n@task\ndef f(x): return x\nprint(f.importable, f.path)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "__main__:f"]


# --------------------------------------------------------------------------- finding


def test_a_task_is_found_in_a_loaded_module():
    assert resolve(square.path, allow_import=False) is square


def test_a_name_given_by_the_user_is_found_among_loaded_modules():
    assert resolve("tests.named", allow_import=False) is doubled


def test_a_module_is_imported_only_where_that_is_allowed(project: Callable[..., str]):
    folder = project("tk_probe_a", "from toolkit.execution import task\n@task\ndef f(x): return x + 1\n")
    with pytest.raises(UnknownTask, match="not loaded"):
        resolve("tk_probe_a:f", allow_import=False, sys_path=[folder])
    assert "tk_probe_a" not in sys.modules
    assert folder not in sys.path
    found = resolve("tk_probe_a:f", allow_import=True, sys_path=[folder])
    assert found(1) == 2
    assert resolve("tk_probe_a:f", allow_import=False) is found


def test_relative_directories_are_not_put_on_the_path(project: Callable[..., str]):
    with pytest.raises(UnknownTask, match="no module 'tk_probe_none'"):
        resolve("tk_probe_none:f", allow_import=True, sys_path=["", ".", "relative"])
    assert not {".", "relative"} & set(sys.path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "not a task"),
        (f"{HERE}:plain", "Decorate it with @toolkit.task"),
        (f"{HERE}:gone", r"has no 'gone'.*client\.restart_workers\(\)"),
        (f"{HERE}:Holder.gone", "has no"),
        (f"{HERE}:square.fn", "has no"),
        (f"{HERE}:square.__reduce__", "has no"),
        ("__main__:f", "Move it to the top of a module"),
        (f"{HERE}:f.<locals>.g", "Move it to the top of a module"),
        ("no.such.module:f", "no module 'no'"),
        ("nobody.named.this", "no module loaded"),
        (":", "importing"),
        ("..x:f", "importing"),
    ],
)
def test_nothing_else_can_be_named_by_a_run(name: str, message: str):
    with pytest.raises(UnknownTask, match=message):
        resolve(name, allow_import=True)


@pytest.mark.parametrize("line", ["raise RuntimeError('broken')", "import sys; sys.exit(3)", "def f(:", "1/0"])
def test_a_module_that_does_not_load_says_so(project: Callable[..., str], line: str):
    folder = project("tk_probe_b", line)
    with pytest.raises(UnknownTask, match=r"importing tk_probe_b failed.*restart_workers"):
        resolve("tk_probe_b:f", allow_import=True, sys_path=[folder])


def test_a_module_that_misses_another_names_the_missing_one(project: Callable[..., str]):
    folder = project("tk_probe_c", "import tk_probe_missing")
    with pytest.raises(UnknownTask, match="no module 'tk_probe_missing'"):
        resolve("tk_probe_c:f", allow_import=True, sys_path=[folder])


def test_a_namesake_of_another_project_is_not_taken_for_the_real_one(project: Callable[..., str]):
    source = "from toolkit.execution import task\n@task\ndef f(x): return {}\n"
    first, second = project("tk_probe_d", source.format(1), "a"), project("tk_probe_d", source.format(2), "b")
    assert resolve("tk_probe_d:f", allow_import=True, sys_path=[first])(0) == 1
    with pytest.raises(UnknownTask, match="another module 'tk_probe_d'"):
        resolve("tk_probe_d:f", allow_import=True, sys_path=[second])
    assert resolve("tk_probe_d:f", allow_import=True, sys_path=[first])(0) == 1


def test_two_tasks_of_one_name_are_not_chosen_between(project: Callable[..., str]):
    source = "from toolkit.execution import task\n@task(name='tk_probe twice')\ndef f(x): return x\n"
    for name in ("tk_probe_e", "tk_probe_f"):
        resolve(f"{name}:f", allow_import=True, sys_path=[project(name, source)])
    with pytest.raises(UnknownTask, match="tk_probe_e:f, tk_probe_f:f"):
        resolve("tk_probe twice", allow_import=False)


# --------------------------------------------------------------------------- versions


def test_the_version_of_code_is_twelve_digits_and_the_same_in_another_process():
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + textwrap.dedent(
        f"""
        import {Path(__file__).stem} as module
        print(module.square.code_version)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == square.code_version
    assert len(square.code_version) == 12
    assert int(square.code_version, 16) >= 0


def test_the_version_is_that_of_the_code_that_runs_not_of_the_file_as_edited(project: Callable[..., str]):
    source = "from toolkit.execution import task\n@task\ndef f(x):\n    return {}\n"
    folder = project("tk_probe_g", source.format(1))
    old = resolve("tk_probe_g:f", allow_import=True, sys_path=[folder])
    project("tk_probe_g", source.format(2))
    assert resolve("tk_probe_g:f", allow_import=True, sys_path=[folder]).code_version == old.code_version
    del sys.modules["tk_probe_g"]
    shutil.rmtree(Path(folder, "__pycache__"), ignore_errors=True)  # the edit fell into the same second
    assert resolve("tk_probe_g:f", allow_import=True, sys_path=[folder]).code_version != old.code_version


def test_setup_counts():
    def fn(item: int, state: Any = None) -> int:
        return item

    versions = [code_version(fn), code_version(task(fn, setup=dict)), code_version(task(fn, setup=list))]
    assert len(set(versions)) == 3
    assert code_version(task(fn)) == versions[0]


def test_how_far_a_function_is_indented_does_not_count(project: Callable[..., str]):
    folder = project("tk_probe_h", "def f(x):\n    return x\nclass A:\n    def f(x):\n        return x\n")
    extend_sys_path([folder])
    module = importlib.import_module("tk_probe_h")
    assert code_version(module.f) == code_version(module.A.f)


SET_CONSTANT = "def f(x): return x in {'alpha', 'beta', 'gamma', 'delta', 'epsilon'} or (lambda y: y + 1)(x)"


def test_without_source_the_bytecode_counts_and_no_order_of_sets():
    program = f"from toolkit.execution import code_version\nexec({SET_CONSTANT!r})\nprint(code_version(f))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1
    bodies = ("x + 1", "x + 2", "x * 1")
    assert len({code_version(run_cell(f"def f(x): return {body}")["f"]) for body in bodies}) == 3


def test_callables_without_bytecode_have_a_version():
    assert len({code_version(f) for f in (len, max, str.upper, functools.partial(sum), int)}) == 5
