"""Many items and many rows: how fast they go in and come back, and whether size makes anything slower."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks import work
from tests.benchmarks.table import Line, number
from tests.integration.ledgers import Run
from toolkit.frames import row_dtype
from toolkit.ledger import Ledger, keys
from toolkit.records import METRIC_SEGMENT_ROWS

if TYPE_CHECKING:
    from toolkit.client import Client

MILLION = 1_000_000
_JSON_ROWS = 50_000
_LEAST = 10_000


def _seconds(call: Callable[[], Any], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        began = perf_counter()
        call()
        taken.append(perf_counter() - began)
    return statistics.median(taken)


def items(client: Client, n: int = MILLION) -> Iterator[Line]:
    """Items in and results out, while the workers execute; `n` of them."""
    numbers, dicts = list(range(n)), [{"id": i, "name": f"n{i}", "x": i * 0.5} for i in range(n)]
    for what, values, goal in (("small scalars", numbers, 1e6), ("small dicts", dicts, 150e3)):
        rates, run = [], None
        for _ in range(3):
            began = perf_counter()
            run = client.map(work.no_item, values, batch_size=10_000)
            rates.append(n / (perf_counter() - began))
            run.wait(300)
        yield Line(f"submit {n:,} {what} from a list", "items/s", statistics.median(rates), goal, at_least=True)
    run = client.map(work.no_item, numbers, batch_size=10_000)
    run.wait(300)
    assert len(run.results()) == n
    rate = n / _seconds(run.results)
    yield Line(f"results of {n:,} items, in order", "items/s", rate, 500e3, at_least=True)


def rows(client: Client, ledger: Ledger, n: int = MILLION) -> Iterator[Line]:
    """Metric rows to a frame, beside a raw GET of their bytes and beside rows of JSON; `n` of them."""
    import pandas as pd

    run = Run(ledger, 8, batch_size=4)
    claim = run.claim()
    run.commit(claim)
    raw = np.resize(np.frombuffer(b"".join(run.reader.metric_rows()[0]), row_dtype()), n)
    raw["claimed_at"] += np.arange(n) * 0.01
    names = [keys.metrics_segment(run.run_id, s) for s in range(-(-n // METRIC_SEGMENT_ROWS))]
    for s, name in enumerate(names):
        part = raw[s * METRIC_SEGMENT_ROWS : (s + 1) * METRIC_SEGMENT_ROWS]
        ledger.connection.command("SET", name, part.tobytes())
    ledger.connection.command("HSET", keys.of(run.run_id, "head"), "rows", n)
    stored = sum(int(ledger.connection.command("MEMORY", "USAGE", name)) for name in names)
    seen = client.get_run(run.run_id)
    assert len(seen.metrics()) == n
    frame_s = _seconds(seen.metrics)
    get_s = _seconds(lambda: [ledger.connection.command("GET", name) for name in names])
    texts = [json.dumps(dict(zip(raw.dtype.names, row.tolist(), strict=True))) for row in raw[:_JSON_ROWS]]
    ledger.connection.command("RPUSH", names[0] + b":json", *texts)

    def by_json() -> pd.DataFrame:
        found = ledger.connection.command("LRANGE", names[0] + b":json", 0, -1)
        return pd.DataFrame([json.loads(text) for text in found])

    json_s = _seconds(by_json) * n / _JSON_ROWS
    title = f"{n:,} metric rows to a DataFrame"
    yield Line(title, "times a raw GET", frame_s / get_s, 4.0, others=f"{n / frame_s:,.0f} rows/s")
    yield Line("", "times faster than JSON", json_s / frame_s, 25.0, at_least=True, others=f"{n / json_s:,.0f} rows/s")
    yield Line("", "bytes a row in the server", stored / n, 110.0)
    ledger.connection.command("DEL", names[0] + b":json")
    run.reader.delete()


def size(client: Client, ledger: Ledger, most: int) -> Iterator[Line]:
    """Runs of ten thousand to `most` items: makespan an item, and processor time of the server a batch.

    The speed of a machine drifts within seconds. So each longer run lies between runs of ten thousand that take as long
    together, and is compared with these. A server that wakes for a batch every 25 ms finds its caches cold, and does
    much else in between; so what a batch costs it is also measured where it is busy.
    """
    batch, ratios, words = 1000, {_LEAST: 1.0}, []

    def server_s() -> float:
        cpu = ledger.connection.command("INFO", "CPU")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])

    def busy(n: int = 2 * MILLION) -> float:
        """Seconds of the server a batch of items that take no time."""
        before = server_s()
        assert client.map(work.no_item, range(n), batch_size=batch, keep_results=False).wait(300).ok == n
        return (server_s() - before) / (n / batch)

    def makespan(n: int) -> tuple[float, float]:
        """Seconds from the first claim to the end, and worker-seconds spent over those that items took."""
        run = client.map(work.spin_item, range(n), batch_size=batch, keep_results=n < MILLION)
        status = run.wait(3600)
        assert status.ok == n
        metrics = run.metrics()
        span = status.finished_at - metrics["claimed_at"].min().timestamp()
        return span, span * 2 / float(metrics["service_s"].sum())

    def least(seconds: float) -> list[float]:
        """Seconds an item of as many runs of the least size as take `seconds`."""
        taken: list[float] = []
        while not taken or sum(taken) * _LEAST < seconds:
            taken.append(makespan(_LEAST)[0] / _LEAST)
        return taken

    makespan(_LEAST)  # warm
    n, cost = 10 * _LEAST, 0.0
    known = statistics.mean(least(1.0))
    while n <= most:
        around = least(known * n / 2)
        before = server_s()
        span, efficiency = makespan(n)
        cost = (server_s() - before) / (n / batch)
        around += least(known * n / 2)
        known = statistics.mean(around)
        ratios[n] = span / n / known
        words.append(f"{n:,}: {span / n * 1e6:.1f} against {known * 1e6:.1f} µs, efficiency {efficiency:.3f}")
        print(f"  {words[-1]}, server {cost * 1e6:.0f} µs a batch", flush=True)
        n *= 10
    yield Line(f"{n // 10:,} items of 50 µs, batch size 1,000", "server CPU, µs a batch", cost * 1e6, 150.0)
    took = statistics.median(busy() for _ in range(5))
    yield Line("items that take no time, batch size 1,000", "server CPU, µs a batch", took * 1e6, 150.0)
    apart = max(ratios.values()) / min(ratios.values())
    yield Line("10 thousand items and more", "slowest / quickest, an item", apart, 1.10, others="; ".join(words))


def snapshot(ledger: Ledger, n: int = 10 * MILLION) -> Iterator[Line]:
    """What a live view asks for, of a run of `n` items under way."""
    run = Run(ledger, n, page=65_536, batch_size=1000)
    run.commit(run.claim())
    spec = ledger.spec(run.run_id)
    taken = []
    for _ in range(500):
        began = perf_counter()
        status = ledger.status(run.run_id, spec)
        taken.append(perf_counter() - began)
    assert status.submitted == n
    title = f"progress snapshot of a run of {n:,} items"
    tail = f"99 % within {number(sorted(taken)[494] * 1000)} ms"
    yield Line(title, "ms", statistics.median(taken) * 1000, 1.0, others=tail)
    run.reader.delete()
