"""What is installed says the same everywhere: pyproject.toml, environment.yml, the pins and the README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
USER_EXTRAS = {"cluster", "tuning", "notebook", "archive", "operators", "demo"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def pins(name: str) -> dict[str, list[Requirement]]:
    """Pins of one file by package; several where the Python version decides."""
    found: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^[a-z][^\\\n]+", (ROOT / name).read_text(), re.MULTILINE):
        requirement = Requirement(line.strip())
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_conda_environment_is_python_pip_and_the_package_itself(project: dict[str, Any], environment: dict[str, Any]):
    assert environment["name"] == project["name"]
    assert environment["channels"][0] == "conda-forge"
    python, pip, packages = environment["dependencies"]
    name, _, versions = python.partition(" ")
    assert (name, pip) == ("python", "pip")
    assert SpecifierSet(versions) == SpecifierSet(project["requires-python"])
    assert packages == {"pip": ["-e .[all]"]}


def test_all_is_the_union_of_what_a_user_may_want(project: dict[str, Any]):
    extras = project["optional-dependencies"]
    assert set(extras) == USER_EXTRAS | {"all", "dev", "bench"}
    [everything] = extras["all"]
    requirement = Requirement(everything)
    assert requirement.name == project["name"]
    assert requirement.extras == USER_EXTRAS


def test_every_dependency_says_why():
    """A dependency without its reason beside it is one that nobody dares to remove."""
    text = (ROOT / "pyproject.toml").read_text()
    part = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    for line in part.splitlines():
        if line.startswith('    "'):
            assert re.search(r",\s+# \S+", line), f"no reason: {line.strip()}"


@pytest.mark.parametrize(
    ("name", "extras"),
    [("requirements-demo.txt", ["cluster", "tuning", "demo"]), ("requirements-dev.txt", [*USER_EXTRAS, "dev"])],
)
def test_pins_meet_what_is_asked_for(project: dict[str, Any], name: str, extras: list[str]):
    """Given a changed pyproject.toml, when nobody ran ``make requirements``, this says so."""
    pinned = pins(name)
    asked = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    for requirement in map(Requirement, asked):
        versions = pinned.get(canonicalize_name(requirement.name))
        assert versions, f"{name} lacks {requirement.name}: run make requirements"
        for pin in versions:
            [version] = [str(part.version) for part in pin.specifier]
            assert requirement.specifier.contains(version), f"{name}: {pin} is not {requirement}: run make requirements"


@pytest.mark.parametrize("python", ["3.11.7", "3.12.1", "3.13.0"])
@pytest.mark.parametrize("name", ["requirements-demo.txt", "requirements-dev.txt"])
def test_every_python_gets_exactly_one_version(name: str, python: str):
    where = {
        **default_environment(),
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
        "os_name": "posix",
    }
    for package, versions in pins(name).items():
        fitting = [pin for pin in versions if pin.marker is None or pin.marker.evaluate(where)]
        assert len(fitting) <= 1, f"{package} is pinned more than once for Python {python}"
        if package in {"numpy", "pandas", "celery", "redis"}:
            assert fitting, f"{package} is not pinned for Python {python}"


def test_readme_lists_the_extras():
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(table) == USER_EXTRAS | {"all"}
