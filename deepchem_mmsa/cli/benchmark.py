"""``mmsa benchmark``: compare MMSA with baselines on MoleculeNet: same splits, same run."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, Interrupted, make_folder


def benchmark(
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="SETS", help="Data sets: bbbp, esol, tox21, ...", show_default=False
        ),
    ],
    output: options.OutputFolder,
    from_model: options.FromModel = None,
    preset: options.Preset = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="Split protocol: deepchem (the default), hu or random-valid; repeatable."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of seeds, counted from --seed.")
    ] = 1,
    epochs: options.Epochs = 100,
    patience: Annotated[
        int, typer.Option(metavar="N", min=1, help="Epochs without improvement before a run stops.")
    ] = 30,
    batch_size: options.BatchSize = 64,
    learning_rate: options.LearningRate = 5e-4,
    settings: options.Set = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder of the MoleculeNet files, by default DeepChem's; missing ones are "
            "downloaded."
        ),
    ] = None,
    pretraining_keys: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="File of the InChIKey first blocks of the molecules that --from-model was "
            "pre-trained on, one per line; a test molecule among them is an error.",
        ),
    ] = None,
    max_molecules: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=20, help="Use at most this many of each set, for quick tests."
        ),
    ] = None,
    seed: options.Seed = 0,
    jobs: options.Jobs = 1,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Compare MMSA with a random forest and a mean baseline on MoleculeNet data sets.

    Each finished (set, model, seed) is kept, so that an interrupted run can be
    resumed and a larger one adds to it. The tables hold the results that the
    last command asked for.
    """
    fields = options.network_fields(settings)
    console = Console(quiet, as_json)
    from deepchem_mmsa.benchmark import BENCHMARKS, PROTOCOLS, Split, Whole
    from deepchem_mmsa.benchmark.cells import cells_of, run_cells
    from deepchem_mmsa.benchmark.contenders import MMSA, Contender, Forest, Mean
    from deepchem_mmsa.benchmark.results import tidy, write_results
    from deepchem_mmsa.benchmark.sets import data_identity
    from deepchem_mmsa.cli.training import first_weights, network_config, views_of
    from deepchem_mmsa.featurizer import MMSAFeaturizer
    from deepchem_mmsa.molecule import MODALITIES

    protocols = protocol or ["deepchem"]
    for given, known in ((datasets, list(BENCHMARKS)), (protocols, list(PROTOCOLS))):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise Failure(f"unknown {unknown[0]!r}; choose from {', '.join(known)}", ExitCode.USAGE)
    if data_dir is not None and not Path(data_dir).is_dir():
        raise Failure(f"--data-dir {data_dir}: there is no such folder", ExitCode.USAGE)
    from_model = first_weights(from_model, preset)
    network = network_config(from_model, preset, fields)
    ours = {"batch_size": batch_size, "learning_rate": learning_rate, **fields}
    name = "mmsa" if from_model else "mmsa-scratch"
    contenders: list[Contender] = [
        MMSA(
            name,
            ours,
            preset=preset or "small",
            weights=from_model,
            epochs=epochs,
            patience=patience,
            pretrained_on=None if pretraining_keys is None else str(pretraining_keys),
        ),
        Forest(n_jobs=jobs),
        Mean(),
    ]
    # The forest reads RDKit's descriptors, which are part of the fingerprint view.
    wanted = tuple(m for m in MODALITIES if m in (*network.modalities, "fingerprint"))
    featurizer = MMSAFeaturizer(
        wanted,
        views_of(network, from_model).image_size,
        n_jobs=jobs,
        progress=not console.silent and sys.stderr.isatty(),
    )
    make_folder(output)

    @functools.lru_cache(maxsize=1)  # the views of a set are used by all protocols
    def whole(dataset: str) -> Whole:
        try:
            return Whole.load(dataset, featurizer, data_dir, None, max_molecules)
        except OSError as error:
            raise Failure(str(error), ExitCode.INPUT) from error

    def load(dataset: str, split: str) -> Split:
        return whole(dataset).split(split)

    cells = cells_of(
        output, protocols, datasets, contenders, range(seed, seed + seeds), max_molecules,
        functools.partial(data_identity, data_dir=data_dir),
    )  # fmt: skip
    console.note(f"{sum(cell.finished for cell in cells)} of {len(cells)} cells are finished")
    try:
        run_cells(cells, load, report=console.note)
    except (KeyboardInterrupt, SystemExit) as error:
        raise Interrupted(
            f"Finished cells are kept in {output}; run the same command again to resume."
        ) from error
    frame = tidy(cells)
    text = write_results(frame, output)
    console.result(
        {"output": str(output), "results": frame.to_dict("records")},
        f"{text}\nresults.csv, results.md and results.png are in {output}",
    )
