"""``python -m tests.chaos``: run a campaign, print its table, exit 1 when a promise is broken."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from tests.chaos import plans
from tests.chaos.campaign import Campaign, Options, workplace
from tests.chaos.report import failures, table

SHORT_S = 60.0
RATE_REPEATED = 0.05
"""Largest share of executions done again at one kill in ten seconds."""


class Broken(Exception):
    """The campaign failed; its directory is kept."""


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what is planned comes from it alone (default: 1)")
    parser.add_argument("--minutes", type=float, help=f"faults for so long; {plans.FULL_S / 60:g} is a full campaign")
    parser.add_argument("--short", action="store_true", help="a minute of faults, and no goals for their number")
    parser.add_argument("--rate", type=float, help="only child kills, so many a second: measures what is done again")
    parser.add_argument("--control", action="store_true", help="plain Celery under the same kills: it must lose items")
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always", help="the server's appendfsync")
    asked = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with workplace() as directory:
            return _control(asked, directory) if asked.control else _campaign(asked, directory)
    except Broken as broken:
        print(broken)
        return 1
    except KeyboardInterrupt:
        print("interrupted: everything was ended", file=sys.stderr)
        return 130


def make_options(asked: argparse.Namespace) -> tuple[Options, dict[str, int], int]:
    """Options of a campaign, and its goals: faults by target, items."""
    seconds = asked.minutes * 60 if asked.minutes else SHORT_S if asked.short else plans.FULL_S
    share = seconds / plans.FULL_S
    if asked.rate:
        totals = {"child": max(1, round(seconds * asked.rate))}
        return Options(asked.seed, seconds, totals, lease_s=10.0, appendfsync=asked.fsync), {}, 0
    full = share > 0.99
    totals = {t: max(1, round(share * max(n * plans.SPARE, n + plans.SPARE_LEAST))) for t, n in plans.TARGETS.items()}
    items = plans.ITEMS if full else 0
    options = Options(asked.seed, seconds, totals, items, appendfsync=asked.fsync)
    return options, dict(plans.TARGETS) if full else dict.fromkeys(totals, 1), items


def _campaign(asked: argparse.Namespace, directory: Any) -> int:
    options, goals, items = make_options(asked)
    print(f"seed {options.seed}, {options.seconds:.0f} s of faults: {dict(options.totals)}", file=sys.stderr)
    campaign = Campaign(options, directory)
    outcome = campaign.run()
    print(table(outcome, goals, items, f"chaos campaign, seed {options.seed}"))
    failed = failures(outcome, goals, items, RATE_REPEATED if asked.rate else None)
    if failed:
        raise Broken("\nFAILED\n" + "\n".join(failed[:40]))
    print("\nevery promise kept")
    return 0


def _control(asked: argparse.Namespace, directory: Any) -> int:
    from tests.chaos.control import Control

    seconds = asked.minutes * 60 if asked.minutes else SHORT_S if asked.short else plans.FULL_S
    verdict = Control(asked.seed, seconds, directory).run()
    lost = sum(v.items for v in verdict.violations if v.kind == "lost")
    print(f"plain Celery, seed {asked.seed}: {lost:,} of {verdict.items:,} items lost, "
          f"{verdict.repeated:.1%} executed again")  # fmt: skip
    if not lost:
        raise Broken("the control lost nothing: it does not prove that the campaign can see loss")
    return 0


if __name__ == "__main__":
    sys.exit(main())
