"""Writing tables in chunks; a file is written atomically."""

from __future__ import annotations

import csv
import gzip
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from deepchem_mmsa.tables.files import TableError, format_of


def check_output(path: str | os.PathLike, format: str | None = None) -> str:
    """Return the format of an output table, after checking that it can be written.

    Raises
    ------
    TableError
        If the format cannot be inferred or written.
    OSError
        If the folder does not exist or cannot be written to, or the path is a folder.
    """
    kind = format or ("csv" if str(path) == "-" else format_of(path))
    if kind not in ("csv", "tsv", "parquet", "jsonl"):
        raise TableError(
            f"cannot write {path}: end the name in .csv, .tsv, .parquet or .jsonl (the text ones "
            "also in .gz)"
        )
    if str(path) != "-":
        folder = Path(path).parent
        if not folder.is_dir():
            raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}; make it")
        if Path(path).is_dir() or not os.access(folder, os.W_OK):
            raise PermissionError(f"cannot write {path}: it is a folder, or in a read-only folder")
    return kind


def write_table(
    frame: pd.DataFrame,
    path: str | os.PathLike,
    format: str | None = None,
    notes: bool = False,
) -> None:
    """Write one frame; see :func:`write_chunks`."""
    write_chunks([frame], path, format, notes)


def write_chunks(
    frames: Iterable[pd.DataFrame],
    path: str | os.PathLike,
    format: str | None = None,
    notes: bool = False,
) -> int:
    """Write frames of the same columns one after the other as one table.

    A file is written atomically: a temporary file in its folder is renamed when it is complete.

    Parameters
    ----------
    frames : iterable of pandas.DataFrame
    path : path-like
        ``"-"`` is standard output; a name that ends in ``.gz`` is gzipped.
    format : {"csv", "tsv", "parquet", "jsonl"}, optional
        By default inferred from the ending; csv for standard output.
    notes : bool
        Whether Parquet stores pandas' metadata on the types, not all of which pandas can read.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    TableError, OSError
        See :func:`check_output`.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> parts = [pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})]
    >>> write_chunks(parts, f"{folder}/out.csv")
    2
    >>> Path(f"{folder}/out.csv").read_text().split()
    ['a', '1', '2']
    """
    kind = check_output(path, format)
    if str(path) == "-":
        sys.stdout.flush()
        return _write(frames, sys.stdout.buffer, kind, notes)
    from deepchem_mmsa.atomic import write_atomically

    n = 0

    def write(temporary: str) -> None:
        nonlocal n
        with open(temporary, "wb") as file:
            if str(path).lower().endswith(".gz"):
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    n = _write(frames, packed, kind, notes)  # type: ignore[arg-type]
            else:
                n = _write(frames, file, kind, notes)

    write_atomically(path, write)
    return n


def _write(frames: Iterable[pd.DataFrame], file: BinaryIO, kind: str, notes: bool) -> int:
    """Write frames to an open file and return the number of rows."""
    if kind == "parquet":
        return _write_parquet(frames, file, notes)
    n = 0
    for index, frame in enumerate(frames):
        if kind == "jsonl":
            file.write(_json_lines(frame).encode())
        else:
            file.write(_csv(frame, "\t" if kind == "tsv" else ",", header=index == 0).encode())
        file.flush()
        n += len(frame)
    return n


def _csv(frame: pd.DataFrame, separator: str, header: bool) -> str:
    frame = _plain(frame)  # pandas would shorten a long list, and round its numbers

    def text(quoting: int) -> str:
        return str(
            frame.to_csv(
                sep=separator, header=header, index=False, lineterminator="\n", quoting=quoting
            )
        )

    plain = text(csv.QUOTE_MINIMAL)
    # A carriage return in a cell ends a line when read, but the writer would not quote the cell.
    return text(csv.QUOTE_NONNUMERIC) if "\r" in plain else plain


def _json_lines(frame: pd.DataFrame) -> str:
    frame = _plain(frame)  # to_json would write milliseconds for dates, and knows no bytes
    return str(frame.to_json(orient="records", lines=True, double_precision=15))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with Python's own values for dates, bytes and lists of Parquet."""
    odd = [
        name
        for name, kind in frame.dtypes.items()
        if isinstance(kind, pd.ArrowDtype) and kind.kind not in "biufU"
    ]
    frame = frame.astype(dict.fromkeys(odd, object))
    for column in odd:
        frame[column] = frame[column].map(_told, na_action="ignore")
    return frame


def _told(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "backslashreplace")
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return cell if isinstance(cell, (str, bool, int, float, list, dict)) else str(cell)


def _write_parquet(frames: Iterable[pd.DataFrame], file: BinaryIO, notes: bool) -> int:
    import pyarrow
    from pyarrow import parquet

    n = 0
    writer = None
    try:
        for frame in frames:
            schema = None if writer is None else writer.schema
            rows = pyarrow.Table.from_pandas(frame, schema=schema, preserve_index=False)
            if not notes:
                rows = rows.replace_schema_metadata()
            writer = writer or parquet.ParquetWriter(file, rows.schema)
            writer.write_table(rows)
            n += len(frame)
    finally:
        if writer is not None:
            writer.close()
    return n
