r"""Score an ensemble of the networks of several benchmark runs, by averaging their predictions.

    python examples/benchmarks/together.py runs/graph runs/both --models mmsa

Takes finished cells of ``moleculenet.py`` from its output folders, every seed of the models that
are named, and prints ROC-AUC (or error) on validation and test, per data set and on the mean of
the sets that all runs have: each run alone, then all together. Nothing is trained. `mmsa
predict -m A -m B ...` makes such predictions of new molecules.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import ChainMap
from pathlib import Path

import numpy as np

from deepchem_mmsa.benchmark.results import scores_of_the_mean

Found = dict[Path, dict[str, np.ndarray]]


def cells(folder: Path, protocol: str, models: list[str]) -> dict[tuple[str, str], Found]:
    """Return the predictions of all seeds of the models, by data set and metric."""
    found: dict[tuple[str, str], Found] = {}
    taken: dict[tuple[str, str, int], Path] = {}
    for path in sorted(folder.glob(f"cells/{protocol}/*/*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["model"] not in models:
            continue
        other = taken.setdefault((path.parent.name, cell["model"], cell["seed"]), path)
        if other != path:
            sys.exit(f"{other} and {path} are one model with two settings: remove one of them")
        with np.load(path.with_suffix(".npz")) as stored:
            part = {name: stored[name] for name in stored.files}
        found.setdefault((path.parent.name, cell["metric"]), {})[path] = part
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--models", nargs="+", default=["mmsa"])
    parser.add_argument("--protocol", default="deepchem")
    a = parser.parse_args()
    runs = {str(folder): cells(folder, a.protocol, a.models) for folder in a.runs}
    common = set.intersection(*(set(found) for found in runs.values()))
    if not common:
        sys.exit("the runs have no data set in common: give finished outputs of moleculenet.py")
    for metric in sorted({metric for _, metric in common}):
        sets = sorted(name for name, measure in common if measure == metric)
        averaged = ["mean"] * (metric == "roc_auc")  # errors have units
        head = [f"{metric}, valid / test", "networks", *sets, *averaged]
        print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
        rows = {name: [found[s, metric] for s in sets] for name, found in runs.items()}
        if len(rows) > 1:
            rows["together"] = [dict(ChainMap(*parts)) for parts in zip(*rows.values())]
        for name, parts in rows.items():
            scores = [scores_of_the_mean(of_set, metric) for of_set in parts]
            mean = {k: float(np.mean([one[k] for one in scores])) for k in ("valid", "test")}
            shown = scores + [mean] * len(averaged)
            told = [f"{one['valid']:.3f} / {one['test']:.3f}" for one in shown]
            counts = sorted({len(of_set) for of_set in parts})
            print(f"| {name} | {' to '.join(map(str, counts))} | {' | '.join(told)} |")
        print()


if __name__ == "__main__":
    main()
