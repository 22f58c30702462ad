"""``mmsa finetune``: fine-tune on labels with early stopping, and score the test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, keep_input
from deepchem_mmsa.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from deepchem.data import Dataset

    from deepchem_mmsa.config import MMSAConfig
    from deepchem_mmsa.early_stopping import EarlyStopping
    from deepchem_mmsa.model import MMSAModel
    from deepchem_mmsa.shards import ShardSet
    from deepchem_mmsa.tables import Table

_PREDICTIONS = "test_predictions"  # a table in the folder of a run


def finetune(
    source: options.Input,
    output: options.OutputFolder,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            "-l",
            metavar="NAME",
            help="Column of labels; repeatable; by default the only column of numbers. Empty "
            "cells are missing labels.",
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="classification, regression, or auto: classification if all labels are 0 or 1."
        ),
    ] = "auto",
    split: Annotated[
        str, typer.Option(help="scaffold, random, or a column that holds train, valid or test.")
    ] = "scaffold",
    valid: Annotated[
        float,
        typer.Option(
            metavar="X", min=0, max=0.9, help="Share of the molecules used for early stopping."
        ),
    ] = 0.1,
    test: Annotated[
        float,
        typer.Option(
            metavar="X", min=0, max=0.9, help="Share of the molecules scored once, at the end."
        ),
    ] = 0.1,
    from_model: options.FromModel = None,
    preset: options.Preset = None,
    epochs: options.Epochs = 50,
    patience: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Epochs without improvement before the run stops."),
    ] = 10,
    batch_size: options.BatchSize = 64,
    learning_rate: options.LearningRate = 5e-4,
    averaging: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            max=0.99999,
            help="Decay of an exponential moving average of the weights, which is scored and kept "
            "instead of the weights themselves; 0.99 is usual, 0 disables it.",
        ),
    ] = 0.0,
    n_models: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of networks, with seeds counted from --seed; several are written to the "
            "subfolders model0, model1, ..., and predict averages them.",
        ),
    ] = 1,
    settings: options.Set = None,
    seed: options.Seed = 0,
    resume: options.Resume = False,
    smiles_column: options.SmilesColumn = None,
    format: options.InputFormat = None,
    jobs: options.Jobs = 1,
    workers: options.Workers = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Fine-tune on labels: split, early stopping on the validation set, scores on the test set."""
    fields = options.network_fields(settings)
    console = Console(quiet, as_json)
    import numpy as np

    from deepchem_mmsa.cli import labels, scores, training
    from deepchem_mmsa.cli.notes import notes_on
    from deepchem_mmsa.cli.rows import checked_device
    from deepchem_mmsa.hub import member_folders
    from deepchem_mmsa.tables import read_table

    device = checked_device(device)
    from_model = training.first_weights(from_model, preset)
    network = training.network_config(from_model, preset, fields)
    table = read_table(source, smiles_column, format)
    tasks = label or [labels.guessed_label(table, split)]
    y, classes = labels.read_labels(table, tasks, mode)
    kind, n_classes = labels.label_kind(y, mode, table.name)
    labels.check_split(table, ~np.isnan(y).all(axis=1), split, valid, test)
    network = network.replace(
        mode=kind, n_tasks=len(tasks), n_classes=n_classes, batch_size=batch_size,
        learning_rate=learning_rate, seed=seed,
    )  # fmt: skip
    columns = [*tasks, *([split] if split in table.frame.columns else [])]
    asked = {
        "--split": split, "--valid": valid, "--test": test, "--label": tasks,
        "--patience": patience,
    }  # fmt: skip
    if averaging:
        asked["--averaging"] = averaging
    if n_models > 1:
        asked["--n-models"] = n_models
    began = training.began_with(network, from_model, table, columns, **asked)
    keep_input(source, *(output / f"{name}.csv" for name in ("rows", "history", _PREDICTIONS)))
    training.open_run(output, resume, began, console, n_models)
    views = training.views_of(network, from_model)
    records = training.featurized(table, views, output, jobs, console)
    training.note_run(output, began)
    data = _in_parts(table, tasks, y, records, split, valid, test, seed)
    described: dict[str, Any] = {
        "data": table.name, "from_model": from_model, "labels": tasks, "mode": kind, "split": split,
        "molecules": data.sizes,
    }  # fmt: skip
    if data.idle:
        console.note(f"{data.idle} of {counted(len(data.rows), 'row')} without a label, left out")
    for note in notes_on(
        data.labels, data.part, data.ids, kind, split, guessed=mode == "auto", tested=test > 0,
        classes=classes or (),
    ):  # fmt: skip
        console.note(note)

    metrics = scores.metrics_of(kind)

    def scored(values: dict[str, np.ndarray]) -> dict[str, Any]:
        return scores.scores_of(data.held_out, values, metrics, tasks, n_classes)

    answers: list[dict[str, np.ndarray]] = []
    trained: list[dict[str, Any]] = []
    for number, folder in enumerate(member_folders(output, n_models)):
        if n_models > 1:
            console.note(f"network {number + 1} of {n_models}, seed {seed + number}")
        of_seed = network.replace(seed=seed + number)
        model = training.make_model(of_seed, from_model, folder, device, console)
        model.tasks, model.classes = tasks, classes
        stopping = _early_stopping(data.held_out["valid"], metrics[0], network, patience, averaging)
        with training.resumable(output):
            model.fit(
                data.train, nb_epoch=epochs, restore=resume and training.has_begun(folder),
                callbacks=[stopping, training.HistoryFile(folder)], n_workers=workers,
            )  # fmt: skip
        answers.append({part: model.predict(of_part) for part, of_part in data.held_out.items()})
        if np.isnan(answers[-1]["valid"]).all():
            raise Failure(
                "training diverged: the model predicts nothing but NaN; lower --learning-rate "
                f"({learning_rate:g})",
                ExitCode.TRAINING,
            )
        trained.append(
            {"epochs": len(model.history), "best_epoch": stopping.best_epoch,
             **scored(answers[-1])}
        )  # fmt: skip
        training.write_run(folder, model, data.rows, {**described, **trained[-1]})

    summary = {**described, **trained[0]}
    best = f"the model (best epoch {trained[0]['best_epoch']}) is in {output}"
    if n_models > 1:
        means = {part: _over([answer[part] for answer in answers])[0] for part in data.held_out}
        summary = {**described, "models": trained, **scored(means)}
        training.write_summary(output, data.rows, summary)
        best = f"{n_models} models are in {output}; the scores are those of their mean"
    if "test" in data.held_out:
        _write_test_predictions(output, table, data, [answer["test"] for answer in answers], model)
    failed = int((data.rows["status"] == "failed").sum())
    _tell(console, {"output": str(output), "failed": failed, **summary}, best)


