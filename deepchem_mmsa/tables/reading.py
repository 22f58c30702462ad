"""Reading tables of molecules, whole or in chunks of constant memory."""

from __future__ import annotations

import difflib
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from deepchem_mmsa.tables.files import (
    FORMATS,
    MISSING,
    SMILES_COLUMNS,
    TableError,
    first_line,
    format_of,
    is_pipe,
    name_of,
    opened,
    refuse_foreign,
    sniff,
    spooled,
)
from deepchem_mmsa.tables.text import cells_of, csv_rows, parted_by_semicolons, smi_rows, unique
from deepchem_mmsa.user_warning import warn_user

_READ_AT_ONCE = 10_000
_TRUTH = {"true": "1", "false": "0"}


@dataclass
class Table:
    """Rows of a file, in their order.

    Parameters
    ----------
    frame : pandas.DataFrame
        ``[n, columns]``, the cells as in the file: text, or typed values of Parquet. An SDF gives
        ``name``, ``smiles`` (as read) and the properties of its records.
    smiles : list
        ``[n]``, input for :class:`~deepchem_mmsa.predictor.MMSAPredictor`: the text of the
        SMILES column; for an SDF the molecule with its conformer, or a flagged record for a
        block that cannot be read.
    name : str
        Of the file, for messages.
    smiles_column : str
        The column of `frame` that holds the SMILES.
    start : int
        Number of rows of the file before these.
    semicolons : bool
        Whether these part its cells, so that a comma may be that of decimals.
    """

    frame: pd.DataFrame
    smiles: list[object]
    name: str
    smiles_column: str
    start: int = 0
    semicolons: bool = False

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.smiles)


def read_table(
    path: str | os.PathLike, smiles_column: str | None = None, format: str | None = None
) -> Table:
    r"""Read a whole table; see :func:`read_chunks` for the arguments and errors.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("id,SMILES\na,CCO\n\nc,CCN\n")
    ...     file.flush()
    ...     table = read_table(file.name)
    >>> table.smiles, table.frame["id"].tolist()
    (['CCO', '', 'CCN'], ['a', '', 'c'])
    """
    chunks = list(read_chunks(path, _READ_AT_ONCE, smiles_column, format))
    frame = pd.concat([chunk.frame for chunk in chunks], ignore_index=True)
    smiles = [molecule for chunk in chunks for molecule in chunk.smiles]
    return replace(chunks[0], frame=frame, smiles=smiles)


def read_chunks(
    path: str | os.PathLike,
    size: int,
    smiles_column: str | None = None,
    format: str | None = None,
) -> Iterator[Table]:
    """Read a table a few rows at a time.

    Blank lines are rows too. A row with too few cells is filled up with empty ones.

    Parameters
    ----------
    path : path-like
        A file, or ``"-"`` for standard input; gzip is recognized by its content.
    size : int
        Maximum number of rows of a chunk.
    smiles_column : str, optional
        Column of the SMILES (not needed for an SDF); by default one whose name is in
        :data:`SMILES_COLUMNS`, or the only one with "smiles" in its name.
    format : {"csv", "tsv", "smi", "sdf", "parquet"}, optional
        By default inferred from the file's ending, or from its content.

    Yields
    ------
    Table

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message suggests a similar name.
    TableError
        If there is no row or no such column, a line is malformed (the message names it), or the
        file is of another format or damaged.
    """
    name = name_of(path)
    n = 0
    for frame, molecules, column, semicolons in _chunks_of(path, size, smiles_column, format):
        yield Table(frame, molecules, name, column, n, semicolons)
        n += len(frame)
    if n == 0:
        raise TableError(f"{name} has no row; it needs a row per molecule")


def count_rows(
    path: str | os.PathLike, smiles_column: str | None = None, format: str | None = None
) -> int | None:
    """Return how many rows :func:`read_chunks` will yield; None for a pipe."""
    if is_pipe(path):
        return None
    with opened(path) as raw:
        kind = _kind_of(raw, path, smiles_column, format)
        if kind == "jsonl":
            return None  # reading it raises the error
        if kind == "parquet":
            return int(_parquet(raw, name_of(path)).metadata.num_rows)
        if kind == "sdf":
            from deepchem_mmsa.tables.sdf import sdf_records

            return sum(1 for _ in sdf_records(raw, name_of(path)))
        if kind == "smi":
            return sum(1 for _ in smi_rows(raw, name_of(path)))
        return sum(1 for _ in cells_of(raw, name_of(path), kind, smiles_column)) - 1


