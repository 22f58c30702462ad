"""``mmsa predict``: predict the labels of molecules with a fine-tuned model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from deepchem_mmsa.applicability import ApplicabilityDomain
    from deepchem_mmsa.cli.rows import Compute
    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.tables import Table
    from deepchem_mmsa.views import ViewSettings


def _more_than_one(masks: int) -> int:
    if masks == 1:
        raise typer.BadParameter("the standard deviation needs at least 2 masks; 50 is usual")
    return masks


def predict(
    source: options.Input,
    model: options.Models,
    output: options.OutputTable = "-",
    masks: Annotated[
        int,
        typer.Option(
            "--uncertainty",
            min=0,
            metavar="MASKS",
            callback=_more_than_one,
            help="Add std_TASK, the standard deviation over this many MC dropout masks; 50 is "
            "usual.",
        ),
    ] = 0,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Table of the training molecules, or the folder of the model's fine-tuning, which "
            "knows them. Adds the column domain, the share of them that "
            "are at least as far from the training set's anchors as the predicted molecule; "
            "below 0.05 is out of domain."
        ),
    ] = None,
    smiles_column: options.SmilesColumn = None,
    domain_column: options.ReferenceColumn = None,
    format: options.InputFormat = None,
    jobs: options.AutoJobs = 0,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Predict the labels of molecules: probabilities, or values in the units of the labels."""
    from deepchem_mmsa.cli.ahead import described, processes
    from deepchem_mmsa.cli.rows import (
        checked_output,
        compute_table,
        each_model,
        file_identity,
        model_identity,
    )
    from deepchem_mmsa.hub import find_model

    console = Console(quiet, as_json)
    checked_output(output)
    if domain == "-":
        raise typer.BadParameter("--domain must be a file; standard input is for IN")
    if domain is not None and Path(domain).is_dir():
        _trained_on(domain)  # or says what is wrong
    model = each_model(model)
    if masks and len(model) > 1:
        raise typer.BadParameter(
            "--uncertainty samples dropout masks of one model; with several models, std_TASK is "
            "already their standard deviation"
        )
    identities = list(map(model_identity, model))
    if len(set(identities)) < len(model):
        twice = next(name for i, name in enumerate(model) if identities[i] in identities[:i])
        raise typer.BadParameter(f"the model {twice} is given twice: give each model once")
    told = None
    for name in reversed(model):  # ends with the first, whose views are those of all
        told = described(find_model(name))
        if told and told[0].mode == "pretraining":
            raise Failure(
                f"the model {name} was pre-trained only and predicts no labels: fine-tune it first "
                f"(mmsa finetune ... --from-model {name}), or compute embeddings (mmsa embed)",
                ExitCode.MODEL,
            )
    jobs = processes(jobs, source, *([] if domain is None else [_rows_of(domain)]))

    def load() -> Compute:
        predictors = _loaded(model, device, masks)
        predictor = predictors[0]
        known = None
        if domain is not None:
            columns = (domain_column, smiles_column)
            known = _domain(console, predictor, domain, columns, batch_size, jobs)

        def compute(
            table: Table, molecules: Sequence[object], progress: Callable[[int], None]
        ) -> tuple[pd.DataFrame, list[str]]:
            if masks or known is not None:  # featurize a chunk once for all that is computed
                molecules = predictor.records(molecules)
            std = None
            if len(predictors) > 1:
                from deepchem_mmsa.ensemble import ensemble_spread

                values, std, reasons = ensemble_spread(predictors, molecules, batch_size)
            else:
                values, reasons = predictor.predict(molecules, batch_size, 1, progress)
            if masks:
                from deepchem_mmsa.ensemble import dropout_spread

                std = dropout_spread(predictor, molecules, masks, batch_size=batch_size).std
            columns = prediction_columns(predictor, values)
            if std is not None:
                columns = columns.join(prediction_columns(predictor, std, "std"))
            if known is not None:
                columns["domain"] = known.score(molecules).astype("float32")
            return columns, reasons

        return compute

    compute_table(
        console, "predict", source, output, load, smiles_column, format,
        {"model": identities, "smiles_column": smiles_column, "masks": masks,
         "batch_size": batch_size if masks else None,
         "domain": None if domain is None else [file_identity(_rows_of(domain)), domain_column]},
        (told and told[1], jobs),
    )  # fmt: skip


