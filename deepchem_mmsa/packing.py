"""Conversion of arrays to well-compressible bytes and back, for serialised records."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np

COLUMNS = "columns"
"""Layout of a uint8 table, one column after the other."""


def to_planes(array: np.ndarray, dtype: str) -> bytes:
    r"""Write all lowest bytes first, then all second ones, ...: the high ones compress well.

    Parameters
    ----------
    array : np.ndarray
        Any shape.
    dtype : str
        Type with byte order, such as ``"<f4"``; :data:`COLUMNS` for a uint8 ``[n, m]`` table.

    Examples
    --------
    >>> to_planes(np.array([1, 2, 3]), "<u2")
    b'\x01\x02\x03\x00\x00\x00'
    """
    if dtype == COLUMNS:
        return array.T.tobytes()
    plain = np.ascontiguousarray(array, dtype=dtype)
    return plain.view(np.uint8).reshape(-1, plain.itemsize).T.tobytes()


def from_planes(data: memoryview | bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read what :func:`to_planes` wrote, in the machine's byte order."""
    if dtype == COLUMNS:
        return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(shape[::-1]).T)
    planes = np.frombuffer(data, np.uint8).reshape(np.dtype(dtype).itemsize, -1)
    plain = np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
    return plain.astype(plain.dtype.newbyteorder("="), copy=False)


def inflate(
    data: memoryview | bytes, layouts: Sequence[tuple[str, tuple[int, ...]] | None]
) -> list[np.ndarray | None]:
    """Read deflated arrays; at most the bytes that their layouts need are inflated.

    Parameters
    ----------
    data : bytes-like
        The deflated concatenation of what :func:`to_planes` wrote.
    layouts : sequence of (dtype, shape) or None
        None for an absent array.

    Returns
    -------
    list of np.ndarray or None

    Raises
    ------
    ValueError
        If the bytes are damaged, or of another length.

    Examples
    --------
    >>> packed = zlib.compress(to_planes(np.array([1.5]), "<f4"))
    >>> inflate(packed, [None, ("<f4", (1,))])
    [None, array([1.5], dtype=float32)]
    """
    sizes = [0 if layout is None else _size(*layout) for layout in layouts]
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, sum(sizes) + 1)
    except zlib.error as error:
        raise ValueError(f"MoleculeViews record is damaged: {error}") from None
    if len(plain) != sum(sizes) or not inflater.eof or inflater.unused_data:
        raise ValueError("MoleculeViews record is damaged: its arrays have another length")
    arrays: list[np.ndarray | None] = []
    start = 0
    for layout, size in zip(layouts, sizes):
        part = memoryview(plain)[start : start + size]
        arrays.append(None if layout is None else from_planes(part, *layout))
        start += size
    return arrays


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * (1 if dtype == COLUMNS else np.dtype(dtype).itemsize)
