"""``mmsa embed``: one vector per molecule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console

if TYPE_CHECKING:
    import pandas as pd

    from deepchem_mmsa.tables import Table


def embed(
    source: options.Input,
    model: options.Model = options.DEFAULT_MODEL,
    output: options.OutputTable = "-",
    smiles_column: options.SmilesColumn = None,
    format: options.InputFormat = None,
    jobs: options.Jobs = 1,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Embed molecules: columns embedding_0, embedding_1, ... for clustering, search or models."""
    from deepchem_mmsa.cli.rows import checked_output, compute_table, load_model, model_identity

    console = Console(quiet, as_json)
    checked_output(output)
    predictor = load_model(model, device)

    def compute(table: Table, progress: Callable[[int], None]) -> tuple[pd.DataFrame, list[str]]:
        import pandas as pd

        values, reasons = predictor.embed(table.smiles, batch_size, jobs, progress)
        names = [f"embedding_{i}" for i in range(values.shape[1])]
        return pd.DataFrame(values, columns=names), reasons

    compute_table(
        console, "embed", source, output, compute, smiles_column, format,
        {"model": model_identity(model), "smiles_column": smiles_column},
    )  # fmt: skip
