"""Put a mutant in the place of the ledger's functions, in memory: ``pytest -p tests.mutants.plugin``.

The environment variable ``LEDGER_MUTANT`` names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.mutants.table import MUTANTS, Mutant
from toolkit.ledger import library

VARIABLE = "LEDGER_MUTANT"
_until_the_end = ExitStack()


class DoesNotApply(Exception):
    """The text that a mutant changes does not stand exactly once in the source any more."""


def mutate(source: str, mutant: Mutant) -> str:
    """Return the source of the library with one change.

    Raises
    ------
    DoesNotApply
        There is nothing to change, or more than one place.
    """
    found = source.count(mutant.old)
    if found != 1:
        raise DoesNotApply(f"mutant {mutant.name}: {mutant.file} has {found} times {mutant.old!r}; mend its row")
    return source.replace(mutant.old, mutant.new)


@contextmanager
def in_place(mutant: Mutant) -> Iterator[None]:
    """Let the library be the mutant, for connections made from now on."""
    real: Any = library._body

    def body() -> str:
        return mutate(real(), mutant)

    body.cache_clear = real.cache_clear  # type: ignore[attr-defined]  # a test of the real one's cache asks for it
    library._body = body
    library.prefix.cache_clear()
    try:
        yield
    finally:
        library._body = real
        library.prefix.cache_clear()


def pytest_configure() -> None:
    if not os.environ[VARIABLE]:
        return  # the source as it is
    chosen = {mutant.name: mutant for mutant in MUTANTS}[os.environ[VARIABLE]]
    mutate(library._body(), chosen)
    _until_the_end.enter_context(in_place(chosen))
