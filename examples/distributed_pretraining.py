r"""Pre-train on several processes, GPUs or machines.

    torchrun --standalone --nproc-per-node 8 examples/distributed_pretraining.py \
        --input molecules.csv.gz --model-dir runs/big --batch-size 2048

``--batch-size`` is the total of a step: the processes share it, and the result is that of one
process with the same batch (except for batch norm, whose statistics are per process). Run the
same command again to resume after an interruption, on any number of processes. Without
``torchrun`` the same file trains in one process. The backend is NCCL on GPUs, gloo on machines
without. See docs/scaling.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from deepchem_mmsa import MMSAConfig, MMSAModel, distributed
from deepchem_mmsa.datasets import dataset_from_shards, example_table
from deepchem_mmsa.shards import ShardSet, featurize_to_shards
from deepchem_mmsa.tables import read_table
from deepchem_mmsa.views import ViewSettings

TINY = {
    "image_size": 32, "image_width": 8, "graph_width": 16, "graph_layers": 2, "geometry_width": 16,
    "geometry_layers": 1, "embedding_dim": 16, "n_anchors": 8, "n_neighbors": 4,
}  # fmt: skip


class EpochPrinter:
    """Prints the mean figures of each finished epoch, once."""

    def __call__(self, model: MMSAModel, step: int) -> None:
        """Do nothing after a step."""

    def on_epoch_end(self, model: MMSAModel, epoch: int) -> None:
        """Print the epoch's row of the history in the first process."""
        if distributed.rank() == 0:
            figures = {k: v for k, v in model.history[-1].items() if k not in ("epoch", "step")}
            print(f"epoch {epoch}", *(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)


def main() -> None:
    """Featurize once, train together, export once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", help="table of molecules; by default 642 of FreeSolv")
    parser.add_argument("--views", help="folder of `mmsa featurize`, instead of --input")
    parser.add_argument("--model-dir", required=True, help="a folder that all processes can access")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256, help="of all processes together")
    parser.add_argument("--preset", default="base")
    parser.add_argument("--tiny", action="store_true", help="a tiny network for quick tests")
    parser.add_argument("--jobs", type=int, default=-1, help="processes for featurization")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that collate batches, per training process, for GPUs",
    )
    a = parser.parse_args()

    config = MMSAConfig.preset(a.preset, batch_size=a.batch_size, **(TINY if a.tiny else {}))
    if a.views:  # all of them
        config = config.replace(modalities=ShardSet.open(a.views).settings.modalities)
    folder = Path(a.model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model = MMSAModel(config, model_dir=str(folder), progress=True)

    # The first process makes the views, in shards that a resumed run reuses; the others wait.
    distributed.start(model.device)
    views = Path(a.views) if a.views else folder / "views"
    if not a.views:
        smiles = read_table(a.input).smiles if a.input else list(example_table("freesolv").smiles)
        settings = ViewSettings(config.modalities, config.image_size)
        distributed.on_first(lambda: featurize_to_shards(smiles, views, settings, n_jobs=a.jobs))
    dataset = dataset_from_shards(views)

    model.fit(
        dataset, nb_epoch=a.epochs, checkpoint_interval=100, restore=True, callbacks=EpochPrinter(),
        n_workers=a.workers,
    )  # fmt: skip
    distributed.on_first(lambda: model.save_pretrained(folder / "exported"))


if __name__ == "__main__":
    main()
