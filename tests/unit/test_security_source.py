"""Nothing in the package executes text or unpickles, except on the one path whose bytes are signed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.transport import make_app

PACKAGE = Path(__file__).parents[2] / "toolkit"

SIGNED = {"execution/functions.py": {"pickle"}}
"""The signed functions: the file that verifies before it unpickles, and what it may use."""

MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle", "codeop"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"yaml": {"load", "unsafe_load", "full_load"}, "os": {"system", "popen"}, "types": {"FunctionType", "CodeType"}}
WRITES = {"cloudpickle"}
"""Imported by the same file to write what it signs."""


def offences(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What could execute foreign bytes, and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Call):
            yield from ((what, node.lineno) for what in _called(node))
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in ("__import__", "read_pickle", "to_pickle"):
            yield node.attr, node.lineno


def _called(node: ast.Call) -> Iterator[str]:
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        module, name = function.value.id, function.attr
        if name in CALLS.get(module, ()) or (module == "builtins" and name in BUILTINS):
            yield f"{module}.{name}"
    for keyword in node.keywords:
        on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
        if keyword.arg in ("allow_pickle", "shell") and on:
            yield f"{keyword.arg}="


def test_only_the_signed_path_can_execute_foreign_bytes() -> None:
    found = []
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 50
    for path in files:
        name = path.relative_to(PACKAGE).as_posix()
        allowed = SIGNED.get(name, set()) | (WRITES if name in SIGNED else set())
        found += [
            f"toolkit/{name}:{line} uses {what}"
            for what, line in offences(ast.parse(path.read_text(encoding="utf-8")))
            if what not in allowed
        ]
    assert not found, "\n".join(found)


def test_the_signed_path_unpickles_in_one_place_behind_the_comparison() -> None:
    tree = ast.parse((PACKAGE / "execution" / "functions.py").read_text(encoding="utf-8"))
    loads = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr in ("loads", "load", "Unpickler")
    ]
    assert loads == ["_unpickle"]
    callers = {
        function.name: function
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any(isinstance(n, ast.Name) and n.id == "_unpickle" for n in ast.walk(function))
    }
    assert list(callers) == ["load_function"]
    lines = {
        name: [n.lineno for n in ast.walk(callers["load_function"]) if name in ast.dump(n) and hasattr(n, "lineno")]
        for name in ("compare_digest", "_unpickle")
    }
    inner = {name: max(found) for name, found in lines.items()}
    assert inner["compare_digest"] < inner["_unpickle"]


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import marshal as m", "import shelve", "eval('1')", "exec(x)",
        "compile(a, b, c)", "__import__('os')", "f = eval", "builtins.exec(x)", "yaml.load(x)", "import joblib",
        "np.load(x, allow_pickle=True)", "np.load(x, allow_pickle=flag)", "subprocess.run(x, shell=True)",
        "os.system(x)", "pd.read_pickle(x)", "importlib.__import__(x)", "from joblib import load",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(offences(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["re.compile(x)", "subprocess.run([x])", "np.load(x, allow_pickle=False)", "json.loads(x)", "yaml.safe_load(x)"],
)
def test_the_search_leaves_other_code_alone(code: str) -> None:
    assert not list(offences(ast.parse(code)))


def test_an_application_of_ours_takes_json_and_nothing_else() -> None:
    app = make_app("memory://", "queue")
    try:
        assert list(app.conf.accept_content) == ["json"]
        assert list(app.conf.result_accept_content) == ["json"]
        assert (app.conf.task_serializer, app.conf.result_serializer, app.conf.event_serializer) == ("json",) * 3
    finally:
        app.close()
