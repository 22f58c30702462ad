"""``mmsa embed``: one embedding vector per molecule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console

if TYPE_CHECKING:
    import pandas as pd

    from deepchem_mmsa.cli.rows import Compute
    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.tables import Table


def embed(
    source: options.Input,
    model: options.Model = options.DEFAULT_MODEL,
    output: options.OutputTable = "-",
    features: options.Features = False,
    smiles_column: options.SmilesColumn = None,
    format: options.InputFormat = None,
    jobs: options.AutoJobs = 0,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Embed molecules: columns embedding_0, embedding_1, ... for clustering, search or models."""
    from deepchem_mmsa.cli.ahead import described, processes
    from deepchem_mmsa.cli.rows import (
        checked_output,
        compute_table,
        load_model,
        model_identity,
    )
    from deepchem_mmsa.hub import find_model

    console = Console(quiet, as_json)
    checked_output(output)
    told = described(find_model(model))
    jobs = processes(jobs, source)

    def load() -> Compute:
        predictor = load_model(model, device)

        def compute(
            table: Table, molecules: Sequence[object], progress: Callable[[int], None]
        ) -> tuple[pd.DataFrame, list[str]]:
            import pandas as pd

            read = predictor.features if features else predictor.embed
            values, reasons = read(molecules, batch_size, 1, progress)
            return pd.DataFrame(values, columns=_names(predictor, features)), reasons

        return compute

    compute_table(
        console, "embed", source, output, load, smiles_column, format,
        {"model": model_identity(model), "smiles_column": smiles_column,
         **({"features": True} if features else {})},
        (told and told[1], jobs),
    )  # fmt: skip


def _names(predictor: MMSAPredictor, features: bool) -> list[str]:
    widths = predictor.network.feature_widths
    shown = list(widths) if features else ["embedding"]
    return [f"{name}_{i}" for name in shown for i in range(widths[name])]
