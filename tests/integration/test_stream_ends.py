"""The end of a stream, of its client and of its process: nothing ends unsaid, and nothing is kept."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.acceptance import shop
from tests.conftest import Server
from tests.integration.clusters import until
from toolkit.client import Client
from toolkit.client.background import finish_at_exit
from toolkit.settings import url_with_password
from toolkit.transport import make_app


def connect(server: Server) -> Client:
    """A client of a deployment whose nodes are still to come."""
    return Client(make_app("memory://", "shelves"), url_with_password(server.address))


class Failing:
    """A source of two items and an error, which comes when the test says so."""

    def __init__(self) -> None:
        self.fail = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        yield from (1, 2)
        assert self.fail.wait(30)
        raise OSError("the feed is\x1b[2J gone")


def failed_untold(client: Client) -> str:
    """Submit a stream whose error comes when nobody waits; returns the run's id."""
    source = Failing()
    run = client.map(shop.double, source)
    source.fail.set()
    until(lambda: client.get_run(run.run_id).status().state == "cancelled", "its run is cancelled")
    return run.run_id


def test_an_error_that_nobody_waited_for_is_said_when_the_client_is_closed(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(server) as client:
        first = failed_untold(client)
        client.map(shop.double, iter([1])).cancel()  # what is submitted later does not hide it
    said = capsys.readouterr().err
    assert f"Run {first}: its input ended early, OSError: the feed is" in said
    assert f"run {first} was cancelled: its input is incomplete" in said
    assert "\x1b" not in said
    client.close()
    assert capsys.readouterr().err == "", "once is enough"


def test_an_error_that_nobody_waited_for_is_said_when_an_error_leaves_the_block(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    client = connect(server)
    run_id = failed_untold(client)
    client.__exit__(ZeroDivisionError, None, None)
    assert f"Run {run_id}: its input ended early, OSError" in capsys.readouterr().err


def test_an_error_that_nobody_waited_for_is_said_at_the_end_of_the_process_that_submitted(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    client = connect(server)
    run_id = failed_untold(client)
    child = os.fork()
    if child == 0:  # which has no part in it
        finish_at_exit()
        os._exit(0)
    os.waitpid(child, 0)
    assert capfd.readouterr().err == ""
    finish_at_exit()
    assert f"Run {run_id}: its input ended early, OSError" in capfd.readouterr().err
    client.close()
    assert capfd.readouterr().err == ""


def test_an_error_that_was_raised_is_not_said_again(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with connect(server) as client:
        source = Failing()
        run = client.map(shop.double, source)
        source.fail.set()
        with pytest.raises(OSError, match="the feed is"):
            run.wait(60, progress=False)
    finish_at_exit()
    assert "ended early" not in capsys.readouterr().err


@pytest.mark.parametrize("closed", [True, False])
def test_a_client_whose_stream_has_ended_is_not_kept(server: Server, closed: bool) -> None:
    def submit() -> tuple[weakref.ref[Client], weakref.ref[Any], object]:
        client, function = connect(server), partial(shop.double)
        run = client.map(shop.double, iter([1, 2]), key=function)
        run.cancel()
        if closed:
            client.close()
        return weakref.ref(client), weakref.ref(function), run._input

    client, function, kept = submit()
    gc.collect()
    assert client() is None
    assert function() is None
    assert kept is not None


def test_a_failed_stream_keeps_no_client_that_is_closed(server: Server) -> None:
    def submit() -> weakref.ref[Client]:
        with connect(server) as client:
            failed_untold(client)
        return weakref.ref(client)

    client = submit()
    gc.collect()
    assert client() is None
