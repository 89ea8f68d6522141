"""Which rows tell about the code that will run: versions of it, and different functions of one name, told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

ENOUGH_RUNS: Final = 3
"""Runs of one version of the code from which others are left out in any case."""
CLEARLY: Final = 2.0
"""Factor between the typical costs of an item from which two versions differ, where their middle halves are apart."""


@dataclass(frozen=True, slots=True)
class Versions:
    """The rows of a task that are learned from.

    Attributes
    ----------
    frame : DataFrame
        The rows.
    version : str
        The version of the code that they are of, empty where there are several, or none is known.
    left_out : int
        Rows of other versions that are not among them.
    note : str
        What a reader of advice must know of that, empty for nothing.
    """

    frame: pd.DataFrame
    version: str = ""
    left_out: int = 0
    note: str = ""


def one_version(frame: pd.DataFrame, wanted: str = "") -> Versions:
    """Choose the rows of one version of the code, and of those that cost about the same while it has too few runs.

    Parameters
    ----------
    frame : DataFrame
        Metric rows of one task.
    wanted : str
        Version that will run; by default the one that ran last.
    """
    import pandas as pd

    if "code_version" not in frame.columns or not len(frame):
        return Versions(frame)
    codes, found = pd.factorize(frame["code_version"])
    names = [str(name) for name in found]
    codes = np.where(np.isin(codes, [n for n, name in enumerate(names) if not name]), -1, codes)
    if not (codes >= 0).any():
        return Versions(frame)
    moments = pd.to_datetime(frame["claimed_at"], utc=True).dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    at = np.where((codes >= 0) & ~np.isnat(moments), moments.astype(np.int64), np.iinfo(np.int64).min)
    known = bool(wanted) and wanted in names
    chosen = names.index(wanted) if known else int(codes[int(np.argmax(at))])
    what = "this version of the code" if wanted else "the latest version of the code"
    note = "" if known or not wanted else "no run of this version of the code is recorded, only of others"
    if (codes == chosen).all():
        return Versions(frame, names[chosen], note=note)
    kept, mixed = codes == chosen, False
    runs = frame["run_id"][kept].nunique()
    if runs < ENOUGH_RUNS:
        cost = _cost(frame)
        others = [code for code in np.unique(codes) if code != chosen and not _differ(cost[kept], cost[codes == code])]
        mixed = bool(others)
        kept = kept | np.isin(codes, others)
    left_out = int((~kept).sum())
    if not note and mixed:
        count = f"{runs} run" + ("s" if runs != 1 else "")
        note = f"{what} has only {count}: runs of {len(others)} others, whose items cost about the same, are used too"
    elif not note and left_out:
        note = f"only runs of {what} are used ({runs} of them), {left_out:,} batches of others are left out"
    return Versions(frame[kept], "" if mixed else names[chosen], left_out, note)


def _cost(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Logarithm of the seconds that an item took, batch by batch; NaN where that cannot be told."""
    service = frame["service_s"].to_numpy(dtype=np.float64, na_value=np.nan)
    items = frame["items"].to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        cost: NDArray[np.float64] = np.log(service / items)
    cost[~np.isfinite(cost)] = np.nan
    return cost


def _differ(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    one, other = one[np.isfinite(one)], other[np.isfinite(other)]
    if not one.size or not other.size:
        return False
    low, middle, high = np.quantile(one, [0.25, 0.5, 0.75])
    other_low, other_middle, other_high = np.quantile(other, [0.25, 0.5, 0.75])
    return bool(abs(middle - other_middle) > np.log(CLEARLY) and (high < other_low or other_high < low))
