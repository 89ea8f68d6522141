"""numpy scalars and arrays as extension types: dtype, shape, bytes in C order.

The payload is a MessagePack header with its length in front (u16), then the elements:

* scalar: header ``dtype``. Text (``numpy.str_``) and bytes (``numpy.bytes_``) are ``"U"`` and ``"S"`` followed by
  their UTF-8 and their bytes, because an element of an array would lose its trailing zeros.
* array: header ``[dtype, shape]``.

A dtype is its array-protocol string (``"<f8"``, ``"<M8[ns]"``), or for a record dtype a map of names, formats, offsets,
titles, itemsize and alignment, or for a field that is an array a list of its dtype and shape.
"""

from __future__ import annotations

import functools
import math
import re
import struct
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.msgpack import Ext

from toolkit.codec.extensions import NUMPY_ARRAY, NUMPY_SCALAR, pack_str
from toolkit.codec.hints import refusal
from toolkit.codec.limits import MAX_VALUE_BYTES, Refused, megabytes
from toolkit.records import qualified_name

if TYPE_CHECKING:
    import numpy as np

_LENGTH: Final = struct.Struct("<H")
_SIMPLE: Final = re.compile(
    r"[<>|](b1|[iu][1248]|f[248]|c8|c16|[SUV]\d{1,10})|[<>][Mm]8(\[\d{0,10}[a-zA-Z]{1,2}\])?", re.ASCII
)

# --------------------------------------------------------------------------- writing


def is_numpy(value: Any) -> bool:
    """Whether `value` is a numpy scalar or array; imports nothing."""
    np = sys.modules.get("numpy")
    return np is not None and isinstance(value, (np.generic, np.ndarray))


