"""``mmsa predict``: labels of molecules by a fine-tuned model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.tables import Table


def predict(
    source: options.Input,
    model: options.Model,
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
    """Predict the labels of molecules: probabilities, or values in the units of the labels."""
    from deepchem_mmsa.cli.rows import checked_output, compute_table, load_model, model_identity

    console = Console(quiet, as_json)
    checked_output(output)
    predictor = load_model(model, device)
    if predictor.config.mode == "pretraining":
        raise Failure(
            f"the model {model} was pre-trained only and predicts no labels: fine-tune it first "
            f"(mmsa finetune ... --from-model {model}), or ask it for embeddings (mmsa embed)",
            ExitCode.MODEL,
        )

    def compute(table: Table, progress: Callable[[int], None]) -> tuple[pd.DataFrame, list[str]]:
        values, reasons = predictor.predict(table.smiles, batch_size, jobs, progress)
        return prediction_columns(predictor, values), reasons

    compute_table(
        console, "predict", source, output, compute, smiles_column, format,
        {"model": model_identity(model), "smiles_column": smiles_column},
    )  # fmt: skip


def prediction_columns(predictor: MMSAPredictor, values: np.ndarray) -> pd.DataFrame:
    """Return predictions as named columns.

    Parameters
    ----------
    predictor : MMSAPredictor
    values : np.ndarray
        ``[N, T, C]`` or ``[N, T]``.

    Returns
    -------
    pandas.DataFrame
        ``predicted_TASK`` for values; ``probability_TASK`` of class 1, or with more than two
        classes ``probability_TASK_CLASS`` for each.
    """
    import pandas as pd

    columns = {}
    for t, task in enumerate(predictor.tasks):
        if values.ndim == 2:
            columns[f"predicted_{task}"] = values[:, t]
        elif values.shape[2] == 2:
            columns[f"probability_{task}"] = values[:, t, 1]
        else:
            for c in range(values.shape[2]):
                columns[f"probability_{task}_{c}"] = values[:, t, c]
    return pd.DataFrame(columns)
