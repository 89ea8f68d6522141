"""What a live panel shows and costs, in a real JupyterLab in a real Chromium.

    python -m tests.benchmarks.bench_panel [--seconds 10]

Items of 20 ms on two workers, one panel at its first rate (4 a second). Updates are counted in the page, by an observer
of the number of items; the four cases are an idle kernel, a cell that sleeps, a cell that computes, and a page that was
reloaded. The cost is the processor time of the kernel, of the server and of all processes of Chromium, with the panel
shown less without it, in alternating rounds. What a closed tab would leave in the server is the bytes that the kernel
sends at each of the three rates, times the seconds of an hour at that rate, and static pictures. Then the time from a
click on Cancel to the word in the page, and to a panel of a run of 100,000 batches. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.acceptance import browser as recipe
from tests.benchmarks.table import Line, show
from tests.integration.ledgers import Run
from toolkit.client import Client
from toolkit.cluster import LocalCluster
from toolkit.frames import row_dtype
from toolkit.ledger import Ledger, keys
from toolkit.notebook.live import FULL_S, LONG_S, SLOW_S, keep_s, period_s
from toolkit.settings import ServerAddress

HOUR_S = 3600.0
SETUP = """
import os, time, threading
import toolkit as tk
cluster = tk.LocalCluster(2)
client = tk.Client(cluster=cluster)

def nap(i):
    import time
    time.sleep(0.02)
    return i

kernel_pid = os.getpid()
sent = [0, 0, 0]
kernel = get_ipython().kernel
plain = kernel.session.send

def counted(stream, msg_or_type, *args, **kwargs):
    message = plain(stream, msg_or_type, *args, **kwargs)
    kind = message.get("msg_type") if isinstance(message, dict) else ""
    if kind in ("comm_msg", "update_display_data"):
        parts = kernel.session.serialize({k: message[k] for k in ("header", "parent_header", "metadata", "content")})
        size = sum(len(bytes(part)) for part in parts)
        if kind == "comm_msg":
            sent[0] += 1
            sent[1] += size
        else:
            sent[2] = size
    return message

kernel.session.send = counted
print(kernel_pid)
"""
START = "run = client.map(nap, range(100_000), name='thumbnails of the night')\nrun"
COUNTER = """() => {
  window.__seen = 0;
  window.__watch?.disconnect();
  const box = document.querySelector('.tk-run-panel');
  window.__watch = new MutationObserver(() => { window.__seen += 1; });
  window.__watch.observe(
    box.querySelectorAll('.widget-html-content')[2], { childList: true, subtree: true, characterData: true });
}"""
LARGE = """
from tests.benchmarks.bench_panel import make_large
big = make_large(client, cluster.address, 100_000)
"""
LARGE_SHOW = "began = time.perf_counter()\nbig.panel()\nprint(round(time.perf_counter() - began, 3))"


def make_large(client: Client, address: ServerAddress, n: int) -> Any:
    """A run that has ended, of `n` batches by two workers: their metric rows are written as they would be."""
    ledger = Ledger(address)
    run = Run(ledger, 8, batch_size=4)
    for who in ("w1", "w2"):
        run.commit(run.claim(who))
    raw = np.resize(np.frombuffer(b"".join(run.reader.metric_rows()[0]), row_dtype()), n)
    raw["claimed_at"] += np.arange(n) * 0.01
    raw["worker"] = 1 + np.arange(n) % 2
    ledger.connection.command("SET", keys.metrics_segment(run.run_id, 0), raw.tobytes())
    ledger.connection.command("HSET", keys.of(run.run_id, "head"), "rows", n)
    ledger.close()
    found = client.get_run(run.run_id)
    assert found.status().batches == n
    return found


def updates(page: recipe.NotebookPage, seconds: float) -> float:
    """Changes a second of the panel's numbers, seen in the page."""
    page.page.evaluate(COUNTER)
    page.page.wait_for_timeout(seconds * 1000)
    return float(page.page.evaluate("() => window.__seen")) / seconds


def freshness(page: recipe.NotebookPage, seconds: float) -> list[Line]:
    """Updates in the four cases."""
    found = []

    def case(what: str) -> None:
        found.append(Line("one panel, 4 Hz asked", f"updates/s in the page, {what}", updates(page, seconds), 3.0, True))

    case("kernel idle")
    for cell, what in ((2, "a cell sleeps"), (3, "a cell computes")):
        page.run(cell, wait=False)
        page.wait_kernel("busy")
        case(what)
        page.wait_kernel("idle")
    page.save()
    page.reload()
    page.panel(1).wait_for()
    case("page reloaded")
    return found


def cpu_s(processes: list[psutil.Process]) -> float:
    """Processor seconds of some processes so far."""
    total = 0.0
    for process in processes:
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def groups(kernel_pid: int) -> dict[str, list[psutil.Process]]:
    """Processes of the kernel, of the server, and of the browser."""
    kernel = psutil.Process(kernel_pid)
    below = psutil.Process().children(recursive=True)
    chromium = [p for p in below if "chrom" in p.name()]
    return {"kernel": [kernel], "server": [kernel.parent()], "browser": chromium}


