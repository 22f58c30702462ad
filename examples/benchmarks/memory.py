r"""Does memory stay flat: peak of featurizing, training and predicting, small against large.

    python examples/benchmarks/memory.py --data-dir DATA --output runs/memory.json

Each figure is the peak resident memory of a process of its own (and of its largest child), at
10,000 and at 100,000 molecules, and their ratio, which should not pass 1.2. With all three views
featurizing 100,000 molecules takes half an hour of a core; ``--modalities graph`` takes minutes.
The shards stay in ``--work-dir``, so that a second run only measures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

STEPS = ("featurize", "train", "predict")


def peak_megabytes() -> float:
    """Peak resident memory of this process, and of the largest child that it had."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024


def smiles_of(path: Path, n: int) -> Iterator[str]:
    """Yield the first `n` SMILES of a table; from its beginning again where it is shorter."""
    import pandas as pd

    def once() -> Iterator[str]:
        for chunk in pd.read_csv(path, usecols=["smiles"], chunksize=1000):
            yield from chunk["smiles"]

    yield from itertools.islice(itertools.chain.from_iterable(once() for _ in itertools.count()), n)


def featurize(arguments: argparse.Namespace) -> None:
    """Make the shards."""
    from deepchem_mmsa.shards import featurize_to_shards
    from deepchem_mmsa.views import ViewSettings

    featurize_to_shards(
        smiles_of(arguments.table, arguments.molecules),
        arguments.folder,
        ViewSettings(tuple(arguments.modalities)),
        n_jobs=arguments.jobs,
        progress=sys.stderr.isatty(),
    )


def train(arguments: argparse.Namespace) -> None:
    """Pre-train for an epoch over the shards."""
    from deepchem_mmsa import MMSAModel
    from deepchem_mmsa.datasets import dataset_from_shards

    model = MMSAModel(
        mode="pretraining", modalities=tuple(arguments.modalities), batch_size=64,
        image_size=64, image_width=16, graph_width=64, geometry_width=64, embedding_dim=64,
        n_anchors=64, model_dir=str(arguments.folder.with_suffix(".model")),
    )  # fmt: skip
    model.fit(dataset_from_shards(arguments.folder), nb_epoch=1, checkpoint_interval=0)
    model.save_pretrained(str(arguments.folder.with_suffix(".pretrained")))


def predict(arguments: argparse.Namespace) -> None:
    """Embed the molecules of the shards, a batch at a time."""
    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.shards import ShardSet

    predictor = MMSAPredictor.from_pretrained(arguments.folder.with_suffix(".pretrained"))
    rows = 0
    for part in predictor.stream(ShardSet.open(arguments.folder), "embed"):
        rows += len(part.values)
    assert rows == arguments.molecules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="folder of the MoleculeNet files")
    parser.add_argument("--output", type=Path, default=Path("memory.json"))
    parser.add_argument("--work-dir", type=Path, default=Path("runs/memory"))
    parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--modalities", nargs="+", default=["image", "graph", "geometry"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--molecules", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        {"featurize": featurize, "train": train, "predict": predict}[arguments.step](arguments)
        print(json.dumps({"megabytes": peak_megabytes()}))
        return
    if arguments.data_dir is None:
        parser.error("--data-dir is needed: the folder of the MoleculeNet files")
    table = arguments.data_dir / "pretrain" / "zinc250k.csv.gz"
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, float]] = {}
    for step in STEPS:
        results[step] = {}
        for size in arguments.sizes:
            folder = arguments.work_dir / f"{'-'.join(arguments.modalities)}-{size}"
            command = [
                sys.executable, __file__, "--step", step, "--table", str(table),
                "--folder", str(folder), "--molecules", str(size), "--jobs", str(arguments.jobs),
                "--modalities", *arguments.modalities,
            ]  # fmt: skip
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True,
                env={"OMP_NUM_THREADS": "1", **os.environ},
            )  # fmt: skip
            results[step][str(size)] = json.loads(done.stdout.splitlines()[-1])["megabytes"]
        small, large = (results[step][str(size)] for size in arguments.sizes)
        results[step]["ratio"] = large / small
        print(f"{step:10} {small:8.0f} MB {large:8.0f} MB   ratio {large / small:.3f}", flush=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"sizes": arguments.sizes, **results}, indent=1))


if __name__ == "__main__":
    main()
