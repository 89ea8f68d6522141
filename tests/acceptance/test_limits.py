"""Time limits and termination, with real workers: who is interrupted, who is killed, and who is charged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.acceptance import overtime, shop
from tests.acceptance.nodes import celery_node
from tests.acceptance.test_shared import environment as environment  # noqa: PLC0414
from toolkit.client import Client, Run
from toolkit.errors import InvalidInput
from toolkit.records import Retry, RunStatus

Eventually = Callable[..., None]
NEVER = Retry(on=())


def ended(run: Run) -> RunStatus:
    status = run.wait(60)
    run.verify()
    return status


@pytest.mark.parametrize(("way", "killed"), [("spin", 0), ("swallow", 1), ("hang", 1)])
def test_an_item_over_time_costs_only_itself(client: Client, way: str, killed: int) -> None:
    run = client.map(
        overtime.attempts, range(30), kwargs={"slow": {"13": way}}, batch_size=10, item_time_limit_s=0.4, retry=NEVER
    )
    status = ended(run)
    assert (status.ok, status.dead, status.lost) == (29, 1, killed)
    assert status.errors == {"timeout": 1}
    (letter,) = run._reader.dead_letters()
    assert (letter.index, letter.item, letter.category, letter.attempts) == (13, 13, "timeout", 1)
    assert letter.error_type == "toolkit.errors.TimeLimitExceeded"
    assert ("in spin" in letter.traceback_text) == (not killed)
    assert set(run.as_completed(return_exceptions=True)) >= {(i, 1) for i in range(30) if i != 13}


def test_an_item_over_time_is_tried_again_by_the_policy(client: Client) -> None:
    policy = Retry(max_attempts=3, on=(TimeoutError,), backoff_s=0.01)
    run = client.map(
        overtime.better_each_time, [0], kwargs={"ways": ["spin", "swallow"]}, item_time_limit_s=0.3, retry=policy
    )
    status = ended(run)
    assert run.results() == [3]
    assert (status.retried, status.lost, status.errors) == (2, 1, {"timeout": 2})


def test_a_killed_item_dies_with_its_last_attempt(client: Client) -> None:
    policy = Retry(max_attempts=2, backoff_s=0.01)  # the default errors: a time-out is an OSError
    run = client.map(
        overtime.better_each_time, [0], kwargs={"ways": ["spin", "hang", "spin"]}, item_time_limit_s=0.3, retry=policy
    )
    assert ended(run).dead == 1
    assert [(x.attempts, x.category) for x in run._reader.dead_letters()] == [(2, "timeout")]


def test_a_batch_over_time_gives_back_what_it_has_not_begun(client: Client) -> None:
    run = client.map(
        overtime.nap, range(40), kwargs={"pause_s": 0.05, "endless": 39}, batch_size=40, max_workers=1,
        batch_time_limit_s=0.5, retry=NEVER,
    )  # fmt: skip
    status = ended(run)
    assert (status.ok, status.dead, status.lost, status.retried) == (39, 1, 0, 0)
    assert [(x.index, x.category) for x in run._reader.dead_letters()] == [(39, "timeout")]
    assert status.batches >= 3
    assert run.metrics()["items"].between(1, 39).all()


@pytest.mark.parametrize(("way", "n", "killed"), [("spin", 16, False), ("hang", 2, True)])
def test_a_batched_call_over_time_is_halved(client: Client, way: str, n: int, killed: bool) -> None:
    run = client.map(
        overtime.batch, range(n), kwargs={"slow": 1, "way": way}, batch_size=n, batch_time_limit_s=0.3, retry=NEVER
    )
    status = ended(run)
    assert (status.ok, status.dead, status.retried) == (n - 1, 1, 0)
    assert status.lost == (2 if killed else 0)
    assert [(x.index, x.category, x.attempts) for x in run._reader.dead_letters()] == [(1, "timeout", 1)]


def test_what_survives_a_cancel_is_killed_after_the_grace_time(
    client: Client, tmp_path: Path, eventually: Eventually
) -> None:
    run = client.map(overtime.survivor, range(40), kwargs={"folder": str(tmp_path)}, batch_size=10)
    eventually(lambda: len(list(tmp_path.iterdir())) == 2)
    run._ledger.steer(run.run_id, "cancel", "", 0.3)
    status = ended(run)
    assert (status.state, status.dead, status.ok, status.skipped, status.lost) == ("cancelled", 0, 0, 40, 2)
    assert status.errors == {}
    assert len(list(tmp_path.iterdir())) == 2
    assert client.map(shop.double, range(10)).results(60) == [2 * i for i in range(10)]


def test_a_limit_must_be_one_that_can_be_kept(client: Client) -> None:
    before = len(client.runs())
    for limit in (0, -1, float("inf"), float("nan"), True, "3"):
        with pytest.raises(InvalidInput, match="item_time_limit_s"):
            client.map(shop.double, [1], item_time_limit_s=limit)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="batch_time_limit_s"):
            client.map(shop.double, [1], batch_time_limit_s=limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="limit the call by batch_time_limit_s"):
        client.map(overtime.batch, [1], item_time_limit_s=1)
    assert len(client.runs()) == before


def node(pool: str, environment: dict[str, str], log: Path) -> AbstractContextManager[int]:
    """A node whose application limits the time of its own tasks to a second."""
    options = ("-c", "1", "-P", pool, "-l", "WARNING", "-Q", "limits", "--without-gossip", "--without-mingle")
    limited = {**environment, "SHARED_TIME_LIMIT": "1"}
    return celery_node("tests.acceptance.shared_app", pool, limited, log, *options)


def test_limits_of_the_application_and_pools_that_cannot_be_interrupted(
    environment: dict[str, str], tmp_path: Path, eventually: Eventually
) -> None:
    with (
        Client(app="tests.acceptance.shared_app:app") as shared,
        node("threads", environment, tmp_path / "threads.log"),
    ):
        eventually(lambda: len(shared.nodes()) == 1, 60)
        run = shared.map(
            shop.journal, range(15), kwargs={"folder": str(tmp_path), "pause_s": 0.1}, queue="limits", batch_size=15,
            item_time_limit_s=30,
        )  # fmt: skip
        eventually(lambda: "declined" in run.events_frame()["event"].tolist())
        assert "--pool=prefork" in run.events_frame().set_index("event")["detail"]["declined"]
        with node("prefork", environment, tmp_path / "prefork.log"):
            assert run.results(60) == list(range(15))
        status = run.status()
        assert (status.batches, status.lost, status.retried) == (1, 0, 0)
        assert run.metrics()["node"].str.startswith("prefork@").all()
