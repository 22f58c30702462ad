"""The main workflow from start to end, on real molecules that need no download.

    python examples/first_run.py

Pre-trains on ChEMBL drugs without labels, fine-tunes on measured solubilities with a scaffold
split, and compares with a random forest on ECFP and with the mean. Writes a table, the trained
models and two plots to ``runs/first``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from deepchem_mmsa import EarlyStopping, MMSAFeaturizer, MMSAModel
from deepchem_mmsa.benchmark import forest_predictions, mean_predictions, score
from deepchem_mmsa.datasets import dataset_from_smiles, example_table, without_shared
from deepchem_mmsa.report import plot_history, plot_parity

LABELS = {
    "solubility": ("log_solubility", "log10 solubility / mol/L"),
    "freesolv": ("expt", "hydration free energy / kcal/mol"),
}


def heavy_atoms(smiles: str) -> int:
    """Return the number of heavy atoms; 0 for an unreadable SMILES (the featurizer reports it)."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    return 0 if molecule is None else molecule.GetNumHeavyAtoms()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dataset", choices=sorted(LABELS), default="solubility")
    parser.add_argument("--output", type=Path, default=Path("runs/first"))
    parser.add_argument("--pretrain-epochs", type=int, default=8)
    parser.add_argument(
        "--max-atoms", type=int, default=40, help="maximum heavy atoms in pre-training"
    )
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes for featurization")
    arguments = parser.parse_args()
    started = time.time()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(f"[{time.time() - started:4.0f} s] {text}", flush=True)

    import deepchem as dc

    column, label = LABELS[arguments.dataset]
    labelled = example_table(arguments.dataset)
    drugs = example_table("chembl_drugs")["smiles"]
    unlabelled, dropped = without_shared(drugs, labelled["smiles"])
    say(
        f"{len(drugs)} ChEMBL drugs; {len(dropped)} share an InChIKey block with the "
        f"{len(labelled)} labelled molecules and are dropped from pre-training"
    )

    small = [s for s in unlabelled if heavy_atoms(s) <= arguments.max_atoms]
    say(
        f"{len(unlabelled) - len(small)} larger than {arguments.max_atoms} heavy atoms are left "
        "out to keep this run short"
    )
    featurizer = MMSAFeaturizer(image_size=96, n_jobs=arguments.jobs, progress=True)
    molecules = dataset_from_smiles(small, featurizer)
    data = dataset_from_smiles(labelled["smiles"], featurizer, labelled[column])
    for name, views in (("unlabelled", molecules.X), ("labelled", data.X)):
        without = {m: sum(m in v.reasons for v in views) for m in featurizer.modalities}
        say(f"{len(views)} {name} molecules featurized; views missing: {without}")
    train, valid, test = dc.splits.ScaffoldSplitter().train_valid_test_split(data)
    say(f"scaffold split: {len(train)} train, {len(valid)} valid, {len(test)} test")

    pretrained = MMSAModel(
        "small", mode="pretraining", lr_schedule="cosine", seed=arguments.seed,
        model_dir=str(output / "pretraining"), progress=True,
    )  # fmt: skip
    pretrained.fit(molecules, nb_epoch=arguments.pretrain_epochs)
    pretrained.save_pretrained(output / "pretrained")
    last = pretrained.history[-1]
    say(
        f"pre-trained: loss {last['loss']:.3f}, retrieval between modalities within a batch "
        f"{last['retrieval']:.0%}, spread of the codes {last['code_std']:.2f}, anchors in use "
        f"{last['anchors_in_use']:.0%}"
    )

    model = MMSAModel.from_pretrained(
        output / "pretrained", mode="regression", n_tasks=1, tasks=[label], batch_size=64,
        encoder_learning_rate=3e-4, model_dir=str(output / "finetuning"), progress=True,
    )  # fmt: skip
    stopping = EarlyStopping(valid, patience=10)
    model.fit(train, nb_epoch=arguments.epochs, callbacks=[stopping])
    model.save_pretrained(output / "model", metadata={"label": label})
    rmse = score(valid, model.predict(valid), "rmse")[0]
    say(f"fine-tuned; best epoch {stopping.best_epoch}, validation RMSE {rmse:.3f}")

    predictions = {
        "MMSA": model.predict(test),
        "random forest, ECFP4": forest_predictions(train, test, "regression", arguments.seed),
        "mean": mean_predictions(train, test, "regression"),
    }
    rows = [
        {"model": name, "rmse": score(test, p, "rmse")[0], "mae": score(test, p, "mae")[0]}
        for name, p in predictions.items()
    ]
    print(f"\n{arguments.dataset}, scaffold split, {len(test)} test molecules ({label})")
    print(f"{'model':24}{'RMSE':>8}{'MAE':>8}")
    for row in rows:
        print(f"{row['model']:24}{row['rmse']:8.3f}{row['mae']:8.3f}")
    (output / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")

    plot_history(
        {"pre-training": pretrained.history, "fine-tuning": model.history}, output / "curves.png"
    )
    flat = {name: np.asarray(p)[:, 0] for name, p in predictions.items()}
    plot_parity(test.y[:, 0], flat, output / "parity.png", label)
    say(f"models, results.json, curves.png and parity.png are in {output}")


if __name__ == "__main__":
    main()
