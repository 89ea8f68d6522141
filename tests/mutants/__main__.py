"""``python -m tests.mutants``: every mutant of the ledger's functions against the ledger's tests.

Prints a table of what killed each; exit 1 when one survives, or does not apply to the source any more.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.mutants.running import Verdict, judge
from tests.mutants.table import MUTANTS


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition(":")[2].strip())
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--only", action="append", metavar="NAME", help="this mutant; may be repeated")
    asked = parser.parse_args(argv)
    unknown = set(asked.only or ()) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant is named {', '.join(sorted(unknown))}; tests/mutants/table.py has them all")
    chosen = [mutant for mutant in MUTANTS if not asked.only or mutant.name in asked.only]
    sound = judge()
    if sound.killer or sound.trouble:
        print(f"Without any mutant this fails: {sound.killer or sound.trouble}. Mend it first")
        return 1
    print(f"The tests pass as they are ({sound.seconds:.0f} s); {len(chosen)} mutants follow", flush=True)
    begun, verdicts = time.monotonic(), list[Verdict]()
    with ThreadPoolExecutor(asked.jobs) as pool:
        for done in as_completed([pool.submit(judge, mutant) for mutant in chosen]):
            verdict = done.result()
            verdicts.append(verdict)
            print(f"{len(verdicts):>4}/{len(chosen)}  {line(verdict)}", flush=True)
    bad = [verdict for verdict in verdicts if not verdict.killer]
    killed = len(verdicts) - len(bad)
    print(f"\n{killed} of {len(chosen)} mutants killed in {time.monotonic() - begun:.0f} s")
    for verdict in bad:
        print(
            f"\n{line(verdict)}\n  {verdict.mutant.file}\n- {verdict.mutant.old}\n+ {verdict.mutant.new}\n{verdict.trouble}"  # noqa: E501
        )
    return 1 if bad else 0


def line(verdict: Verdict) -> str:
    """One row of the table."""
    mutant = verdict.mutant
    fate = "killed" if verdict.killer else "BROKEN" if verdict.trouble else "SURVIVED"
    return f"{fate:<8}  {mutant.name:<22} {verdict.seconds:5.1f} s  {verdict.killer or mutant.breaks}"


if __name__ == "__main__":
    sys.exit(main())
