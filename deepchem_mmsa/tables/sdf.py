"""Reading the records of an SDF; each is kept, even if its mol block is invalid."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from rdkit import Chem

from deepchem_mmsa.molecule import MODALITIES, MoleculeViews
from deepchem_mmsa.rdkit_state import quiet_legacy
from deepchem_mmsa.tables.files import as_lines
from deepchem_mmsa.tables.text import unique
from deepchem_mmsa.views.topology import written


def sdf_records(raw: io.BufferedReader, name: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (title, mol block, properties) of each record, even if its mol block is invalid."""
    with as_lines(raw, name) as text:
        lines: list[str] = []
        for line in text:
            if not line.startswith("$$$$"):
                lines.append(line.rstrip("\r\n"))
                continue
            yield _sdf_record(lines)
            lines = []
        if any(part.strip() for part in lines):  # the last record may lack its end
            yield _sdf_record(lines)


_PROPERTY = re.compile(">.*?<(.+)>")


def _sdf_record(lines: list[str]) -> tuple[str, str, dict[str, str]]:
    header = 4  # title, program, comment and counts may begin with anything
    data = next(
        (i for i, line in enumerate(lines) if i >= header and line.startswith(">")), len(lines)
    )
    properties: dict[str, list[str]] = {}
    current: list[str] = []
    blank = True  # a value ends with a blank line, and may begin with ">" itself
    for line in lines[data:]:
        named = _PROPERTY.match(line) if blank else None
        if named:
            current = properties.setdefault(named[1], [])
        else:
            current.append(line)
        blank = not line.strip()
    joined = {key: "\n".join(value).strip() for key, value in properties.items()}
    return "".join(lines[:1]).strip(), "\n".join(lines[:data]) + "\n", joined


def sdf_columns(raw: io.BufferedReader, name: str) -> list[str]:
    """Return the columns of an SDF: ``name``, ``smiles`` and the properties of all records."""
    found = dict.fromkeys(p for record in sdf_records(raw, name) for p in _beside(record[2]))
    return ["name", "smiles", *found]


def _beside(properties: dict[str, str]) -> dict[str, str]:
    """Rename properties that clash with the columns ``name`` and ``smiles``."""
    given = list(properties)
    return dict(zip(unique(["name", "smiles", *given])[2:], properties.values()))


def sdf_rows(
    raw: io.BufferedReader, name: str, columns: list[str]
) -> Iterator[tuple[list[str], object]]:
    """Yield (cells of `columns`, molecule) of each record; explicit hydrogens are kept."""
    for title, block, properties in sdf_records(raw, name):
        with quiet_legacy():
            molecule: Any = Chem.MolFromMolBlock(block, removeHs=False)
            if molecule is None:  # if it can be parsed, the views report what is wrong
                molecule = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
            text = _smiles(molecule)
            if molecule is None:
                why = "the mol block cannot be parsed"
                molecule = MoleculeViews.unreadable(title, why, MODALITIES)
        values = {"name": title, "smiles": text, **_beside(properties)}
        yield [values.get(column, "") for column in columns], molecule


def _smiles(molecule: Chem.Mol | None) -> str:
    """Return the SMILES without hydrogens; empty if there is no molecule."""
    return "" if molecule is None else written(Chem.RemoveHs(molecule, sanitize=False))