def numbers(column: pd.Series, name: str, first: int = 1, semicolons: bool = False) -> np.ndarray:
    """Return a column as numbers, NaN where it is empty; true and false are 1 and 0.

    Decimal commas are read in a table of semicolons, with a warning, if all cells of the column
    are such numbers and they cannot be whole numbers with commas between thousands.

    Parameters
    ----------
    column : pandas.Series
    name : str
        Of the file, for the message.
    first : int
        Number of the first row in messages: 1 as in a file, 0 as in Python.
    semicolons : bool
        As of :class:`Table`.

    Raises
    ------
    TableError
        If a cell is not a finite number; the message names row, value and remedy.

    Examples
    --------
    >>> numbers(pd.Series(["1.5", "", "NA"]), "data.csv")
    array([1.5, nan, nan])
    """
    text = column.astype("object").map(
        lambda cell: "" if pd.api.types.is_scalar(cell) and pd.isna(cell) else str(cell).strip()
    )
    missing = text.str.lower().isin(MISSING)
    if semicolons and _has_decimal_commas(text[~missing]):
        example = next(cell for cell in text if "," in cell)
        warn_user(
            f"{name}, column {column.name!r}: commas are read as those of decimals, {example} as "
            f"{example.replace(',', '.')}, since semicolons part the cells"
        )
        text = text.str.replace(",", ".")
    truth = text.str.lower().map(_TRUTH)
    values = pd.to_numeric(truth.fillna(text.mask(missing)), errors="coerce")
    wrong = ~np.isfinite(values) & ~missing
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        finite = "" if pd.isna(values.iloc[row]) else "finite "
        n = int(wrong.sum())
        all_wrong = f" ({n} cells of the column are no numbers)" if n > 1 else ""
        raise TableError(
            f"{name}, row {row + first}, column {column.name!r}: {text.iloc[row]!r} is not a "
            f"{finite}number; {_remedy(text.iloc[row])}{all_wrong}"
        )
    return values.to_numpy(dtype=float)


_DECIMAL_COMMA = r"[+-]?\d+,\d+(e[+-]?\d+)?"


def _has_decimal_commas(text: pd.Series) -> bool:
    """Return whether all cells are numbers, some with a comma that cannot be of thousands."""
    commas = text[text.str.fullmatch(_DECIMAL_COMMA, case=False)]
    others = text[~text.index.isin(commas.index)]
    whole = others.str.fullmatch(r"[+-]?\d+(e[+-]?\d+)?", case=False).all()
    return bool(whole and not commas.str.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}").all())


def _remedy(text: str) -> str:
    """Return what to write in place of a label that is not a number."""
    if re.match("[<>~≤≥]", text):
        return "a limit is no value: leave the cell empty, or make classes of the column"
    if re.fullmatch(_DECIMAL_COMMA, text, re.IGNORECASE):
        return "write the decimals after a point"
    if re.fullmatch(r"[^\W\d]+", text) and not re.fullmatch("inf(inity)?", text, re.IGNORECASE):
        return "write classes as 0 and 1, and leave the cell empty where the label is missing"
    return "correct it, or leave the cell empty where the value is missing"


def label_array(y: Any) -> np.ndarray:
    """Return labels as float64, ``[N]`` or ``[N, T]``, NaN where they are missing.

    Raises
    ------
    ValueError
        For dates, and for cells that are not numbers; the message names row, value and remedy.

    Examples
    --------
    >>> label_array(pd.Series([1, None], dtype="Int64"))
    array([ 1., nan])
    >>> label_array(["1.5", "<10"])
    Traceback (most recent call last):
    ...
    deepchem_mmsa.tables.files.TableError: labels, row 1, column 0: '<10' is not a number; a limit
    is no value: leave the cell empty, or make classes of the column
    """
    refuse_dates(y)
    try:
        return np.asarray(y, dtype=float)
    except (TypeError, ValueError):
        frame = pd.DataFrame(y)
        columns = [numbers(column, "labels", 0) for _, column in frame.items()]
        return columns[0] if np.ndim(y) < 2 else np.stack(columns, axis=1)


def refuse_dates(y: Any) -> None:
    """Raise a ValueError for dates and durations, which NumPy would convert to nanoseconds."""
    dtypes = y.dtypes if isinstance(y, pd.DataFrame) else [np.asarray(y).dtype]
    if any(dtype.kind in "mM" for dtype in dtypes):
        raise ValueError(
            "the labels are dates or durations; make numbers of them first, such as days since "
            "the first one"
        )


def column_named(columns: Sequence[str], wanted: str, name: str) -> str:
    """Return `wanted` if it is a column; raise an error that lists the columns otherwise.

    Examples
    --------
    >>> column_named(["smiles", "logS"], "logs", "data.csv")
    Traceback (most recent call last):
    ...
    deepchem_mmsa.tables.files.TableError: data.csv has no column 'logs'; did you mean 'logS'? Its
    columns are: smiles, logS
    """
    if wanted in columns:
        return wanted
    same = [c for c in columns if c.lower() == wanted.lower()]
    same = same or [c for c in columns if wanted and wanted.lower() in c.lower()]  # with a unit
    close = same or difflib.get_close_matches(wanted, columns, n=1)
    hint = f"; did you mean {close[0]!r}? Its" if close else ". Its"
    raise TableError(f"{name} has no column {wanted!r}{hint} columns are: {listed(columns):.1000}")


def listed(columns: Sequence[str]) -> str:
    """Return names for a message, in quotes if they hold a comma."""
    return ", ".join(repr(name) if "," in name else name for name in columns)


