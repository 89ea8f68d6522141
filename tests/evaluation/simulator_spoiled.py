"""Histories with bad rows: what they add to the regret, and whether it is said that they are bad."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tests.evaluation.simulator_cases import Case, Truth, history
from tests.evaluation.simulator_measures import setting
from toolkit.errors import ToolkitError
from toolkit.tuning import Recommender

Spoil = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]


def _where(frame: pd.DataFrame, rng: np.random.Generator, share: float) -> np.ndarray:
    return rng.random(len(frame)) < share


def _scaled(factor: float, share: float) -> Spoil:
    def spoil(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        at = _where(frame, rng, share)
        return frame.assign(service_s=frame["service_s"].where(~at, factor * frame["service_s"]))

    return spoil


def _clocks(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    at = _where(frame, rng, 0.1)
    return frame.assign(claimed_at=frame["claimed_at"] - pd.to_timedelta(np.where(at, 86_400.0, 0.0), unit="s"))


SPOILED: dict[str, Spoil] = {
    "NaN": _scaled(math.nan, 0.1),
    "negative": _scaled(-1.0, 0.1),
    "duplicated": lambda f, r: pd.concat([f, f[_where(f, r, 0.3)]], ignore_index=True),
    "skewed clocks": _clocks,
    "mixed units": _scaled(1_000.0, 0.1),
    "30 % censored": lambda f, r: f.assign(cut_off=_where(f, r, 0.3)),
    "one setting only": lambda f, _: f[f["run_id"] == f["run_id"].iloc[0]],
    "x 100 outliers": _scaled(100.0, 0.1),
}


def bad_rows(case: Case, seeds: Sequence[int], truth: Truth, best: float) -> dict[str, tuple[list[float], float]]:
    """For each kind of spoiling the regrets added, and the share that was flagged in reasons or refusal."""
    out: dict[str, tuple[list[float], float]] = {}
    for name, spoil in SPOILED.items():
        worse, flagged = [], []
        for seed in seeds[:3]:
            clean = history(case, seed)
            plain = truth.mean(*setting(_ask(clean, case))) / best - 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    advice = _ask(spoil(clean, np.random.default_rng(seed)), case)
            except ToolkitError:
                worse.append(0.0)
                flagged.append(1.0)
                continue
            worse.append(truth.mean(*setting(advice)) / best - 1 - plain)
            flagged.append(float(advice.refused is not None or any("rows left out" in r for r in advice.reasons)))
        out[name] = (worse, float(np.mean(flagged)))
    return out


def _ask(frame: pd.DataFrame, case: Case) -> Any:
    return Recommender().fit(frame).recommend(n_items=case.n_items, max_workers=case.most)
