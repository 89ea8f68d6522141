"""The browser journeys with each supported release of ipykernel: ``make kernels``, or name releases.

    python -m tests.kernels [RELEASE ...]

A release is installed beside the environment (``6.31.*`` takes the latest of its line), everything else as it is there,
and the kernels of the journeys find it first. Prints a table; ends with an error where a journey failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from xml.etree import ElementTree as ET

RELEASES = ("6.31.*", "7.1.*", "7.2.*", "7.3.*", "7.4.*")
"""What pyproject.toml allows; 7.0 raises LookupError at updates of widgets from threads."""

JOURNEYS = "tests/acceptance/test_browser.py"
REPOSITORY = Path(__file__).resolve().parents[1]


def main(releases: list[str]) -> int:
    """Run the journeys with each release and say what came of it."""
    failed = 0
    print(f"{'ipykernel':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}", flush=True)
    for release in releases or RELEASES:
        place = Path(tempfile.mkdtemp(prefix="tk-kernel-"))
        try:
            line, bad = journeys(release, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        failed += bad
        print(line, flush=True)
    return min(failed, 1)


def install(release: str, target: Path) -> None:
    """Install a release of ipykernel into `target`, and what it needs in the versions that the environment has."""
    have = {dist.name: dist.version for dist in distributions()}
    pins = target.with_suffix(".txt")
    pins.write_text("".join(f"{name}=={have[name]}\n" for name in sorted(have) if _stays(name)))
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    wanted = ["--quiet", "--target", str(target), "--constraint", str(pins), f"ipykernel=={release}"]
    subprocess.run([*pip, *wanted], check=True)


def _stays(name: str) -> bool:
    return name.lower() not in ("ipykernel", "batch-analytics-toolkit")


def journeys(release: str, place: Path) -> tuple[str, int]:
    """Run the journeys with a release of ipykernel; return a line of the table, and how many tests failed."""
    target, found = place / "packages", place / "found.xml"
    install(release, target)
    env = {**os.environ, "PYTHONPATH": str(target), "TOOLKIT_REQUIRE_BROWSER": "1"}
    say = [sys.executable, "-c", "import ipykernel; print(ipykernel.__file__, ipykernel.__version__)"]
    where, version = subprocess.run(say, env=env, check=True, capture_output=True, text=True).stdout.split()
    if not where.startswith(str(target)):
        raise RuntimeError(f"kernels would run ipykernel of {where}")
    began = time.monotonic()
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={found}", JOURNEYS]
    command = [sys.executable, "-m", "pytest", *options]
    ran = subprocess.run(command, check=False, env=env, cwd=REPOSITORY, capture_output=True)
    took_s = time.monotonic() - began
    if not found.exists():
        raise RuntimeError(f"no journey ran:\n{ran.stdout.decode()[-4000:]}{ran.stderr.decode()[-4000:]}")
    suite = ET.parse(found).getroot()[0]  # noqa: S314 - pytest wrote it a moment ago
    total, skipped = int(suite.get("tests", "0")), int(suite.get("skipped", "0"))
    bad = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
    if bad:
        print(ran.stdout.decode()[-8000:], file=sys.stderr, flush=True)
    return f"{version:<12}{total - bad - skipped:>8}{bad:>8}{skipped:>9}{took_s:>9.0f}", bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
