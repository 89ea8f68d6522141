"""How long the explorers take: from a slider to the recommendation on screen, and from rows to figures.

``python -m tests.benchmarks.bench_explorer [--moves 18] [--rows 1000000]`` prints; nothing is asserted, because the
machine is noisy. The first part needs Playwright and Chromium: a real JupyterLab, in which a key moves the choice of
items, and its slider, and the page itself notes when the answer changed. Beside it stands the same for a slider that
only echoes its value, which is what kernel, server and browser take by themselves, and the model alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import pandas as pd

from tests.benchmarks.bench_panel import cpu_s, groups
from toolkit.frames import concat_metrics
from toolkit.tuning import Workload, simulate_runs

SETTINGS = [(size, workers) for size in (10, 20, 50, 100, 200, 500) for workers in (1, 2, 3, 4)]

SETUP = """
import os, time
import ipywidgets as w
from IPython.display import display
from tests.benchmarks.bench_explorer import history
from toolkit.notebook import explore
from toolkit.tuning import Recommender
frame = history(5_000)
model = Recommender().fit(frame)
print(os.getpid())
"""
EXPLORER = "explorer = explore(model, n_items=20_000)\nexplorer"
ECHO = """
slider, leaf = w.SelectionSlider(options=[str(i) for i in range(30)], value="10"), w.HTML("10")
leaf.add_class("tk-echo")
slider.observe(lambda change: setattr(leaf, "value", f"<b>{change.new}</b>"), "value")
box = w.VBox([slider, leaf])
box.add_class("tk-echo-box")
box
"""
ALONE = """
took = []
for n in (10_000, 20_000, 50_000) * 5:
    begin = time.perf_counter()
    model.recommend(n_items=n, max_workers=explorer.controls["max_workers"].value)
    took.append(time.perf_counter() - begin)
