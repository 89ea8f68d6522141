"""How every figure looks, and what every figure can do: colours, axes, and the base of the display objects.

Only matplotlib's object API is used: pyplot keeps global state, and its windows, that a library must leave alone.
"""

from __future__ import annotations

import base64
import io
import textwrap
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from toolkit.errors import InvalidInput
from toolkit.notebook import escape
from toolkit.notebook import format as fmt
from toolkit.notebook.svg import LEAST_PX, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito, "Color Universal Design" (2008): distinct to every kind of colour vision. Each also differs in
# lightness or hatch from its neighbours in a figure, so a print in grey can be read.
BLUE: Final = "#0072b2"
SKY: Final = "#56b4e9"
GREEN: Final = "#009e73"
ORANGE: Final = "#e69f00"
VERMILLION: Final = "#d55e00"
PURPLE: Final = "#cc79a7"

SERIES: Final[tuple[tuple[str, Any, str], ...]] = (
    (BLUE, "-", "o"), (VERMILLION, (0, (5, 2)), "s"), (GREEN, (0, (1, 1.5)), "^"), (ORANGE, (0, (7, 2, 1.5, 2)), "D"),
    (PURPLE, (0, (3, 1.5)), "v"), (SKY, (0, (9, 3)), "X"),
)  # fmt: skip
"""Colour, dash and marker of the groups of a figure: any one of them tells the groups apart."""

INK: Final = "#1b1f24"
"""Text, axes and marks; becomes the text colour of the page where a figure is inlined."""

GRID: Final = "#d3d7dc"
"""Lines behind the data."""

PAPER: Final = "#fefefe"
"""The ground; becomes the ground of the page where a figure is inlined."""

_WIDTH: Final = 7.6


def new_axes(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the usual width and of `height` inches with one pair of axes, outside of pyplot."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def dress(axes: Axes, finding: str, x_label: str, y_label: str, grid: str = "y") -> None:
    """Give axes their title, which states the finding, their labels, and the common look."""
    axes.set_title(
        "\n".join(escape.figure(line, 80) for line in _even_lines(escape.plain(finding, 400))),
        loc="left",
        fontsize=10.5,
        color=INK,
        fontweight="bold",
        pad=9,
    )
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.tick_params(colors=INK, labelsize=8.5, length=3)
    axes.patch.set_alpha(0.0)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    axes.set_axisbelow(True)
    if grid:
        axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.6)  # type: ignore[arg-type]  # one of x, y, both


def _even_lines(text: str, most: int = 76) -> list[str]:
    """Break a title into as few lines as it needs, about equally long, so that no word stands alone on the last."""
    lines = textwrap.wrap(text, most)
    evenly = (textwrap.wrap(text, width) for width in range(max(1, len(text) // max(1, len(lines))), most))
    return next((even for even in evenly if len(even) == len(lines)), lines)


def log_ticks(axes: Axes, low: float, high: float, axis: str = "x") -> None:
    """Label a logarithmic axis with plain numbers at powers of ten, or at 1, 2 and 5 where the range is short."""
    low, high = max(low, 1e-6), max(high, 1e-6)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1,) if np.log10(high / low) > 4 else (1, 2, 5)
    places = [s * 10.0**p for p in powers for s in steps if low / 1.1 <= s * 10.0**p <= high * 1.1]
    if len(places) < 3:  # less than a factor of five: an even scale is as good as a logarithmic one
        places = [place for place in MaxNLocator(5).tick_values(low, high) if low <= place <= high]
    which = axes.xaxis if axis == "x" else axes.yaxis
    which.set_major_locator(FixedLocator(places))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(FuncFormatter(lambda value, _: fmt.number(value)))


def legend(axes: Axes, columns: int = 4) -> None:
    """Add the legend below the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure: Any = axes.figure
        box = figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=8.5, frameon=False)
        for text in box.get_texts():
            text.set_color(INK)


def empty(axes: Axes, why: str) -> None:
    """Say in an empty figure why there is nothing to see."""
    axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=10, color=INK, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


_PICTURE: Final = "background-color:#ffffff;border-radius:6px;padding:8px 8px 2px;overflow-x:auto"


class Display:
    """Base of the display objects: data attributes, `plot`, and pictures of it.

    A subclass holds plain values, says its `finding` and its `caption`, and draws itself on axes.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Where `plot` drew last; set by `plot`.
    """

    height: ClassVar[float] = 3.4
    ax_: Axes
    figure_: Any

    def __new__(cls, *values: Any, **_named: Any) -> Self:
        """Refuse what the values are to be taken from in the place of the values, and say which method takes them."""
        if values and any(hasattr(values[0], name) for name in ("columns", "metrics", "recommend", "grid")):
            ways = [f"{cls.__name__}.{name}(...)" for name in dir(cls) if name.startswith("from_")]
            given = type(values[0]).__name__
            raise InvalidInput(f"{cls.__name__}({given}): a figure is made by {' or '.join(ways)}")
        return super().__new__(cls)

    def finding(self) -> str:
        """Return what the figure shows, in one sentence without a full stop; it is the title."""
        raise NotImplementedError

    def caption(self) -> str:
        """Return what a reader who does not see the figure has to know; it is the alternative text."""
        raise NotImplementedError

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        raise NotImplementedError

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw on `ax`, or on new axes of a figure outside of pyplot.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        Display
            The object itself, with `ax_` and `figure_` set.
        """
        axes = new_axes(self.height)[1] if ax is None else ax
        self.draw(axes)
        self.ax_, self.figure_ = axes, axes.figure
        return self

    def figure(self) -> Figure:
        """Return a new figure of its own."""
        figure, axes = new_axes(self.height)
        self.draw(axes)
        return figure

    def png(self, dpi: int = 144) -> bytes:
        """Return the figure as PNG on white, legible on a dark page as well."""
        figure, buffer = self.figure(), io.BytesIO()
        figure.set_dpi(dpi)
        figure.set_facecolor("#ffffff")
        # Not by `savefig`, which draws a figure twice: first for the layout, which drawing settles anyway.
        canvas: Any = FigureCanvasAgg(figure)  # untyped in matplotlib
        canvas.print_png(buffer)
        return buffer.getvalue()

    def svg(self, ident: str) -> str:
        """Return the figure as inline SVG whose ids begin with `ident`; its text takes the colour of the page."""
        return inline_svg(self.figure(), ident, title=self.finding(), description=self.caption())

    def html(self) -> str:
        """Return picture and caption as HTML that survives saving and the sanitiser of an untrusted notebook."""
        # An image element with a data address survives the sanitiser of an untrusted notebook; inline SVG does not.
        picture = base64.b64encode(self.png()).decode("ascii")
        words = escape.html(self.caption(), 2000)
        return (
            f'<div style="max-width:760px"><div style="{_PICTURE}">'
            f'<img alt="{words}" style="width:100%;min-width:{LEAST_PX}px" src="data:image/png;base64,{picture}"></div>'
            f'<div style="font-size:12px;opacity:.8;padding:4px 0">{words}</div></div>'
        )

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.finding()}>"
