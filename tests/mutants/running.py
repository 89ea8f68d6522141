"""Run the ledger's tests against one mutant, the quick ones first, until one of them fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.plugin import VARIABLE
from tests.mutants.table import Mutant

ROOT = Path(__file__).parents[2]
QUICK = ("leases", "blame", "claim", "commit", "commands", "breaker", "input", "release", "weights", "checks")
SLOW = ("connection", "model", "faults", "edges", "aof")
HOME = {
    "1_common.lua": ("breaker", "release", "weights"),
    "1_weights.lua": ("weights",),
    "2_input.lua": ("input", "weights"),
    "3_claim.lua": ("claim", "weights"),
    "4_commit.lua": ("commit",),
    "6_commands.lua": ("commands",),
    "9_index.lua": ("commands",),
}
"""Where the tests of a file are, to be run first."""
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # loading those of notebooks and browsers takes longer than the tests
TEST_S, STAGE_S = 180, 900
_FAILED = re.compile(r"^(?:FAILED|ERROR) \S*/(\S+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant.

    Attributes
    ----------
    mutant : Mutant
        Which.
    killer : str
        The test that failed, empty when all passed.
    seconds : float
        It took so long.
    trouble : str
        Why it could not be tried, mostly that it does not apply any more.
    """

    mutant: Mutant
    killer: str
    seconds: float
    trouble: str = ""


NOTHING = Mutant("", "", "", "", "the tests pass as they are")


def judge(mutant: Mutant = NOTHING, stages: Sequence[Sequence[str]] = (QUICK, SLOW)) -> Verdict:
    """Whether a test kills the mutant; by default, whether one fails without any."""
    begun = time.monotonic()
    home = HOME.get(mutant.file, ())
    for stage in stages:
        files = sorted(stage, key=lambda name: home.index(name) if name in home else len(home))
        killer, trouble = _stage(mutant, files)
        if killer or trouble:
            return Verdict(mutant, killer, time.monotonic() - begun, trouble)
    return Verdict(mutant, "", time.monotonic() - begun)


def _stage(mutant: Mutant, files: Sequence[str]) -> tuple[str, str]:
    paths = [f"tests/integration/test_ledger_{name}.py" for name in files]
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "pytest_timeout", "-p", "tests.mutants.plugin",
        "-p", "no:cacheprovider", "-k", "not redis", f"--timeout={TEST_S}", *paths,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, VARIABLE: mutant.name, **BARE}, capture_output=True, text=True,
            timeout=STAGE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", f"the tests took more than {STAGE_S} s: try again on a quieter machine"
    if done.returncode == 0:
        return "", ""
    failed = _FAILED.search(done.stdout)
    if "Timeout (>" in done.stdout + done.stderr:  # which says more about the machine than about the mutant
        return "", f"a test took more than {TEST_S} s: try again on a quieter machine"
    if done.returncode == 1 and failed:
        return failed[1], ""
    return "", "\n".join((done.stdout + done.stderr).strip().splitlines()[-3:])
