"""`Recommender`: the estimator that users hold. It keeps the scikit-learn contract and delegates the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit import renderers
from toolkit.errors import InvalidInput, MissingDependency, TuningError
from toolkit.tuning.baseline import mean_absolute
from toolkit.tuning.clean import clean
from toolkit.tuning.decision import Request, no_history
from toolkit.tuning.decision import recommend as decide
from toolkit.tuning.experiments import suggest
from toolkit.tuning.grids import predict_settings
from toolkit.tuning.history import Array, TaskHistory
from toolkit.tuning.learning import fit_task
from toolkit.tuning.model import Options, TaskModel
from toolkit.tuning.recommendation import Recommendation
from toolkit.tuning.saving import Saved

try:
    from sklearn.utils.validation import check_is_fitted
except ImportError as exc:
    raise MissingDependency("scikit-learn", "tuning", "Recommender") from exc

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd


class Recommender(Saved):
    """Learns from metric rows what batches cost, and recommends batch size and worker count of the next run.

    Parameters
    ----------
    draws : int, default=200
        Sets of coefficients drawn to say how uncertain they are.
    replicates : int, default=64
        Simulated runs of each setting.
    random_state : int, default=0
        Seed of all random numbers; the same data and seed give the same answer.

    Attributes
    ----------
    tasks_ : tuple of str
        Tasks that were seen.
    models_ : dict of str to TaskModel
        The model of each task with at least one usable batch.
    histories_ : dict of str to TaskHistory
        What was kept of the data; a saved model consists of these.

    Examples
    --------
    >>> model = Recommender().fit(client.metrics(task="docs.ocr"))  # doctest: +SKIP
    >>> print(model.recommend(n_items=50_000))  # doctest: +SKIP
    """

    def __init__(self, *, draws: int = 200, replicates: int = 64, random_state: int = 0) -> None:
        self.draws = draws
        self.replicates = replicates
        self.random_state = random_state

    # ------------------------------------------------------------------ learning

    def fit(
        self,
        frame: pd.DataFrame,
        y: None = None,  # noqa: ARG002 - part of the scikit-learn contract
        *,
        runs: pd.DataFrame | None = None,
    ) -> Self:
        """Learn from metric rows.

        Parameters
        ----------
        frame : DataFrame
            One row per batch, as ``run.metrics()`` and ``client.metrics()`` return them. May be empty.
        y : None
            Ignored; there for pipelines.
        runs : DataFrame, optional
            Columns ``run_id`` and ``makespan_s``, as in ``client.runs()``: makespans as the ledger knows them. Without,
            they are computed from the rows.

        Returns
        -------
        Recommender
            Itself.

        Raises
        ------
        TuningError
            `frame` is no DataFrame, or a required column is missing.
        """
        self.histories_ = clean(frame)
        return self._learn(runs)

    def partial_fit(
        self,
        frame: pd.DataFrame,
        y: None = None,  # noqa: ARG002 - part of the scikit-learn contract
        *,
        runs: pd.DataFrame | None = None,
    ) -> Self:
        """Learn from further metric rows, in addition to what is known; parameters as for `fit`."""
        known: dict[str, TaskHistory] = getattr(self, "histories_", {})
        added = clean(frame, {task: history.processes for task, history in known.items()})
        self.histories_ = {
            **known,
            **{task: known[task].merge(history) if task in known else history for task, history in added.items()},
        }
        return self._learn(runs)

    def _learn(self, runs: pd.DataFrame | None) -> Self:
        if runs is not None:
            measured = dict(zip(runs["run_id"].astype(str), runs["makespan_s"].astype(float), strict=True))
            self.histories_ = {task: _with_makespans(history, measured) for task, history in self.histories_.items()}
        options = Options(self.draws, self.replicates, self.random_state)
        self.models_ = {
            task: fit_task(history, options) for task, history in self.histories_.items() if len(history.cells)
        }
        self.tasks_ = tuple(self.histories_)
        return self

    # ------------------------------------------------------------------ asking

    def predict(self, grid: pd.DataFrame) -> Array:
        """Expected makespans of settings.

        Parameters
        ----------
        grid : DataFrame
            Columns ``n_items``, ``batch_size`` and ``workers``; ``task`` where several tasks are known.

        Returns
        -------
        ndarray of shape (n_settings,)
            Seconds.

        Raises
        ------
        TuningError
            A column is missing, a value is below 1, or nothing is known about the task.
        """
        check_is_fitted(self, "models_")
        missing = [name for name in ("n_items", "batch_size", "workers") if name not in grid.columns]
        if missing:
            raise TuningError(f"no column {', '.join(missing)}; predict takes n_items, batch_size and workers")
        n_items, size, workers = (grid[name].to_numpy(dtype=np.int64) for name in ("n_items", "batch_size", "workers"))
        if len(grid) and min(n_items.min(), size.min(), workers.min()) < 1:
            raise TuningError("n_items, batch_size and workers must be 1 or more")
        tasks = grid["task"].astype(str).to_numpy() if "task" in grid.columns else None
        out = np.full(len(grid), np.nan)
        for task in [None] if tasks is None else sorted(set(tasks)):
            here = np.ones(len(grid), dtype=bool) if tasks is None else tasks == task
            model = self._model(task)
            size_here = np.minimum(size[here], n_items[here])
            out[here] = model.makespans(n_items[here], size_here, workers[here]).mean(axis=1)
        return out

    def recommend(  # noqa: PLR0913 - the public question, all by keyword
        self,
        task: str | None = None,
        *,
        n_items: int,
        objective: str | float = "makespan",
        max_workers: int | None = None,
        deadline_s: float | None = None,
        deadline_risk: float = 0.05,
        max_worker_memory_bytes: int | None = None,
        current: Mapping[str, Any] | None = None,
    ) -> Recommendation:
        """Recommend batch size and worker count for a run of `n_items` items.

        Parameters
        ----------
        task : str, optional
            For which task; may be left out where only one is known.
        n_items : int
            Items of the run.
        objective : str or float
            ``makespan``, ``cost`` for worker seconds, or a weight between: 0 is makespan, 1 is cost.
        max_workers : int, optional
            Most workers to consider; by default as many as were measured.
        deadline_s : float, optional
            The run is to end within so many seconds.
        deadline_risk : float, default=0.05
            Probability with which it may end later.
        max_worker_memory_bytes : int, optional
            No worker is to grow beyond this.
        current : mapping, optional
            The setting in use, keys ``batch_size`` and ``workers``; the saving is measured against it.

        Returns
        -------
        Recommendation
            With `refused` set where the data support none; nothing recorded is such a case.

        Raises
        ------
        InvalidInput
            An argument makes no sense.
        TuningError
            Several tasks are known and none was named, or the named one is not among them.
        """
        check_is_fitted(self, "models_")
        request = Request(n_items, objective, max_workers, deadline_s, max_worker_memory_bytes, current, deadline_risk)
        if not self.models_ and (task is None or task in self.tasks_ or not self.tasks_):
            return no_history(task or next(iter(self.tasks_), ""), request)
        if task in self.tasks_ and task not in self.models_:
            return no_history(task, request)
        return decide(self._model(task), request)

    def score(self, frame: pd.DataFrame, y: None = None) -> float:  # noqa: ARG002 - the contract has y
        """How well the runs of `frame` are predicted: minus the mean absolute relative error, 0 is best.

        Raises
        ------
        TuningError
            `frame` has no complete run of a known task.
        """
        check_is_fitted(self, "models_")
        errors = []
        for task, history in clean(frame).items():
            if task not in self.models_:
                continue
            runs = [run for run in history.runs if run.judged]
            arrays = [np.array([getattr(run, name) for run in runs], dtype=np.int64) for name in _SETTING]
            if runs:
                predicted = self.models_[task].makespans(*arrays).mean(axis=1)
                errors += np.log([run.makespan_s for run in runs] / predicted).tolist()
        if not errors:
            raise TuningError("score needs at least one complete run of a task that was fitted")
        return -mean_absolute(errors)

    def backtest(self, task: str | None = None) -> pd.DataFrame:
        """Each run predicted from the others, one row per run.

        Columns ``run_id``, ``measured_s``, ``predicted_s``, ``error`` (of the model) and ``baseline_error`` (of plain
        throughput), relative and signed; NaN with fewer than three runs.
        """
        import pandas as pd

        check_is_fitted(self, "models_")
        found = self._model(task).backtest
        return pd.DataFrame(
            {
                "run_id": list(found.run_ids),
                "measured_s": found.measured_s,
                "predicted_s": found.predicted_s,
                "error": np.expm1(found.model),
                "baseline_error": np.expm1(found.baseline),
            }
        )

    def suggest_experiments(
        self, budget_worker_s: float, *, n_items: int, task: str | None = None, max_workers: int | None = None
    ) -> pd.DataFrame:
        """Which runs would teach most about the best setting of a run of `n_items`, within a budget.

        Parameters
        ----------
        budget_worker_s : float
            Worker seconds that all of them together may cost.
        n_items : int
            Items of the run that is planned.
        task : str, optional
            For which task; may be left out where only one is known.
        max_workers : int, optional
            Most workers to consider; by default as many as were measured.

        Returns
        -------
        DataFrame
            In the order in which to run them: ``batch_size``, ``workers``, ``n_items``, ``cost_worker_s`` and ``gain``,
            the share of what is not known that the run takes away. Empty where nothing affordable teaches anything.

        Raises
        ------
        InvalidInput
            An argument makes no sense.
        TuningError
            Nothing is known about the task: run it once with ``batch_size="auto"``, which tries several sizes.
        """
        check_is_fitted(self, "models_")
        if not budget_worker_s > 0:
            raise InvalidInput(f"budget_worker_s={budget_worker_s!r}: expected worker seconds, more than 0")
        request = Request(n_items, max_workers=max_workers)
        model = self._model(task)
        limit = request.max_workers or max(model.checks.workers)
        return suggest(model, request.n_items, limit, float(budget_worker_s))

    def predict_interval(self, grid: pd.DataFrame, task: str | None = None) -> tuple[Array, Array]:
        """Lower and upper ends of the 90 % intervals of `predict`, for one task."""
        check_is_fitted(self, "models_")
        columns = [grid[name].to_numpy(dtype=np.int64) for name in ("n_items", "batch_size", "workers")]
        found = predict_settings(self._model(task), columns[0], np.minimum(columns[1], columns[0]), columns[2])
        return found.low_s, found.high_s

    def _model(self, task: str | None) -> TaskModel:
        if task is None:
            if len(self.models_) != 1:
                known = ", ".join(self.models_) or "none"
                raise TuningError(f"name one of the tasks with history, there are {len(self.models_)}: {known}")
            return next(iter(self.models_.values()))
        if task not in self.models_:
            known = ", ".join(self.models_) or "none"
            raise TuningError(f"no usable metric rows of task {task!r}; there are some of: {known}")
        return self.models_[task]

    def report(
        self, path: str | Path, task: str | None = None, *, n_items: int | None = None,
        recommendation: Recommendation | None = None, frame: pd.DataFrame | None = None, **parts: Any,
    ) -> Path:  # fmt: skip
        """Write a report on a recommendation as one file.

        Parameters
        ----------
        path : str or pathlib.Path
            Where; ``.html`` (self-contained, no script), ``.md`` (for a pull request) or ``.ipynb`` (with parameters).
        task : str, optional
            Which task; may be left out where only one is known.
        n_items : int, optional
            Items of the run that is recommended for; by default as many as the latest run had.
        recommendation : Recommendation, optional
            The advice to report, in place of a new one.
        frame : DataFrame, optional
            The metric rows of `fit`, of which a model keeps no more than it needs: with them, the report shows where
            the time went, what failed, and the names of runs.
        **parts
            ``title``, ``measured`` and others, see `toolkit.notebook.Report.of`.

        Returns
        -------
        pathlib.Path
            Where it is.

        Raises
        ------
        TuningError
            Several tasks are known and none was named, or nothing is known about the named one.
        InvalidInput
            `path` ends in something else, or `n_items` makes no sense.
        OSError
            The file cannot be written.
        """
        check_is_fitted(self, "models_")
        write = renderers.get("report")
        if write is None:
            raise TuningError("nobody draws reports here: call toolkit.notebook.register() first")
        if recommendation is None:
            history = self._model(task).history
            latest = max(history.runs, key=lambda run: run.started_at)
            recommendation = self.recommend(history.task, n_items=n_items or latest.items)
        if frame is None:
            from toolkit import frames

            frame = frames.empty(frames.METRICS)
        titled = {"title": f"Batch tuning of {recommendation.task or 'all tasks'}"} | parts
        return Path(write(path, frame=frame, model=self, recommendation=recommendation, **titled))


_SETTING = ("items", "batch_size", "workers")


def _with_makespans(history: TaskHistory, measured: Mapping[str, float]) -> TaskHistory:
    """Put in what the ledger measured; NaN (a run that has not ended) is left out."""
    runs = []
    for run in history.runs:
        value = measured.get(run.run_id, math.nan)
        runs.append(replace(run, measured_s=value) if math.isfinite(value) and value > 0 else run)
    return replace(history, runs=tuple(runs))
