"""Items with weights on real workers: batches cut by weight, heavy items first, whatever becomes of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.acceptance import shop
from toolkit.client import Client
from toolkit.errors import InvalidInput, RunNotFound
from toolkit.ledger import Reader

Eventually = Callable[..., None]

WEIGHTS = [1.0, 2.0, 0.5, 90.0, 1.0, 4.0, 1.5, 40.0]


def new_id() -> str:
    return f"test-{secrets.token_hex(8)}"


def test_results_are_in_input_order_and_rows_tell_weights(client: Client) -> None:
    weights = [1 + (i * 7919) % 50 for i in range(3000)]
    run = client.map(shop.double, range(3000), weight=weights, batch_size=800.5)
    assert run.results(60) == [2 * i for i in range(3000)]
    rows = run.metrics()
    assert rows["weight"].sum() == sum(weights)
    assert set(rows["weight_asked"]) == {800.5}
    assert rows["weight"].max() <= 800.5
    assert rows["items"].nunique() > 3, "batches are cut by weight, so their items differ in number"
    assert rows["items"].sum() == run.status().ok == 3000
    run.verify()


def test_the_heaviest_items_begin_first_and_a_batch_keeps_within_its_size(client: Client) -> None:
    begun: list[float] = []

    def begin(weight: float) -> None:
        begun.append(weight)

    run = client.map(begin, WEIGHTS, weight=lambda weight: weight, batch_size=5, inline=True, max_workers=1)
    assert run.results(10) == [None] * 8
    assert begun == [90.0, 40.0, 1.0, 2.0, 0.5, 1.0, 4.0, 1.5]
    assert run.metrics()["weight"].tolist() == [90.0, 40.0, 4.5, 4.0, 1.5]


def test_automatic_batches_learn_what_a_unit_of_weight_takes(client: Client) -> None:
    n = 20_000
    run = client.map(lambda x: -x, range(n), weight=(1 + i % 9 for i in range(n)))
    assert run.results(60) == [-x for x in range(n)]
    rows = run.metrics()
    assert rows["items"].iloc[0] == 1
    assert rows["weight"].max() > 500
    assert rows["tail"].any()
    assert (run.status().auto, run.status().state) == (True, "finished")
    assert run.events_frame()["detail"].str.contains("planned").sum() == 0


def test_a_stream_with_weights_releases_its_pages(client: Client) -> None:
    def stream() -> Iterator[int]:
        yield from range(5000)

    run = client.map(
        shop.double, stream(), weight=lambda i: 1000 if i % 1500 == 7 else 1, batch_size=300, keep_results=False
    )
    assert run.wait(60).ok == 5000
    reader = Reader(client._ledger.connection, run.run_id)
    assert reader._command("EXISTS", "pages") == 0
    run.verify()


def test_failing_items_are_retried_buried_and_sent_back_by_weight(client: Client) -> None:
    def fails(weight: float) -> float:
        if weight > 30:
            raise ValueError(weight)
        return weight

    run = client.map(fails, WEIGHTS, weight=WEIGHTS, batch_size=3)
    assert run.wait(30).dead == 2
    assert [letter.item for letter in Reader(client._ledger.connection, run.run_id).dead_letters()] == [90.0, 40.0]
    assert run.retry_dead() == 2
    status = run.wait(30)
    assert (status.state, status.dead, status.ok, status.generation) == ("finished", 2, 6, 1)
    run.verify()


def test_a_cancelled_run_is_accounted_and_its_size_may_be_changed_before(
    client: Client, eventually: Eventually
) -> None:
    run = client.map(shop.double, range(100), weight=[2.5] * 100, batch_size=2.5)
    run.pause()
    run.update(batch_size=25.0)
    with pytest.raises(InvalidInput, match="the weight of a batch"):
        run.update(batch_size=-1.0)
    run.cancel()
    eventually(lambda: run.status().state == "cancelled")
    status = run.status()
    assert status.ok + status.skipped == 100
    run.verify()


# --------------------------------------------------------------------------- one submission, given again


def test_an_interrupted_submission_goes_on_with_the_same_weights_only(client: Client) -> None:
    run_id, n = new_id(), 2500

    def breaks() -> Iterator[int]:
        yield from range(2048)
        raise SystemExit

    submit: dict[str, Any] = {"run_id": run_id, "batch_size": 50}
    # as if the process had been killed there: nobody is left to cancel the run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.client.submit.Submission._give_up", lambda *_: None)
        with pytest.raises(SystemExit):
            client.map(shop.double, breaks(), weight=lambda i: 1 + i % 3, **submit)
    run = client.get_run(run_id)
    stored = run.status().submitted
    assert 0 < stored < n
    with pytest.raises(InvalidInput, match="other weights for items 0 to 1,023"):
        client.map(shop.double, iter(range(n)), weight=lambda i: 1 + i % 4, **submit)
    with pytest.raises(InvalidInput, match="weighted True there, False here"):
        client.map(shop.double, iter(range(n)), **submit)
    assert run.status().submitted == stored
    again = client.map(shop.double, iter(range(n)), weight=lambda i: 1 + i % 3, **submit)
    assert again.results(60) == [2 * i for i in range(n)]
    assert again.metrics()["weight"].sum() == sum(1 + i % 3 for i in range(n))
    again.verify()


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        ([1.0, 2.0], "item 2 has none"), (np.array([1, np.nan, 3]), "item 1 is NaN"), ([1, 0, 3], "item 1 is 0"),
        (lambda item: item - 2, "item 0 is -2"), ("abc", "weight is a str"),
    ],
)  # fmt: skip
def test_bad_weights_are_refused_and_nothing_is_stored(client: Client, weight: Any, why: str) -> None:
    run_id = new_id()
    with pytest.raises(InvalidInput, match=why):
        client.map(shop.double, [0, 1, 2], weight=weight, run_id=run_id)
    with pytest.raises(RunNotFound):
        client.get_run(run_id)


def test_a_bad_weight_late_in_a_stream_cancels_the_run(client: Client) -> None:
    run_id = new_id()
    with pytest.raises(InvalidInput, match="item 3,000 is -1") as caught:
        client.map(shop.double, iter(range(5000)), weight=lambda i: -1 if i == 3000 else 1, run_id=run_id)
    assert any("was cancelled" in note for note in caught.value.__notes__)
    assert client.get_run(run_id).wait(30).state == "cancelled"
