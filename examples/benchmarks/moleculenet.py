r"""The benchmark: models side by side on MoleculeNet, on the same split, in the same run.

    python examples/benchmarks/moleculenet.py --data-dir DATA --output runs/benchmark \
        --datasets bbbp bace clintox sider tox21 --protocols deepchem hu --seeds 0 1 2 \
        --models mmsa mmsa-scratch gin mlp forest attentivefp --weights WEIGHTS

Each finished (data set, model, seed) is a file under ``OUTPUT/cells``; a killed run is resumed by
the same command, and a run with more models or seeds adds to it. Every model's epoch is chosen on
the validation set; the test set is evaluated once. Writes ``results.csv`` (a row per data set,
model and seed, and one for each ensemble over seeds), ``results.md`` and ``results.png``.
"""

from __future__ import annotations

import argparse
import sys

from common import (
    add_data_arguments,
    add_training_arguments,
    cells_asked_for,
    fields,
    loader,
    training_of,
    write_results,
)

from deepchem_mmsa import MMSAConfig
from deepchem_mmsa.benchmark import BENCHMARKS
from deepchem_mmsa.benchmark.cells import run_cells
from deepchem_mmsa.benchmark.contenders import (
    GIN,
    MLP,
    MMSA,
    Contender,
    Forest,
    GaussianProcess,
    Mean,
    from_scratch,
)
from deepchem_mmsa.benchmark.peers import AttentiveFP, Chemprop
from deepchem_mmsa.exports import load_pretrained

MODELS = ("mmsa", "mmsa-scratch", "gin", "mlp", "forest", "attentivefp", "chemprop", "mean",
          "mmsa-forest", "gp", "mmsa-gp")  # fmt: skip
PRETRAINED = ("mmsa", "mmsa-forest", "mmsa-gp")


def contenders(a: argparse.Namespace) -> list[Contender]:
    """Return the requested models."""
    chosen = dict(fields(text) for text in a.set)
    weights = None if a.weights is None else load_pretrained(a.weights).config
    limits = {"epochs": a.epochs, "patience": a.patience, "averaging": a.averaging}
    ours = {**training_of(a), **chosen}
    if a.modalities:
        ours["modalities"] = tuple(a.modalities)
    made: list[Contender] = []
    for name in a.models:
        if name == "mmsa":
            made.append(
                MMSA(
                    name,
                    ours,
                    weights=a.weights,
                    pretrained_on=a.pretraining_keys,
                    components=a.components and tuple(a.components),
                    **limits,
                )
            )
        elif name == "mmsa-scratch":
            config = ours if a.weights is None else from_scratch(a.weights, ours)
            made.append(
                MMSA(name, config, preset=a.preset if a.weights is None else "base", **limits)
            )
        elif name in ("gin", "mlp"):
            training = training_of(a, weights and weights.lr_schedule)
            config = {**training, **(GIN if name == "gin" else MLP)}
            made.append(MMSA(name, config, preset="base", **limits))
        elif name == "forest":
            made.append(Forest(a.trees, a.jobs))
        elif name == "mmsa-forest":
            made.append(Forest(a.trees, a.jobs, name, a.weights, a.pretraining_keys))
        elif name == "gp":
            made.append(GaussianProcess())
        elif name == "mmsa-gp":
            made.append(GaussianProcess(name, a.weights, a.pretraining_keys))
        elif name == "attentivefp":
            made.append(AttentiveFP(a.epochs, a.patience, a.batch_size))
        elif name == "chemprop":
            made.append(Chemprop(a.chemprop, min(a.epochs, 50)))
        else:
            made.append(Mean())
    return made


def views_of(a: argparse.Namespace) -> tuple[set[str], int]:
    """Return the modalities that the chosen models read, and the image size."""
    config = MMSAConfig.preset(a.preset) if a.weights is None else load_pretrained(a.weights).config
    modalities = {"graph"}
    if {"mmsa", "mmsa-scratch"} & set(a.models):
        modalities |= set(a.modalities or config.modalities)
    if {"mmsa-forest", "mmsa-gp"} & set(a.models):
        modalities |= set(config.modalities)
    if {"mlp", "forest", "mmsa-forest", "gp"} & set(a.models):
        modalities.add("fingerprint")
    return modalities, config.image_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser, list(BENCHMARKS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS[:6]))
    parser.add_argument("--weights", help="pre-trained MMSA: a folder, or a shipped model's name")
    parser.add_argument("--components", nargs="+",
                        help="parts of the weights to load; default: all but the head")  # fmt: skip
    parser.add_argument("--pretraining-keys", help="molecules.txt.gz that pretrain.py wrote")
    parser.add_argument("--modalities", nargs="+", help="default: those of weights or preset")
    add_training_arguments(parser, epochs=100, patience=30)
    parser.add_argument("--averaging", type=float, default=0.0,
                        help="decay of a moving average of our networks' weights")  # fmt: skip
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--chemprop", help="path of the chemprop program, in its own environment")
    a = parser.parse_args()
    for name in set(PRETRAINED) & set(a.models):
        if a.weights is None:
            parser.error(f"the model {name!r} is pre-trained: give --weights, or leave it out")
    if "chemprop" in a.models and a.chemprop is None:
        parser.error("the model 'chemprop' needs --chemprop PATH")
    a.output.mkdir(parents=True, exist_ok=True)
    cells = cells_asked_for(a, contenders(a))
    print(f"{sum(c.finished for c in cells)} of {len(cells)} cells are finished", flush=True)
    failed = run_cells(cells, loader(a, *views_of(a)), a.keep_going)
    write_results(cells, a.output)
    if failed:
        sys.exit(f"{len(failed)} cells failed; run the same command again to try them once more")


if __name__ == "__main__":
    main()
