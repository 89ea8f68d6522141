"""The tuning room: learn from metric rows what batches cost, and recommend the setting of the next run.

What happens to a metric frame, one file each:

==================  ========================================================================================
`clean`             bad rows out (`suspect` finds them), warm-up and dispatch apart, the rest aggregated to a `history`
`structure`         seconds of a batch as a function of its size and of the busy workers (`nonneg` solves it)
`schedule`          from batches to the makespan of a run: closed form and Monte Carlo
`selection`         which structure the data support: contention, shared resource, threshold; `hosts` how fast each is
`variation`         how much batches vary, and of it what is their items'
`effects`           how runs differ from the structure, and so how sure it is; `sensitivity` of its coefficients
`rivals`            what other structures say that are about as probable; `wildness` what heavy tails add,
                    `beyond` what is not known of sizes beyond the measured ones
`model`             all of it for one task; `learning` fits it and predicts left-out runs, `baseline` must be beaten
`checks`            whether the data can tell the effects apart
`intervals`         how wrong a prediction may be
`grids`             what is predicted for many settings, and how two of them compare
`decision`          the limits, the choice; `memory` and `explain` help, `meanwhile` where there is none
`experiments`       which runs would teach most
`recommendation`    the answer
`recommender`       the estimator that users hold (`saving` is its file); it needs scikit-learn, as do the next two
`weighed`           history of runs whose items have weights, per unit of weight
`runtime`           durations of anything from rows of positive features (`regress` holds its parts)
`peak`              memory that is hardly ever exceeded, by batch size
`plan`              a quick re-planning of a run that is under way
`simulate`          runs with known costs (`workload`), for what-if questions and tests (`engine` is its event loop)
==================  ========================================================================================

Importing this package loads neither pandas nor scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.tuning.peak import PeakMemoryRegressor
    from toolkit.tuning.plan import Plan, replan
    from toolkit.tuning.recommendation import Recommendation
    from toolkit.tuning.recommender import Recommender
    from toolkit.tuning.runtime import RuntimeRegressor
    from toolkit.tuning.simulate import simulate_makespans, simulate_run, simulate_runs
    from toolkit.tuning.workload import Workload

__all__ = [
    "PeakMemoryRegressor",
    "Plan",
    "Recommendation",
    "Recommender",
    "RuntimeRegressor",
    "Workload",
    "replan",
    "simulate_makespans",
    "simulate_run",
    "simulate_runs",
]

_HOMES = {
    "PeakMemoryRegressor": "peak",
    "Plan": "plan",
    "Recommendation": "recommendation",
    "Recommender": "recommender",
    "RuntimeRegressor": "runtime",
    "Workload": "workload",
    "replan": "plan",
    "simulate_makespans": "simulate",
    "simulate_run": "simulate",
    "simulate_runs": "simulate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
