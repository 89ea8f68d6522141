"""The checkout itself: what is public is there, and nothing in it belongs to one machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PUBLIC = (
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "environment.yml",
    "requirements-demo.txt",
    "requirements-dev.txt",
    ".ci/run",
    ".gitignore",
    "toolkit/README.md",
    "toolkit/py.typed",
)

# Put together from parts, so that this file does not name what it looks for.
HOSTS = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "ana" + "conda.org", "deb.debian" + ".org")
DOWNLOAD = r"https?://\S+\.(?:whl|tgz|tar\.gz|zip|deb)\b"
FOLDERS = "|".join(("ho" + "me", "ro" + "ot", "wo" + "rk", "Us" + "ers", "t" + "mp", "o" + "pt"))
MACHINE_PATH = rf"(?<![\w.}}\])~-])/(?:{FOLDERS})/\w"
FORBIDDEN = {
    "names a registry host": re.compile("|".join(map(re.escape, HOSTS))),
    "names a download address": re.compile(DOWNLOAD),
    "names a path of one machine": re.compile(MACHINE_PATH),
}


def committed_files() -> list[Path]:
    """Files that are committed, or would be by ``git add``; without git there is nothing to look at."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: no list of committed files")
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git cannot list the committed files: {error}")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def offences(text: str) -> Iterator[str]:
    for what, pattern in FORBIDDEN.items():
        for found in pattern.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield f"line {line} {what}: {found[0]!r}"


def text_of(path: Path) -> str | None:
    """Text of a file; None for what is none, such as a picture."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("name", PUBLIC)
def test_public_file_is_there_and_says_something(name: str):
    path = ROOT / name
    assert path.is_file(), f"{name} is missing"
    assert path.name == "py.typed" or path.stat().st_size > 0, f"{name} is empty"


def test_no_file_names_a_registry_or_a_place_on_one_machine():
    found = [
        f"{path.relative_to(ROOT)} {offence}"
        for path in committed_files()
        for text in (text_of(path),)
        if text is not None
        for offence in offences(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        f"pip install -i https://{HOSTS[0]}/simple x",
        f"--find-links https://files.{HOSTS[1]}/packages",
        "https://host.example/x-1.0-py3-none-any" + ".whl",
        'path = "/' + 'home/someone/project"',
        "cd /" + "work/main",
        "open('/" + "tmp/ipykernel_12/3.py')",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str):
    assert list(offences(text))


@pytest.mark.parametrize(
    "text", ["redis://host:6379/0", "https://host.example/" + "work/x", "./" + "tmp/x", "key/" + "home/x", "/dev/null"]
)
def test_the_search_leaves_other_text_alone(text: str):
    assert not list(offences(text))


def test_make_requirements_pins_every_package_with_hashes():
    for name in ("requirements-demo.txt", "requirements-dev.txt"):
        entries = re.split(r"\n(?=[a-z])", (ROOT / name).read_text())
        pins = [entry for entry in entries if not entry.startswith("#")]
        assert pins
        for pin in pins:
            assert re.match(r"[a-z0-9-]+==\S+", pin), f"{name}: not pinned: {pin.splitlines()[0]}"
            assert "--hash=sha256:" in pin, f"{name}: no hash: {pin.splitlines()[0]}"


def test_demo_and_dev_pins_agree():
    """Given both files, when one environment gets first one and then the other, nothing changes its version."""

    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+==[^\s;]+)", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements-demo.txt") <= pins("requirements-dev.txt")
