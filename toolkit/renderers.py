"""How handles and results are drawn, filled in by the rooms above.

A room below the notebook never imports it; it asks here. The package's front door registers the notebook's
renderers, which import their drawing libraries only when called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_renderers: dict[str, Callable[..., Any]] = {}


def register(name: str, renderer: Callable[..., Any]) -> None:
    """Make `renderer` the one for `name`; the last registration wins."""
    _renderers[name] = renderer


def get(name: str) -> Callable[..., Any] | None:
    """Return the renderer for `name`, or None when no room above supplied one."""
    return _renderers.get(name)
