r"""Tables of molecules: CSV, TSV, SMILES files, SDF and Parquet, in and out, every row kept.

A table is read in chunks, so that memory stays flat however long it is, gzipped or not, from a
file or from standard input (``"-"``). What cannot be read as a molecule stays in its row; what
cannot be read as a table is a :class:`TableError` that names the line and the remedy.
"""

from __future__ import annotations

from deepchem_mmsa.tables.files import FORMATS, SMILES_COLUMNS, TableError
from deepchem_mmsa.tables.reading import (
    Table,
    column_named,
    count_rows,
    label_array,
    numbers,
    read_chunks,
    read_table,
    refuse_dates,
)
from deepchem_mmsa.tables.writing import check_output, write_chunks, write_table

__all__ = [
    "FORMATS",
    "SMILES_COLUMNS",
    "Table",
    "TableError",
    "check_output",
    "column_named",
    "count_rows",
    "label_array",
    "numbers",
    "read_chunks",
    "read_table",
    "refuse_dates",
    "write_chunks",
    "write_table",
]
