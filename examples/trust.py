"""Can a prediction be trusted? Uncertainty, calibration, coverage and domain on real data.

    python examples/trust.py --data-dir DATA

DATA holds MoleculeNet's files under DeepChem's names. Half of each data set trains a small
ensemble (the graph view only, so that a laptop does it in minutes), the other half is held out:

* does a distance order the held-out molecules by their error? Compared are the distance to the
  memory's anchors, to anchors made of the training set, the Tanimoto distance to the training
  set and the spread of the ensemble;
* do conformal intervals and sets have the stated coverage, over many random splits?
* how well are probabilities calibrated, before and after calibration?

Without ``--model`` a small model is pre-trained first, on ZINC if DATA has it and else on
ChEMBL's drugs, without the molecules of the data sets. Writes ``results.json``, ``results.md``
and plots.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rdkit import Chem, rdBase
from sklearn.metrics import roc_auc_score

from deepchem_mmsa import MMSAClassifier, MMSAFeaturizer, MMSAModel, MMSAPredictor, MMSARegressor
from deepchem_mmsa.applicability import ApplicabilityDomain, error_ordering, tanimoto_distance
from deepchem_mmsa.calibrate import (
    IsotonicCalibration,
    TemperatureScaling,
    plot_reliability,
    reliability,
)
from deepchem_mmsa.conformal import ConformalIntervals, ConformalSets, coverage_over_splits
from deepchem_mmsa.datasets import dataset_from_smiles, example_table, without_shared

DATASETS = {
    "esol": ("delaney-processed.csv", "measured log solubility in mols per litre", "regression"),
    "lipophilicity": ("Lipophilicity.csv", "exp", "regression"),
    "bbbp": ("BBBP.csv", "p_np", "classification"),
}
COVERAGES = (0.8, 0.9, 0.95)


def pretrain(folder: Path, data: Path, labelled: list[str], a: argparse.Namespace) -> None:
    """Pre-train on molecules that are in none of the data sets."""
    zinc = data / "pretrain" / "zinc250k.csv.gz"
    if zinc.is_file():
        table = pd.read_csv(zinc)
        column = next(c for c in table.columns if c.lower() == "smiles")
        smiles = table[column].str.strip().tolist()
    else:
        smiles = example_table("chembl_drugs")["smiles"].tolist()
    random = np.random.default_rng(a.seed)
    smiles = [smiles[i] for i in random.permutation(len(smiles))[: a.pretrain_molecules]]
    smiles, dropped = without_shared(smiles, labelled)
    print(f"pre-training on {len(smiles)} molecules ({len(dropped)} are in the data sets)")
    dataset = dataset_from_smiles(smiles, MMSAFeaturizer("graph", n_jobs=a.jobs))
    model = MMSAModel(
        "small", modalities=("graph",), seed=a.seed, memory_warmup=min(2048, len(smiles) // 2),
        progress=True,
    )  # fmt: skip
    model.fit(dataset, nb_epoch=a.pretrain_epochs, checkpoint_interval=0)
    model.save_pretrained(folder, metadata={"molecules": len(smiles)})


def orderings(
    error: np.ndarray, distances: dict[str, np.ndarray], seed: int
) -> dict[str, dict[str, float]]:
    """Measure for each distance whether distant molecules are predicted worse."""
    return {name: error_ordering(d, error, seed=seed)._asdict() for name, d in distances.items()}


def plot_orderings(
    error: np.ndarray, distances: dict[str, np.ndarray], path: Path, label: str
) -> None:
    """Plot the mean error of the nearest share of the molecules."""
    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    ax = figure.subplots()
    n = np.arange(1, len(error) + 1)
    start = len(error) // 20  # fewer molecules than 5 % are noise
    for name, distance in distances.items():
        kept = error[np.argsort(distance, kind="stable")]
        ax.plot((100 * n / len(n))[start:], (kept.cumsum() / n)[start:], label=name)
    ax.axhline(error.mean(), color="#999999", linewidth=1)
    ax.set(xlabel="% of molecules kept, nearest first", ylabel=f"mean {label}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(str(path))


def domain_distances(
    predictors: list[MMSAPredictor], train: Any, held: Any
) -> dict[str, np.ndarray]:
    """Return distances to anchors in the fine-tuned models' own spaces, averaged over them."""
    distances = {}
    for anchors in ("memory", "training"):
        domains = [ApplicabilityDomain(p, anchors).fit(train) for p in predictors]
        distances[f"{anchors} anchors"] = np.mean([d.distance(held) for d in domains], axis=0)
    return distances


def repeated(held: np.ndarray, train: np.ndarray) -> int:
    """Return how many held-out molecules are in the training half too, written alike or not."""

    def canonical(smiles: str) -> str | None:
        with rdBase.BlockLogs():
            molecule = Chem.MolFromSmiles(smiles)
        return None if molecule is None else Chem.MolToSmiles(molecule)

    known = {canonical(text) for text in train} - {None}
    return sum(canonical(text) in known for text in held)


