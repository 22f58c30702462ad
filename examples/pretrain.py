r"""Pre-train a model without labels, excluding every benchmark's held-out molecules.

    python examples/pretrain.py --input zinc250k.csv.gz chembl78k.csv.gz pcs100k.csv.gz \
        --output runs/pretrain --data-dir DATA --modalities image graph geometry fingerprint

Reads molecules (CSV, SMI, SDF, ...), leaves out those that share an InChIKey first block with a
validation or test molecule of any benchmark under either protocol, makes their views in shards,
pre-trains, and exports the model with its history. Every step can be resumed: run the same
command again after an interruption, also with more epochs. Another input, selection or setting
needs another ``--output``.

``OUTPUT/selection.json`` counts the molecules left out, ``history.csv`` holds every loss term,
retrieval, alignment, uniformity and the anchors in use for each epoch, ``molecules.txt.gz`` the
InChIKey first blocks of the pre-training molecules (for ``--pretraining-keys`` of the benchmark),
and ``model`` the exported model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from deepchem_mmsa import MMSAConfig, MMSAModel
from deepchem_mmsa.atomic import sha256, write_text
from deepchem_mmsa.benchmark import BENCHMARKS, PUBLISHED
from deepchem_mmsa.benchmark.overlap import held_out_keys, leave_out, write_keys
from deepchem_mmsa.benchmark.representation import HeldOut, describe
from deepchem_mmsa.benchmark.sets import data_identity
from deepchem_mmsa.cli.training import HistoryFile
from deepchem_mmsa.datasets import dataset_from_shards
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.pretraining import LOSS_TERMS
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.tables import read_table
from deepchem_mmsa.views import ViewSettings


def fields(text: str) -> tuple[str, Any]:
    """Read ``name=value``; the value is JSON or plain text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def size_fits(smiles: str, most: int) -> bool:
    """Return whether a molecule has between 2 and `most` heavy atoms."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    return molecule is not None and 2 <= molecule.GetNumHeavyAtoms() <= most


def read_molecules(a: argparse.Namespace) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the SMILES of all inputs in a random but fixed order, and a summary of each file."""
    every: dict[str, None] = {}
    sources = []
    for path in a.input:
        found = read_table(path, a.smiles_column).smiles
        texts = [s if isinstance(s, str) else Chem.MolToSmiles(s) for s in found if s is not None]
        every.update(dict.fromkeys(text for text in texts if text.strip()))
        sources.append({"file": Path(path).name, "rows": len(texts), "sha256": sha256(path)})
    smiles = list(every)
    order = np.random.default_rng(a.seed).permutation(len(smiles))
    chosen: list[str] = []
    for i in order:
        if a.molecules is not None and len(chosen) == a.molecules:
            break
        if size_fits(smiles[i], a.max_atoms):
            chosen.append(smiles[i])
    return chosen, sources


def files_of(a: argparse.Namespace) -> dict[str, str | None]:
    """Return the checksum of each benchmark's file; None for one that is not there."""
    return {name: data_identity(name, a.data_dir)["file"] for name in a.exclude}