@dataclass
class _Parts:
    """Labelled molecules after the split: the table's rows with their status, and the sets."""

    rows: pd.DataFrame
    part: np.ndarray
    ids: np.ndarray
    labels: dict[str, np.ndarray]
    train: Dataset
    held_out: dict[str, Dataset]
    sizes: dict[str, int]
    idle: int  # rows that hold a molecule and no label


def _in_parts(
    table: Table,
    tasks: list[str],
    y: np.ndarray,
    records: tuple[ShardSet, pd.DataFrame],
    split: str,
    valid: float,
    test: float,
    seed: int,
) -> _Parts:
    """Split the rows that hold a molecule and a label."""
    import numpy as np
    import pandas as pd

    from deepchem_mmsa.cli.labels import split_rows
    from deepchem_mmsa.cli.records import name_column
    from deepchem_mmsa.datasets import dataset_from_shards

    shards, rows = records
    data = dataset_from_shards(shards, y, tasks)
    molecule, labelled = (rows["status"] == "ok").to_numpy(), ~np.isnan(y).all(axis=1)
    part = split_rows(table, data.ids, molecule & labelled, split, valid, test, seed)
    idle = molecule & ~labelled
    rows.loc[idle, "reason"] = [
        f"{why}; no label" if why else "no label" for why in rows.reason[idle]
    ]
    rows["split"] = part
    name = name_column(table, [*tasks, split])
    if name is not None:
        rows["name"] = table.frame[name].fillna("").astype(str)
    rows = rows.join(pd.DataFrame(y, columns=[f"label {task}" for task in tasks]))
    sets = {name: data.select(np.flatnonzero(part == name)) for name in ("train", "valid", "test")}
    sizes = {name: len(of_part) for name, of_part in sets.items()}
    train = sets.pop("train")
    held_out = {name: of_part for name, of_part in sets.items() if len(of_part)}
    named = dict(zip(tasks, y.T))
    return _Parts(rows, part, data.ids, named, train, held_out, sizes, int(idle.sum()))


def _over(answers: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over networks."""
    import numpy as np

    return np.mean(answers, axis=0, dtype=float), np.std(answers, axis=0, dtype=float)


def _write_test_predictions(
    output: Path, table: Table, data: _Parts, answers: list[np.ndarray], model: MMSAModel
) -> None:
    """Write the test rows with their mean prediction and, of several networks, its deviation."""
    from deepchem_mmsa.cli.predict import prediction_columns
    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.tables import write_table

    last = MMSAPredictor(model.model, {"tasks": model.tasks, "classes": model.classes})
    mean, spread = _over(answers)
    named = prediction_columns(last, mean)
    if len(answers) > 1:
        named = named.join(prediction_columns(last, spread, "std"))
    chosen = table.frame[data.part == "test"].reset_index(drop=True)
    write_table(chosen.join(named, rsuffix="_"), output / f"{_PREDICTIONS}.csv")


def _early_stopping(
    valid_set: Any, metric: Any, network: MMSAConfig, patience: int, averaging: float
) -> EarlyStopping:
    """Return the callback, which monitors the metric, or the loss if the metric is undefined."""
    from deepchem_mmsa.cli.scores import can_be_scored
    from deepchem_mmsa.early_stopping import EarlyStopping

    watched = metric if can_be_scored(valid_set, network) else None
    return EarlyStopping(
        valid_set, watched, patience=patience,
        minimize=watched is None or network.mode == "regression", averaging=averaging,
    )  # fmt: skip


def _tell(console: Console, summary: dict[str, Any], best: str) -> None:
    """Print the scores, the names of undefined ones, and where the model is."""
    lines = []
    from deepchem_mmsa.cli.scores import rough, untold

    for note in (*untold(summary), *rough(summary)):
        console.note(note)
    for part, scores in summary["scores"].items():
        lines.append(f"{part}: " + ", ".join(f"{n} {value:.4g}" for n, value in scores.items()))
    console.result(summary, "\n".join([*lines, best]))
