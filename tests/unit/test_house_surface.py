"""The public surface is a list; whoever changes it changes this one too, and the changelog."""

from __future__ import annotations

import inspect

import pytest

import toolkit

PUBLIC = [
    "BatchError",
    "Client",
    "LocalCluster",
    "Recommender",
    "Retry",
    "Run",
    "TimeLimitExceeded",
    "__version__",
    "batched",
    "current_item",
    "errors",
    "install",
    "instrument",
    "instrumented",
    "read_instrumented",
    "task",
]


def test_the_list():
    assert sorted(toolkit.__all__) == PUBLIC
    assert dir(toolkit) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_there_and_says_what_it_is(name: str):
    value = getattr(toolkit, name)
    assert value is getattr(toolkit, name), "the second look gives the same object"
    if name != "__version__":
        assert inspect.getdoc(value), f"toolkit.{name} has no docstring"


def test_another_name_is_refused_with_the_list():
    with pytest.raises(AttributeError, match=r"no attribute 'Cleint'.*Client"):
        toolkit.Cleint  # noqa: B018


def test_errors_are_one_tree():
    """Everything the package raises is a ToolkitError; BatchError is raised by user code and stands apart."""
    errors = toolkit.errors
    classes = [v for _, v in inspect.getmembers(errors, inspect.isclass) if v.__module__ == errors.__name__]
    assert classes
    for cls in classes:
        assert issubclass(cls, errors.ToolkitError) != (cls is errors.BatchError), cls
        assert inspect.getdoc(cls), cls
        assert cls.__name__ in (errors.__doc__ or ""), f"{cls.__name__} is missing in the drawing of the tree"
