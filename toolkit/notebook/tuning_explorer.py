"""The tuning explorer: sliders for what is asked, and at once what the model answers.

The widgets only draw. `toolkit.notebook.advice` asks and formats; a thread answers, so that a slider that moves never
waits for the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from toolkit.errors import TuningError
from toolkit.notebook import advice, escape, folds, leaves
from toolkit.notebook.advice import Answer, Question
from toolkit.notebook.latest import Latest
from toolkit.notebook.outputs import Beside, put
from toolkit.notebook.sheet import fits

if TYPE_CHECKING:
    from toolkit.tuning import Recommendation, Recommender

SCOPE: Final = "tk-tuning-explorer"

# An element that is not visible is no stop of the keyboard and unknown to a screen reader; what is in it may be seen.
LOOKS: Final = (
    f"<style>{fits(SCOPE)}.{SCOPE} .noUi-handle{{visibility:hidden}}"
    f".{SCOPE} .noUi-touch-area{{visibility:visible;box-sizing:border-box;border-radius:50%;cursor:ew-resize;"
    "background:var(--jp-layout-color1,#fff);border:1px solid var(--jp-border-color1,#8888)}"
    f".{SCOPE} .noUi-touch-area:hover{{background:var(--jp-brand-color1,{leaves.BLUE})}}"
    # Where the map scrolls, its worker counts stay.
    f".{SCOPE} th[scope=row]{{position:sticky;left:0;background:var(--jp-layout-color0,#fff)}}</style>"
)
"""Looks of the explorer; takes the nameless handles of sliders out of the order of tabs and of the accessible tree."""

_LABEL: Final = {"description_width": "115px"}
_SECTION: Final = {"wrong": advice.wrong_html, "why": advice.why_html}
_SECTIONS: Final = tuple(_SECTION)


class TuningExplorer:
    """Sliders and the recommendation that follows them.

    Parameters
    ----------
    model : Recommender
        Fitted.
    task : str, optional
        The task to begin with; by default the first that the model knows.
    n_items : int
        The number of items to begin with.

    Attributes
    ----------
    answer : Answer
        The latest answer.
    recommendation : Recommendation or None
        Its recommendation, for ``client.map(task, items, **explorer.recommendation.kwargs())``.

    Raises
    ------
    TuningError
        The model is not fitted, or does not know the task.
    ImportError
        ipywidgets is not installed.
    """

    def __init__(self, model: Recommender, task: str | None = None, n_items: int = 10_000) -> None:
        import ipywidgets as w

        tasks = tuple(getattr(model, "tasks_", ()))
        if not tasks:
            raise TuningError("explore: the model knows no task; fit it with the metric rows of some runs first")
        if task is not None and task not in tasks:
            raise TuningError(f"explore: the model does not know task {task!r}; it knows {', '.join(tasks)}")
        self.model = model
        self._latest: Latest[Question] = Latest(self._answer_now, self._keep, spare=self._look_ahead)
        self.sliders: dict[str, Any] = {}
        named = [(escape.plain(name, 80), name) for name in tasks]
        self.controls: dict[str, Any] = {
            "task": w.Dropdown(options=named, value=task or tasks[0], description="Task", style=_LABEL, layout=_row(w)),
            "n_items": self._slider(w, "n_items", "Items", advice.item_choices(n_items), n_items),
            "objective": w.Dropdown(
                options=advice.OBJECTIVES, description="Objective", style=_LABEL, layout=_row(w)
            ),
            "max_workers": self._slider(w, "max_workers", "Most workers", (("1", 1),), 1),
            "max_worker_memory_bytes": self._slider(
                w, "max_worker_memory_bytes", "Memory a worker", advice.MEMORIES, 0
            ),
            "deadline_s": self._slider(w, "deadline_s", "Deadline", advice.DEADLINES, 0.0),
            "risk": self._slider(w, "risk", "Risk to miss it", advice.RISKS, advice.USUAL_RISK),
        }  # fmt: skip
        names = ("answer", "map", "wrong", "why")
        self.leaves = {
            name: w.HTML(layout=w.Layout(margin="0", max_width="100%", overflow="auto hidden")) for name in names
        }
        self.more = folds.Folds(
            ("What it would cost to be wrong", "Why, and how sure"), [self.leaves[name] for name in _SECTIONS],
            lambda: self._changed(None),
        )  # fmt: skip
        self.button = w.Button(
            description="Show as code", icon="code", tooltip="The client.map call that follows this advice",
            layout=w.Layout(width="auto"),
        )  # fmt: skip
        self.code = w.Textarea(
            description="Code", rows=2, disabled=False, style={"description_width": "45px"},
            layout=w.Layout(width="auto", max_width="640px", display="none"),
        )  # fmt: skip
        self.box = self._arrange(w)
        self._set_workers()
        self.answer = advice.ask(model, self.question)
        self._before = self.answer.question
        self._ahead: tuple[Any, Answer] | None = None
        self._draw()
        self._draw_sections(range(len(_SECTIONS)))
        self._beside = Beside(self.box)
        for name, control in self.controls.items():
            control.observe(self._task_changed if name == "task" else self._changed, names="value")
        self.button.on_click(self._show_code)

    def _slider(self, w: Any, name: str, words: str, options: Any, value: Any) -> Any:
        """Make a choice that has a slider beside it; the browser keeps the two alike.

        The choice is the slider's readout, and what keyboard and screen reader use: a native element with a name. The
        handle of a slider of ipywidgets can have no name, so `LOOKS` makes it something for pointers alone.
        """
        choice = w.Dropdown(
            options=options, value=value, description=words, style=_LABEL,
            layout=w.Layout(flex="0 1 225px", width="auto", min_width="0"),
        )  # fmt: skip
        slider = w.SelectionSlider(
            options=options,
            value=value,
            readout=False,
            layout=w.Layout(flex="1 1 100px", width="auto", min_width="80px"),
        )
        w.jslink((slider, "index"), (choice, "index"))
        self.sliders[name] = slider
        return choice

    def _arrange(self, w: Any) -> Any:
        line = w.Layout(align_items="center", flex_flow="row wrap")
        rows = [
            w.HBox([control, self.sliders[name]], layout=line) if name in self.sliders else control
            for name, control in self.controls.items()
        ]
        left = w.VBox(rows, layout=w.Layout(flex="0 1 400px", min_width="min(280px, 100%)", overflow="hidden"))
        right = w.VBox(
            [self.leaves["answer"], w.HBox([self.button]), self.code],
            layout=w.Layout(flex="1 1 320px", min_width="min(280px, 100%)"),
        )
        top = w.HBox(
            [left, right], layout=w.Layout(flex_flow="row wrap", grid_gap="8px 24px", align_items="flex-start")
        )
        title = w.HTML(f'{LOOKS}{folds.STYLE}<div style="{leaves.FONT};font-size:15px"><b>Tuning explorer</b></div>')
        box = w.VBox(
            [title, top, self.leaves["map"], self.more.box],
            layout=w.Layout(border="1px solid #8888", padding="10px 14px", max_width="980px", overflow="hidden"),
        )
        box.add_class(SCOPE)
        self.leaves["answer"].add_class("tk-answer")
        return box

    # ------------------------------------------------------------------ what is asked

    @property
    def question(self) -> Question:
        """What the controls ask."""
        return Question(**{name: control.value for name, control in self.controls.items()})

    @property
    def recommendation(self) -> Recommendation | None:
        """The latest answer's recommendation."""
        return self.answer.recommendation

    def _set_workers(self) -> None:
        """Offer as many workers as were measured, and as many again, which the map shows as extrapolated."""
        evidence = self.model.recommend(self.controls["task"].value, n_items=1).evidence
        most = max(evidence.get("workers") or [1])
        for widget in (self.sliders["max_workers"], self.controls["max_workers"]):
            widget.options = [(f"{n:,}", n) for n in _counts(2 * most)]
            widget.value = most

    def _task_changed(self, _change: Any) -> None:
        self._set_workers()
        self._changed(None)

    def _changed(self, _change: Any) -> None:
        self._latest.ask(self.question)

    def _show_code(self, _button: Any) -> None:
        self.code.layout.display = None
        self.code.value = advice.code(self.answer)

    # ------------------------------------------------------------------ on the answering thread

    def _answer_now(self, question: Question) -> None:
        if question != self.answer.question:  # else a section was opened
            self._before = self.answer.question
            self.answer = self._known(question) or advice.ask(self.model, question)
        self._draw()

    def _known(self, question: Question) -> Answer | None:
        """The answer that was looked ahead for, if it is to this question and of the model as it is fitted now."""
        fitted, answer = self._ahead or (None, None)
        return answer if answer and answer.question == question and fitted is self.model.models_ else None

    def _look_ahead(self) -> None:
        """Ask the model while nobody waits for it: a slider that goes on by a step then has its answer at once."""
        choices = {name: [value for _, value in self.controls[name].options] for name in self.sliders}
        question = advice.next_question(self._before, self.answer.question, choices)
        if question is not None and self._known(question) is None:
            self._ahead = self.model.models_, advice.ask(self.model, question)

    def _draw(self) -> None:
        """Send what changed; what a closed section holds follows when the controls rest, and delays no answer."""
        answer = self.answer
        for widget in (self.controls["risk"], self.sliders["risk"]):
            widget.disabled = not answer.question.deadline_s
        put(self.leaves["answer"], advice.answer_html(answer))
        put(self.leaves["map"], advice.map_html(answer))
        self._draw_sections(self.more.opened)
        if self.code.value:
            self.code.value = advice.code(answer)

    def _draw_sections(self, places: Iterable[int]) -> None:
        for name in (_SECTIONS[place] for place in places):
            put(self.leaves[name], _SECTION[name](self.answer))

    def _keep(self) -> None:
        self._draw_sections(range(len(_SECTIONS)))
        self._beside.update(advice.static_html(self.answer), advice.plain_text(self.answer))

    # ------------------------------------------------------------------ showing

    def _ipython_display_(self) -> None:
        self._beside.show(advice.static_html(self.answer), advice.plain_text(self.answer))

    def __repr__(self) -> str:
        return f"<TuningExplorer: {advice.plain_text(self.answer)}>"


def _row(w: Any) -> Any:
    """Layout of a control that takes the width that there is."""
    return w.Layout(width="auto", max_width="420px")


def _counts(most: int) -> list[int]:
    """Worker counts to choose from: all of few, else a selection by ratio."""
    if most <= 32:
        return list(range(1, most + 1))
    steps = {round(most ** (i / 31)) for i in range(32)} | {most, most // 2}
    return sorted(steps)
