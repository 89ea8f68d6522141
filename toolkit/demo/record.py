"""Write the metrics of a session as Parquet files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import MissingDependency

if TYPE_CHECKING:
    import pandas as pd

FILES = {"metrics": "demo_metrics.parquet", "runs": "demo_runs.parquet"}
"""One row per batch, and one row per run."""


def require_pyarrow() -> None:
    """Raise before the work begins when its result could not be written.

    Raises
    ------
    MissingDependency
        pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise MissingDependency("pyarrow", "demo", "recording metrics as Parquet")


def record(directory: Path, metrics: pd.DataFrame, runs: pd.DataFrame) -> list[Path]:
    """Write `metrics` and `runs` to `directory`, without names of the machine, and return the files.

    Host and node become ``host`` and ``node``, a worker ``worker-1`` and so on, in order of appearance.

    Raises
    ------
    MissingDependency
        pyarrow is not installed.
    """
    require_pyarrow()
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / FILES["metrics"], directory / FILES["runs"]]
    anonymous(metrics).to_parquet(paths[0], engine="pyarrow", compression="zstd", index=False)
    runs.to_parquet(paths[1], engine="pyarrow", compression="zstd", index=False)
    return paths


def anonymous(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of a metrics frame that does not name hosts, nodes and processes."""
    changed = metrics.copy()
    for column in ("host", "node", "worker"):
        names = list(dict.fromkeys(changed[column]))
        numbered = len(names) > 1 or column == "worker"
        new = {name: f"{column}-{i}" if numbered else column for i, name in enumerate(names, start=1)}
        changed[column] = changed[column].map(new).astype("category")
    return changed
