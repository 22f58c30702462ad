"""Reading the rows of CSV, TSV and SMILES files; every line is kept."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator

from deepchem_mmsa.tables.files import MAX_LINE, SMILES_COLUMNS, TableError, as_lines, is_header

csv.field_size_limit(MAX_LINE)


def cells_of(
    raw: io.BufferedReader, name: str, kind: str, wanted: str | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of CSV or TSV, header first; `wanted` is one of its columns."""
    with as_lines(raw, name) as text:
        header, before, last = next(text, ""), 0, 0
        while header and not header.strip():
            header, before = next(text, ""), before + 1
        said = _SEPARATOR.fullmatch(header.strip("\r\n "))  # Excel writes such a line and hides it
        if said:
            header, before = next(text, ""), before + 1
        delimiter = said[1] if said else "\t" if kind == "tsv" else _delimiter(header, wanted)
        lines = csv.reader(itertools.chain([header], text), delimiter=delimiter, strict=True)
        try:
            for cells in lines:
                yield lines.line_num + before, cells
                last = lines.line_num
        except csv.Error as error:
            raise TableError(
                f"{name}, line {last + before + 1}: a quote that opens a cell is not closed at its "
                f"end ({error}): close it, or double it where it belongs to the text, as in "
                '"5""-prime"'
            ) from error


def parted_by_semicolons(first: str, kind: str, wanted: str | None = None) -> bool:
    """Return whether the first line of a CSV or TSV says so; arguments as of :func:`cells_of`."""
    said = _SEPARATOR.fullmatch(first)
    return (said[1] == ";") if said else kind == "csv" and _delimiter(first, wanted) == ";"


_EXTENSION = re.compile(r"\|[^|]*\|(\s|$)")
_SEPARATOR = re.compile("(?i)sep=(.)")


def _delimiter(header: str, wanted: str | None) -> str:
    """Return the delimiter of a header: comma, semicolon (many European spreadsheets) or tab."""
    known = SMILES_COLUMNS if wanted is None else (wanted.lower(),)

    def found(delimiter: str) -> tuple[bool, int]:
        names = {cell.strip(' "').lower() for cell in header.strip().split(delimiter)}
        return not names.isdisjoint(known), header.count(delimiter)

    return max(",;\t", key=found)


def csv_rows(
    lines: Iterator[tuple[int, list[str]]], columns: list[str], place: int, name: str
) -> Iterator[tuple[list[str], object]]:
    """Yield (cells, SMILES) of each line after the header; the SMILES are in cell `place`."""
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
    """Yield ([SMILES, name], SMILES) of each line except a header."""
    with as_lines(raw, name) as text:
        for number, line in enumerate(text):
            if number == 0 and is_header(line):
                continue
            words = [*line.split(None, 1), "", ""]
            extended = _EXTENSION.match(words[1])  # CXSMILES
            if extended:
                words = [f"{words[0]} {extended[0].strip()}", words[1][extended.end() :]]
            if line.startswith("\t") and words[0]:  # a name without a molecule
                words = ["", line.strip()]
            yield [words[0], words[1].strip()], words[0]


def unique(columns: list[str]) -> list[str]:
    """Make duplicate column names unique by numbering them, as pandas does."""
    taken: set[str] = set()
    names = []
    for column in columns:
        name, number = column, 0
        while name in taken or (number and name in columns):
            number += 1
            name = f"{column}.{number}"
        taken.add(name)
        names.append(name)
    return names