def _describe(dtype: np.dtype[Any]) -> Any:
    """Describe a dtype in plain data, from which `_dtype` builds an equal one."""
    if dtype.metadata is not None:
        raise Refused("a dtype with metadata, which is not stored: pass item.astype(...) with a plain dtype")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_describe(base), list(shape)]
    if dtype.names is None:
        return _describe_simple(dtype)
    if dtype.type is not sys.modules["numpy"].void:
        raise Refused("numpy.record is not stored exactly: pass a dict, or an array with dtype item.dtype.descr")
    fields = [dtype.fields[name] for name in dtype.names] if dtype.fields else []
    return {
        "names": list(dtype.names),
        "formats": [_describe(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": [_title(field[2]) if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _title(title: Any) -> str:
    if type(title) is not str:
        raise Refused("a record dtype whose field has a title that is not text")
    return title


@functools.lru_cache(maxsize=256)
def _describe_simple(dtype: np.dtype[Any]) -> str:
    """Return the array-protocol string of a dtype without fields.

    The cache is for these only: numpy calls record dtypes equal that differ in class or alignment.
    """
    if dtype.kind == "O":
        raise Refused("an array of Python objects: pass item.tolist(), or one with a dtype such as float64 or 'U'")
    if dtype.char in "gG":
        raise Refused("long double differs between machines: pass item.astype('float64') or 'complex128'")
    if not _SIMPLE.fullmatch(dtype.str) or sys.modules["numpy"].dtype(dtype.str) != dtype:
        raise Refused(f"dtype {str(dtype)[:80]} is not stored exactly: pass item.astype(...) with a plain dtype")
    return dtype.str


def _header(spec: Any) -> bytes:
    try:
        header = msgspec.msgpack.encode(spec)
    except UnicodeEncodeError:
        raise Refused("a record dtype with a lone surrogate in the name of a field") from None
    if len(header) > 0xFFFF:
        raise Refused("a record dtype with too many fields: pass one array a field")
    return _LENGTH.pack(len(header)) + header


@functools.lru_cache(maxsize=64)
def _number_header(kind: type) -> bytes | None:
    """Header of a scalar class whose dtype is always the same; None for text, records and times."""
    np = sys.modules["numpy"]
    if kind.__module__ != "numpy" or not issubclass(kind, np.number | np.bool_) or issubclass(kind, np.timedelta64):
        return None
    return _header(_describe_simple(np.dtype(kind)))


def _pack_scalar(value: Any) -> Ext:
    np = sys.modules["numpy"]
    kind: Any = type(value)
    header = _number_header(kind)
    if header is not None:
        return Ext(NUMPY_SCALAR, header + value.tobytes())
    if kind is np.str_:
        return Ext(NUMPY_SCALAR, _header("U") + pack_str(value).encode())  # str() drops zeros
    if kind is np.bytes_:
        return Ext(NUMPY_SCALAR, _header("S") + bytes(value))
    if kind is not value.dtype.type:
        raise Refused(refusal(value))
    return Ext(NUMPY_SCALAR, _header(_describe(value.dtype)) + value.tobytes())


def pack_numpy(value: Any) -> Ext:
    """Make a numpy scalar or array an extension.

    Raises
    ------
    Refused
        A subclass (masked, record, matrix), an object dtype, long double, too many bytes.
    """
    np = sys.modules["numpy"]
    kind = type(value)
    if isinstance(value, np.generic):
        return _pack_scalar(value)
    if kind is not np.ndarray:
        hint = "item.filled() or item.compressed()" if kind.__name__ == "MaskedArray" else "numpy.asarray(item)"
        raise Refused(f"{qualified_name(kind)} is not stored exactly: pass {hint}")
    extent = _extent(value.shape, value.itemsize)
    if extent > MAX_VALUE_BYTES:
        limit = megabytes(MAX_VALUE_BYTES)
        raise Refused(f"an array of {megabytes(extent)}, the limit is {limit}: store it and pass a path")
    return Ext(NUMPY_ARRAY, _header([_describe(value.dtype), value.shape]) + value.tobytes())


def _extent(shape: Sequence[int], itemsize: int) -> int:
    """Bytes that numpy may allocate for such an array; axes of length 0 do not hide the others."""
    return math.prod(n or 1 for n in shape) * max(itemsize, 1)


# --------------------------------------------------------------------------- reading


def _split(data: memoryview) -> tuple[bytes, memoryview]:
    start = _LENGTH.size + _LENGTH.unpack(data[: _LENGTH.size])[0]
    return bytes(data[_LENGTH.size : start]), data[start:]


def _shape(spec: Any) -> tuple[int, ...]:
    if type(spec) is not list or any(type(n) is not int or n < 0 for n in spec):
        raise ValueError("the shape of an array is malformed")
    return tuple(spec)


def _dtype(spec: Any) -> np.dtype[Any]:
    """Build a dtype from what `_describe` wrote; numpy reads no other text."""
    import numpy as np

    if type(spec) is str and _SIMPLE.fullmatch(spec):
        return np.dtype(spec)
    if type(spec) is list and len(spec) == 2:
        return np.dtype((_dtype(spec[0]), _shape(spec[1])))  # numpy refuses more than 2 GB itself
    if type(spec) is dict and type(spec["aligned"]) is bool:
        fields: Any = {**spec, "formats": [_dtype(format_) for format_ in spec["formats"]]}
        align = fields.pop("aligned")
        if not any(title is not None for title in fields["titles"]):
            del fields["titles"]
        dtype: np.dtype[Any] = np.dtype(fields, align=align)
        return dtype
    raise ValueError("the dtype of an array is malformed")


def _check_elements(array: np.ndarray[Any, Any]) -> None:
    """Refuse bytes that numpy would take without looking and fail on later."""
    kind = array.dtype.kind
    if kind == "b" and array.view("u1").max() > 1:
        raise ValueError("a boolean array holds something else")
    if kind == "U" and array.view(f"{array.dtype.byteorder}u4").max() > 0x10FFFF:
        raise ValueError("a text array holds something else")


def _elements(dtype: np.dtype[Any], shape: tuple[int, ...], data: memoryview) -> np.ndarray[Any, Any]:
    import numpy as np

    if dtype.hasobject or dtype.subdtype is not None or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("the elements of an array do not fit its dtype and shape")
    if _extent(shape, dtype.itemsize) > MAX_VALUE_BYTES:
        raise ValueError("an array is too large")
    if not data:
        return np.zeros(shape, dtype)
    flat = np.frombuffer(data, dtype)
    _check_elements(flat)
    return flat.reshape(shape).copy()  # the user's own memory: writable, aligned, not a view of the page


def unpack_array(data: memoryview) -> np.ndarray[Any, Any]:
    """Read what `pack_numpy` made of an array."""
    header, elements = _split(data)
    spec, shape = msgspec.msgpack.decode(header)
    return _elements(_simple_dtype(spec) if type(spec) is str else _dtype(spec), _shape(shape), elements)


# Few dtypes and many arrays: the caches hold what parsed, and forget the rest.
_simple_dtype = functools.lru_cache(maxsize=256)(_dtype)


@functools.lru_cache(maxsize=256)
def _scalar_dtype(header: bytes) -> str | np.dtype[Any]:
    """Return the dtype of a scalar, or the letter for text and bytes."""
    spec = msgspec.msgpack.decode(header)
    return spec if type(spec) is str and spec in ("U", "S") else _dtype(spec)


def unpack_scalar(data: memoryview) -> np.generic:
    """Read what `pack_numpy` made of a scalar."""
    import numpy as np

    header, elements = _split(data)
    dtype = _scalar_dtype(header)
    if isinstance(dtype, str):
        return np.str_(str(elements, "utf-8")) if dtype == "U" else np.bytes_(bytes(elements))
    scalar: np.generic
    if dtype.kind in "iufc" and len(elements) == dtype.itemsize:
        scalar = np.frombuffer(elements, dtype)[0]  # the usual case: nothing to check, a number copies itself
        return scalar
    scalar = _elements(dtype, (1,), elements)[0]
    return scalar
