"""``python -m toolkit.demo``: the demo from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.errors import ToolkitError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, by default the process's own.

    Returns
    -------
    int
        0, or 1 when a goal of ``--grid`` was missed, 2 for an error, 130 when interrupted.
    """
    from toolkit.demo.flow import Options, run_demo

    arguments = _parser().parse_args(argv)
    options = Options(
        quick=arguments.quick,
        grid=arguments.grid,
        items=arguments.items,
        times=arguments.times,
        report=arguments.report,
        record=arguments.record,
    )
    try:
        return 0 if run_demo(options) else 1
    except ToolkitError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. A run that was under way goes on; `toolkit runs` lists it.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.demo",
        description="Run two real tasks on the State of the Union messages with a few batch sizes and worker counts, "
        "learn from the metrics, recommend a setting, and compare the prediction with what it takes.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer paragraphs and settings")
    parser.add_argument(
        "--grid", action="store_true", help="compare with a measured grid of 12 cells (a quarter of an hour)"
    )
    parser.add_argument(
        "--items", type=int, metavar="N", help="how many paragraphs, at least 100 (default: 14,000 of 26,420)"
    )
    parser.add_argument("--times", type=int, metavar="N", help="take each paragraph N times (default: 1, grid: 2)")
    parser.add_argument("--report", type=Path, metavar="FILE", default=Path("report.html"), help="default: %(default)s")
    parser.add_argument("--record", type=Path, metavar="DIR", help="write the metrics to DIR as Parquet")
    return parser


if __name__ == "__main__":
    sys.exit(main())
