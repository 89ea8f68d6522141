"""Values as JSON for files that others read: as they are where JSON keeps them exactly, else the codec's own bytes.

A value that JSON would change (a tuple, bytes, a datetime, an array, NaN) is written as ``{"$toolkit": the codec's
bytes in base64, "repr": for people}``, and so is one that itself holds the key ``$toolkit``.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any, Final

from toolkit.codec.decoding import decode
from toolkit.codec.encoding import encode
from toolkit.records import one_line

_TAG: Final = "$toolkit"
_REPR_CHARS: Final = 200


def to_json(value: Any) -> Any:
    """A value that `json.dumps` takes and that `from_json` turns back into the very same one.

    Raises
    ------
    EncodeError
        The codec does not take it.
    """
    if _is_json(value):
        return value
    return {_TAG: base64.b64encode(encode(value)).decode("ascii"), "repr": one_line(repr(value), _REPR_CHARS)}


def from_json(value: Any) -> Any:
    """Inverse of `to_json`.

    Raises
    ------
    ValueError, LedgerCorrupt
        It is not what `to_json` makes.
    """
    if not (isinstance(value, dict) and _TAG in value):
        return value
    try:
        return decode(base64.b64decode(value[_TAG], validate=True))
    except binascii.Error as error:
        raise ValueError("a value is no base64") from error


def _is_json(value: Any) -> bool:
    """Whether JSON gives back the very same value, types included."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(map(_is_json, value))
    if kind is dict:
        return _TAG not in value and all(type(k) is str for k in value) and all(map(_is_json, value.values()))
    return value is None or kind in (bool, int, str)
