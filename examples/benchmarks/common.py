"""Shared by the scripts of this folder: options, data by protocol, cells, results."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepchem_mmsa import MMSAFeaturizer
from deepchem_mmsa.benchmark import BENCHMARKS, PROTOCOLS, Split, Whole, results
from deepchem_mmsa.benchmark.cells import Cell, cells_of
from deepchem_mmsa.benchmark.contenders import Contender
from deepchem_mmsa.benchmark.sets import data_identity
from deepchem_mmsa.molecule import MODALITIES


def add_data_arguments(parser: argparse.ArgumentParser, datasets: Sequence[str]) -> None:
    """Add the options for the data and their splits."""
    parser.add_argument("--datasets", nargs="+", default=list(datasets), choices=BENCHMARKS)
    parser.add_argument("--protocols", nargs="+", default=["deepchem"], choices=PROTOCOLS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-dir", help="folder of the MoleculeNet files")
    parser.add_argument("--save-dir", help="keep featurized sets here for the next run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max-molecules", type=int, help="of each set, for quick tests")
    parser.add_argument("--jobs", type=int, default=-1, help="processes for featurization")
    parser.add_argument("--optimize-conformer", action="store_true",
                        help="relax conformers with a force field")  # fmt: skip
    parser.add_argument("--keep-going", action="store_true", help="continue after failed cells")


def add_training_arguments(parser: argparse.ArgumentParser, epochs: int, patience: int) -> None:
    """Add the options for training our networks, with the defaults of a script."""
    parser.add_argument("--preset", default="small", help="size of a network without weights")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--patience", type=int, default=patience)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument(
        "--schedule",
        choices=("cosine", "constant"),
        help="schedule of the learning rate; by default that of the weights, for all networks",
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE",
                        help="further fields of MMSAConfig for our networks")  # fmt: skip


def training_of(a: argparse.Namespace, schedule: str | None = None) -> dict[str, Any]:
    """Return the configuration fields for training.

    `schedule` is that of the pre-trained weights which a new network is compared with, so that
    both have the same.
    """
    chosen = a.schedule or schedule
    more = {"lr_schedule": chosen} if chosen else {}
    return {"batch_size": a.batch_size, "learning_rate": a.learning_rate, **more}


def fields(text: str) -> tuple[str, Any]:
    """Read ``name=value``, a field of the configuration; the value is JSON or plain text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def loader(
    arguments: argparse.Namespace, modalities: Sequence[str], image_size: int
) -> Callable[[str, str], Split]:
    """Return ``load(dataset, protocol)`` for :func:`deepchem_mmsa.benchmark.cells.run_cells`."""
    wanted = tuple(m for m in MODALITIES if m in modalities)
    featurizer = MMSAFeaturizer(
        wanted,
        image_size,
        optimize_conformer=arguments.optimize_conformer,
        n_jobs=arguments.jobs,
        progress=True,
    )

    # The current set is cached: its views are used by all protocols.
    @functools.lru_cache(maxsize=1)
    def whole(dataset: str) -> Whole:
        return Whole.load(
            dataset, featurizer, arguments.data_dir, arguments.save_dir, arguments.max_molecules
        )

    def load(dataset: str, protocol: str) -> Split:
        split = whole(dataset).split(protocol)
        sizes = {name: len(part) for name, part in split.parts().items()}
        print(f"{protocol} {dataset}: {sizes}, {len(split.tasks)} task(s)", flush=True)
        return split

    return load


def cells_asked_for(arguments: argparse.Namespace, contenders: Sequence[Contender]) -> list[Cell]:
    """Return the cells of this command line."""
    return cells_of(
        arguments.output, arguments.protocols, arguments.datasets, contenders, arguments.seeds,
        arguments.max_molecules,
        lambda name: data_identity(name, arguments.data_dir, arguments.optimize_conformer),
    )  # fmt: skip


def write_results(cells: Sequence[Cell], output: Path) -> None:
    """Write ``results.csv``, ``results.md`` and ``results.png`` of the finished cells."""
    frame = results.tidy(cells)
    if len(frame):
        print(results.write_results(frame, output))
