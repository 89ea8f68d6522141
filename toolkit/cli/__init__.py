"""The same verbs from a shell: ``toolkit doctor``, ``toolkit runs``, ``toolkit status`` and more."""

from toolkit.cli.main import main

__all__ = ["main"]
