"""The metrics explorer: pick task, runs and axes, and see the rows condensed to one figure.

The widgets only draw: `toolkit.notebook.picking` narrows and formats, on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from toolkit.errors import InvalidInput, ToolkitError
from toolkit.notebook import escape, folds, leaves, picking
from toolkit.notebook.latest import Latest
from toolkit.notebook.outputs import Beside
from toolkit.notebook.picking import VIEWS, Pick
from toolkit.notebook.relation import AXES, GROUPS, MEASURES
from toolkit.notebook.sheet import fits

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.notebook.theme import Display

SCOPE: Final = "tk-metrics-explorer"
_LABEL: Final = {"description_width": "80px"}


class MetricsExplorer:
    """Figures of metric rows, for the task, runs and axes that are picked.

    Parameters
    ----------
    load : callable
        Returns the metric rows: `Client.metrics`, `Run.metrics`, or a function that gives a frame that is there.
    live : bool
        There may be more rows later: adds a button that loads them again.
    task : str, optional
        The task to begin with; by default that of the latest batch. Empty for all.

    Attributes
    ----------
    frame : DataFrame
        All rows that were loaded.
    rows : DataFrame
        Those that are shown.
    display : Display
        The figure that is shown.

    Raises
    ------
    InvalidInput
        The frame holds no metric rows, or none of this task.
    ImportError
        ipywidgets is not installed.
    """

    def __init__(self, load: Callable[[], pd.DataFrame], *, live: bool = False, task: str | None = None) -> None:
        import ipywidgets as w

        self._load = load
        self.frame = picking.check_frame(load())
        if task and task not in picking.tasks_of(self.frame):
            known = ", ".join(picking.tasks_of(self.frame)) or "none"
            raise InvalidInput(f"explore: no metric rows of task {task!r}; there are some of: {known}")
        self._latest: Latest[Pick] = Latest(self._show_pick, self._keep)
        wide = w.Layout(width="auto")

        def choice(words: str, options: list[tuple[str, str]], value: str) -> Any:
            return w.Dropdown(options=options, value=value, description=words, style=_LABEL, layout=wide)

        self.controls: dict[str, Any] = {
            "task": choice("Task", self._tasks(), picking.latest_task(self.frame) if task is None else task),
            "runs": w.SelectMultiple(options=[], description="Runs", rows=6, style=_LABEL, layout=wide),
            "view": choice("Show", [(words, key) for key, (words, _) in VIEWS.items()], "relation"),
            "measure": choice("Measure", [(m.words, key) for key, m in MEASURES.items()], "rate"),
            "axis": choice("Against", [(a.words, key) for key, a in AXES.items()], "batch_size"),
            "by": choice("Told apart", [(words, key) for key, words in GROUPS.items()], "workers"),
        }
        self.leaves = {
            name: w.HTML(layout=w.Layout(margin="0", max_width="100%", overflow="auto hidden"))
            for name in ("summary", "figure", "runs")
        }
        self.more = folds.Folds(("Runs as a table",), [self.leaves["runs"]])
        self.button = w.Button(
            description="Load again", icon="refresh", tooltip="Read the rows that were recorded since",
            layout=w.Layout(width="auto", display=None if live else "none"),
        )  # fmt: skip
        self.box = self._arrange(w)
        self._offer_runs()
        self.pick = self._picked()
        self.rows, self.display = self._look(self.pick)
        self._draw()
        self._beside = Beside(self.box)
        for name, control in self.controls.items():
            control.observe(self._task_changed if name == "task" else self._changed, names="value")
        self.button.on_click(self._load_again)

    def _arrange(self, w: Any) -> Any:
        # Two columns of controls above the figure, which needs the whole width to be legible; one where it is narrow.
        column = w.Layout(flex="1 1 300px", min_width="min(260px, 100%)", max_width="430px", overflow="hidden")
        which = [self.controls["task"], self.controls["runs"], self.button]
        what = [self.controls[name] for name in ("view", "measure", "axis", "by")]
        top = w.HBox(
            [w.VBox(which, layout=column), w.VBox(what, layout=column)],
            layout=w.Layout(flex_flow="row wrap", grid_gap="0 16px", align_items="flex-start"),
        )
        looks = f"<style>{fits(SCOPE)}</style>{folds.STYLE}"
        title = w.HTML(f'{looks}<div style="{leaves.FONT};font-size:15px"><b>Metrics explorer</b></div>')
        box = w.VBox(
            [title, top, self.leaves["summary"], self.leaves["figure"], self.more.box],
            layout=w.Layout(border="1px solid #8888", padding="10px 14px", max_width="980px", overflow="hidden"),
        )
        box.add_class(SCOPE)
        return box

    # ------------------------------------------------------------------ what is picked

    def _tasks(self) -> list[tuple[str, str]]:
        return [("all tasks", ""), *((escape.plain(name, 80), name) for name in picking.tasks_of(self.frame))]

    def _offer_runs(self) -> None:
        """List the runs of the task; those that were picked stay picked."""
        control = self.controls["runs"]
        options = picking.run_choices(self.frame, self.controls["task"].value)
        kept = [run_id for run_id in control.value if any(run_id == known for _, known in options)]
        control.options = options
        control.value = kept

    def _picked(self) -> Pick:
        values = {name: control.value for name, control in self.controls.items()}
        return Pick(**{**values, "runs": tuple(values["runs"])})

    def _task_changed(self, _change: Any) -> None:
        self._offer_runs()
        self._changed(None)

    def _changed(self, _change: Any) -> None:
        for name in ("measure", "axis", "by"):
            self.controls[name].disabled = self.controls["view"].value != "relation"
        self._latest.ask(self._picked())

    def _load_again(self, _button: Any) -> None:
        try:
            self.frame = picking.check_frame(self._load())
        except (ToolkitError, ConnectionError, TimeoutError) as error:
            self.leaves[
                "summary"
            ].value = f'<div style="{leaves.FONT}"><b>Not loaded.</b> {escape.html(error, 300)}</div>'
            return
        picked = self.controls["task"].value
        self.controls["task"].options = self._tasks()
        self.controls["task"].value = picked if picked in picking.tasks_of(self.frame) else ""
        self._task_changed(None)

    # ------------------------------------------------------------------ on the thread that draws

    def _look(self, pick: Pick) -> tuple[pd.DataFrame, Display]:
        rows = picking.narrow(self.frame, pick)
        return rows, picking.display_of(rows, pick)

    def _show_pick(self, pick: Pick) -> None:
        self.rows, self.display = self._look(pick)
        self.pick = pick
        self._draw()

    def _draw(self) -> None:
        self.leaves["summary"].value = picking.summary_html(self.rows, self.pick)
        self.leaves["figure"].value = picking.figure_html(self.display, f"tk{id(self):x}")
        self.leaves["runs"].value = picking.runs_table(self.rows)

    def _keep(self) -> None:
        self._beside.update(self._static(), self._text())

    def _static(self) -> str:
        return picking.static_html(self.rows, self.display, self.pick)

    def _text(self) -> str:
        return escape.plain(self.display.finding(), 400)

    # ------------------------------------------------------------------ showing

    def _ipython_display_(self) -> None:
        self._beside.show(self._static(), self._text())

    def __repr__(self) -> str:
        return f"<MetricsExplorer: {self._text()}>"
