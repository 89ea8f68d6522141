"""Modules of the user's own that a worker has loaded, and whether their files have been edited since."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Final

Stamp = tuple[int, int, int]

_NEVER: Final = (-1, -1, -1)
_NAMES: Final = frozenset(("__main__", "__mp_main__", "toolkit")) | sys.stdlib_module_names
_INSTALLED: Final = frozenset(("site-packages", "dist-packages"))
_ENVIRONMENT: Final = frozenset(
    os.path.realpath(place)
    for place in (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
)


class Modules:
    """Forgets the user's modules once a file of theirs has been edited, so that who needs them next imports them anew.

    All are forgotten together: one that was not edited may hold functions of one that was. What was made of them
    before, such as the task of a run that goes on, keeps the old ones.

    The user's own are modules loaded since this object was made, from a source file outside the Python environment.

    Attributes
    ----------
    edition : int
        How often they were forgotten.
    """

    def __init__(self) -> None:
        self.edition = 0
        self._known = set(sys.modules)
        self._stamps: dict[str, tuple[str, Stamp]] = {}
        self._doubted: dict[str, Stamp] = {}
        self._looked_at_ns = time.time_ns()

    def look(self) -> None:
        """Note the modules that were loaded since the last look, with their files as they are."""
        now_ns = time.time_ns()
        for name in set(sys.modules) - self._known:
            module = sys.modules.get(name)
            path = own_file(name, module) if isinstance(module, ModuleType) else None
            if path is not None:
                self._stamps[name] = (path, self._stamp_loaded(path))
        self._known.update(sys.modules)
        self._looked_at_ns = now_ns

    def _stamp_loaded(self, path: str) -> Stamp:
        """The stamp of what was loaded from a file; one that no file has where it may have been edited meanwhile.

        Doubted only once: what is loaded anew and finds the same stamp was loaded from what has it. A time in the
        future, of a file server's clock or an archive, would be doubted for ever.
        """
        stamp = _stamp(path)
        if stamp[0] <= self._looked_at_ns or self._doubted.get(path) == stamp:
            return stamp
        self._doubted[path] = stamp
        return _NEVER

    def edited(self) -> bool:
        """Whether the file of one of the user's modules has been edited since that was loaded."""
        self.look()
        return any(path and _stamp(path) != stamp for path, stamp in self._stamps.values())

    def renew(self) -> bool:
        """Forget the user's modules if one was `edited`; returns whether."""
        if not self.edited():
            return False
        for name in self._stamps:
            sys.modules.pop(name, None)
        self._known.difference_update(self._stamps)
        self._stamps.clear()
        importlib.invalidate_caches()
        self.edition += 1
        return True


def own_file(name: str, module: ModuleType) -> str | None:
    """The source file of a module of the user's own, empty for a package without one; None for any other module."""
    if name.partition(".")[0] in _NAMES:
        return None
    values: dict[str, Any] = vars(module)
    file = values.get("__file__")
    if isinstance(file, str):
        return file if file.endswith(".py") and not _in_environment(file) else None
    try:
        places = [str(place) for place in values.get("__path__") or ()]
    except Exception:  # noqa: BLE001 - whatever else calls itself a package
        return None
    return "" if places and not any(map(_in_environment, places)) else None


def _in_environment(path: str) -> bool:
    found = Path(os.path.realpath(path))
    return not _INSTALLED.isdisjoint(found.parts) or any(found.is_relative_to(place) for place in _ENVIRONMENT)


def _stamp(path: str) -> Stamp:
    try:
        found = Path(path).stat()
    except OSError:
        return _NEVER
    return found.st_mtime_ns, found.st_size, found.st_ino
