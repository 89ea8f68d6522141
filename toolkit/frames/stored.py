"""Frames as Arrow tables and back: what a Parquet file of them holds, whatever version of pandas wrote or reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.errors import MissingDependency
from toolkit.frames import schema
from toolkit.frames.schema import CATEGORY, TEXT, TIME, Column

if TYPE_CHECKING:
    import pyarrow as pa


def require_pyarrow(purpose: str) -> Any:
    """The module ``pyarrow``.

    Raises
    ------
    MissingDependency
        It is not installed; says what to install.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingDependency("pyarrow", "archive", purpose) from error
    return pa


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Types of the columns in a file: always the same ones, however few or many values a column has.

    A categorical is a dictionary of text with 32-bit codes; every other text is UTF-8, a moment microseconds in UTC.
    """
    pa = require_pyarrow("a table for Parquet")
    types = {
        CATEGORY: pa.dictionary(pa.int32(), pa.string()),
        TIME: pa.timestamp("us", tz="UTC"),
        TEXT: pa.string(),
        "int64": pa.int64(),
        "Int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
    }
    return pa.schema([pa.field(c.name, types[c.dtype]) for c in columns])


def to_arrow(columns: Sequence[Column], frame: pd.DataFrame) -> pa.Table:
    """Table of a frame with the declared columns; text columns must hold text or None."""
    pa = require_pyarrow("a table for Parquet")
    declared = arrow_schema(columns)
    arrays = []
    for column, field in zip(columns, declared, strict=True):
        values: Any = frame[column.name]
        if column.dtype == CATEGORY:
            codes = values.cat.codes.to_numpy().astype("int32")
            names = pa.array([_utf8(name) for name in values.cat.categories], pa.string())
            arrays.append(pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), names))
        elif column.dtype == TEXT:
            arrays.append(pa.array([None if v is None else _utf8(v) for v in values], pa.string()))
        elif column.dtype == TIME:
            arrays.append(pa.array(values.dt.tz_localize(None).to_numpy()).cast(field.type))
        elif column.dtype == "Int64":
            arrays.append(pa.array(values.astype(object).where(values.notna(), None), field.type))
        else:
            arrays.append(pa.array(values.to_numpy(), field.type))
    return pa.Table.from_arrays(arrays, schema=declared)


def from_arrow(columns: Sequence[Column], table: pa.Table) -> pd.DataFrame:
    """Frame with exactly the declared columns.

    A column that the table lacks, because an older version wrote it, holds what stands for nothing: NaN, 0, False, a
    missing moment or category, None. One that it has besides is left out.
    """
    n = table.num_rows
    made = {c.name: _values(c, table[c.name] if c.name in table.column_names else None, n) for c in columns}
    return pd.DataFrame(made, index=pd.RangeIndex(n), copy=False)


def _values(column: Column, chunks: Any, n: int) -> Any:
    if column.dtype == CATEGORY:
        return _categories(column, chunks, n)
    if column.dtype == TIME:
        moments = np.full(n, "NaT", "datetime64[us]") if chunks is None else _moments(chunks)
        return pd.DatetimeIndex(moments).tz_localize("UTC").array
    if column.dtype == TEXT:
        return pd.Series([None] * n if chunks is None else chunks.to_pylist(), dtype=object)
    if column.dtype == "Int64":
        return pd.array([None] * n if chunks is None else chunks.to_pylist(), dtype="Int64")
    if chunks is None:
        return np.full(n, np.nan if column.dtype == "float64" else 0, column.dtype)
    return chunks.to_numpy().astype(column.dtype, copy=False)


def _moments(chunks: Any) -> Any:
    pa = require_pyarrow("reading Parquet")
    # as numbers: pyarrow would make objects of moments with a zone
    numbers = chunks.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).fill_null(np.iinfo("int64").min).to_numpy()
    return numbers.view("datetime64[us]")


def _categories(column: Column, chunks: Any, n: int) -> pd.Categorical:
    if chunks is None:
        return schema.from_codes(np.full(n, -1, dtype="int8"), column.categories)
    pa = require_pyarrow("reading Parquet")
    whole = chunks if pa.types.is_dictionary(chunks.type) else chunks.dictionary_encode()
    whole = whole.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # without rows
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
    codes = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    names = whole.dictionary.to_pylist()
    if not column.categories:
        used = np.unique(codes[codes >= 0])
        table = np.full(len(names) + 1, -1, dtype="int32")  # the last for -1
        table[used] = np.arange(len(used))
        return schema.from_codes(table[codes], [names[code] for code in used])
    known = {name: code for code, name in enumerate(column.categories)}
    table = np.array([*(known.get(name, -1) for name in names), -1], dtype="int32")
    return schema.from_codes(table[codes], column.categories)


def _utf8(text: str) -> str:
    """Text that a file takes: half a surrogate pair, which no encoding has, becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