def run(name: str, model: str, a: argparse.Namespace) -> dict[str, Any]:
    """Train on half of a data set, and evaluate on the other half."""
    file, column, mode = DATASETS[name]
    table = pd.read_csv(Path(a.data_dir) / file)
    smiles, y = table["smiles"].str.strip().to_numpy(dtype=object), table[column].to_numpy(float)
    random = np.random.default_rng(a.seed)
    order = random.permutation(len(smiles))[: a.max_molecules]
    train, held = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    kind = MMSARegressor if mode == "regression" else MMSAClassifier
    estimator = kind(
        model, n_models=a.members, nb_epoch=a.epochs, learning_rate=1e-3, on_error="drop",
        random_state=a.seed, n_jobs=a.jobs,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # unreadable molecules are counted below
        if mode == "regression":
            estimator.fit(smiles[train], y[train])
            predicted, std = estimator.predict(smiles[held], return_std=True)
            readable = ~np.isnan(predicted)
        else:
            estimator.fit(smiles[train], y[train].astype(int))
            predicted, spread = estimator.predict_proba(smiles[held], return_std=True)
            readable = ~np.isnan(predicted).any(1)
            std = spread[:, 1]
    held, predicted, std = held[readable], predicted[readable], std[readable]
    truth = y[held]
    result: dict[str, Any] = {
        "mode": mode, "train": len(train), "held_out": len(held),
        "unreadable": int((~readable).sum()), "repeated": repeated(smiles[held], smiles[train]),
    }  # fmt: skip
    distances = domain_distances(estimator.predictors_, smiles[train], smiles[held])
    distances["Tanimoto to training set"] = tanimoto_distance(smiles[held], smiles[train])
    distances["spread of the ensemble"] = std
    if mode == "regression":
        error, label = np.abs(truth - predicted), "absolute error"
        result["rmse"] = float(np.sqrt((error**2).mean()))
        # A few models may agree by chance: the median keeps the scale away from 0.
        scale = std + np.median(std)
        methods = {
            "intervals": (ConformalIntervals, {}, None),
            "intervals scaled by spread": (ConformalIntervals, {}, scale),
        }
    else:
        p_true = np.take_along_axis(predicted, truth.astype(int)[:, None], 1)[:, 0]
        error, label = -np.log(np.maximum(p_true, 1e-6)), "−log p(true class)"
        result["roc_auc"] = float(roc_auc_score(truth, predicted[:, 1]))
        methods = {
            "sets": (ConformalSets, {}, None),
            "sets, class by class": (ConformalSets, {"per_class": True}, None),
        }
        result["calibration_error"] = calibrate(truth, predicted, random, a.output / f"{name}.png")
    result["ordering"] = orderings(error, distances, a.seed)
    plot_orderings(error, distances, a.output / f"{name}_ordering.png", label)
    result["coverage"] = {}
    for title, (method, arguments, scale) in methods.items():
        for stated in COVERAGES:
            found = coverage_over_splits(
                method(stated, **arguments), truth, predicted, scale, a.splits, a.seed
            )
            result["coverage"][f"{title} {stated:g}"] = {
                "stated": stated,
                "mean": float(found.coverage.mean()),
                "sd_over_splits": float(found.coverage.std()),
                "size": float(found.size.mean()),
            }
    return result


def calibrate(
    truth: np.ndarray, p: np.ndarray, random: np.random.Generator, path: Path
) -> dict[str, float]:
    """Calibrate on half of the held-out molecules, evaluate on the other half."""
    order = random.permutation(len(truth))
    fit, test = order[: len(order) // 2], order[len(order) // 2 :]
    by = {
        "as predicted": p,
        "temperature": TemperatureScaling().fit(p[fit], truth[fit])(p),
        "isotonic": IsotonicCalibration().fit(p[fit], truth[fit])(p),
    }
    curves = {name: reliability(truth[test], q[test, 1], 8) for name, q in by.items()}
    plot_reliability(curves, path)
    return {name: curve.error for name, curve in curves.items()}


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as tables."""
    lines = [
        "| data set | held out | distance | Spearman with error (95 %) | p |",
        "|---" * 5 + "|",
    ]
    for name, result in results.items():
        for distance, o in result["ordering"].items():
            lines.append(
                f"| {name} | {result['held_out']} | {distance} | {o['correlation']:.2f} "
                f"({o['low']:.2f} to {o['high']:.2f}) | {o['p_value']:.3f} |"
            )
    lines += ["", "| data set | method | stated | mean coverage | mean size |", "|---" * 5 + "|"]
    for name, result in results.items():
        for title, c in result["coverage"].items():
            lines.append(
                f"| {name} | {title.rsplit(' ', 1)[0]} | {c['stated']:.2f} | {c['mean']:.3f} "
                f"| {c['size']:.2f} |"
            )
    lines += ["", "| data set | probabilities | calibration error |", "|---" * 3 + "|"]
    for name, result in results.items():
        for title, value in result.get("calibration_error", {}).items():
            lines.append(f"| {name} | {title} | {value:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder of MoleculeNet's files")
    parser.add_argument("--datasets", nargs="+", choices=sorted(DATASETS), default=[*DATASETS])
    parser.add_argument("--output", type=Path, default=Path("runs/trust"))
    parser.add_argument("--model", help="folder of save_pretrained, or a shipped model")
    parser.add_argument("--pretrain-molecules", type=int, default=10000)
    parser.add_argument("--pretrain-epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--members", type=int, default=3, help="models in the ensemble")
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--max-molecules", type=int, help="of each data set, for a quick test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    a = parser.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    model = a.model
    if model is None:
        model = str(a.output / "model")
        data = Path(a.data_dir)
        labelled = [
            s for name in a.datasets for s in pd.read_csv(data / DATASETS[name][0])["smiles"]
        ]
        pretrain(Path(model), data, labelled, a)
    results = {}
    for name in a.datasets:
        print(f"{name}: training {a.members} models on half of it", flush=True)
        results[name] = run(name, model, a)
        print(f"  {time.monotonic() - started:.0f} s")
    (a.output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    text = markdown(results)
    (a.output / "results.md").write_text(text, encoding="utf-8")
    print("\n" + text)
    worst = max(
        abs(c["mean"] - c["stated"]) for r in results.values() for c in r["coverage"].values()
    )
    print(f"largest distance of mean from stated coverage over {a.splits} splits: {worst:.3f}")


if __name__ == "__main__":
    main()
