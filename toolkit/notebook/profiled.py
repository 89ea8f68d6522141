"""A flame graph as a figure of the report; `flame` draws it, and needs no matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from toolkit.notebook import escape
from toolkit.notebook.flame import colour, flame_graph, tree, words
from toolkit.notebook.theme import INK, Display, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.client.profile import Profile

_CHARACTERS: Final = 95
"""How many letters fit across the figure."""


class FlameGraph(Display):
    """A profile as a figure of the report.

    Attributes
    ----------
    profile : Profile
        What it shows; see `toolkit.client.Run.profile`.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def finding(self) -> str:
        """Return the path on which most of the time was spent."""
        return words(tree(self.profile.stacks))

    def caption(self) -> str:
        """Return what was sampled, and the path on which most of the time was spent."""
        profile = self.profile
        sampled = f"{profile.samples:,} samples of {profile.batches:,} batches of run {profile.run_id}"
        return f"{self.finding()}. {sampled}: width is time, a function lies on the one that called it."

    def draw(self, axes: Axes) -> None:
        """Draw the same boxes on `axes`, the outermost functions at the bottom."""
        root = tree(self.profile.stacks)
        waiting = [(root, 0.0, 0)]
        while waiting:
            box, x, level = waiting.pop()
            for name, above in box.above.items():
                axes.barh(level, above.samples, 0.95, x, color=colour(name), edgecolor="white")
                room = int(_CHARACTERS * above.samples / root.samples) - 1
                if room >= 3:
                    axes.text(x, level, " " + escape.figure(name, room), va="center", fontsize=8, color=INK)
                waiting.append((above, x, level + 1))
                x += above.samples
        dress(axes, self.finding(), "samples", "", grid="")
        axes.set_xlim(0, max(1, root.samples))
        axes.set_yticks([])

    def svg(self, ident: str) -> str:
        """Return `flame_graph`, which has no names that `ident` would have to keep apart."""
        del ident
        return flame_graph(self.profile)