def select(a: argparse.Namespace) -> dict[str, Any]:
    """Choose the molecules, or reuse the choice of an earlier run with the same arguments."""
    asked = {
        "input": [sha256(path) for path in a.input], "seed": a.seed, "molecules": a.molecules,
        "max_atoms": a.max_atoms, "held_out": a.held_out, "exclude": a.exclude,
        "smiles_column": a.smiles_column,
    }  # fmt: skip
    path = a.output / "selection.json"
    if path.exists():
        chosen = json.loads(path.read_text(encoding="utf-8"))
        # Arguments that a later version added are unknown; files need not be there any more.
        differing = [name for name, value in chosen["asked"].items() if asked.get(name) != value]
        differing += [
            f"file of {name}" for name, file in files_of(a).items()
            if file and chosen.get("files", {}).get(name) not in (None, file)
        ]  # fmt: skip
        if differing:
            raise SystemExit(
                f"{path} belongs to other arguments ({', '.join(differing)}); give another --output"
            )
        return chosen
    smiles, sources = read_molecules(a)
    print(f"{len(smiles)} molecules read", flush=True)
    kept = leave_out(smiles, held_out_keys(a.exclude, a.data_dir, n_jobs=a.jobs), a.jobs)
    print(f"{kept.n_dropped} stand in a benchmark's held-out sets: {kept.dropped}", flush=True)
    # Skeletons of held-out molecules are not in the training set.
    n_held = min(a.held_out, len(kept.smiles) // 10)
    held: list[str] = []
    taken: set[str] = set()
    rest = []
    for text, keys in zip(kept.smiles, kept.keys):
        if len(held) < n_held and taken.isdisjoint(keys):
            held.append(text)
            taken |= keys
        elif taken.isdisjoint(keys):
            rest.append((text, keys))
    write_keys([keys for _, keys in rest], a.output / "molecules.txt.gz")
    chosen = {
        "asked": asked, "sources": sources, "read": len(smiles), "dropped": kept.n_dropped,
        "dropped_by_benchmark": kept.dropped, "protocols": list(PUBLISHED),
        "unreadable": kept.n_unreadable, "files": files_of(a),
        "train": [text for text, _ in rest], "held_out": held,
    }  # fmt: skip
    write_text(path, json.dumps(chosen))
    return chosen


def go_on_with(output: Path, asked: dict[str, Any]) -> None:
    """Record the settings of a run; one that was started with others is not resumed."""
    path, asked = output / "run.json", json.loads(json.dumps(asked))
    if not path.exists():
        write_text(path, json.dumps(asked, indent=1))
        return
    began = json.loads(path.read_text(encoding="utf-8"))
    before, now = ({**said["config"], "--use": said["use"]} for said in (began, asked))
    # Fields that a later version added had their default.
    differing = [f"{k}: {v}, not {now.get(k)}" for k, v in before.items() if now.get(k) != v]
    if differing:
        raise SystemExit(
            f"the run in {output} was started with other settings ({'; '.join(differing)}): use "
            "these again, or another --output"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--smiles-column")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data-dir", help="folder of the MoleculeNet files")
    parser.add_argument("--exclude", nargs="*", default=list(BENCHMARKS), choices=BENCHMARKS)
    parser.add_argument("--molecules", type=int, help="use this many, drawn at random")
    parser.add_argument("--use", type=int,
                        help="pre-train on only this many of those chosen")  # fmt: skip
    parser.add_argument("--max-atoms", type=int, default=60, help="heavy atoms")
    parser.add_argument(
        "--held-out",
        type=int,
        default=512,
        help="molecules to evaluate the representation on; at most a tenth",
    )
    parser.add_argument("--preset", default="small")
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES)
    parser.add_argument("--views", nargs="+", choices=MODALITIES,
                        help="views to make, if more than --modalities")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=20, help="0 only makes the views")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE",
                        help="further fields of MMSAConfig")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=-1)
    parser.add_argument("--workers", type=int, default=0,
                        help="processes that collate batches, for a GPU")  # fmt: skip
    parser.add_argument("--shard-size", type=int, default=2000)
    parser.add_argument("--checkpoint-interval", type=int, default=200, help="steps")
    parser.add_argument("--conformer-timeout", type=float, default=2.0, help="seconds per molecule")
    parser.add_argument("--exemplars", action="store_true",
                        help="export the training molecules nearest to each anchor")  # fmt: skip
    parser.add_argument("--export", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--licence", default="not stated", help="of the data, for the model card")
    a = parser.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    rdBase.DisableLog("rdApp.*")  # reasons are in the shards' failures.csv

    chosen = select(a)
    chosen["train"] = chosen["train"][: a.use]
    print(f"{len(chosen['train'])} to pre-train on, {len(chosen['held_out'])} held out", flush=True)
    config = MMSAConfig.preset(a.preset)
    arguments = {
        "seed": a.seed, "batch_size": a.batch_size, "learning_rate": a.learning_rate,
        "lr_schedule": "cosine", "modalities": tuple(a.modalities or config.modalities),
        **dict(fields(text) for text in a.set),
    }  # fmt: skip
    config = config.replace(mode="pretraining", **arguments)
    settings = ViewSettings(
        tuple(a.views or config.modalities), config.image_size,
        conformer_timeout=a.conformer_timeout,
    )  # fmt: skip
    train, held = (
        dataset_from_shards(
            featurize_to_shards(
                chosen[part], a.output / "shards" / part, settings, a.shard_size, a.jobs, True
            )
        )
        for part in ("train", "held_out")
    )
    if not a.epochs:
        return
    go_on_with(a.output, {"config": config.to_dict(), "use": a.use})

    model = MMSAModel(config, model_dir=str(a.output / "run"), progress=True)
    started = time.time()
    model.fit(
        train, a.epochs, max_checkpoints_to_keep=2, checkpoint_interval=a.checkpoint_interval,
        restore=True, callbacks=[HeldOut(held), HistoryFile(a.output)],
        n_workers=a.workers,
    )  # fmt: skip
    minutes = (time.time() - started) / 60
    # The metrics of the epochs used running statistics, which follow augmented views.
    codes, _ = model.predict_codes(held)
    final = describe(codes, model.predict_embedding(held), model.config.modalities)
    metadata = {
        "data": {k: chosen[k] for k in ("sources", "read", "dropped", "dropped_by_benchmark",
                                        "protocols", "unreadable")},
        "molecules": len(train), "held_out": len(held), "licence": a.licence,
        "epochs": a.epochs, "minutes_of_the_last_run": round(minutes, 1),
        "last_epoch": {name: float(model.history[-1][name]) for name in ("loss", *LOSS_TERMS)},
        "held_out_of_the_final_weights": {k: float(v) for k, v in final.items()},
    }  # fmt: skip
    model.save_pretrained(
        a.output / "model", exemplars=a.exemplars, metadata=metadata, precision=a.export
    )
    print(json.dumps(metadata, indent=1))


if __name__ == "__main__":
    main()
