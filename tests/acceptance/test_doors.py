"""The doors a newcomer comes in by: make, pip, the command, the demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import toolkit

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as pip would, in a process of its own, with what is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    result = run(
        sys.executable, "-c", f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})", cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    [built] = folder.glob("*.whl")
    return built


# --------------------------------------------------------------------------- make


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What ``make`` works with, in a folder of its own, where no package can be had and uv is out of sight."""
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "toolkit", tmp_path / "toolkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements-demo.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("")
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(checkout / "links"), "MAKEFLAGS": "", "MAKELEVEL": ""}
    return run("make", "UV=", f"PYTHON={sys.executable}", *arguments, cwd=checkout, **offline)


def stamps(checkout: Path) -> list[str]:
    return sorted(path.name for path in (checkout / ".venv").glob(".installed-*"))


def test_make_says_what_it_can_do():
    result = run("make", cwd=ROOT, MAKEFLAGS="", MAKELEVEL="")
    assert result.returncode == 0
    for target in ("demo", "test", "lab", "check", "bench", "clean"):
        assert f"make {target}" in result.stdout


def test_make_without_a_suitable_python_says_what_to_do(checkout: Path):
    old = checkout / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    result = make(checkout, "demo", f"PYTHON={old} no-such-python")

    assert result.returncode != 0
    assert "No Python from 3.11 to 3.13" in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (checkout / ".venv").exists()


def test_make_passes_over_a_python_that_does_not_work(checkout: Path):
    """Given a first candidate that is only a stub, as version managers leave them, the next one is taken."""
    stub = checkout / "python3.13"
    stub.write_text("#!/bin/sh\nexit 127\n")
    stub.chmod(0o755)
    (checkout / "requirements-demo.txt").write_text("no-such-package==1.0 --hash=sha256:" + "0" * 64 + "\n")

    result = make(checkout, ".venv/.installed-demo", f"PYTHON={stub} {sys.executable}")

    assert "Making .venv" in result.stdout
    assert run(checkout / ".venv/bin/python", "-c", "", cwd=checkout).returncode == 0


def test_a_failed_installation_is_tried_again(checkout: Path):
    """Given an index without the packages, when make fails, then it leaves no stamp and tries once more."""
    (checkout / "requirements-demo.txt").write_text("no-such-package==1.0 --hash=sha256:" + "0" * 64 + "\n")
    for _ in range(2):
        result = make(checkout, "demo")
        assert result.returncode != 0
        assert "no-such-package" in result.stderr
        assert stamps(checkout) == []


@pytest.mark.parametrize("digest", ["", " --hash=sha256:" + "0" * 64], ids=["no-hash", "wrong-hash"])
def test_a_package_that_does_not_match_its_pin_is_refused(checkout: Path, wheel: Path, digest: str):
    (checkout / "requirements-demo.txt").write_text(f"batch-analytics-toolkit=={toolkit.__version__}{digest}\n")
    shutil.copytree(wheel.parent, checkout / "links")

    result = make(checkout, "demo")

    assert result.returncode != 0
    assert "hash" in result.stderr.lower()
    assert stamps(checkout) == []


def test_a_full_installation_serves_the_demo(checkout: Path):
    stamp = checkout / ".venv" / ".installed-dev"
    stamp.parent.mkdir()
    stamp.touch()
    result = make(checkout, "--dry-run", "demo")
    assert result.returncode == 0, result.stderr
    assert "-m toolkit.demo" in result.stdout
    assert "pip install" not in result.stdout


# --------------------------------------------------------------------------- pip


def test_the_wheel_has_all_of_the_package_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "toolkit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in source if name.endswith(".lua")}, "the ledger has server functions"
    assert "toolkit/py.typed" in names
    assert {name for name in names if ".dist-info/" not in name} == source


def test_the_wheel_says_what_it_is(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert f"\nVersion: {toolkit.__version__}\n" in texts["METADATA"]
    assert "toolkit = toolkit.cli:main" in texts["entry_points.txt"]
    assert "Apache License" in texts["LICENSE"]
    needed = [
        line.removeprefix("Requires-Dist: ") for line in texts["METADATA"].splitlines() if "Requires-Dist" in line
    ]
    assert "celery" in {Requirement(line).name for line in needed}


# --------------------------------------------------------------------------- the command, the demo


@pytest.mark.parametrize("door", [("-m", "toolkit"), ("-m", "toolkit.demo")])
def test_python_m_says_what_it_does(door: tuple[str, str], tmp_path: Path):
    result = run(sys.executable, *door, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


def test_the_command_says_what_it_does_and_its_version(tmp_path: Path):
    command = SCRIPTS / "toolkit"
    if not command.exists():
        pytest.fail("the command `toolkit` is not installed beside this Python: pip install -e .")
    assert "usage" in run(command, "--help", cwd=tmp_path).stdout.lower()
    assert toolkit.__version__ in run(command, "--version", cwd=tmp_path).stdout
