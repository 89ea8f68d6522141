"""`explore`: one door to both explorers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.errors import InvalidInput, MissingDependency

if TYPE_CHECKING:
    from toolkit.notebook.metrics_explorer import MetricsExplorer
    from toolkit.notebook.tuning_explorer import TuningExplorer


def explore(source: Any, task: str | None = None, *, n_items: int | None = None) -> MetricsExplorer | TuningExplorer:
    """Open an explorer: of metrics for rows or what gives them, of recommendations for a fitted model.

    Parameters
    ----------
    source : DataFrame, Client, Run or Recommender
        Metric rows, live or from an archive, or anything with ``metrics()`` that returns them; or a fitted model.
    task : str, optional
        The task to begin with.
    n_items : int, optional
        Of a model: the number of items to begin with.

    Returns
    -------
    MetricsExplorer or TuningExplorer
        As the last value of a cell it shows itself.

    Raises
    ------
    InvalidInput
        `source` is none of those, or its frame holds no metric rows, or none of `task`.
    TuningError
        The model is not fitted, or does not know `task`.
    MissingDependency
        ipywidgets is not installed.
    """
    import pandas as pd

    try:
        import ipywidgets  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingDependency("ipywidgets", "notebook", "explore") from error
    if isinstance(source, pd.DataFrame):
        return _of_metrics(lambda: source, live=False, task=task)
    if callable(getattr(source, "recommend", None)) and hasattr(source, "get_params"):
        from toolkit.notebook.tuning_explorer import TuningExplorer

        return TuningExplorer(source, task, **({} if n_items is None else {"n_items": n_items}))
    if callable(getattr(source, "metrics", None)):
        return _of_metrics(source.metrics, live=True, task=task)
    raise InvalidInput(
        f"explore: {type(source).__name__} is neither metric rows, nor a client or run that gives them, nor a fitted "
        "Recommender"
    )


def _of_metrics(load: Any, *, live: bool, task: str | None) -> MetricsExplorer:
    from toolkit.notebook.metrics_explorer import MetricsExplorer

    return MetricsExplorer(load, live=live, task=task)