def costs(page: recipe.NotebookPage, kernel_pid: int, seconds: float, rounds: int = 3) -> list[Line]:
    """Shares of a core, with the panel less without it."""
    shares: dict[str, list[float]] = {"kernel": [], "server": [], "browser": []}
    for _ in range(rounds):
        measured: dict[bool, dict[str, float]] = {}
        for live in (True, False):
            page.run(4 if live else 5)  # show, or clear and stop
            page.page.wait_for_timeout(1500)
            before = {name: cpu_s(group) for name, group in groups(kernel_pid).items()}
            page.page.wait_for_timeout(seconds * 1000)
            after = {name: cpu_s(group) for name, group in groups(kernel_pid).items()}
            measured[live] = {name: (after[name] - before[name]) / seconds for name in before}
        for name, values in shares.items():
            values.append(measured[True][name] - measured[False][name])
    goals = {"kernel": 1.0, "server": 1.5, "browser": 6.0}
    return [
        Line("one panel, 4 Hz", f"% of a core in the {name}", 100 * statistics.median(shares[name]), goal)
        for name, goal in goals.items()
    ]


def buffered(page: recipe.NotebookPage, seconds: float) -> list[Line]:
    """Megabytes that an hour of a closed tab leaves in the server, by the bytes of a refresh."""
    page.run(4)
    page.run(6)
    page.page.wait_for_timeout(seconds * 1000)
    page.run(7)
    text = page.output(7).inner_text()
    messages, size, picture = (int(word) for word in text.split()[:3])
    steps = (0.0, FULL_S, SLOW_S, LONG_S, HOUR_S)
    refreshes = sum((end - start) / period_s(start) for start, end in pairwise(steps))
    a_refresh = size / (seconds / period_s(0))
    pictures = 1 + SLOW_S / keep_s(0) + (HOUR_S - SLOW_S) / keep_s(SLOW_S)
    print(
        f"{messages / seconds:.1f} messages/s of {size / max(1, messages):.0f} bytes; a refresh: {a_refresh:.0f}, "
        f"a static picture: {picture} bytes"
    )
    megabytes = (refreshes * a_refresh + pictures * picture) / 1e6
    return [Line("one panel, tab closed for an hour", "MB buffered", megabytes, 2.0)]


def cancelling(page: recipe.NotebookPage) -> list[Line]:
    """From a click on Cancel to the word, with an idle kernel and while a cell awaits a run."""
    found = []
    for cell, what in ((8, "kernel idle"), (9, "during await run")):
        page.run(cell, wait=what == "kernel idle")
        panel = page.panel(cell)
        recipe.expect(panel).to_contain_text("running")
        page.page.wait_for_timeout(2000)
        took = page.page.evaluate(
            """(i) => new Promise(resolve => {
                 const cell = document.querySelectorAll('.jp-Notebook .jp-Cell')[i];
                 const began = performance.now();
                 const look = () => /cancelling|cancelled/i.test(cell.querySelector('.jp-Cell-outputArea').innerText)
                   ? resolve((performance.now() - began) / 1000) : requestAnimationFrame(look);
                 cell.querySelector('.tk-cancel').click(); look(); })""",
            cell,
        )
        found.append(Line("Cancel clicked", f"s until the page says so, {what}", float(took), 1.0))
        page.wait_kernel("idle")
    return found


def large(page: recipe.NotebookPage) -> list[Line]:
    """A panel of a run of 100,000 batches."""
    page.run(10)
    page.run(11)
    words = page.output(11).inner_text().split()
    seconds = next(float(word) for word in reversed(words) if word.replace(".", "", 1).isdigit() and "." in word)
    return [Line("run of 100,000 batches", "s until the panel is shown", seconds, 1.0)]


def journey(lab: recipe.Lab, browser: Any, seconds: float) -> Iterator[list[Line]]:
    """All of it, in one notebook, part by part."""
    cells = [
        SETUP, START, f"time.sleep({seconds + 2})",
        f"end = time.monotonic() + {seconds + 2}\nwhile time.monotonic() < end: sum(range(1000))",
        "run", "from toolkit.notebook import panel\n[p.end() for p in list(panel._live.values())]",
        "sent[:] = [0, 0, 0]", "print(*sent)",
        "one = client.map(nap, range(100_000), name='one'); one",
        "two = client.map(nap, range(100_000), name='two'); two.panel()\nawait two",
        LARGE, LARGE_SHOW,
    ]  # fmt: skip
    lab.write("bench.ipynb", cells)
    page = recipe.NotebookPage(browser.new_page(viewport={"width": 1200, "height": 1400}), lab, "bench.ipynb")
    page.run(0)
    kernel_pid = int(page.output(0).inner_text().split()[-1])
    page.run(1)
    recipe.expect(page.panel(1)).to_contain_text("90 %")  # the workers have started, and something was seen
    yield freshness(page, seconds)
    yield costs(page, kernel_pid, seconds)
    yield buffered(page, seconds)
    yield cancelling(page)
    yield large(page)
    page.close()


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=10.0)
    options = arguments.parse_args()
    chromium = recipe.find_chromium()
    if chromium is None:
        raise SystemExit("no Chromium here")
    state, home = Path(tempfile.mkdtemp(prefix="tk-bench-")), Path(tempfile.mkdtemp(prefix="tk-home-"))
    print(f"load average at the start {os.getloadavg()[0]:.1f}, {time.strftime('%H:%M:%S')}")
    try:
        with (
            recipe.jupyter_lab(home, {"TOOLKIT_STATE_DIR": str(state)}) as lab,
            recipe.chromium(chromium) as browser,
        ):
            found: list[Line] = []
            for part in journey(lab, browser, options.seconds):
                found += part
                print("\n".join(show(part).splitlines()[2:]), flush=True)
            print(f"\n{show(found)}")
    finally:
        LocalCluster(state_dir=state).stop()
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
