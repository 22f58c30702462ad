"""``mmsa neighbors``: the nearest molecules of a reference table by embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure
from deepchem_mmsa.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from deepchem_mmsa.tables import Table


def neighbors(
    source: options.Input,
    reference: Annotated[
        str,
        typer.Option(
            "--reference",
            "-r",
            help="Table of molecules to search, in any format of IN.",
            show_default=False,
        ),
    ],
    count: Annotated[
        int, typer.Option("--count", "-k", metavar="N", min=1, help="Neighbours per row.")
    ] = 5,
    model: options.Model = options.DEFAULT_MODEL,
    output: options.OutputTable = "-",
    smiles_column: options.SmilesColumn = None,
    reference_column: options.ReferenceColumn = None,
    format: options.InputFormat = None,
    jobs: options.AutoJobs = 0,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Find the nearest molecules of a reference table by cosine similarity of the embeddings.

    Names are those of the first column of the reference that holds texts.
    """
    import numpy as np
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    from deepchem_mmsa.cli.ahead import processes
    from deepchem_mmsa.cli.records import name_column
    from deepchem_mmsa.cli.rows import (
        checked_output,
        column_of_other,
        compute_table,
        file_identity,
        load_model,
        model_identity,
        other_records,
    )
    from deepchem_mmsa.tables import count_rows

    console = Console(quiet, as_json)
    checked_output(output)
    if reference == "-":
        raise typer.BadParameter("--reference must be a file; standard input is for IN")
    jobs = processes(jobs, source, reference)
    predictor = load_model(model, device)
    texts: list[str] = []
    names: list[str] = []
    named: str | None = None
    vectors = []
    column = column_of_other(reference, reference_column, smiles_column)
    with console.progress("reference", count_rows(reference, column)) as progress:
        for table, records in other_records(
            reference, column, "--reference-column", predictor.settings, jobs, progress
        ):
            vectors.append(predictor.embed(records, batch_size).values)
            texts += table.frame[table.smiles_column].fillna("").astype(str).tolist()
            named = name_column(table) if table.start == 0 else named
            if named is not None:
                names += table.frame[named].fillna("").astype(str).tolist()
    known = np.concatenate(vectors)
    rows = np.flatnonzero(~np.isnan(known).any(axis=1))
    if len(rows) == 0:
        raise Failure(f"no molecule of {reference} can be embedded", ExitCode.INPUT)
    if len(rows) < len(known):
        console.note(
            f"{counted(len(known) - len(rows), 'row')} of {reference} left out: unreadable"
        )
    k = min(count, len(rows))
    # Between unit vectors, d² = 2 − 2 cos; of cosines scikit-learn would keep the whole matrix.
    known = normalize(known[rows], copy=False)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(known)

    def compute(
        table: Table, molecules: Sequence[object], progress: Callable[[int], None]
    ) -> tuple[pd.DataFrame, list[str]]:
        import pandas as pd

        values, reasons = predictor.embed(molecules, batch_size, 1, progress)
        there = ~np.isnan(values).any(axis=1)
        columns: dict[str, object] = {}
        distances, found = np.ones((len(values), k)), np.zeros((len(values), k), dtype=int)
        if there.any():
            distances[there], found[there] = search.kneighbors(normalize(values[there]))
        for rank in range(k):
            places = rows[found[:, rank]]
            columns[f"neighbor_{rank + 1}"] = np.where(there, [texts[i] for i in places], "")
            if names:
                columns[f"name_{rank + 1}"] = np.where(there, [names[i] for i in places], "")
            columns[f"row_{rank + 1}"] = pd.array(np.where(there, places + 1, -1), dtype="Int64")
            columns[f"row_{rank + 1}"][~there] = pd.NA  # type: ignore[index]
            columns[f"similarity_{rank + 1}"] = np.where(
                there, np.round(1 - distances[:, rank] ** 2 / 2, 6), np.nan
            )
        return pd.DataFrame(columns), reasons

    compute_table(
        console, "neighbors", source, output, lambda: compute, smiles_column, format,
        {"model": model_identity(model), "smiles_column": smiles_column, "count": k,
         "reference": [file_identity(reference), reference_column]},
        (predictor.settings, jobs),
    )  # fmt: skip