def _loaded(models: Sequence[str], device: str, masks: int) -> list[MMSAPredictor]:
    """Load the models and check that they support the requested options."""
    from deepchem_mmsa.cli.rows import load_model
    from deepchem_mmsa.mc_dropout import has_dropout

    predictors = [load_model(name, device) for name in models]
    if len(predictors) > 1:
        from deepchem_mmsa.ensemble import check_alike

        try:
            check_alike(predictors)
        except ValueError as error:
            numbered = ", ".join(f"{i}: {name}" for i, name in enumerate(models, start=1))
            raise Failure(f"{error} ({numbered})", ExitCode.MODEL) from error
    if masks and not has_dropout(predictors[0].network):
        raise Failure(
            f"the model {models[0]} has no dropout, so --uncertainty has nothing to sample; "
            "fine-tune with --set head_dropout=0.2, or train several models with other seeds",
            ExitCode.MODEL,
        )
    return predictors


def _domain(
    console: Console, predictor: MMSAPredictor, training: str,
    columns: tuple[str | None, str | None], batch_size: int, jobs: int,
) -> ApplicabilityDomain:  # fmt: skip
    """Return the applicability domain fitted to the molecules of a file; errors name the file."""
    from deepchem_mmsa.applicability import ApplicabilityDomain
    from deepchem_mmsa.cli.rows import column_of_other, other_records
    from deepchem_mmsa.tables import count_rows
    from deepchem_mmsa.views import many_views

    molecules: list[object] = []
    settings = predictor.settings
    if Path(training).is_dir():
        given = _trained_on(training, settings)
        with console.progress("domain", len(given)) as progress:
            molecules += many_views(given, settings, jobs, progress, contained=True)
    else:
        column = column_of_other(training, *columns)
        with console.progress("domain", count_rows(training, column)) as progress:
            for _, records in other_records(
                training, column, "--domain-column", settings, jobs, progress
            ):
                molecules += records
    try:
        return ApplicabilityDomain(predictor, "training", batch_size).fit(molecules)
    except ValueError as error:
        raise Failure(f"--domain {training}: {error}", ExitCode.INPUT) from error


def _rows_of(domain: str) -> str:
    """Return the table of a domain; of a run, the one that tells each row's part."""
    return str(Path(domain) / "rows.csv") if Path(domain).is_dir() else domain


def _trained_on(run: str, settings: ViewSettings | None = None) -> list[object]:
    """Return what a run was trained on: its records with these views, or the SMILES."""
    import pandas as pd

    path = Path(_rows_of(run))
    told = pd.read_csv(path, keep_default_na=False, dtype=str) if path.is_file() else None
    if told is None or "split" not in told:
        raise Failure(
            f"--domain {run}: not the folder of mmsa finetune (no rows.csv with a column split); "
            "give it, or a table of the training molecules",
            ExitCode.INPUT,
        )
    trained = (told["split"] == "train").to_numpy()
    kept = _kept_records(Path(run, "records"), settings, trained)
    return kept or told.loc[trained, "smiles"].tolist()


def _kept_records(folder: Path, settings: ViewSettings | None, wanted: np.ndarray) -> list[object]:
    """Return the wanted records of a run; none if they are gone, or not as they would be made."""
    from deepchem_mmsa.shards import ShardError, ShardSet
    from deepchem_mmsa.shards.reading import read_manifest
    from deepchem_mmsa.views import FEATURE_VERSION

    try:
        version = (read_manifest(folder) or {}).get("feature_version")
        shards = ShardSet.open(folder)
        if (version, shards.settings, len(shards)) != (FEATURE_VERSION, settings, len(wanted)):
            return []
        return [record for record, used in zip(shards, wanted) if used]
    except ShardError:
        return []


def prediction_columns(
    predictor: MMSAPredictor, values: np.ndarray, name: str | None = None
) -> pd.DataFrame:
    """Return predictions, or values of the same shape, as named columns.

    Parameters
    ----------
    predictor : MMSAPredictor
    values : np.ndarray
        ``[N, T, C]`` or ``[N, T]``.
    name : str, optional
        By default ``predicted`` for values and ``probability`` for classes.

    Returns
    -------
    pandas.DataFrame
        ``NAME_TASK`` for values, and for class 1 of two classes (``NAME_TASK_CLASS`` if the class
        has a name); with more than two classes ``NAME_TASK_CLASS`` for each.
    """
    import pandas as pd

    name = name or ("predicted" if values.ndim == 2 else "probability")
    values = values.astype("float32")  # the precision of the network's output
    columns = {}
    for t, task in enumerate(predictor.tasks):
        if values.ndim == 2:
            columns[f"{name}_{task}"] = values[:, t]
        elif values.shape[2] == 2:
            plain = predictor.classes == ["0", "1"]
            ending = "" if plain else f"_{predictor.classes[1]}"
            columns[f"{name}_{task}{ending}"] = values[:, t, 1]
        else:
            for c, called in enumerate(predictor.classes):
                columns[f"{name}_{task}_{called}"] = values[:, t, c]
    return pd.DataFrame(columns)
