r"""Linear probe: a logistic regression on frozen embeddings, compared with one on ECFP.

    python examples/benchmarks/linear_probe.py --data-dir DATA --model mmsa-small

Each set is split by a protocol; the strength of the regularisation is chosen on validation, the
same way for every representation, and the test set is evaluated once. Intervals are bootstraps
of the test molecules, because test sets of 150 to 200 are noisy. The embedding is also evaluated
together with the encoders' outputs (1,792 numbers from the graph view of mmsa-small), of which
fusion keeps what the views share.

    python examples/benchmarks/linear_probe.py --data-dir DATA --model mmsa-small --splits 5 \
        --pretraining-keys runs/small/molecules.txt.gz

draws scaffolds at random instead, 80/10/10, five times, and gives the mean over the five test sets
with their standard deviation. A protocol's test molecules were kept out of pre-training; those
of a random draw were not, so that the test molecules among the keys are left out here.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
import torch
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepchem_mmsa import MMSAFeaturizer, MMSAModel
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.benchmark import ecfp, load_split
from deepchem_mmsa.benchmark.overlap import keys_of
from deepchem_mmsa.molecule import MoleculeViews

STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]


Rows = dict[str, np.ndarray]  # of "train", "valid" and "test"


def embed(model: MMSAModel, x: list[MoleculeViews]) -> tuple[np.ndarray, np.ndarray]:
    """Return e, and the encoders' outputs h_m with e, side by side; rows without a view are 0."""
    network, config = model.model.eval(), model.config
    collate = Collator(config.modalities, config.image_size, config.hydrogens)
    found = []
    with torch.inference_mode():
        for start in range(0, len(x), 256):
            found.append(network.features(collate(x[start : start + 256])).numpy())
    both = np.concatenate(found)
    return both[:, -config.embedding_dim :], both


def probe(
    x: np.ndarray, y: np.ndarray, rows: Rows, strengths: list[float]
) -> tuple[float, np.ndarray]:
    """Return the best validation score, and the test probabilities of that regression."""
    best, chosen = -1.0, None
    for strength in strengths:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        model.fit(x[rows["train"]], y[rows["train"]])
        auc = roc_auc_score(y[rows["valid"]], model.predict_proba(x[rows["valid"]])[:, 1])
        if auc > best:
            best, chosen = auc, model
    return best, chosen.predict_proba(x[rows["test"]])[:, 1]


def scaffold_split(scaffolds: np.ndarray, seen: np.ndarray, seed: int) -> Rows:
    """Draw scaffolds, 80/10/10; test molecules that pre-training has seen are left out."""

    def draw(rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
        first, second = next(splitter.split(rows, groups=scaffolds[rows]))
        return rows[first], rows[second]

    rest, test = draw(np.arange(len(scaffolds)), 1 / 10)
    train, valid = draw(rest, 1 / 9)
    return {"train": train, "valid": valid, "test": test[~seen[test]]}


def interval(truth: np.ndarray, scores: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the ROC-AUC."""
    random, values = np.random.default_rng(seed), []
    while len(values) < 1000:
        rows = random.integers(len(truth), size=len(truth))
        if 0 < truth[rows].sum() < len(rows):
            values.append(roc_auc_score(truth[rows], scores[rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--model", default="mmsa-small")
    # Sets with one class label, never missing.
    parser.add_argument("--datasets", nargs="+", default=["bbbp", "bace"],
                        choices=["bbbp", "bace", "hiv"])  # fmt: skip
    parser.add_argument("--protocol", default="deepchem")
    parser.add_argument("--views", nargs="+", action="append",
                        help="views to embed from; may be given several times")  # fmt: skip
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS,
                        help="C of scikit-learn to choose from; its default is 1")  # fmt: skip
    parser.add_argument(
        "--splits", type=int, help="number of random scaffold splits, instead of the protocol's"
    )
    parser.add_argument("--pretraining-keys", type=Path,
                        help="molecules.txt.gz of examples/pretrain.py")  # fmt: skip
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    if a.splits and a.pretraining_keys is None:
        parser.error("--splits needs --pretraining-keys: a random test set may have been seen")
    report = []
    for name in a.datasets:
        wanted = a.views or [["graph"]]
        every = sorted({view for views in wanted for view in views})
        split = load_split(name, a.protocol, MMSAFeaturizer(every), a.data_dir)
        parts = split.parts()
        x = [record for data in parts.values() for record in data.X]
        smiles = [text for data in parts.values() for text in data.ids]
        y = np.concatenate([data.y[:, 0] for data in parts.values()])
        representations = {"ECFP4": ecfp(smiles).astype(float)}
        for views in wanted:
            model = MMSAModel.from_pretrained(a.model, modalities=tuple(views))
            label = f"{a.model}: {' + '.join(views)}"
            representations[label], representations[f"{label}, encoders"] = embed(model, x)
        if a.splits:
            keys = set(gzip.decompress(a.pretraining_keys.read_bytes()).decode().split())
            seen = np.array([not found.isdisjoint(keys) for found in keys_of(smiles)])
            scaffolds = np.array([MurckoScaffoldSmiles(smiles=s) for s in smiles])
            draws = [scaffold_split(scaffolds, seen, seed) for seed in range(a.splits)]
        else:
            ends = np.cumsum([len(data) for data in parts.values()])[:-1]
            draws = [dict(zip(parts, np.split(np.arange(len(y)), ends)))]
        for label, values in representations.items():
            valid, scores = zip(*(probe(values, y, rows, a.strengths) for rows in draws))
            aucs = [roc_auc_score(y[rows["test"]], s) for rows, s in zip(draws, scores)]
            row = {"dataset": name, "representation": label, "auc": float(np.mean(aucs)),
                   "valid": float(np.mean(valid))}  # fmt: skip
            if a.splits:
                row |= {"std": float(np.std(aucs)), "splits": [float(auc) for auc in aucs]}
                spread = f"± {row['std']:.3f} over {a.splits} splits"
            else:
                row["low"], row["high"] = interval(y[draws[0]["test"]], scores[0])
                spread = f"({row['low']:.3f} to {row['high']:.3f})"
            report.append(row)
            print(f"{name:8} {label:42} {row['auc']:.3f} {spread}, validation {row['valid']:.3f}",
                  flush=True)  # fmt: skip
    if a.output:
        a.output.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
