"""Editions of the user's own modules in a worker: which is in place, and whether the files have been edited since."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import time
from collections.abc import Collection
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
    """Takes the user's modules out of ``sys.modules`` once a file of theirs has been edited.

    Who needs them next imports them anew: the next edition. All go together: one that was not edited may hold functions
    of one that was. What was made of them before, such as the task of a run that goes on, keeps the old ones; and since
    it looks things up by name, too (pickle does, or an import in a function), its edition can be put in place again.

    The user's own are modules loaded since this object was made, from a source file outside the Python environment.
    What is imported while an edition is in place belongs to it. Others, such as C extensions, are shared by all.

    A process has one ``sys.modules``: threads of it that serve several editions at once share the one in place.

    Attributes
    ----------
    edition : int
        The newest edition: how often modules were taken out.
    placed : int
        The edition that is in place.
    """

    def __init__(self) -> None:
        self.edition = 0
        self.placed = 0
        self._known = set(sys.modules)
        self._own: set[str] = set()  # of the edition in place
        self._aside: dict[int, dict[str, ModuleType]] = {}  # of editions that are not
        self._stamps: dict[str, tuple[str, Stamp]] = {}  # of the newest edition
        self._doubted: dict[str, Stamp] = {}
        self._looked_at_ns = time.time_ns()

    @property
    def several(self) -> bool:
        """Whether there are editions beside the one in place."""
        return bool(self._aside)

    def look(self) -> None:
        """Note the modules that were loaded since the last look, with their files as they are."""
        now_ns = time.time_ns()
        for name in set(sys.modules) - self._known:
            module = sys.modules.get(name)
            path = own_file(name, module) if isinstance(module, ModuleType) else None
            if path is None:
                continue
            self._own.add(name)
            if self.placed == self.edition:
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
        """Whether the file of one of the user's modules has been edited since the newest edition loaded it."""
        self.look()
        return any(path and _stamp(path) != stamp for path, stamp in self._stamps.values())

    def renew(self) -> bool:
        """Begin another edition if a module was `edited`, and put that in place; returns whether."""
        if not self.edited():
            return False
        self._take_out()
        self._stamps.clear()
        importlib.invalidate_caches()
        self.edition += 1
        self.placed = self.edition
        return True

    def place(self, edition: int) -> None:
        """Put an edition in place; one that was dropped is as empty as a new one."""
        if edition == self.placed:
            return
        self.look()  # what came meanwhile belongs to the edition that is in place until now
        self._take_out()
        found = self._aside.pop(edition, {})
        sys.modules.update(found)
        for name, module in found.items():
            if name.rpartition(".")[0] not in found:
                _tell_parent(name, None, module)
        self._own.update(found)
        self._known.update(found)
        self.placed = edition

    def drop(self, used: Collection[int]) -> bool:
        """Let go of the editions that are neither in `used` nor the newest; returns whether there was one.

        One that is in place makes room for the newest.
        """
        used = {self.edition, *used}
        if self.placed not in used:
            self.place(self.edition)
        unused = self._aside.keys() - used
        for edition in unused:
            del self._aside[edition]
        return bool(unused)

    def _take_out(self) -> None:
        out = self._aside[self.placed] = {
            name: module for name in self._own if (module := sys.modules.pop(name, None)) is not None
        }
        for name, module in out.items():
            _tell_parent(name, module, None)
        self._known -= self._own
        self._own.clear()


def _tell_parent(name: str, old: ModuleType | None, new: ModuleType | None) -> None:
    """Change the attribute of a package that belongs to no edition, as one that an environment shares with the user."""
    package, _, child = name.rpartition(".")
    parent = sys.modules.get(package)
    if not isinstance(parent, ModuleType) or vars(parent).get(child) is not old:
        return
    if new is None:
        delattr(parent, child)
    else:
        setattr(parent, child, new)


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
