"""``mmsa featurize``: images, graphs and conformers, computed once and stored in shards."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, keep_input
from deepchem_mmsa.words import counted


def featurize(
    source: options.Input,
    output: options.OutputFolder,
    modalities: Annotated[
        str, typer.Option(help="Views to compute: any of image,graph,geometry,fingerprint.")
    ] = "image,graph,geometry",
    image_size: Annotated[int, typer.Option(help="Pixels per side of the image.")] = 224,
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Relax conformers with a force field.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="X", min=0, help="Time limit per conformer, in seconds.")
    ] = 5.0,
    shard_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Molecules per shard.")
    ] = 1000,
    seed: options.Seed = 0,
    smiles_column: options.SmilesColumn = None,
    format: options.InputFormat = None,
    jobs: options.Jobs = 1,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Compute the views of molecules once, in a folder that pretrain accepts as IN."""
    from deepchem_mmsa.cli import records, rows
    from deepchem_mmsa.tables import read_chunks, write_chunks
    from deepchem_mmsa.views import ViewSettings

    console = Console(quiet, as_json)
    keep_input(source, output / "rows.csv")
    try:
        settings = ViewSettings(
            tuple(name.strip() for name in modalities.split(",")), image_size, seed, timeout,
            optimize,
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    began = time.monotonic()
    with records.as_file(source) as file:
        molecules = records.Molecules(file, smiles_column, format)
        shards = records.make_records(molecules, output, settings, jobs, console, shard_size)
        status, reasons = records.fate_of_rows(shards)
        import pandas as pd

        def described() -> object:
            start = 0
            for table in read_chunks(file, rows.CHUNK, smiles_column, format):
                end = start + len(table)
                nothing = pd.DataFrame(index=range(len(table)))
                yield rows.with_columns(table.frame, nothing, reasons[start:end], status[start:end])
                start = end

        write_chunks(described(), output / "rows.csv")  # type: ignore[arg-type]
    failed = records.note_failures(console, status, reasons, "")
    seconds = time.monotonic() - began
    console.result(
        {"input": source, "output": str(output), "rows": len(shards), "failed": failed,
         "shards": shards.n_shards, "seconds": round(seconds, 3)},
        f"{counted(len(shards), 'row')} in {counted(shards.n_shards, 'shard')} in {seconds:.1f} s; "
        f"the status of each row is in {output / 'rows.csv'}",
    )  # fmt: skip
    if failed == len(shards):
        raise Failure(
            f"no row of {source} holds a molecule. Is the SMILES column the right one "
            "(--smiles-column)?",
            ExitCode.INPUT,
        )
