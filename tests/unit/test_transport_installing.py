"""What `toolkit.install` does to an application, and to others of the same process."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
from celery import Celery

import toolkit
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput
from toolkit.transport import load_app
from toolkit.transport.installing import check_workers
from toolkit.transport.marker import SLOTS
from toolkit.transport.tickets import TICKET


def test_each_application_serves_its_own_tickets() -> None:
    apps = [Celery(name, broker="memory://", set_as_current=False) for name in ("one", "two")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for app in apps:
            toolkit.install(app, ledger_url="redis://127.0.0.1:6379/1")
        other = Celery("other", broker="memory://", set_as_current=False)
        for app in apps:
            assert app.tasks[TICKET].app is app
        assert TICKET not in other.tasks


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LocalCluster(1), "got LocalCluster; a LocalCluster is passed as Client"),
        ("os:sep", "got str"),
        ("no_such_module_here:app", "cannot import it"),
    ],
)
def test_what_is_no_application_is_refused_and_the_way_out_named(given: object, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load_app(given)  # type: ignore[arg-type]


def test_a_node_of_more_workers_than_can_be_told_apart_does_not_start() -> None:
    check_workers(SimpleNamespace(concurrency=SLOTS, max_concurrency=None))
    for most in ({"concurrency": SLOTS + 1}, {"concurrency": 4, "max_concurrency": SLOTS + 1}):
        with pytest.raises(InvalidInput, match=r"2,049 workers in one node: at most 2,048"):
            check_workers(SimpleNamespace(**most))