print(1e3 * sorted(took)[len(took) // 2])
"""
# From the key that moves a slider, or from the change of a choice: keys in its open list are not the page's, and what
# opening that took is not the answer's.
WATCH = """(selector) => {
  window.__took = []; window.__pressed = 0; window.__seen = () => null;
  for (const kind of ['keydown', 'change'])
    document.addEventListener(kind, () => { window.__pressed = performance.now(); }, true);
  new MutationObserver(() => { if (window.__pressed) {
      const pressed = window.__pressed; window.__pressed = 0;
      requestAnimationFrame(() => { window.__took.push(performance.now() - pressed); window.__seen(); }); } })
    .observe(document.querySelector(selector), {childList: true, subtree: true, characterData: true});
}"""


def history(rows: int) -> pd.DataFrame:
    """At least `rows` metric rows: one task at 24 settings, again and again."""
    workload = Workload(name="docs.classify", per_item_s=0.002, per_batch_s=0.03)
    parts: list[pd.DataFrame] = []
    while sum(len(part) for part in parts) < rows:
        part = simulate_runs(workload, 2_000, SETTINGS, seed=len(parts))
        again, later = f"-{len(parts)}", pd.Timedelta(days=len(parts))
        part["run_id"] = part["run_id"].cat.rename_categories(
            [f"{known}{again}" for known in part["run_id"].cat.categories]
        )
        parts.append(part.assign(claimed_at=part["claimed_at"] + later))
    return concat_metrics(parts)


OPEN_AND_NEXT = ("Space", "ArrowDown", "Enter")
"""In the list of a choice: JupyterLab takes arrows for itself until it is open."""

LOOKS_MS = 200
"""Pause before a move: nobody is quicker who has seen what the one before it came to."""

OPEN_AND_JUMP = ("Space", "ArrowDown", "ArrowDown", "Enter")
"""What an explorer does not look ahead for, as it does for a step further."""


def _moves(page: Any, control: Any, selector: str, moves: int, keys: tuple[str, ...]) -> list[float]:
    """Move a control from its first value on by keys; return the milliseconds from its change to that of the answer.

    Every move asks something that was not asked before, and who moves looks at the answer first.
    """
    control.focus()
    if control.locator("option").count():
        control.select_option(index=0)
    else:
        page.keyboard.press("Home")
    page.wait_for_timeout(2_000)  # what that asks is answered
    page.evaluate(WATCH, selector)
    for _ in range(moves):
        page.wait_for_timeout(LOOKS_MS)
        page.evaluate("() => { window.__wait = new Promise(seen => { window.__seen = seen; }); return null; }")
        for key in keys:
            page.keyboard.press(key)
        page.evaluate("() => window.__wait.then(() => null)")  # asks the page nothing while it works
    return [float(value) for value in page.evaluate("() => window.__took")]


def _shares(kernel_pid: int, moves: int, move: Callable[[], list[float]]) -> tuple[list[float], str]:
    """Move a control; return what it returns, and the processor time that a move took in each process, in words.

    Also on a machine that is busy with other things, this says where the time goes.
    """
    parts = groups(kernel_pid)
    before = {name: cpu_s(processes) for name, processes in parts.items()}
    took = move()
    spent = {name: 1e3 * (cpu_s(processes) - before[name]) / moves for name, processes in parts.items()}
    return took, ", ".join(f"{name} {value:.0f} ms" for name, value in spent.items())


def _line(words: str, took: list[float], goal: str = "") -> None:
    tenths = quantiles(took, n=10)
    print(f"{words:<52} median {median(took):7.0f} ms   9 of 10 within {tenths[-1]:7.0f} ms   {goal}")


def sliders(moves: int) -> None:
    """Measure in a browser."""
    from tests.acceptance import browser as recipe

    path = recipe.find_chromium()
    if path is None:
        print("no Chromium: the part in a browser is left out")
        return
    recipe.START_S = 300.0
    with (
        tempfile.TemporaryDirectory(prefix="tk-bench-") as home,
        recipe.jupyter_lab(Path(home), {}) as lab,
        recipe.chromium(path) as chromium,
    ):
        lab.write("bench.ipynb", [SETUP, EXPLORER, ECHO, ALONE])
        notebook = recipe.NotebookPage(chromium.new_page(viewport={"width": 1200, "height": 1600}), lab, "bench.ipynb")
        for cell in range(4):
            notebook.run(cell)
        page = notebook.page
        explorer, echo = page.locator(".tk-tuning-explorer"), page.locator(".tk-echo-box")
        _line("echo of a slider", _moves(page, echo.get_by_role("slider"), ".tk-echo", moves, ("ArrowRight",)))
        items = explorer.get_by_label("Items", exact=True)
        kernel_pid = int(notebook.output(0).inner_text().split()[-1])
        took, spent = _shares(
            kernel_pid, moves, lambda: _moves(page, items, ".tk-tuning-explorer .tk-answer", moves, OPEN_AND_NEXT)
        )
        _line("a step of items to the recommendation, 5,000 rows", took, "goal 150 ms")
        print(f"{'processor time of a move, the keys included':<52} {spent}")
        jumps = _moves(page, items, ".tk-tuning-explorer .tk-answer", moves // 2, OPEN_AND_JUMP)
        _line("a jump over a step, for which nothing was known", jumps, "goal 150 ms")
        print(f"{'the model alone, in the kernel':<52} median {float(notebook.output(3).inner_text()):7.0f} ms")
        notebook.close()


def figures(rows: int) -> None:
    """Measure how long figures take, from rows to PNG."""
    from toolkit import notebook as n

    few = history(5_000)
    times = -(-rows // len(few))
    many = pd.concat([few] * times, ignore_index=True).iloc[:rows]
    many = many.assign(service_s=many["service_s"] * np.random.default_rng(0).lognormal(0, 0.2, len(many)))
    longest = pd.concat([few] * -(-100_000 // len(few)), ignore_index=True).iloc[:100_000]
    longest = longest.assign(
        run_id=pd.Categorical(["one"] * len(longest)),
        claimed_at=longest["claimed_at"].iloc[0] + pd.to_timedelta(np.arange(len(longest)) * 0.05, unit="s"),
    )
    makers: dict[str, Callable[[], Any]] = {
        f"throughput against batch size, {rows:,} rows": lambda: n.Relation.from_metrics(many),
        f"service times, {rows:,} rows": lambda: n.ServiceTimes.from_metrics(many),
        f"where the time goes, {rows:,} rows": lambda: n.TimeBreakdown.from_metrics(many),
        f"errors, {rows:,} rows": lambda: n.ErrorCounts.from_metrics(many),
        "timeline of one run, 100,000 batches": lambda: n.Timeline.from_metrics(longest),
    }
    for words, make in makers.items():
        took = []
        for _ in range(3):
            begin = time.perf_counter()
            make().png()
            took.append(1e3 * (time.perf_counter() - begin))
        goal = "goal 2,000 ms" if words.startswith("timeline") else ""
        print(f"{words:<52} median {median(took):7.0f} ms   {goal}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--moves", type=int, default=18, help="moves of a slider, at most 20; 0 leaves the browser out")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the figures, 0 leaves them out")
    given = parser.parse_args()
    if given.moves:
        sliders(given.moves)
    if given.rows:
        figures(given.rows)


if __name__ == "__main__":
    main()