def _chunks_of(
    path: str | os.PathLike, size: int, smiles_column: str | None, format: str | None
) -> Iterator[tuple[pd.DataFrame, list[object], str, bool]]:
    """Yield cells and molecules of some rows, the SMILES column, and whether ";" parts cells."""
    name = name_of(path)
    if format is not None and (format not in FORMATS or format == "jsonl"):
        raise TableError(f"format {format!r} cannot be read: choose csv, tsv, smi, sdf or parquet")
    with opened(path) as raw:
        kind = _kind_of(raw, path, smiles_column, format)
        if kind in ("sdf", "parquet") and is_pipe(path):
            raw = spooled(raw)  # both are read twice
        if kind == "jsonl":
            raise TableError(f"{name}: JSON lines can only be written; give CSV or Parquet")
        if kind == "parquet":
            yield from _parquet_chunks(raw, name, size, smiles_column)
            return
        columns, column, semicolons = ["smiles", "name"], "smiles", False
        if kind == "sdf":
            from deepchem_mmsa.tables.sdf import sdf_columns, sdf_rows  # loads RDKit

            columns = sdf_columns(raw, name)
            raw.seek(0)
            rows = sdf_rows(raw, name, columns)
        elif kind == "smi":
            if smiles_column not in (None, "smiles"):
                raise TableError(
                    f"{name} is a SMILES file, whose first word is the SMILES; it has no column "
                    f"{smiles_column!r}"
                )
            rows = smi_rows(raw, name)
        else:
            semicolons = parted_by_semicolons(first_line(raw), kind, smiles_column)
            lines = cells_of(raw, name, kind, smiles_column)
            columns = unique(next(lines)[1])
            column = _smiles_column(columns, smiles_column, name)
            rows = csv_rows(lines, columns, columns.index(column), name)
        while chosen := list(itertools.islice(rows, size)):
            cells = [row for row, _ in chosen]
            frame = pd.DataFrame(cells, columns=columns, dtype=str)
            yield frame, [molecule for _, molecule in chosen], column, semicolons


def _parquet_chunks(
    raw: BinaryIO, name: str, size: int, smiles_column: str | None
) -> Iterator[tuple[pd.DataFrame, list[object], str, bool]]:
    """Yield the chunks of :func:`_chunks_of` with the types of the file."""
    import pyarrow

    file = _parquet(raw, name)
    columns = unique(file.schema_arrow.names)
    column = _smiles_column(columns, smiles_column, name)
    with _parquet_errors(name):
        for batch in file.iter_batches(batch_size=size):
            # Without pandas' metadata, an index is a column like any other.
            named = pyarrow.RecordBatch.from_arrays(list(map(_plain, batch.columns)), columns)
            frame = named.to_pandas(types_mapper=pd.ArrowDtype)
            texts = frame[column].astype(object)
            yield frame, texts.where(texts.notna(), "").tolist(), column, False


def _plain(cells: Any) -> Any:
    """Return an array of Arrow's view types, which has few functions, as one of plain ones."""
    plain = {"string_view": "large_string", "binary_view": "large_binary"}.get(str(cells.type))
    return cells if plain is None else cells.cast(plain)


def _kind_of(
    raw: io.BufferedReader,
    path: str | os.PathLike,
    smiles_column: str | None,
    format: str | None,
) -> str:
    """Tell the format of an open file, or what to do with one that cannot be read."""
    name = name_of(path)
    if not raw.peek(1):
        raise TableError(f"{name} is empty; it needs a row per molecule")
    refuse_foreign(raw, name)
    kind = format or format_of(path) or sniff(raw, smiles_column)
    if kind in ("csv", "tsv", "smi") and sniff(raw, smiles_column) == "parquet":
        raise TableError(
            f"{name} is Parquet, not {kind}: use --format parquet, or in Python "
            "pandas.read_parquet and dataset_from_smiles"
        )
    return kind


def _parquet(raw: BinaryIO, name: str) -> Any:
    from pyarrow import parquet

    with _parquet_errors(name):
        return parquet.ParquetFile(raw)


@contextmanager
def _parquet_errors(name: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a page that is damaged
        told = " ".join(str(error).split())
        raise TableError(f"{name} is not a Parquet file, or a damaged one ({told})") from error


def _smiles_column(columns: list[str], wanted: str | None, name: str) -> str:
    """Find the SMILES column; raise an error that says how to name it otherwise."""
    if wanted is not None:
        return column_named(columns, wanted, name)
    lowered = {column.strip().lower(): column for column in reversed(columns)}
    for known in SMILES_COLUMNS:
        if known in lowered:
            return lowered[known]
    containing = [column for column in columns if "smiles" in column.lower()]
    if len(containing) == 1:
        if re.search("[,;|\t]", containing[0]):
            raise TableError(
                f"{name} has the column {containing[0]!r}: its cells are parted by another "
                "separator than its ending or its first line says; give --format csv or tsv, or "
                "part them by commas"
            )
        return containing[0]
    raise TableError(
        f"cannot tell which column of {name} holds the SMILES; name it by --smiles-column "
        f"(smiles_column= in Python). Its columns are: {listed(columns):.1000}. If these are a "
        "molecule, add a header line: smiles,name,...; delete what stands above the header line"
    )
