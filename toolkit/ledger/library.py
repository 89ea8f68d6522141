"""The server-side functions, as one library whose name carries a digest of its source.

Two versions of this package therefore never overwrite each other's functions.
"""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from importlib.resources import files

from toolkit.ledger import stored
from toolkit.records import CATEGORIES, FLAG_CUT_OFF, METRIC_FIELDS, METRIC_SEGMENT_ROWS, OUTCOMES

_LUA_CODES = {"B": "B", "H": "I2", "I": "I4", "Q": "I8", "f": "f", "d": "d"}


def _lua_format(layout: str) -> str:
    return "<" + "".join(_LUA_CODES[code] for code in layout)


@cache
def _body() -> str:
    folder = files("toolkit.ledger") / "functions"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".lua"))
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    for placeholder, value in {
        "__SEGMENT_ROWS__": METRIC_SEGMENT_ROWS,
        "__ROW_FORMAT__": _lua_format("".join(code for _, code in METRIC_FIELDS)),
        "__CLAIM_FORMAT__": _lua_format(stored.CLAIM),
        "__CLAIM_SIZE__": struct.calcsize("<" + stored.CLAIM),
        "__CLAIM_WEIGHTS_FORMAT__": _lua_format(stored.CLAIM_WEIGHTS),
        "__CLAIM_WEIGHTS_SIZE__": struct.calcsize("<" + stored.CLAIM_WEIGHTS),
        "__CLAIM_RANGE_FORMAT__": _lua_format(stored.CLAIM_RANGE),
        "__CLAIM_RANGE_SIZE__": struct.calcsize("<" + stored.CLAIM_RANGE),
        "__FLAG_CUT_OFF__": FLAG_CUT_OFF,
        "__OUTCOME_LOST__": OUTCOMES.index("lost"),
        "__CATEGORIES__": ", ".join(f"'{c}'" for c in CATEGORIES[1:]),
        "__RECENT_FIELDS__": ", ".join(f"'recent:{c}'" for c in CATEGORIES[1:]),
        "__ERROR_FIELDS__": ", ".join(f"'errors:{c}'" for c in CATEGORIES[1:]),
    }.items():
        text = text.replace(placeholder, str(value))
    return text


@cache
def prefix() -> str:
    """What every function's name starts with."""
    return f"tk_{hashlib.sha256(_body().encode()).hexdigest()[:10]}_"


def source() -> str:
    """The library as ``FUNCTION LOAD`` takes it."""
    return f"#!lua name={prefix().rstrip('_')}\n" + _body().replace("__PREFIX__", prefix())
