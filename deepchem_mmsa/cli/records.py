"""Featurized records of a table's molecules in shards, for ``featurize`` and the training."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from deepchem_mmsa.cli.console import Console, ExitCode, Failure, Interrupted
from deepchem_mmsa.shards import ShardError, ShardSet, featurize_to_shards
from deepchem_mmsa.tables import Table, count_rows, read_chunks
from deepchem_mmsa.tables.files import MISSING, copying_a_pipe, is_pipe, opened
from deepchem_mmsa.views import ViewSettings
from deepchem_mmsa.words import counted


class Molecules:
    """The molecules of a table, re-read on each iteration, in constant memory.

    Parameters
    ----------
    source : str
        A file.
    smiles_column, format : str or None
    """

    def __init__(self, source: str, smiles_column: str | None, format: str | None) -> None:
        self._arguments = smiles_column, format
        self._source = source
        self._n = count_rows(source, smiles_column, format) or 0

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[object]:
        for table in read_chunks(self._source, 1000, *self._arguments):
            yield from table.smiles


@contextmanager
def as_file(source: str) -> Iterator[str]:
    """Yield the path of a file that can be read more than once: a copy where `source` is a pipe."""
    if not is_pipe(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="mmsa-") as folder:
        copy = Path(folder, "input")
        # Closed before it is given away: Windows opens none twice.
        with copying_a_pipe(), opened(source) as given, copy.open("wb") as file:
            shutil.copyfileobj(given, file)
        yield str(copy)


def make_records(
    molecules: Molecules | list[object],
    folder: Path,
    settings: ViewSettings,
    jobs: int,
    console: Console,
    shard_size: int = 1000,
    go_on: str = "run the same command again to resume from there.",
) -> ShardSet:
    """Featurize into shards; shards that an interrupted run finished are reused."""
    try:
        return featurize_to_shards(
            molecules, folder, settings, shard_size, jobs,
            progress=not console.silent and len(molecules) > 200,
        )  # fmt: skip
    except ShardError as error:
        raise Failure(str(error), ExitCode.OUTPUT) from error
    except (KeyboardInterrupt, SystemExit) as error:
        raise Interrupted(f"Finished shards are kept in {folder}; {go_on}") from error


def fate_of_rows(shards: ShardSet) -> tuple[list[str], list[str]]:
    """Return status and reason of each row.

    Returns
    -------
    status : list of str
        "failed" for a row without any view, "ok" for the others.
    reason : list of str
        Empty, or why views are missing.
    """
    status, reasons = ["ok"] * len(shards), [""] * len(shards)
    views = len(shards.settings.modalities)
    for row, found in shards.failures().groupby("row"):
        texts = found["reason"].tolist()
        if len(texts) == views:
            status[int(str(row))] = "failed"
        if len(set(texts)) > 1 or len(texts) < views:
            texts = [f"{view}: {text}" for view, text in zip(found["view"], texts)]
        reasons[int(str(row))] = "; ".join(dict.fromkeys(texts))
    return status, reasons


def note_failures(console: Console, status: list[str], reasons: list[str], what: str) -> int:
    """Report how many rows hold no molecule, with the first and its reason; return the number."""
    failed = np.flatnonzero(np.array(status) == "failed")
    if len(failed):
        rows = counted(len(status), "row")
        console.note(
            f"{len(failed)} of {rows} without a molecule{what}; the first is row "
            f"{failed[0] + 1}: {reasons[failed[0]]}"
        )
    return len(failed)


def rows_table(smiles: list[str], status: list[str], reasons: list[str]) -> pd.DataFrame:
    """Return ``row`` (from 1), ``smiles``, ``status`` and ``reason``."""
    rows = np.arange(1, len(smiles) + 1)
    return pd.DataFrame({"row": rows, "smiles": smiles, "status": status, "reason": reasons})


def name_column(table: Table, others: Sequence[str] = ()) -> str | None:
    """Return the column that names the molecules: the first one of texts that are no numbers.

    Parameters
    ----------
    table : Table
    others : sequence of str
        Columns that are something else, beside the SMILES.

    Examples
    --------
    >>> frame = pd.DataFrame({"batch": ["7", "8"], "smiles": ["C", "CC"], "ID": ["", "A-1"]})
    >>> name_column(Table(frame, ["C", "CC"], "my.csv", "smiles"))
    'ID'
    """
    for column in table.frame.columns:
        if column not in (table.smiles_column, *others):
            cells = table.frame[column].dropna().astype(str).str.strip()
            texts = cells[~cells.str.lower().isin((*MISSING, "true", "false"))]
            if pd.to_numeric(texts, errors="coerce").isna().mean() > 0.5:
                return str(column)
    return None
