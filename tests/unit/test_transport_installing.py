"""What `toolkit.install` does to an application, and to others of the same process."""

from __future__ import annotations

import warnings

import pytest
from celery import Celery

import toolkit
from toolkit.cluster import LocalCluster
from toolkit.errors import InvalidInput
from toolkit.transport import load_app
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
