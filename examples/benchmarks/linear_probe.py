r"""Are the embeddings good as they are? A logistic regression on them, beside one on ECFP.

    python examples/benchmarks/linear_probe.py --data-dir DATA --model mmsa-small

Train, validation and test of each set as a protocol has them; the strength of the regularisation
is chosen on validation, the same way for every representation, and the test set is looked at
once. Intervals are bootstraps of the test molecules, for test sets of 150 to 200 are noisy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepchem_mmsa import MMSAFeaturizer, MMSAModel, MMSAPredictor
from deepchem_mmsa.benchmark import ecfp, load_split

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def probe(x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> np.ndarray:
    """Return test probabilities of the regression that validation prefers."""
    best, chosen = -1.0, None
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        model.fit(x["train"], y["train"])
        auc = roc_auc_score(y["valid"], model.predict_proba(x["valid"])[:, 1])
        if auc > best:
            best, chosen = auc, model
    return chosen.predict_proba(x["test"])[:, 1]


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
    # Sets of one class label without gaps.
    parser.add_argument("--datasets", nargs="+", default=["bbbp", "bace"],
                        choices=["bbbp", "bace", "hiv"])  # fmt: skip
    parser.add_argument("--protocol", default="deepchem")
    parser.add_argument("--views", nargs="+", action="append",
                        help="views to embed from; may be given several times")  # fmt: skip
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    rows = []
    for name in a.datasets:
        wanted = a.views or [["graph"]]
        every = sorted({view for views in wanted for view in views})
        split = load_split(name, a.protocol, MMSAFeaturizer(every), a.data_dir)
        parts = {"train": split.train, "valid": split.valid, "test": split.test}
        y = {part: data.y[:, 0] for part, data in parts.items()}
        representations = {"ECFP4": {p: ecfp(d.ids).astype(float) for p, d in parts.items()}}
        for views in wanted:
            model = MMSAModel.from_pretrained(a.model, modalities=tuple(views))
            predictor = MMSAPredictor(model.model)
            representations[f"{a.model}: {' + '.join(views)}"] = {
                part: predictor.embed(list(data.X)).values for part, data in parts.items()
            }
        for label, x in representations.items():
            scores = probe(x, y)
            low, high = interval(y["test"], scores)
            auc = float(roc_auc_score(y["test"], scores))
            rows.append({"dataset": name, "representation": label, "auc": auc, "low": low,
                         "high": high})  # fmt: skip
            print(f"{name:8} {label:32} {auc:.3f} ({low:.3f} to {high:.3f})", flush=True)
    if a.output:
        a.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
