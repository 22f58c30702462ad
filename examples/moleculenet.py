"""Fine-tune MMSA on a MoleculeNet set, next to a random forest on ECFP in the same run.

    python examples/moleculenet.py --dataset bbbp --data-dir DATA

MMSA starts from the shipped weights `mmsa-small` (graph and fingerprint); `--pretrained
mmsa-base` reads all four views, `--preset small` starts from scratch, with image, graph and
conformer.

One command line for BBBP, BACE, ClinTox, SIDER, Tox21 (ROC-AUC) and ESOL, FreeSolv,
Lipophilicity (RMSE). Missing labels are ignored; the test set is evaluated once, at the best
validation epoch. Writes ``results.csv`` (a row per model, seed and task) and ``results.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from deepchem_mmsa import EarlyStopping, MMSAConfig, MMSAFeaturizer, MMSAModel
from deepchem_mmsa.benchmark import (
    BENCHMARKS,
    forest_predictions,
    load_benchmark,
    mean_predictions,
    metric_of,
    score,
)
from deepchem_mmsa.benchmark.baselines import every_row
from deepchem_mmsa.exports import load_pretrained
from deepchem_mmsa.hub import starting_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dataset", choices=sorted(BENCHMARKS), required=True)
    parser.add_argument("--data-dir", help="folder of the data files; downloads without it")
    parser.add_argument("--save-dir", help="keep the featurized set here for the next run")
    parser.add_argument("--output", type=Path, help="default: runs/DATASET")
    parser.add_argument("--splitter", default="scaffold")
    parser.add_argument("--modalities", nargs="+", help="default: all that the model reads")
    parser.add_argument("--preset", help="train a network of this size from scratch")
    parser.add_argument("--pretrained", help="folder of save_pretrained, or a shipped model")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--encoder-learning-rate", type=float, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2)
    a = parser.parse_args()
    output = a.output or Path("runs") / a.dataset
    output.mkdir(parents=True, exist_ok=True)

    benchmark = BENCHMARKS[a.dataset]
    weights = starting_model(a.pretrained, a.preset)
    config = load_pretrained(weights).config if weights else MMSAConfig.preset(a.preset)
    modalities = tuple(a.modalities or config.modalities)
    featurizer = MMSAFeaturizer(modalities, config.image_size, n_jobs=a.jobs, progress=True)
    tasks, (train, valid, test) = load_benchmark(
        a.dataset, featurizer, a.data_dir, a.save_dir, a.splitter
    )
    print(
        f"{a.dataset}: {len(train)} train, {len(valid)} valid, {len(test)} test molecules, "
        f"{len(tasks)} task(s), {len(featurizer.failures)} unreadable row(s) dropped"
    )

    rows, epochs = [], {}
    for seed in a.seeds:
        arguments = {
            "mode": benchmark.mode,
            "n_tasks": len(tasks),
            "batch_size": a.batch_size,
            "learning_rate": a.learning_rate,
            "lr_schedule": "cosine",  # with weights and without
            "encoder_learning_rate": a.encoder_learning_rate,
            "seed": seed,
            "model_dir": str(output / f"seed{seed}"),
            "progress": True,
            "modalities": modalities,
        }
        if weights:
            model = MMSAModel.from_pretrained(weights, **arguments)
        else:
            model = MMSAModel(a.preset, **arguments)
        stopping = EarlyStopping(valid, metric_of(benchmark.metric), patience=a.patience)
        model.fit(train, nb_epoch=a.epochs, callbacks=[stopping])
        epochs[seed] = {"best_epoch": stopping.best_epoch, "valid": stopping.best_score}
        ours, unread = every_row(train, test, model.predict(test), benchmark.mode)
        if unread:
            print(f"{unread} test molecule(s) without these views are scored with the mean")
        predictions = {
            "MMSA": ours,
            "random forest, ECFP4": forest_predictions(train, test, benchmark.mode, seed),
            "mean": mean_predictions(train, test, benchmark.mode),
        }
        for name, predicted in predictions.items():
            mean, per_task = score(test, predicted, benchmark.metric)
            for task, value in zip(["mean", *tasks], [mean, *per_task]):
                rows.append(
                    {
                        "dataset": a.dataset,
                        "model": name,
                        "seed": seed,
                        "task": task,
                        "metric": benchmark.metric,
                        "test": value,
                    }
                )

    with open(output / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    summary = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        values = [r["test"] for r in rows if r["model"] == name and r["task"] == "mean"]
        std = float(np.std(values)) if len(values) > 1 else None  # of one seed, unknown
        summary[name] = {"mean": float(np.mean(values)), "std": std}
    print(f"\n{benchmark.metric} on the test set, {len(a.seeds)} seed(s)")
    for name, value in summary.items():
        spread = "" if value["std"] is None else f" ± {value['std']:.3f}"
        print(f"{name:24}{value['mean']:8.3f}{spread}")
    results = {
        "dataset": a.dataset,
        "splitter": a.splitter,
        "sizes": [len(train), len(valid), len(test)],
        "metric": benchmark.metric,
        "pretrained": weights,
        "validation": epochs,
        "test": summary,
        "config": model.config.to_dict(),
    }
    (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
