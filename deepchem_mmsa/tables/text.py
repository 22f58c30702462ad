"""Rows of CSV, TSV and SMILES files, every line kept."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator

from deepchem_mmsa.tables.files import TableError, as_text, is_header

csv.field_size_limit(1 << 30)


def cells_of(raw: io.BufferedReader, name: str, kind: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of CSV or TSV, the header first."""
    with as_text(raw, name) as text:
        header = text.readline()
        # Spreadsheets of half of Europe separate by semicolons.
        delimiter = "\t" if kind == "tsv" else max(",;\t", key=header.count)
        lines = csv.reader(itertools.chain([header], text), delimiter=delimiter)
        try:
            for cells in lines:
                yield lines.line_num, cells
        except csv.Error as error:
            raise TableError(f"{name}, line {lines.line_num}: {error}") from error


def csv_rows(
    lines: Iterator[tuple[int, list[str]]], columns: list[str], place: int, name: str
) -> Iterator[tuple[list[str], object]]:
    """Yield (cells, SMILES) of each line after the header; the SMILES stand in cell `place`."""
    width = len(columns)
    for number, cells in lines:
        if len(cells) > width and any(cell.strip() for cell in cells[width:]):
            raise TableError(
                f"{name}, line {number} has {len(cells)} cells, its header {width}: put quotes "
                'around a cell that holds the separator, as in "2,4-dinitrophenol"'
            )
        row = (cells + [""] * (width - len(cells)))[:width]
        yield row, row[place]


def smi_rows(raw: io.BufferedReader, name: str) -> Iterator[tuple[list[str], object]]:
    """Yield ([SMILES, name], SMILES) of each line but the header."""
    with as_text(raw, name) as text:
        for number, line in enumerate(text):
            if number == 0 and is_header(line, None):
                continue
            words = [*line.split(None, 1), "", ""]
            yield [words[0], words[1].strip()], words[0]


def unique(columns: list[str]) -> list[str]:
    """Give columns of the same name a number each, as pandas does."""
    seen: dict[str, int] = {}
    names = []
    for column in columns:
        seen[column] = seen.get(column, -1) + 1
        names.append(f"{column}.{seen[column]}" if seen[column] else column)
    return names
