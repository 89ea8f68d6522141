"""Rooms: imports between them go down only, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "toolkit"
HEAVY = ("IPython", "celery", "ipywidgets", "kombu", "matplotlib", "numpy", "pandas", "redis", "scipy", "sklearn")

# Which rooms may load a heavy package when they are imported; everywhere else the import stands inside a function.
AT_MODULE_LEVEL = {
    "IPython": {"notebook"},
    "celery": {"transport", "cluster"},
    "ipywidgets": {"notebook"},
    "kombu": {"transport", "cluster"},
    "matplotlib": {"notebook"},
    "numpy": {"frames", "tuning", "notebook", "demo"},
    "pandas": {"frames", "tuning", "notebook", "demo"},
    "redis": {"ledger", "cluster"},
    "scipy": {"tuning"},
    "sklearn": {"tuning"},
}

# Not asked for by name, because the version must be the one that its owner chose.
BROUGHT_BY = {"billiard": "celery", "kombu": "celery", "IPython": "ipykernel", "traitlets": "ipywidgets"}


def module_level_imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Top-level packages that importing a module loads, with their lines; not those for types or inside functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0], node.lineno
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def foreign_imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Packages of others that a module imports anywhere, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"toolkit"}:
            yield top, node.lineno


def test_imports_between_rooms_go_down_only():
    """The contracts stand in pyproject.toml. In a process of its own: the linter disables every logger that exists."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_heavy_packages_are_imported_where_they_are_used():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for package, line in module_level_imports(ast.parse(path.read_text())):
            if package in HEAVY and room not in AT_MODULE_LEVEL.get(package, set()):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {package} when it is loaded")
    assert not found, "\n".join(found)


def test_every_package_that_is_imported_is_asked_for():
    """Given a package that only another one brings along, its next release may leave it out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name in extras if name not in {"all", "dev"} for line in extras[name]]
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    carriers = packages_distributions()
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {package}, which pyproject.toml lacks"
        for path in sorted(PACKAGE.rglob("*.py"))
        for package, line in foreign_imports(ast.parse(path.read_text()))
        if package not in BROUGHT_BY and not asked & set(map(canonicalize_name, carriers.get(package, [package])))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pandas as pd", {"pandas"}),
        ("try:\n    from redis.client import Redis\nexcept ImportError:\n    pass", {"redis"}),
        ("class A:\n    import numpy", {"numpy"}),
        ("def f():\n    import numpy", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas", {"typing"}),
    ],
)
def test_the_search_tells_what_is_loaded_from_what_is_not(source: str, expected: set[str]):
    assert {package for package, _ in module_level_imports(ast.parse(source))} == expected


def loaded_by(statement: str) -> set[str]:
    """Heavy packages in a fresh interpreter after `statement`."""
    program = f"import sys\n{statement}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import toolkit") == set()


def test_looking_around_loads_nothing_heavy():
    """Completion in a notebook asks for the names, the version and the errors."""
    assert loaded_by("import toolkit; dir(toolkit); toolkit.__version__; toolkit.errors.RunFailed") == set()


def test_naming_a_task_loads_nothing_heavy():
    """A module of tasks is imported by every worker, and by whatever else the user has."""
    assert loaded_by("import toolkit as tk\n@tk.task\ndef double(x): return 2 * x") == set()


def test_registering_renderers_loads_no_drawing():
    assert not loaded_by("from toolkit import notebook; notebook.register()") & {"IPython", "ipywidgets", "matplotlib"}
