"""Nested data with arrays in it as a text, which `unpack` of assets/pack.js reads back."""

import base64
import gzip
import json

import numpy as np
import polars as pl

DTYPES = {"float32", "int32"}
KEPT_BITS = 13  # of the 23 of a float32's fraction: 4 digits


def pack(value: object) -> str:
    """Dicts, lists, strings, numbers, None and arrays [n] of `DTYPES` as base64 of gzip.

    In that: the length of the JSON as four bytes, little-endian; the JSON, in which an array is
    `{"dtype", "at", "length"}`, padded to a multiple of four; the arrays. Equal values give equal
    texts.

    Raises `TypeError` for other values, `ValueError` for a number that JSON does not have.
    """
    arrays: list[bytes] = []
    at = 0

    def placed(array: object) -> dict[str, str | int]:
        nonlocal at
        if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES:
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"the page cannot hold {array!r} ({kind})")
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        arrays.append(data)
        at += len(data)
        return {"dtype": array.dtype.name, "at": at - len(data), "length": len(array)}

    text = json.dumps(value, default=placed, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    data = len(text).to_bytes(4, "little") + text + b"".join(arrays)
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def columns(frame: pl.DataFrame) -> dict[str, np.ndarray | list]:
    """The columns of a table: numbers as arrays with NaN for null, all else as lists."""
    return {
        column.name: (
            column.cast(pl.Float32).fill_null(float("nan")).to_numpy()
            if column.dtype.is_numeric()
            else column.to_list()
        )
        for column in frame
    }


def rounded(values: np.ndarray) -> np.ndarray:
    """The values as float32 of four digits: the last bits are zero, and compressed take no room."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    dropped = 23 - KEPT_BITS
    half = np.uint32(1 << (dropped - 1))
    return ((bits + half) & np.uint32(-(1 << dropped) & 0xFFFFFFFF)).view(np.float32)
