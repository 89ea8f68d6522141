"""The demo's second task: a text model that is rebuilt from plain files, bit by bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from toolkit.demo import eras
from toolkit.demo.tasks import classify_paragraphs
from toolkit.demo.texts import paragraphs
from toolkit.errors import ToolkitError


@pytest.fixture(scope="module")
def items() -> list[dict]:
    return paragraphs(1_200)


@pytest.fixture(scope="module")
def model(items):
    return eras.train(items)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "model"
    eras.save_model(model, path)
    return path


def test_years_fall_into_eras():
    years = (1790, 1828, 1829, 1865, 1866, 1901, 1945, 1946, 2026)
    assert [eras.ERAS.index(eras.era_of(year)) for year in years] == [0, 0, 1, 1, 2, 3, 3, 4, 4]


def test_a_rebuilt_model_says_exactly_the_same(items, model, directory):
    texts = [item["text"] for item in items]
    assert eras.load_model(directory).classify(texts) == model.classify(texts)


def test_training_twice_gives_the_same_model(items, model):
    again = eras.train(items)
    assert np.array_equal(again.coef, model.coef)
    assert np.array_equal(again.intercept, model.intercept)
    assert again.vectorizer.vocabulary_ == model.vectorizer.vocabulary_


def test_it_learns_more_than_the_commonest_era(items):
    speeches = sorted({item["speech"] for item in items})
    held_out = set(speeches[::4])
    trained = eras.train([item for item in items if item["speech"] not in held_out])
    unseen = [item for item in items if item["speech"] in held_out]
    truth = [eras.era_of(item["year"]) for item in unseen]
    said = [result["label"] for result in trained.classify([item["text"] for item in unseen])]
    right = sum(a == b for a, b in zip(said, truth, strict=True))
    commonest = max(truth.count(era) for era in eras.ERAS)
    assert right > 1.2 * commonest


def test_files_are_plain_and_hold_no_pickle(directory):
    assert sorted(path.name for path in directory.iterdir()) == ["model.json", "model.npz"]
    with np.load(directory / "model.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays.files} == {"coef": "f", "intercept": "f", "idf": "f"}


def test_the_task_takes_paragraphs_or_texts_and_answers_in_order(items, directory):
    batch = items[:40]
    results = classify_paragraphs(batch, model=str(directory))
    assert results == classify_paragraphs([item["text"] for item in batch], model=str(directory))
    assert results[::-1] == classify_paragraphs(batch[::-1], model=str(directory))
    assert all(result["label"] in eras.ERAS and 0 < result["score"] <= 1 for result in results)


@pytest.mark.parametrize("text", ["", " \n", "x" * 1_000_000, "zzzz " * 100_000, "\ud800", "🎉\x00é", "1 2 3"])
def test_hostile_texts_are_classified(text, directory):
    results = classify_paragraphs([text, "The ships are many."], model=str(directory))
    assert len(results) == 2
    assert all(type(r["label"]) is str and type(r["score"]) is float and 0 < r["score"] <= 1 for r in results)


def test_an_empty_batch_has_no_results(directory):
    assert classify_paragraphs([], model=str(directory)) == []


def test_without_a_model_the_error_says_how_to_make_one(tmp_path):
    with pytest.raises(ToolkitError, match="ensure_model"):
        classify_paragraphs(["text"], model=str(tmp_path / "absent"))


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null"])
def test_a_damaged_model_is_refused(content, model, tmp_path):
    path = tmp_path / "model"
    eras.save_model(model, path)
    (path / "model.json").write_text(content)
    with pytest.raises(ToolkitError, match="no usable model"):
        eras.load_model(path)


def test_a_model_of_another_version_is_refused(model, tmp_path):
    path = tmp_path / "model"
    eras.save_model(model, path)
    about = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps(about | {"version": eras.MODEL_VERSION + 1}))
    with pytest.raises(ToolkitError, match="version"):
        eras.load_model(path)


def test_saving_again_replaces_and_leaves_no_draft(model, tmp_path):
    path = tmp_path / "deep" / "model"
    eras.save_model(model, path)
    eras.save_model(model, path)
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_a_model_that_is_there_is_not_trained_again(directory, monkeypatch):
    monkeypatch.setattr(eras, "train", lambda _: pytest.fail("trained again"))
    assert eras.ensure_model(directory) == directory
