"""Two real tasks on the paragraphs: one per item, one batched with a fixed cost a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.demo.eras import load_model, model_dir
from toolkit.demo.mentions import mentions
from toolkit.execution.tasks import task


@task
def find_mentions(paragraph: dict[str, Any] | str) -> list[dict[str, Any]]:
    """Find the people, places, dates and amounts in a paragraph (about 0.2 ms).

    Parameters
    ----------
    paragraph : dict or str
        One of `toolkit.demo.texts.paragraphs`, or its text.

    Returns
    -------
    list of dict
        ``kind`` (``person``, ``place``, ``date`` or ``amount``), ``text``, ``start``, ``end``; offsets in characters.
    """
    return mentions(_text(paragraph))


@task(batched=True)
def classify_paragraphs(batch: Sequence[dict[str, Any] | str], model: str | None = None) -> list[dict[str, Any]]:
    """Say from which era each paragraph is (about 0.1 ms each, and 30 ms a call to load the model).

    The model is read at each call, as many real functions do; that is what makes small batches dear. Functions
    that can keep their model use ``@task(setup=...)`` and have no such cost.

    Parameters
    ----------
    batch : sequence of dict or str
        Paragraphs, or their texts.
    model : str, optional
        Directory of the model, by default this user's; see `toolkit.demo.eras.ensure_model`.

    Returns
    -------
    list of dict
        ``label`` and ``score`` of each, in order.

    Raises
    ------
    ToolkitError
        There is no model in the directory.
    """
    trained = load_model(model_dir() if model is None else Path(model))
    return trained.classify([_text(paragraph) for paragraph in batch])


def _text(paragraph: dict[str, Any] | str) -> str:
    return paragraph if isinstance(paragraph, str) else str(paragraph["text"])
