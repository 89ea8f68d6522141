"""Dead letters as files: JSON Lines, which keeps every value exactly, and CSV for people and spreadsheets.

A line of JSON holds one letter. ``item`` and ``key`` stand there as they are where JSON keeps them exactly; any other
value (a tuple, bytes, a datetime, an array, NaN) is ``{"$toolkit": the codec's bytes in base64, "repr": for people}``,
and so is a value that itself holds the key ``$toolkit``.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, Final

from toolkit.codec import from_json, to_json
from toolkit.errors import InvalidInput, LedgerCorrupt
from toolkit.records import DeadLetter, RunSpec, one_line, utc

_FIELDS: Final = tuple(f.name for f in fields(DeadLetter))
# A spreadsheet takes a cell that begins so for a formula, and may run it: an apostrophe in front makes it text.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
                   "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip

Writer = Callable[[IO[str], RunSpec, Iterable[DeadLetter]], int]


def write_letters(path: Path, spec: RunSpec, letters: Iterable[DeadLetter], overwrite: bool = False) -> int:
    """Write dead letters into a new file, all of them or, after an error, none; returns how many.

    Parameters
    ----------
    path : Path
        Ends in ``.jsonl`` or ``.csv``. Only its owner may read it.
    spec : RunSpec
        Their run.
    letters : iterable of DeadLetter
        Taken one at a time.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    InvalidInput
        Another ending; or the file is there already, and stays as it is.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InvalidInput(f"{path}: dead letters are exported as .jsonl (exact) or .csv (for spreadsheets)")
    taken = f"{path} is there already and was left as it is; choose another name, or pass overwrite=True"
    if not overwrite and os.path.lexists(path):
        raise InvalidInput(taken)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
            n = writer(file, spec, letters)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            partial.replace(path)
        else:
            _put(partial, path)
    except FileExistsError as error:
        raise InvalidInput(taken) from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return n


def _put(partial: Path, path: Path) -> None:
    """Give a file its name, unless somebody took that meanwhile."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name, then replace what only we made
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        partial.replace(path)


def read_letters(path: Path) -> Iterator[DeadLetter]:
    """Read dead letters that were exported as JSON Lines, as they were.

    Raises
    ------
    LedgerCorrupt
        A line is no such letter; names it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                values = json.loads(line)
                values = {name: values[name] for name in _FIELDS}
                yield DeadLetter(**values | {name: from_json(values[name]) for name in ("item", "key")})
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError, LedgerCorrupt) as error:
                raise LedgerCorrupt(f"{path}, line {number}: no dead letter ({one_line(str(error))})") from error


def _write_json(file: IO[str], spec: RunSpec, letters: Iterable[DeadLetter]) -> int:
    n = 0
    for letter in letters:
        file.write(json_line(spec, letter) + "\n")
        n += 1
    return n


def json_line(spec: RunSpec, letter: DeadLetter) -> str:
    """One dead letter as a line of ASCII JSON."""
    values: dict[str, Any] = {"run_id": spec.run_id, "task": spec.task}
    values |= {name: getattr(letter, name) for name in _FIELDS}
    values |= {"key": to_json(letter.key), "item": to_json(letter.item)}
    return json.dumps(values, allow_nan=False)


def _write_csv(file: IO[str], spec: RunSpec, letters: Iterable[DeadLetter]) -> int:
    table = csv.writer(file, quoting=csv.QUOTE_ALL)
    table.writerow(("run_id", "task", *_FIELDS))
    n = 0
    for letter in letters:
        values = [getattr(letter, name) for name in _FIELDS]
        table.writerow([_cell(value) for value in (spec.run_id, spec.task, *values[:-1], utc(letter.at) or "")])
        n += 1
    return n


def _cell(value: Any) -> str:
    """A value as text that neither a spreadsheet nor a terminal executes."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    formula = text.lstrip(" ").startswith(_FORMULA)
    text = "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return f"'{text}" if formula else text


_WRITERS: Final[dict[str, Writer]] = {".jsonl": _write_json, ".csv": _write_csv}
