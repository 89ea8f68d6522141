"""A `Recommender` as a file: versioned JSON of its parameters and of what was kept of the data, never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit._version import __version__
from toolkit.errors import MissingDependency, TuningError
from toolkit.tuning.history import TaskHistory

try:
    from sklearn.base import BaseEstimator
    from sklearn.utils.validation import check_is_fitted
except ImportError as exc:
    raise MissingDependency("scikit-learn", "tuning", "Recommender") from exc

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd

FORMAT = "toolkit.recommender"
FORMAT_VERSION = 1


class Saved(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """The part of `Recommender` that writes it and reads it back; loading fits anew, which gives the same model."""

    histories_: dict[str, TaskHistory]

    def _learn(self, runs: pd.DataFrame | None) -> Self:
        """Fit the models to `histories_`."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the parameters and what was kept of the data."""
        check_is_fitted(self, "models_")
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "toolkit": __version__,
            "parameters": self.get_params(deep=False),
            "histories": [history.to_dict() for history in self.histories_.values()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; refits, which gives identical predictions.

        Raises
        ------
        TuningError
            This is no saved Recommender, or one of a newer version.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise TuningError("this is no saved Recommender")
        version = values.get("version")
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise TuningError(f"saved in version {version} of the format, this toolkit reads up to {FORMAT_VERSION}")
        try:
            model = cls(**values["parameters"])
            histories = [TaskHistory.from_dict(history) for history in values["histories"]]
        except (KeyError, TypeError) as exc:
            raise TuningError(f"this is no saved Recommender: {exc!r}") from exc
        model.histories_ = {history.task: history for history in histories}
        return model._learn(None)

    def save(self, path: str | Path) -> Path:
        """Write the model as JSON and return the path."""
        path = Path(path)
        path.write_text(json.dumps(self.to_dict(), allow_nan=False), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        TuningError
            The file holds something else.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as exc:
            raise TuningError(f"{path} is not JSON: {exc}") from exc
        return cls.from_dict(values)
