"""Items and results as bytes, and back, exactly; or a typed error that says which item and where inside it.

The format is MessagePack (through msgspec, in C) plus the extension types of `toolkit.codec.extensions` and
`toolkit.codec.arrays`. Nothing is ever pickled or evaluated, and reading a value imports no class that the bytes name.

What goes through: None, bool, int, float (NaN, infinities and -0.0 included), str, bytes, bytearray, list, dict,
tuple, set, frozenset, datetime, date, time, timedelta, Decimal, UUID, complex, pathlib's paths, numpy scalars and
numpy arrays.
Only these exact types: a subclass (an IntEnum, a namedtuple, a pandas Timestamp) would come back as its base class,
so it is refused with a hint what to pass instead. Keys of a dict are str, int, float, bool, None or bytes.

What is not kept: that two parts of a value are the same object, the memory order of an array, and the name that C
gives an integer type (``numpy.longlong`` reads back as ``numpy.int64``, the same dtype).
"""

from toolkit.codec.decoding import decode, decode_each, decode_page
from toolkit.codec.encoding import encode, encode_page, encode_pages
from toolkit.codec.limits import MAX_DEPTH, MAX_ELEMENTS, MAX_INT_BYTES, MAX_PAGE_BYTES, MAX_VALUE_BYTES
from toolkit.codec.plain import from_json, to_json

__all__ = [
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "MAX_INT_BYTES",
    "MAX_PAGE_BYTES",
    "MAX_VALUE_BYTES",
    "decode",
    "decode_each",
    "decode_page",
    "encode",
    "encode_page",
    "encode_pages",
    "from_json",
    "to_json",
]
