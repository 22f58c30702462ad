"""``mmsa pretrain``: learn representations from molecules without labels."""

from __future__ import annotations

from typing import Annotated

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, keep_input
from deepchem_mmsa.words import counted


def pretrain(
    source: options.Input,
    output: options.OutputFolder,
    preset: Annotated[
        str | None,
        typer.Option(show_default=False, help="Size of the network: small (the default) or base."),
    ] = None,
    from_model: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Continue from the weights of this folder or shipped model; by default training "
            "starts from scratch.",
        ),
    ] = None,
    epochs: options.Epochs = 10,
    batch_size: options.BatchSize = 128,
    learning_rate: options.LearningRate = 1e-3,
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
    """Pre-train a model on molecules without labels; pass its folder to --from-model afterwards.

    IN may also be an output folder of featurize.
    """
    fields = options.network_fields(settings)
    console = Console(quiet, as_json)
    from pathlib import Path

    import numpy as np

    from deepchem_mmsa.cli import training
    from deepchem_mmsa.cli.rows import checked_device
    from deepchem_mmsa.datasets import dataset_from_shards
    from deepchem_mmsa.epochs import batch_bounds
    from deepchem_mmsa.tables import read_table

    device = checked_device(device)
    network = training.network_config(from_model, preset, fields).replace(
        mode="pretraining", batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    if Path(source).is_dir():
        shards, rows = training.opened(Path(source), network, console)
        began = training.began_with(network, from_model, None, input=shards.inputs)
        training.open_run(output, resume, began, console)
    else:
        table = read_table(source, smiles_column, format)
        began = training.began_with(network, from_model, table)
        keep_input(source, output / "rows.csv", output / "history.csv")
        training.open_run(output, resume, began, console)
        views = training.views_of(network, from_model)
        shards, rows = training.featurized(table, views, output, jobs, console)
    training.note_run(output, began)
    data = dataset_from_shards(shards).select(np.flatnonzero(rows["status"] == "ok"))
    model = training.make_model(network, from_model, output, device, console)
    interval = min(1000, max(100, len(batch_bounds(len(data), batch_size))))
    with training.resumable(output):
        model.fit(
            data, nb_epoch=epochs, checkpoint_interval=interval, restore=resume,
            callbacks=[training.HistoryFile(output)], n_workers=workers,
        )  # fmt: skip
    last = {k: v for k, v in model.history[-1].items() if k not in ("epoch", "step")}
    summary = {
        "data": source, "from_model": from_model, "molecules": len(data),
        "epochs": len(model.history), "last_epoch": last,
    }  # fmt: skip
    training.write_run(output, model, rows, summary)
    console.result(
        {"output": str(output), "failed": int((rows["status"] == "failed").sum()), **summary},
        f"pre-trained on {len(data)} molecules for {counted(len(model.history), 'epoch')}, "
        f"loss {last['loss']:.4g}; the model is in {output}",
    )
