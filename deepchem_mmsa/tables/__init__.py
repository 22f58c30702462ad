r"""Reading and writing tables of molecules: CSV, TSV, SMILES files, SDF and Parquet.

A table is read in chunks, in constant memory, gzipped or not, from a file or from standard input
(``"-"``). Every row is kept, also if it holds no valid molecule; a file that is not a valid table
raises a :class:`TableError` that names the line and the remedy.
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
